"""Packed hits against whole ones."""

import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.test_lists import NONE, breakers, facts_of, make_act, make_hit, times

from paystorm.clock import SECOND
from paystorm.lists import Act, PartyFacts
from paystorm.packed_hits import PackedFacts, Terms
from paystorm.stores.hits import Hit

DAY = 86_400


def packed(*facts: Hit | Act, terms: Terms | None = None, party: str = "u1") -> PackedFacts:
    out = PackedFacts("account", party, terms or Terms())
    for fact in facts:
        _ = out.add_act(fact) if isinstance(fact, Act) else out.add_hit(fact)
    return out


def kept(hit: Hit) -> Hit:
    """The hit as it is given back."""
    return msgspec.structs.replace(
        hit, version=0, limit="", figure="", topic="", partition=0, offset=0, changed_at=0, shard=0, before={}
    )


def by_name(facts: PartyFacts) -> list[Hit]:
    return sorted(facts.hits.values(), key=Hit.name)


def test_a_hit_is_given_back_with_all_that_decides() -> None:
    hit = make_hit(
        source="refund", currency="EUR", interval_start=3 * DAY, status="withdrawn", action="review", since=17 * SECOND,
        expires_after=60, row=9, version=2, shard=5, partition=3, changed_at=4, before={0: [(0, 7)]},
    )  # fmt: skip
    assert list(packed(hit).hits.values()) == [kept(hit)]


@pytest.mark.parametrize("start", [-62_135_596_800, -4 * DAY, -1, 0, 1, 253_402_300_799])
def test_an_interval_may_start_in_any_year_that_can_be_written(start: int) -> None:
    hits = [kept(make_hit(source=source, interval_start=start)) for source in ("pay", "refund", "browser")]
    assert list(packed(*hits).hits.values()) == hits


def test_a_further_hit_of_a_rule_takes_32_bytes_and_a_little_room_to_grow() -> None:
    def size(count: int) -> int:
        held = packed(*(make_hit(interval_start=n * DAY, since=10**15 + n, row=10**6 + n) for n in range(count))).hits
        return sys.getsizeof(held._keys) + sys.getsizeof(held._rest)

    assert size(101) - size(1) <= 100 * 32 * 1.1


def test_parties_share_what_their_hits_have_in_common() -> None:
    terms = Terms()
    first, second = packed(make_hit(), terms=terms), packed(make_hit(party="u2"), terms=terms, party="u2")
    one, two = next(iter(first.hits.values())), next(iter(second.hits.values()))
    assert (one.party, two.party) == ("u1", "u2")
    assert one.rule is two.rule
    assert len(terms.rules) == len(terms.states) == 1


def test_it_is_known_which_rules_made_hits() -> None:
    hits = packed(make_hit(currency="EUR"), make_hit("spent", status="withdrawn")).hits
    assert [hits.any_of(*name) for name in (("pay", "per_day"), ("pay", "spent"))] == [True, True]
    assert [hits.any_of(*name) for name in (("pay", "growth"), ("refund", "per_day"))] == [False, False]
    assert not packed().hits.any_of("pay", "per_day")


def test_a_state_of_an_older_journal_row_is_no_news_and_one_of_a_later_row_is_though_nothing_else_differs() -> None:
    facts = packed(make_hit(row=5))
    assert facts.hits.take_in(make_hit(row=5, figure="9")) == "known"
    assert facts.hits.take_in(make_hit(row=6)) == "other"
    assert facts.hits.take_in(make_hit(row=5, status="withdrawn")) == "known"
    assert list(facts.hits.values()) == [kept(make_hit(row=6))]
    assert facts.hits.take_in(make_hit(row=7, status="withdrawn")) == "other"
    assert facts.hits.take_in(make_hit(row=8, since=90)) == "other"
    assert list(facts.hits.values()) == [kept(make_hit(row=8, since=90))]


@pytest.mark.parametrize(
    ("changes", "news"),
    [
        ({}, "alike"),
        ({"since": 11}, "alike"),
        ({"since": 10}, "other"),
        ({"interval_start": 0}, "alike"),
        ({"interval_start": 3 * DAY}, "alike"),
        ({"interval_start": 9 * DAY}, "alike"),
        ({"rule": "spent"}, "other"),
        ({"source": "refund"}, "other"),
        ({"currency": "EUR"}, "other"),
        ({"status": "withdrawn"}, "other"),
        ({"action": "review"}, "other"),
        ({"expires_after": 60}, "other"),
    ],
)
def test_one_more_hit_is_alike_where_an_older_one_of_its_rule_stands_in_any_interval(
    changes: dict[str, Any], news: str
) -> None:
    for older in (2 * DAY, 6 * DAY):
        facts = packed(
            make_hit("growth", since=1),
            make_hit(interval_start=older),
            make_hit(interval_start=4 * DAY, since=5, status="withdrawn"),
            make_hit(interval_start=7 * DAY, since=30),
            make_hit("velocity", since=1),
        )
        hit = make_hit(**{"interval_start": 5 * DAY, "since": 20, "row": 2, **changes})
        assert facts.hits.take_in(hit) == news
        assert len(facts.hits) == 6
        assert kept(hit) in list(facts.hits.values())


hits = st.builds(
    make_hit,
    st.sampled_from(["per_day", "spent"]),
    source=st.sampled_from(["pay", "pay", "refund"]),
    currency=st.sampled_from(["", "EUR"]),
    interval_start=st.sampled_from([-4 * DAY, 0, DAY]),
    status=st.sampled_from(["standing", "standing", "withdrawn"]),
    action=st.sampled_from(["deny", "deny", "review"]),
    since=times.map(lambda n: n * SECOND),
    expires_after=st.none() | st.integers(1, 20),
    row=st.integers(1, 4),
    version=st.integers(0, 1),
    figure=st.sampled_from(["4", "5"]),
)


@st.composite
def arrivals(draw: st.DrawFn) -> list[Hit | Act]:
    """Hits in any order, of any rows; acts among them."""
    out: list[Hit | Act] = list(draw(st.lists(hits, max_size=12)))
    names = [fact.name() for fact in out if isinstance(fact, Hit)]
    for n in range(draw(st.integers(0, 4))):
        at = draw(times) * SECOND
        what = draw(st.sampled_from(["add", "allow", "remove", "lift", "confirm"]))
        extra: dict[str, Any] = {}
        if what in ("add", "allow"):
            extra["expires_at"] = draw(st.none() | times.map(lambda n: n * SECOND))
        elif what == "remove":
            extra["target"] = draw(st.sampled_from([f.id for f in out if isinstance(f, Act)] or ["none"]))
        elif names:
            extra["hits"] = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)))
        out.insert(draw(st.integers(0, len(out))), make_act(what, n, at=at, **extra))
    return out


@given(arrivals(), times.map(lambda n: n * SECOND), breakers)
def test_packed_facts_answer_as_whole_ones_do_whatever_arrives(
    facts: list[Hit | Act], now: int, open_breakers: frozenset[tuple[str, str]]
) -> None:
    whole, small = facts_of(), packed()
    for fact in facts:
        if isinstance(fact, Act):
            assert whole.add_act(fact) == small.add_act(fact)
        else:
            assert whole.add_hit(kept(fact)) == small.add_hit(fact)
        assert by_name(whole) == by_name(small)
        assert whole.entries(now, open_breakers) == small.entries(now, open_breakers)
        assert whole.covering(now, open_breakers) == small.covering(now, open_breakers)
        assert whole.next_change(now) == small.next_change(now)
    for hit in (fact for fact in facts if isinstance(fact, Hit)):
        assert whole.hit_in_force(hit, now, open_breakers) == small.hit_in_force(hit, now, open_breakers)
        assert small.hits.any_of(hit.source, hit.rule)


@given(st.lists(hits.map(lambda hit: msgspec.structs.replace(hit, expires_after=None)), max_size=12))
def test_a_hit_that_is_known_or_alike_leaves_what_covers_the_party(arrived: list[Hit]) -> None:
    facts = packed()
    for hit in arrived:
        before = facts.covering(100 * SECOND, NONE)
        if facts.hits.take_in(hit) != "other":
            assert facts.covering(100 * SECOND, NONE) == before
