"""The figures that a source's tables hold: cells, with the journals' rows laid over them.

This reads the stored form only. How figures of several versions make up a rule's figure is computed here once more, and
not taken from `paystorm.windows`.
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal

import msgspec
import numpy as np
import polars as pl

from paystorm.chunk import frame_from_bytes
from paystorm.oracle import Computed, Count, Hit
from paystorm.oracle.model import CellKey
from paystorm.rules import Rule
from paystorm.source import Source
from paystorm.stores import hits as store
from paystorm.stores.journal import Row, ShardState, Slot, read_shard, scan_cells
from paystorm.tables.base import Tables
from paystorm.windows.frames import StoredCell

LIMB = 10**13
"""The base of a sum's limbs as stored (v0 lowest)."""
MOST = 10**38 - 1
_CELL = ["measure", "start", "epoch", "currency", "party"]
_SLOT = {"measure": pl.Categorical(), "start": pl.Int64(), "epoch": pl.Int32(), "currency": pl.String()}
_FIGURES = {**_SLOT, "party": pl.String(), "v0": pl.Int64(), "v1": pl.Int64(), "v2": pl.Int64()}
_PAIRS = {**_SLOT, "party": pl.String(), "value": pl.String()}


class Figures:
    """All figures of a source as of now, by measure."""

    def __init__(self, tables: Tables, source: str, shards: int) -> None:
        self.states: list[ShardState] = []
        self.rows_at: dict[tuple[int, int], int] = {}
        """When each journal row that is still there was written, µs, by (shard, row)."""
        behind: list[tuple[int, Row]] = []
        for shard in range(shards):
            state, rows = read_shard(tables, source, shard)
            self.states.append(state)
            behind.extend((shard, row) for row in rows)
        figures, pairs = _Gathered(_FIGURES), _Gathered(_PAIRS)
        # Cells first, then the rows behind each shard's head: later values cover earlier ones, and a party is of one
        # shard.
        for _, _, _, stored in scan_cells(tables, source):
            cell = msgspec.msgpack.decode(stored, type=StoredCell)
            figures.add(cell.slots, cell.figures)
            pairs.add(cell.slots, cell.pairs)
        for shard, row in behind:
            self.rows_at[shard, row.n] = row.at
            figures.add(row.slots, row.figures)
            pairs.add(row.slots, row.pairs)
        self._figures = _by_measure(figures.rows().unique(_CELL, keep="last", maintain_order=True))
        self._pairs = _by_measure(pairs.rows().unique())

    def of(self, rule: Rule, first: int, last: int) -> pl.DataFrame:
        """What a rule judges, over epochs first..last: start, currency, party, v0, v1, v2 (limbs uncarried)."""
        label = rule.measured().label()
        within = pl.col("epoch").is_between(first, last)
        if rule.measure == "distinct":
            pairs = self._pairs.get(label, pl.DataFrame(schema=_PAIRS))
            return (
                pairs.filter(within)
                .group_by("start", "party")
                .agg(pl.col("value").n_unique().clip(upper_bound=rule.counted_to()).cast(pl.Int64).alias("v0"))
                .select("start", pl.lit("").alias("currency"), "party", "v0", v1=pl.lit(0), v2=pl.lit(0))
            )
        figures = self._figures.get(label, pl.DataFrame(schema=_FIGURES))
        # A few epochs' limbs of 13 digits fit 64 bits many times over.
        return figures.filter(within).group_by("start", "currency", "party").agg(pl.col("v0", "v1", "v2").sum())


def held_counts(figures: Figures, computed: Computed, source: Source, rules: Mapping[str, Rule]) -> Iterator[Count]:
    """The held figures of the rules of the last version; `rules` are that version's."""
    for version in computed.last_rules():
        rule = rules[version.rule.name]
        digits = _digits(source, rule)
        for start, currency, party, *limbs in figures.of(rule, version.counted_from, version.last).iter_rows():
            yield Count(rule.name, rule.kind, party, start, currency, _figure(limbs, digits))


def held_hits(
    figures: Figures,
    computed: Computed,
    source: Source,
    rules: Mapping[tuple[int, str], Rule],
    hits: Iterable[store.Hit],
) -> Iterator[Hit]:
    """The standing hits, each with the held figure now (the row itself has that of the crossing).

    rules: by version of the source and name.
    """
    groups: dict[tuple[str, int], list[store.Hit]] = {}
    for hit in hits:
        groups.setdefault((hit.rule, hit.version), []).append(hit)
    for (name, number), group in groups.items():
        version, rule = computed.rule_version(name, number), rules.get((number, name))
        now: dict[tuple[int, str, str], list[int]] = {}
        if version is not None and rule is not None:
            wanted = pl.DataFrame(
                [(h.interval_start, h.currency, h.party) for h in group],
                schema={"start": pl.Int64, "currency": pl.String, "party": pl.String},
                orient="row",
            )
            there = figures.of(rule, version.counted_from, version.last)
            found = there.join(wanted, on=["start", "currency", "party"], how="semi")
            now = {(start, currency, party): limbs for start, currency, party, *limbs in found.iter_rows()}
        digits = None if rule is None else _digits(source, rule)
        for hit in group:
            limbs = now.get((hit.interval_start, hit.currency, hit.party), [0, 0, 0])
            value = _figure(limbs, digits)
            yield Hit(hit.rule, hit.kind, hit.party, hit.interval_start, hit.currency, hit.version, value)


def cell_key(hit: store.Hit) -> CellKey:
    """What the oracle knows a hit by."""
    return hit.rule, hit.kind, hit.party, hit.interval_start, hit.currency


class _Gathered:
    """Rows of stored frames, each with what its slot says."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self._schema = dict(schema)
        self._frames: list[pl.DataFrame] = []
        self._lengths: list[int] = []
        self._slots: list[tuple[str, int, int, str]] = []
        self._firsts: list[int] = []

    def add(self, slots: tuple[Slot, ...], stored: bytes) -> None:
        """Add the rows of a stored frame; b"" has none."""
        if stored:
            self._frames.append(frame_from_bytes(stored))
            self._lengths.append(len(self._frames[-1]))
            self._firsts.append(len(self._slots))
            self._slots.extend((slot.measure, slot.start, slot.epoch, slot.currency) for slot in slots)

    def rows(self) -> pl.DataFrame:
        """All rows, in the order in which they were added. Limbs that no row of a frame needs are absent in it."""
        if not self._frames:
            return pl.DataFrame(schema=self._schema)
        rows = pl.concat(self._frames, how="diagonal")
        rows = rows.with_columns(
            pl.lit(0).alias(name) for name in self._schema.keys() - set(rows.columns) - _SLOT.keys()
        )
        slots = pl.DataFrame(self._slots, schema=_SLOT, orient="row")
        places = rows["slot"].to_numpy() + np.repeat(self._firsts, self._lengths)
        together = rows.hstack(slots[places])
        return together.select(
            pl.col(name).cast(kind).fill_null(0) if name in ("v1", "v2") else pl.col(name).cast(kind)
            for name, kind in self._schema.items()
        )


def _by_measure(rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
    return {str(key[0]): part.drop("measure") for key, part in rows.partition_by("measure", as_dict=True).items()}


def _digits(source: Source, rule: Rule) -> int | None:
    """Fraction digits of a sum; None for whole numbers."""
    return source.field(rule.field).fraction_digits if rule.measure == "sum" and rule.field is not None else None


def _figure(limbs: list[int], digits: int | None) -> int | Decimal:
    units = min(limbs[0] + LIMB * (limbs[1] + LIMB * limbs[2]), MOST)
    return units if digits is None else Decimal(f"{units}E-{digits}")
