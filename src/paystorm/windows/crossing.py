"""Which record made a hit: the first one, in the order of application, after which the rule's condition held."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from paystorm.windows import wide
from paystorm.windows.book import Counted, Span
from paystorm.windows.interner import Codes
from paystorm.windows.touches import KindTouches


@dataclass(frozen=True, slots=True)
class Crossing:
    """The crossing record as a row of the flush's touches, and the measure there (units of the measure)."""

    row: int
    figure: int


@dataclass(frozen=True, slots=True)
class Made:
    """A hit that a flush made: the party, and its figures before the flush."""

    code: int
    now: int
    before: int
    seen: bool
    """Whether the party already had a record of the version's epochs."""


def find_crossings(
    touches: KindTouches,
    counted: Counted,
    currency_field: str | None,
    span: Span,
    place: tuple[int, str],
    made: list[Made],
    known: dict[int, set[int]],
) -> dict[int, Crossing]:
    """The crossing of each hit, by party; `place` is the interval's start and the currency.

    known: of a distinct, the value codes that each party had been seen with before the flush.

    A growth that held for a moment and not at the end of the flush is no hit; one that holds at the end crossed, at the
    latest, at the party's last record.
    """
    start, currency = place
    previous = counted.interval.previous(start)
    rows = np.flatnonzero(np.isin(touches.codes, np.array([m.code for m in made], dtype=np.uint32)))
    rows = rows[touches.counted(counted, currency_field)[rows]]
    epochs = touches.epochs[rows]
    rows = rows[(epochs >= span.counted_from) & (epochs <= span.last)]
    if counted.what == "sum" and currency_field is not None and len(rows):
        rows = rows[(touches.frame[currency_field][pl.Series(rows.astype(np.uint32))] == currency).to_numpy()]
    starts = counted.interval.starts(touches.seconds[rows])
    rows, starts = rows[(starts == start) | (starts == previous)], starts[(starts == start) | (starts == previous)]
    order = np.argsort(touches.codes[rows], kind="stable")
    rows, starts = rows[order], starts[order]
    steps = list(_steps(touches, counted, rows))
    in_span = (touches.epochs[rows] >= span.first).tolist()
    bounds = np.searchsorted(touches.codes[rows], np.array([[m.code, m.code + 1] for m in made], dtype=np.int64))
    is_now = (starts == start).tolist()
    out: dict[int, Crossing] = {}
    for hit, (first, after) in zip(made, bounds.tolist(), strict=True):
        mine = slice(first, after)
        values = known.get(hit.code, set())
        out[hit.code] = _cross(hit, span, currency, values, rows[mine], steps[mine], is_now[mine], in_span[mine])
    return out


def _steps(touches: KindTouches, counted: Counted, rows: npt.NDArray[np.intp]) -> Iterator[int]:
    """What each row adds to the figure; of a distinct, the code of its value."""
    if counted.field is None:
        yield from [1] * len(rows)
    elif counted.what == "sum":
        for limbs in touches.amounts(counted.field)[rows]:
            yield wide.to_int(limbs)
    else:
        codes: Codes = touches.value_codes(counted.field)[rows]
        yield from codes.tolist()


def _cross(
    hit: Made,
    span: Span,
    currency: str,
    values: set[int],
    rows: npt.NDArray[np.intp],
    steps: list[int],
    is_now: list[bool],
    in_span: list[bool],
) -> Crossing:
    now, before, seen = hit.now, hit.before, hit.seen
    distinct = span.rule.measure == "distinct"
    for i, step in enumerate(steps):
        add = step
        if distinct and is_now[i]:
            add = 0 if step in values else 1
            values.add(step)
        if is_now[i]:
            now = min(now + add, wide.MAX)
            seen = seen or in_span[i]
        else:
            before = min(before + add, wide.MAX)
        if seen and _holds(span, currency, now, before):
            return Crossing(int(rows[i]), now)
    return Crossing(int(rows[-1]), now)


def _holds(span: Span, currency: str, now: int, before: int) -> bool:
    figure = span.figures[currency]
    if span.factor is None:
        return now > figure or now == wide.MAX
    up, down = span.factor
    return now * down >= before * up and before >= figure
