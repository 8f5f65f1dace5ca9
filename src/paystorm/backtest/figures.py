"""Figures by party and interval, and the figure from which on a rule is a hit (SEMANTICS.md §4)."""

from decimal import Decimal

import numpy as np
import polars as pl

from paystorm.backtest.events import LIMB, Int64Array
from paystorm.errors import UsageError
from paystorm.intervals import DAY, Interval
from paystorm.rules import Rule
from paystorm.windows.wide import MAX, units

MERGE_ROWS = 2_000_000
"""Rows that are gathered at least before they are added up."""
YEAR_1, YEAR_10000 = -62_135_596_800, 253_402_300_800
"""Seconds since 1970-01-01 UTC; event times lie between."""
NEVER = 2**127 - 1
"""A figure that nothing reaches."""


class Figures:
    """Adds up touches. Result: code, start, currency ("" but for sums), value."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._pack = Pack(Interval.parse(rule.interval))
        self._gathered: list[pl.DataFrame] = []
        self._rows = 0
        self._held = 0

    def add(self, touches: pl.DataFrame) -> None:
        """Add a batch."""
        counted = touches if touches.get_column("counts").all() else touches.filter("counts")
        part = pl.DataFrame({"slot": self._pack.slots(counted)})
        if self._rule.measure == "sum":
            known = pl.col("high").is_not_null() & pl.col("currency").is_not_null()
            part = part.hstack(counted.select("currency", "high", "low")).filter(known)
        elif self._rule.measure == "distinct":
            part = part.hstack(counted.select("value")).filter(pl.col("value").is_not_null())
        self._gathered.append(self._added_up(part))
        self._rows += len(self._gathered[-1])
        if self._rows > max(2 * self._held, MERGE_ROWS):
            self._merge()

    def table(self) -> pl.DataFrame:
        """The figures, sums saturated at 38 digits."""
        self._merge()
        if not self._gathered:
            return pl.DataFrame(schema={"code": pl.UInt32, "start": pl.Int64, "currency": pl.String, "value": pl.Int64})
        (whole,) = self._gathered
        if self._rule.measure == "sum":
            whole = whole.select("slot", "currency", value=saturated("high", "low"))
        else:
            if self._rule.measure == "distinct":
                whole = _run_lengths(whole.get_column("slot").to_numpy())
            whole = whole.with_columns(currency=pl.lit(""))
        return whole.select(*self._pack.unpacked("slot"), "currency", "value")

    def _merge(self) -> None:
        if len(self._gathered) > 1:
            self._gathered = [self._added_up(pl.concat(self._gathered))]
        self._rows = self._held = sum(len(part) for part in self._gathered)

    def _added_up(self, part: pl.DataFrame) -> pl.DataFrame:
        """A row for each slot and currency; of a distinct for each slot and value."""
        if self._rule.measure == "sum":
            return part.group_by("slot", "currency").agg(pl.col("high", "low").sum())
        if self._rule.measure == "distinct":
            return part.unique()
        slots = part.get_column("slot").to_numpy()
        if "value" not in part.columns:
            return _run_lengths(slots)
        order = np.argsort(slots)
        first, slots = _firsts(slots[order])
        counts = np.add.reduceat(part.get_column("value").to_numpy()[order], first) if len(first) else first
        return pl.DataFrame({"slot": slots, "value": counts})


class Pack:
    """Party and interval as one whole number, a slot: numbers are sorted ten times as fast as pairs are grouped."""

    def __init__(self, interval: Interval) -> None:
        self._unit = interval.seconds or DAY
        """Every interval starts at a whole number of these behind the first one's start."""
        self._first = interval.start(YEAR_1)
        self._bits = ((YEAR_10000 - self._first) // self._unit + 1).bit_length()

    def slots(self, touches: pl.DataFrame) -> Int64Array:
        """The slots of touches. Raises UsageError where there are too many parties for such short intervals."""
        codes = touches.get_column("code").to_numpy().astype(np.int64)
        if len(codes) and int(codes.max()) >= 1 << (63 - self._bits):
            raise UsageError(
                f"backtest: more than {1 << (63 - self._bits):,} parties cannot be counted by intervals of "
                f"{self._unit} s: narrow it down with --from and --to"
            )
        of_interval = (touches.get_column("start").to_numpy() - self._first) // self._unit
        return np.asarray((codes << self._bits) | of_interval)

    def unpacked(self, slot: str) -> tuple[pl.Expr, pl.Expr]:
        """The columns code and start of a column of slots."""
        size = 1 << self._bits
        code, start = pl.col(slot) // size, pl.col(slot) % size * self._unit + self._first
        return code.cast(pl.UInt32).alias("code"), start.alias("start")


def _firsts(ordered: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Of a sorted array: where each distinct number begins, and the distinct numbers."""
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(ordered) else ordered
    return first, ordered[first]


def _run_lengths(slots: Int64Array) -> pl.DataFrame:
    """How often each slot occurs."""
    ordered = np.sort(slots)
    first, distinct = _firsts(ordered)
    return pl.DataFrame({"slot": distinct, "value": np.diff(first, append=len(ordered))})


def saturated(high: str, low: str) -> pl.Expr:
    """high × 10^19 + low, at most 10^38 − 1."""
    limb = pl.lit(LIMB, dtype=pl.Int128)
    carried = pl.col(high) + pl.col(low) // limb
    fits = pl.min_horizontal(carried, pl.lit(LIMB - 1, dtype=pl.Int128)) * limb + pl.col(low) % limb
    return pl.when(carried >= limb).then(pl.lit(MAX, dtype=pl.Int128)).otherwise(fits)


def hits_of(figures: pl.DataFrame, rule: Rule, digits: int, first: int | None, last: int | None) -> pl.DataFrame:
    """The hits among the intervals with first ≤ start ≤ last: code, start, currency, value, need.

    `need`: the least figure at which the rule is a hit; `digits`: fraction digits of what is summed.
    """
    wanted = figures
    for bound, kept in ((first, pl.col("start") >= pl.lit(first)), (last, pl.col("start") <= pl.lit(last))):
        if bound is not None:
            wanted = wanted.filter(kept)
    judged = _grown(wanted, figures, rule, digits) if rule.is_growth else _limited(wanted, rule, digits)
    return judged.filter(pl.col("value") >= pl.col("need")).sort("code", "start", "currency")


def _limited(figures: pl.DataFrame, rule: Rule, digits: int) -> pl.DataFrame:
    # A saturated sum is over every limit.
    needs = {c: min(_units(f, rule, digits) + 1, MAX) for c, f in rule.figures().items()}
    return figures.join(_by_currency("need", needs), on="currency")


def _grown(wanted: pl.DataFrame, figures: pl.DataFrame, rule: Rule, digits: int) -> pl.DataFrame:
    interval = Interval.parse(rule.interval)
    starts = wanted.get_column("start").unique().to_list()
    before = pl.DataFrame(
        {"start": starts, "previous": [interval.previous(s) for s in starts]},
        schema={"start": pl.Int64, "previous": pl.Int64},
    )
    baselines = {c: _units(f, rule, digits, up=True) for c, f in rule.figures().items()}
    paired = (
        wanted.join(before, on="start")
        .join(_by_currency("baseline", baselines), on="currency")
        .join(
            figures.select("code", "currency", previous="start", before="value"),
            on=["code", "currency", "previous"],
            how="left",
        )
        .with_columns(pl.col("before").fill_null(0).cast(pl.Int128))
        .filter(pl.col("before") >= pl.col("baseline"))
    )
    up, down = Decimal(rule.factor or 1).as_integer_ratio()
    need = [min(-(-figure * up // down), NEVER) for figure in paired.get_column("before").to_list()]
    return paired.select("code", "start", "currency", "value", pl.Series("need", need, dtype=pl.Int128))


def _by_currency(name: str, figures: dict[str, int]) -> pl.DataFrame:
    return pl.DataFrame(
        {"currency": list(figures), name: list(figures.values())}, schema={"currency": pl.String, name: pl.Int128}
    )


def _units(figure: Decimal, rule: Rule, digits: int, *, up: bool = False) -> int:
    return units(figure, digits if rule.measure == "sum" else 0, up=up)
