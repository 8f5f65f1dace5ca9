"""Which rules hold for which parties: limit and growth over the figures (decision 0001, points 3 to 6)."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from paystorm.windows import wide
from paystorm.windows.book import RuleBook, Span
from paystorm.windows.cells import Cell, Values
from paystorm.windows.interner import Codes

Find = Callable[[str, int], Cell | None]
"""The cell of (measure, start of interval), None where nothing was ever counted."""
Versions = npt.NDArray[np.int32]
"""For each party the version of the rule that holds, −1 for none; shape (n,)."""


class Judge:
    """Judges parties by rule and interval at one moment of a flush; remembers figures that several rules look at."""

    def __init__(self, book: RuleBook, find: Find) -> None:
        self._book = book
        self._find = find
        self._seen: dict[tuple[str, int, int, int, int, str], tuple[Codes, Values]] = {}
        self._had: dict[tuple[str, int, int, int, int, str], tuple[Codes, npt.NDArray[np.bool_]]] = {}

    def versions(self, rule: str, start: int, codes: Codes, currency: str) -> Versions:
        """For each party the earliest version of the rule that holds."""
        out = np.full(len(codes), -1, dtype=np.int32)
        for span in self._book.spans[rule]:
            if currency not in span.figures:
                continue
            holds = self.holds(span, start, codes, currency)
            out[(out == -1) & holds] = span.first
        return out

    def holds(self, span: Span, start: int, codes: Codes, currency: str) -> npt.NDArray[np.bool_]:
        """For each party whether one version of a rule holds."""
        label = span.rule.measured().label()
        cell = self._find(label, start)
        # Looked at, and so remembered, also where nobody has been counted in the interval itself yet.
        earlier = self._book.measures[label].interval.previous(start) if span.factor is not None else start
        before = self.figures(span, earlier, codes, currency) if span.factor is not None else None
        if cell is None or not cell.parts:
            return np.zeros(len(codes), dtype=np.bool_)
        if span.first > span.counted_from:
            self._had[label, start, id(codes), span.first, span.last, currency] = (
                codes,
                cell.seen(codes, span.first, span.last, currency),
            )
        now = self.figures(span, start, codes, currency)
        figure = span.figures[currency]
        if span.factor is None or before is None:
            met = wide.exceeds(now, figure) if now.ndim == 2 else now > figure
        else:
            met = meets_growth(now, before, span.factor, figure)
        if met.any():
            met = met & cell.seen(codes, span.first, span.last, currency)
        return np.asarray(met)

    def had(self, span: Span, start: int, codes: Codes, currency: str, i: int) -> bool:
        """Whether party `i` of `codes` had a record of the version's epochs when it was judged."""
        if span.first == span.counted_from:
            return self.remembered(span, start, codes, currency, i) > 0
        held = self._had.get((span.rule.measured().label(), start, id(codes), span.first, span.last, currency))
        return held is not None and bool(held[1][i])

    def remembered(self, span: Span, start: int, codes: Codes, currency: str, i: int) -> int:
        """The figure of party `i` of `codes` as it was judged by; 0 where there was nothing to judge."""
        label = span.rule.measured().label()
        held = self._seen.get((label, start, id(codes), span.counted_from, span.last, currency))
        if held is None:
            return 0
        figure = held[1][i]
        return wide.to_int(figure) if isinstance(figure, np.ndarray) else int(figure)

    def figures(self, span: Span, start: int, codes: Codes, currency: str) -> Values:
        """The figures that a version of a rule goes by in an interval."""
        label = span.rule.measured().label()
        memo = (label, start, id(codes), span.counted_from, span.last, currency)
        held = self._seen.get(memo)
        if held is None:
            cell = self._find(label, start)
            if cell is None:
                wide_sum = self._book.measures[label].what == "sum"
                figures: Values = np.zeros((len(codes), 3) if wide_sum else len(codes), dtype=np.int64)
            else:
                figures = cell.figures(codes, span.counted_from, span.last, currency)
            # The codes are kept with the figures, so that their id cannot be taken by another array meanwhile.
            held = self._seen[memo] = (codes, figures)
        return held[1]


def meets_growth(now: Values, before: Values, factor: tuple[int, int], baseline: int) -> npt.NDArray[np.bool_]:
    """now ≥ factor × before and before ≥ baseline, for each party; counts stay below 2^63 ÷ 10^6."""
    if now.ndim == 2:
        return wide.grown(now, before, factor, baseline)
    up, down = factor
    if max(up, down) <= 1000:
        return np.asarray((now * down >= before * up) & (before >= baseline))
    exact = [n * down >= b * up and b >= baseline for n, b in zip(now.tolist(), before.tolist(), strict=True)]
    return np.array(exact, dtype=np.bool_)
