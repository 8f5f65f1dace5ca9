"""Each kind of difference, planted, is found and said on one line; without one nothing is said."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from paystorm.oracle import Computed, Count, Difference, Held, Hit, Outcome, compare
from paystorm.oracle.testing import Log, held_of

SOURCE: dict[str, Any] = {
    "name": "purchase",
    "topic": "purchases",
    "enforces": True,
    "fields": [
        {"name": "event_time", "type": "time", "required": True},
        {"name": "account", "type": "id", "required": True},
        {"name": "amount", "type": "amount"},
        {"name": "currency", "type": "currency"},
    ],
    "parties": [{"field": "account", "role": "sender", "kind": "account"}],
    "rules": [
        {"name": "many", "kind": "account", "limit": 1},
        {"name": "spend", "kind": "account", "measure": "sum", "field": "amount", "limit": {"EUR": "2"}},
    ],
}
DAY_START = 1_704_067_200
ODD = 'u"\n\x00,😀'


@pytest.fixture
def computed() -> Iterator[Computed]:
    log = Log()
    data = {"event_time": "2024-01-01T12:00:00Z", "account": ODD, "amount": "1.10", "currency": "EUR"}
    log.add(data)
    log.add(data, envelope={"id": "e1"})
    log.add(data | {"account": ""})
    log.add(data)
    with log.compute(SOURCE, parked={(0, 3)}) as result:
        yield result


def found(computed: Computed, held: Held) -> list[Difference]:
    differences = compare(computed, held)
    assert all("\n" not in str(difference) for difference in differences)
    return differences


def test_what_is_right_differs_in_nothing(computed: Computed) -> None:
    assert found(computed, held_of(computed)) == []
    assert {hit.rule for hit in computed.hits.values()} == {"many", "spend"}


def test_an_outcome_that_is_wrong_missing_double_or_of_a_parked_record_is_found(computed: Computed) -> None:
    held = held_of(computed)
    first, _, third = held.outcomes
    wrong = [replace(first, id="other"), replace(third, code="missing"), third, Outcome(0, 3, None, True)]
    differences = found(computed, replace(held, outcomes=wrong))
    assert [d.key for d in differences] == [(0, 0), (0, 2), (0, 2), (0, 3), (0, 1)]
    assert str(differences[1]) == (
        "outcomes 0/2: expected dead-lettered account empty (id 'purchases/0/2'),"
        " held dead-lettered account missing (id 'purchases/0/2')"
    )
    assert differences[-1].held is None


def test_an_event_row_is_compared_by_value_and_its_data_as_text(computed: Computed) -> None:
    held = held_of(computed)
    first, second = held.events
    same = replace(first, values=dict(first.values) | {"amount": Decimal("1.100")})
    assert found(computed, replace(held, events=[same, second])) == []
    changed = replace(first, values=dict(first.values) | {"amount": "1.1"}, data=first.data + " ", event_time=0)
    differences = found(computed, replace(held, events=[changed, second]))
    assert [d.key[-1] for d in differences] == ["event_time", "data", "amount"]
    more = replace(second, values=dict(second.values) | {"column": "x"})
    assert [d.key for d in found(computed, replace(held, events=[first, more]))] == [(0, 1, "column")]


def test_an_event_row_that_is_missing_double_or_of_no_valid_record_is_found(computed: Computed) -> None:
    held = held_of(computed)
    first, _ = held.events
    rows = [first, first, replace(first, offset=2), replace(first, offset=99), replace(first, offset=3)]
    differences = found(computed, replace(held, events=rows))
    assert [(d.table, d.key) for d in differences] == [
        ("events", (0, 0)),
        ("events", (0, 2)),
        ("events", (0, 99)),
        ("parked", (0, 3)),
        ("events", (0, 1)),
    ]


@pytest.mark.parametrize("value", [Decimal("2.3"), Decimal("-2.2"), Decimal("2." + "2" * 19), Decimal(10**40), 10**60])
def test_a_figure_that_is_wrong_is_found_whatever_it_is(computed: Computed, value: Decimal | int) -> None:
    held = held_of(computed)
    counts = [replace(c, value=value) if c.rule == "spend" else c for c in held.counts]
    (difference,) = found(computed, replace(held, counts=counts))
    assert difference == Difference("counts", ("spend", "account", ODD, DAY_START, "EUR"), Decimal("2.2"), value)


def test_a_count_that_is_missing_double_or_too_many_is_found_and_one_of_zero_is_none(computed: Computed) -> None:
    held = held_of(computed)
    many = next(c for c in held.counts if c.rule == "many")
    extra = [Count("many", "account", "u9", DAY_START, "", 4), Count("gone", "account", "u9", 0, "", 1)]
    zero = Count("many", "account", "u8", DAY_START, "", 0)
    differences = found(computed, replace(held, counts=[many, many, *extra, zero]))
    assert sorted((d.key[0], d.key[2], str(d.expected), str(d.held)) for d in differences) == [
        ("gone", "u9", "None", "1"),
        ("many", ODD, "one row", "2 rows"),
        ("many", "u9", "None", "4"),
        ("spend", ODD, "2.200000000000000000", "None"),
    ]


def test_a_hit_that_is_wrong_missing_double_or_withdrawn_though_it_holds_is_found(computed: Computed) -> None:
    held = held_of(computed)
    many, spend = sorted(held.hits, key=lambda hit: hit.rule)
    other = Hit("many", "account", "u9", DAY_START, "", 0, 2)

    def tables(*hits: Hit, withdrawn: tuple[Any, ...] = ()) -> list[str]:
        return [d.table for d in found(computed, replace(held, hits=hits, withdrawn=withdrawn))]

    assert tables(many, spend, withdrawn=(other.key,)) == []
    assert tables(many) == ["hits"]
    assert tables(many, replace(spend, version=1)) == ["hits"]
    assert tables(many, replace(spend, value=Decimal(9))) == ["hits"]
    assert tables(many, many, spend) == ["hits"]
    assert tables(many, spend, other) == ["hits"]
    assert tables(many, withdrawn=(spend.key,)) == ["withdrawn_hits"]
    assert tables(many, spend, withdrawn=(spend.key,)) == ["withdrawn_hits"]


def test_a_long_value_is_cut_on_its_line() -> None:
    line = str(Difference("events", (0, 1, "data"), "x" * 1000, "\x00\n"))
    assert len(line) < 300
    assert line.endswith(r"held '\x00\n'")
