"""The crossing record of a hit, against a walk from record to record."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.test_book import book_of, rule

from paystorm.windows import wide
from paystorm.windows.book import RuleBook, Span
from paystorm.windows.cells import Cell
from paystorm.windows.interner import Interner
from paystorm.windows.tally import Place, tally
from paystorm.windows.touches import gather

DAY = 86_400
Key = tuple[str, int, str]
"""Party, day and currency."""


@dataclass(frozen=True)
class Touch:
    """A record as it reaches a party."""

    party: str = "x"
    day: int = 0
    epoch: int = 0
    units: int = 1
    currency: str = "EUR"
    value: str = "v"


@dataclass
class Walk:
    """What a version of a rule knows of each party, after each record."""

    span: Span
    figures: dict[Key, int] = field(default_factory=dict)
    values: set[tuple[Key, str]] = field(default_factory=set)
    seen: set[Key] = field(default_factory=set)

    def take(self, touch: Touch) -> None:
        if not self.span.counted_from <= touch.epoch <= self.span.last:
            return
        what = self.span.rule.measure
        place = (touch.party, touch.day, touch.currency if what == "sum" else "")
        step = touch.units if what == "sum" else 1
        if what == "distinct":
            step = 0 if (place, touch.value) in self.values else 1
            self.values.add((place, touch.value))
        self.figures[place] = min(self.figures.get(place, 0) + step, wide.MAX)
        if touch.epoch >= self.span.first:
            self.seen.add(place)

    def holds(self, place: Key) -> bool:
        party, day, currency = place
        now, before = self.figures.get(place, 0), self.figures.get((party, day - 1, currency), 0)
        if place not in self.seen or currency not in self.span.figures:
            return False
        if self.span.factor is None:
            return now > self.span.figures[currency] or now == wide.MAX
        up, down = self.span.factor
        return now * down >= up * before and before >= self.span.figures[currency]


class Counts:
    """Flushes of one rule, by the code and by the walk."""

    def __init__(self, book: RuleBook) -> None:
        self.book = book
        self.cells: dict[Place, Cell] = {}
        self.interners = {kind: Interner(kind, 8) for kind in book.source.kinds()}
        self.values = Interner("", 8)
        self.walks = [Walk(span) for span in book.spans["r"]]

    def _load(self, places: list[Place]) -> None:
        for label, start in places:
            self.cells[label, start] = Cell(self.book.measures[label], start)

    def flush(self, touches: list[Touch]) -> dict[tuple[Key, int], tuple[int, int]]:
        """(row, figure) of the crossing of each hit made, by place and version."""
        frame = pl.DataFrame(
            {
                "log_offset": range(len(touches)),
                "event_time": [t.day * DAY * 1_000_000 for t in touches],
                "kind": pl.Series([0] * len(touches), dtype=pl.UInt8),
                "party": [t.party for t in touches],
                "roles": pl.Series([1] * len(touches), dtype=pl.UInt8),
                "epoch": pl.Series([t.epoch for t in touches], dtype=pl.Int32),
                "arrival": pl.Series([0] * len(touches), dtype=pl.Int32),
                "amount": pl.Series([Decimal(f"{t.units}E-2") for t in touches], dtype=pl.Decimal(38, 2)),
                "currency": [t.currency for t in touches],
                "payee": [t.value for t in touches],
            }
        ).with_columns(pl.col("event_time").cast(pl.Datetime("us")))
        rows = gather([frame], self.book, self.interners, self.values)
        found = tally(self.book, self.cells, rows, "currency", self._load)
        for written in found.written:
            assert len(written.codes) == len(written.values)
            assert not (len(written.codes) and len(written.pairs)), "either figures or pairs"
        out = {}
        for change in found.changes:
            if change.was is None:
                assert change.span is not None
                assert change.crossing is not None
                (party,) = self.interners[change.kind].names([change.code]).to_list()
                place = (party, change.start // DAY, change.currency)
                out[place, change.span.first] = (change.crossing.row, change.crossing.figure)
        return out

    def walk(self, touches: list[Touch]) -> dict[tuple[Key, int], tuple[int, int]]:
        """The same, from record to record."""
        places = {
            (t.party, t.day + later, t.currency if walk.span.rule.measure == "sum" else "")
            for t in touches
            for walk in self.walks
            for later in (0, 1)
        }
        stood = {place for place in places if any(walk.holds(place) for walk in self.walks)}
        first: dict[tuple[Key, int], tuple[int, int]] = {}
        for row, touch in enumerate(touches):
            for walk in self.walks:
                walk.take(touch)
                for place in places:
                    # Of the party's own records: the others change nothing for it.
                    if place[0] == touch.party and walk.holds(place):
                        first.setdefault((place, walk.span.first), (row, walk.figures[place]))
        out = {}
        for place in places - stood:
            version = next((walk.span.first for walk in self.walks if walk.holds(place)), None)
            if version is not None:
                out[place, version] = first[place, version]
        return out


def check(book: RuleBook, flushes: list[list[Touch]]) -> None:
    counts = Counts(book)
    for touches in flushes:
        assert counts.flush(touches) == counts.walk(touches)


def flushes_of(**given_: Any) -> st.SearchStrategy[list[list[Touch]]]:
    drawn: dict[str, Any] = {"party": st.sampled_from("xyz"), "day": st.integers(0, 2), **given_}
    return st.lists(st.lists(st.builds(Touch, **drawn), min_size=1, max_size=14), min_size=1, max_size=4)


@given(flushes_of(), st.integers(0, 4))
def test_a_count_crosses_at_the_record_that_takes_it_past_the_limit(flushes: list[list[Touch]], limit: int) -> None:
    check(book_of([rule(limit=limit)]), flushes)


UNITS = st.integers(0, 300) | st.sampled_from([wide.MAX, wide.MAX // 2])


@given(flushes_of(units=UNITS, currency=st.sampled_from(["EUR", "USD", "CHF"])), st.sampled_from(["0", "0.99", "5"]))
def test_a_sum_crosses_in_its_currency(flushes: list[list[Touch]], limit: str) -> None:
    check(book_of([rule(measure="sum", field="amount", limit={"EUR": limit, "USD": "2"})]), flushes)


@given(flushes_of(), st.sampled_from(["1.5", "2", "3"]), st.integers(0, 3))
def test_growth_crosses_where_the_figure_or_the_one_before_it_makes_it_hold(
    flushes: list[list[Touch]], factor: str, baseline: int
) -> None:
    somebody = [[Touch(party="somebody", day=day) for day in range(3)]]
    check(book_of([rule(factor=factor, baseline=baseline)]), somebody + flushes)


@given(flushes_of(value=st.sampled_from("abcdef")), st.integers(0, 3))
def test_a_distinct_crosses_at_the_value_that_is_one_too_many(flushes: list[list[Touch]], limit: int) -> None:
    book = book_of([rule(measure="distinct", field="payee", limit=limit)])
    # Values of a flush or day are not those of another: see the tests of values that stand in several.
    check(book, [[Touch(t.party, t.day, value=f"{t.value}{t.day}{n}") for t in f] for n, f in enumerate(flushes)])


@given(flushes_of(epoch=st.integers(0, 2)), st.lists(st.integers(0, 4), min_size=3, max_size=3))
def test_a_version_crosses_once_a_record_of_its_own_epochs_is_there(
    flushes: list[list[Touch]], limits: list[int]
) -> None:
    # One flush only: see the test of a record of the version's epochs that came in an earlier one.
    check(book_of(*([rule(limit=limit)] for limit in limits)), flushes[:1])


def test_a_value_known_before_the_flush_is_not_counted_again() -> None:
    values = [[Touch(value=v) for v in flush] for flush in ("ab", "acd")]
    check(book_of([rule(measure="distinct", field="payee", limit=3)]), values)


def test_a_value_of_the_interval_before_is_a_new_one_in_this() -> None:
    values = [[Touch(day=day, value=v) for day in (0, 1) for v in "abcd"]]
    check(book_of([rule(measure="distinct", field="payee", limit=2)]), values)


def test_a_record_of_the_versions_epochs_in_an_earlier_flush_counts_as_seen() -> None:
    check(book_of([rule(limit=30)], [rule(limit=3)]), [[Touch(epoch=1)], [Touch(epoch=0)] * 6])


def test_growth_in_an_interval_that_nobody_was_counted_in_crosses_where_it_holds() -> None:
    check(book_of([rule(factor="3", baseline=5)]), [[Touch()] * 10, [Touch(day=1)] * 50])


def test_growth_that_a_late_record_of_the_interval_before_makes_crosses_there() -> None:
    check(book_of([rule(factor="1.5", baseline=5)]), [[Touch(day=1)] * 10, [Touch()] * 6])


def test_growth_from_nothing_crosses_at_the_first_record_of_its_own_interval() -> None:
    growth = rule(measure="sum", field="amount", factor="2", baseline={"EUR": "0"})
    check(book_of([growth]), [[Touch(units=0), Touch(day=1, units=0)]])


def test_a_value_that_another_party_is_known_with_is_a_new_one() -> None:
    known = [Touch(value="z"), Touch(party="y", value="a"), Touch(party="y", value="b")]
    values = [Touch(value=v) for v in "abc"]
    check(book_of([rule(measure="distinct", field="payee", limit=2)]), [known, values])
