"""The warehouse's events in batches, and their touches: a row for each event and each of its parties of one kind."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from paystorm.errors import TablesError, UsageError
from paystorm.intervals import Interval
from paystorm.rules import Rule
from paystorm.source import Party, Source
from paystorm.validity.frame import TIME, event_schema

BATCH = 500_000
"""Events of a batch, about."""
SECOND = 1_000_000
"""µs."""
LIMB = 10**19
"""Amounts are split here, so that no sum of either part comes near what 128 bits hold."""

Int64Array = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class History:
    """The stored events of a source, with an event time in `since` ≤ t < `until`."""

    source: Source
    files: Sequence[Path]
    """Of the folders in force (`files_of`); not empty."""
    since: int | None = None
    """µs since 1970-01-01 UTC; None: from the first on."""
    until: int | None = None

    def scan(self, columns: Sequence[str]) -> pl.LazyFrame:
        """The events with these columns; those that a file lacks are null."""
        declared = {**event_schema(self.source), "event_time": TIME, "log_partition": pl.Int32()}
        found = pl.scan_parquet(
            list(self.files),
            schema={name: declared[name] for name in dict.fromkeys(["event_time", *columns])},
            missing_columns="insert",
            extra_columns="ignore",
            hive_partitioning=False,
            glob=False,
        )
        if self.since is not None:
            found = found.filter(pl.col("event_time") >= pl.lit(self.since).cast(TIME))
        if self.until is not None:
            found = found.filter(pl.col("event_time") < pl.lit(self.until).cast(TIME))
        return found

    def batches(self, scan: pl.LazyFrame) -> Iterator[pl.DataFrame]:
        """What a scan gives, in whatever order. Raises TablesError, UsageError."""
        name = self.source.name
        try:
            yield from scan.collect_batches(chunk_size=BATCH, maintain_order=False)
        except FileNotFoundError as error:
            raise TablesError(f"backtest: files of {name} were merged meanwhile: run the command again") from error
        except pl.exceptions.SchemaError as error:
            why = " ".join(str(error).split())
            raise UsageError(f"backtest: {name}: events were stored when a field had another type: {why}") from error
        except (OSError, pl.exceptions.PolarsError) as error:
            why = " ".join(str(error).split())
            raise TablesError(f"backtest: a file of {name} cannot be read: {why}") from error


def files_of(folders: Sequence[Path]) -> list[Path]:
    """The files of events in the folders in force (`Warehouse.folders`), in order."""
    return [path for folder in folders for path in sorted(folder.glob("*.parquet"))]


class Names:
    """Texts as small whole numbers, the same for the same text as long as this object lives."""

    def __init__(self) -> None:
        self._type = pl.Categorical(pl.Categories.random())
        # Polars forgets the texts once no column of the type is left: this one stays.
        self._anchor = pl.Series([""], dtype=self._type)

    def codes(self, text: str) -> pl.Expr:
        """The number of each text of a column; null where there is none."""
        return pl.col(text).cast(self._type).to_physical()

    def texts(self, codes: pl.Series) -> pl.Series:
        """The texts of numbers."""
        return codes.cast(pl.UInt32).cat.to(self._type).cast(pl.String)


class Touches:
    """Makes the touches of a rule: of every party of its kind, in whatever role.

    Columns: code UInt32 (the party); start Int64 (of the event's interval, s); counts Boolean (whether the rule counts
    the party in this role); for a sum high, low Int128 (the amount in units is high × 10^19 + low) and currency String;
    for a distinct value UInt32. `ordered` adds time Int64 (of the event, µs), partition, offset, and event, its number.
    """

    def __init__(self, history: History, rule: Rule) -> None:
        self.parties = Names()
        self.events = 0
        """How many events were read last."""
        self._values = Names()
        self._history, self._rule = history, rule
        self._interval = Interval.parse(rule.interval)
        source = history.source
        self._mine = [party for party in source.parties if rule.kind in _kinds(source, party)]
        self._currency = source.currency() if rule.measure == "sum" else None

    def all(self) -> Iterator[pl.DataFrame]:
        """The touches of all events, in batches."""
        self.events = 0
        for events in self._history.batches(self._scan(ordered=False).select(self._wanted(ordered=False))):
            yield self._touches(events)
            self.events += len(events)

    def ordered(self, codes: npt.NDArray[np.uint32]) -> Iterator[pl.DataFrame]:
        """The touches of these parties, in batches."""
        keep = np.zeros(int(codes.max()) + 1, dtype=np.bool_)
        keep[codes] = True
        ids = self.parties.texts(pl.Series(np.flatnonzero(keep)))
        # Most events are of nobody who has a hit: they are left out before their parties are looked up.
        scan = self._scan(ordered=True).filter(
            pl.any_horizontal(pl.col(p.field).is_in(ids.implode()) for p in self._mine)
        )
        self.events = 0
        for events in self._history.batches(scan.select(self._wanted(ordered=True))):
            yield self._touches(events, keep)
            self.events += len(events)

    def _scan(self, *, ordered: bool) -> pl.LazyFrame:
        fields = [party.field for party in self._mine]
        fields += [party.kind_field for party in self._mine if party.kind_field is not None]
        fields += [name for name in (self._rule.field, self._currency) if name is not None]
        return self._history.scan([*fields, *(("log_partition", "log_offset") if ordered else ())])

    def _wanted(self, *, ordered: bool) -> list[pl.Expr]:
        """What is made of events, by polars on all cores."""
        rule = self._rule
        time = pl.col("event_time").to_physical()
        out = [(time // SECOND).alias("second")]
        for j, party in enumerate(self._mine):
            there = pl.col(party.field).is_not_null()
            if party.kind_field is not None:
                there &= pl.col(party.kind_field).fill_null(party.kind) == rule.kind
            out += [self.parties.codes(party.field).fill_null(0).alias(f"code{j}"), there.alias(f"there{j}")]
        if ordered:
            out += [
                time.alias("time"),
                pl.col("log_partition").alias("partition"),
                pl.col("log_offset").alias("offset"),
            ]
        if rule.measure == "sum" and rule.field is not None and self._currency is not None:
            units, limb = pl.col(rule.field).to_physical(), pl.lit(LIMB, dtype=pl.Int128)
            out += [
                (units // limb).alias("high"),
                (units % limb).alias("low"),
                pl.col(self._currency).alias("currency"),
            ]
        elif rule.measure == "distinct" and rule.field is not None:
            out.append(self._values.codes(rule.field).alias("value"))
        return out

    def _touches(self, events: pl.DataFrame, keep: Mask | None = None) -> pl.DataFrame:
        """The touches of a batch; `keep`: by the party's code, whether it is wanted."""
        codes = [events.get_column(f"code{j}").to_numpy() for j in range(len(self._mine))]
        alive = [events.get_column(f"there{j}").to_numpy(writable=True) for j in range(len(self._mine))]
        counts = [np.full(len(events), self._rule.role in ("either", party.role)) for party in self._mine]
        for j in range(len(codes)):  # one party in two roles of one event is one touch with both
            for i in range(j):
                same = alive[i] & alive[j] & (codes[i] == codes[j])
                counts[i] |= same & counts[j]
                alive[j] &= ~same
        if keep is not None:
            for j, code in enumerate(codes):
                alive[j] &= (code < len(keep)) & keep[np.minimum(code, len(keep) - 1)]
        rows = [np.flatnonzero(mask) for mask in alive]
        picked = np.concatenate(rows)
        starts = self._interval.starts(events.get_column("second").to_numpy())
        out = [
            pl.Series("code", np.concatenate([c[r] for c, r in zip(codes, rows, strict=True)])),
            pl.Series("start", starts[picked]),
            pl.Series("counts", np.concatenate([c[r] for c, r in zip(counts, rows, strict=True)])),
        ]
        if keep is not None:
            out.append(pl.Series("event", picked.astype(np.int64) + self.events))
        rest = events.select(pl.exclude("second", r"^(code|there)\d+$"))
        return pl.DataFrame([*out, *(rest[picked] if rest.width else rest).get_columns()])


def _kinds(source: Source, party: Party) -> set[str]:
    values = source.field(party.kind_field).values if party.kind_field is not None else ()
    return {party.kind, *values}
