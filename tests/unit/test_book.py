"""Rule versions over the versions of a source (decision 0001, points 2 to 4), against a walk over the epochs."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paystorm.errors import ConfigError
from paystorm.rules import Rule
from paystorm.source import Field, Party, Source
from paystorm.stores.versions import Version
from paystorm.windows.book import RuleBook, Span

SOURCE = Source(
    name="pay",
    topic="pay",
    enforces=True,
    fields=(
        Field(name="event_time", type="time", required=True),
        Field(name="payer", type="id"),
        Field(name="payee", type="id"),
        Field(name="amount", type="amount", fraction_digits=2),
        Field(name="currency", type="currency"),
    ),
    parties=(
        Party(field="payer", role="sender", kind="account"),
        Party(field="payee", role="receiver", kind="account"),
        Party(field="payee", role="shop", kind="merchant"),
    ),
)
SUM: dict[str, Any] = {"measure": "sum", "field": "amount"}
VARIANTS = [
    {"limit": 3},
    {"limit": 5},
    {"limit": 3, "action": "review"},
    {"limit": 3, "interval": "1h"},
    {"factor": "2.5", "baseline": 3},
    {**SUM, "limit": {"EUR": "1.5"}},
    {"measure": "distinct", "field": "payee", "limit": 3},
    {"measure": "distinct", "field": "payee", "limit": 4},
    {"measure": "distinct", "field": "payee", "limit": 4, "cap": 9},
    {"measure": "distinct", "field": "payee", "limit": 5, "cap": 9},
]


def rule(name: str = "r", **given: Any) -> Rule:
    return Rule(name=name, kind=given.pop("kind", "account"), **given)


def versions_of(*of_each: Sequence[Rule]) -> list[Version]:
    return [
        Version(number=n, rules=tuple(rules), validity={}, partitions=1, shards=8, made_at=0)
        for n, rules in enumerate(of_each)
    ]


def book_of(*of_each: Sequence[Rule]) -> RuleBook:
    return RuleBook(SOURCE, versions_of(*of_each))


def spans_of(book: RuleBook, name: str = "r") -> list[tuple[int, int, int]]:
    return [(span.first, span.last, span.counted_from) for span in book.spans[name]]


def only(book: RuleBook) -> Span:
    (spans,) = book.spans.values()
    (span,) = spans
    return span


BY_SUBJECT: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
for variant_ in VARIANTS:
    BY_SUBJECT.setdefault(Rule(name="r", kind="account", **variant_).subject(), []).append(variant_)
# A name stands for one subject over all versions; two names may share one.
NAMED = {f"{name}{i}": st.sampled_from(some) for i, some in enumerate(BY_SUBJECT.values()) for name in "ab"}
rule_sets = st.lists(st.fixed_dictionaries({}, optional=NAMED), min_size=1)


@given(rule_sets.filter(lambda sets: len(sets) <= 7))
def test_spans_and_first_counts_are_those_of_a_walk_over_the_epochs(sets: list[dict[str, Any]]) -> None:
    of_each = [tuple(rule(name, **variant) for name, variant in given_.items()) for given_ in sets]
    book = book_of(*of_each)
    at = [{r.name: r for r in rules} for rules in of_each]
    measured = [{r.measured() for r in rules} for rules in of_each]
    held: dict[tuple[str, int], Span] = {}
    for name, spans in book.spans.items():
        assert [span.first for span in spans] == sorted(span.first for span in spans)
        for span in spans:
            for epoch in range(span.first, span.last + 1):
                assert (name, epoch) not in held, "one version of a rule at a time"
                held[name, epoch] = span
    assert held.keys() == {(name, epoch) for epoch, rules in enumerate(at) for name in rules}
    for (name, epoch), span in held.items():
        assert span.rule == at[epoch][name]
        before, after = span.first - 1, span.last + 1
        assert before < 0 or at[before].get(name) != span.rule, "it begins where the rule came to be as it is"
        assert after == len(at) or at[after].get(name) != span.rule
        since = span.first
        while since > 0 and span.rule.measured() in measured[since - 1]:
            since -= 1
        assert span.counted_from == since
    every = {m for there in measured for m in there}
    assert {m.label() for m in every} == book.measures.keys()
    for measure in every:
        counted = book.measures[measure.label()]
        assert counted.measure == measure
        assert counted.epochs == {epoch for epoch, there in enumerate(measured) if measure in there}
        assert set(counted.rules) == {r.name for rules in of_each for r in rules if r.measured() == measure}
    assert book.newest == len(sets) - 1


def test_an_unchanged_rule_is_one_version_however_many_the_source_has() -> None:
    other = [[rule("other", limit=n)] for n in range(4)]
    assert spans_of(book_of(*([rule(limit=3), *rules] for rules in other))) == [(0, 3, 0)]


def test_another_limit_is_another_version_and_goes_on_counting() -> None:
    book = book_of([rule(limit=3)], [rule(limit=5)], [rule(limit=3)])
    assert spans_of(book) == [(0, 0, 0), (1, 1, 0), (2, 2, 0)]
    assert [span.figures for span in book.spans["r"]] == [{"": 3}, {"": 5}, {"": 3}]


def test_a_rule_that_was_away_begins_to_count_again() -> None:
    assert spans_of(book_of([rule(limit=3)], [], [rule(limit=3)], [rule(limit=4)])) == [(0, 0, 0), (2, 2, 2), (3, 3, 2)]


def test_another_rule_with_the_measure_bridges_the_break() -> None:
    bridge = rule("bridge", factor="2", baseline=9, action="review")
    book = book_of([rule(limit=3)], [bridge], [rule(limit=3)])
    assert spans_of(book) == [(0, 0, 0), (2, 2, 0)]
    assert spans_of(book, "bridge") == [(1, 1, 0)]
    assert book.measures["account/either/count/1d"].rules == ("r", "bridge")


def test_another_limit_of_a_distinct_counts_anew_unless_the_cap_is_set() -> None:
    what = {"measure": "distinct", "field": "payee"}
    book = book_of(*([rule(**what, limit=n), rule("fixed", **what, limit=n, cap=9)] for n in (3, 4)))
    assert spans_of(book) == [(0, 0, 0), (1, 1, 1)]
    assert spans_of(book, "fixed") == [(0, 0, 0), (1, 1, 0)]
    assert {label: counted.cap for label, counted in book.measures.items()} == {
        "account/either/distinct(payee)<=4/1d": 4,
        "account/either/distinct(payee)<=5/1d": 5,
        "account/either/distinct(payee)<=9/1d": 9,
    }


def test_figures_are_in_units_of_the_measure() -> None:
    assert only(book_of([rule(limit=3)])).figures == {"": 3}
    summed = book_of([rule(**SUM, limit={"EUR": "1.5", "USD": "0.019"})])
    assert only(summed).figures == {"EUR": 150, "USD": 1}, "above 0.019 is above 0.01 where there are two digits"
    (counted,) = summed.measures.values()
    assert (counted.what, counted.field, counted.digits, counted.cap) == ("sum", "amount", 2, 0)
    growth = only(book_of([rule(factor="2.50", baseline=3)]))
    assert (growth.factor, growth.figures) == ((5, 2), {"": 3})


def test_a_baseline_finer_than_the_field_is_not_reached_below_it() -> None:
    assert only(book_of([rule(**SUM, factor="2", baseline={"EUR": "10.005"})])).figures == {"EUR": 1001}


def test_a_limit_of_minus_nothing_is_nothing() -> None:
    rules = [rule(**SUM, limit={"EUR": "-0"})]
    rules[0].check("pay")
    assert only(book_of(rules)).figures == {"EUR": 0}


def test_a_role_is_a_bit_in_the_order_of_the_kinds_roles() -> None:
    book = book_of(
        [
            rule(limit=1),
            rule("s", role="sender", limit=1),
            rule("r2", role="receiver", limit=1),
            rule("m", kind="merchant", role="shop", limit=1),
        ]
    )
    assert [counted.role_bit for counted in book.measures.values()] == [0, 1, 2, 1]
    assert [counted.label for counted in book.of_kind("merchant")] == ["merchant/shop/count/1d"]


def test_kinds_are_those_of_any_version_in_the_sources_order() -> None:
    book = book_of([rule("m", kind="merchant", limit=1)], [rule(limit=1)])
    assert book.kinds() == ("account", "merchant")
    assert book_of([rule("m", kind="merchant", limit=1)]).kinds() == ("merchant",)
    assert book_of([]).kinds() == ()


def test_a_source_without_a_version_is_refused() -> None:
    with pytest.raises(ConfigError, match="pay has no version yet"):
        RuleBook(SOURCE, [])
