"""Which events a rule would have denied: those of a party behind its crossing, in order of event time."""

import numpy as np
import numpy.typing as npt
import polars as pl

from paystorm.backtest.events import SECOND
from paystorm.backtest.figures import saturated
from paystorm.rules import Rule

Int64Array = npt.NDArray[np.int64]
ORDER = ("code", "time", "partition", "offset")
"""How touches are sorted here: by party, then by event time; events of one moment by their place in the log."""


def denied_events(touches: pl.DataFrame, hits: pl.DataFrame, rule: Rule) -> Int64Array:
    """The numbers of the events that the rule's entries would have denied, ascending, each once.

    touches: sorted by ORDER, of at least all parties that have a hit. An entry acts from the event behind the crossing
    on, until `expires_after` seconds of event time have passed.
    """
    at = crossings(touches, hits, rule)
    if not len(at):
        return np.empty(0, dtype=np.int64)
    code, time = touches.get_column("code").to_numpy(), touches.get_column("time").to_numpy()
    marks = np.full(len(code), -1, dtype=np.int64)
    marks[at] = at
    last = np.empty_like(marks)
    last[0] = -1
    np.maximum.accumulate(marks[:-1], out=last[1:])  # the last crossing before each touch, of whatever party
    listed = (last >= 0) & (code[last] == code)
    if rule.expires_after is not None:
        listed &= time < time[last] + rule.expires_after * SECOND
    return np.unique(touches.get_column("event").to_numpy()[listed])


def crossings(touches: pl.DataFrame, hits: pl.DataFrame, rule: Rule) -> Int64Array:
    """The rows of `touches` at which a hit came to hold."""
    on = ["code", "start"]
    counted = touches.with_row_index("row").filter("counts")
    if rule.measure == "sum":
        on = [*on, "currency"]
        counted = counted.filter(pl.col("high").is_not_null())
    elif rule.measure == "distinct":
        counted = counted.filter(pl.col("value").is_not_null())
    # Only what lies in an interval with a hit is added up.
    counted = counted.join(hits.select(*on, "need"), on=on, maintain_order="left")
    if rule.measure == "count":
        running = pl.int_range(1, pl.len() + 1).over(on)
    elif rule.measure == "sum":
        counted = counted.with_columns(pl.col("high", "low").cum_sum().over(on))
        running = saturated("high", "low")
    else:
        first = pl.struct(*on, "value").is_first_distinct().cast(pl.Int64)
        counted = counted.with_columns(first.alias("new"))
        running = pl.col("new").cum_sum().over(on)
    there = counted.filter(running >= pl.col("need")).group_by(on).agg(pl.col("row").min())
    return np.sort(there.get_column("row").to_numpy()).astype(np.int64)
