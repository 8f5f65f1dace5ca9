"""The look-up bolt, driven as the embedded runner does."""

from typing import Any

import msgspec
import polars as pl
import pytest
from tests.unit.hosted import RULES, SOURCE, Hosted, Sent
from tests.unit.test_bolts_validation import head
from tests.unit.test_list_copy import Unsteady, publish
from tests.unit.test_lists import make_hit
from tests.unit.test_touches import frame_of

from bolts.blacklist_lookup import BlacklistLookupBolt, BreakerWindow
from paystorm.chunk import EventChunk
from paystorm.clock import ManualClock
from paystorm.settings import Settings
from paystorm.shards import route_to, shard_of
from paystorm.stores import lists as store
from paystorm.stores.versions import Version, add_version

DECISION = ["verdict", "verdict_reason", "entry_kind", "entry_party", "would_deny"]
WATCHING = msgspec.structs.replace(SOURCE, enforces=False)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tables() -> Unsteady:
    tables = Unsteady()
    validity = Settings({}).validity()
    add_version(tables, "pay", Version(number=0, rules=RULES, validity=validity, partitions=1, shards=8, made_at=0))
    return tables


def chunk(*rows: dict[str, Any]) -> EventChunk:
    return EventChunk(head(0, 3 * len(rows)), frame_of(list(rows)).drop("verdict"))


def decided(sent: list[Sent]) -> list[tuple[Any, ...]]:
    return next(s for s in sent if s.stream == "default").chunk.events.select(DECISION).rows()


def deny(tables: Unsteady, clock: ManualClock, kind: str, party: str) -> None:
    store.add_entry(tables, now=clock.now(), by="eva", kind=kind, party=party, reason="")


def test_an_event_is_denied_where_an_entry_covers_one_of_its_parties(tables: Unsteady, clock: ManualClock) -> None:
    deny(tables, clock, "account", "bad")
    deny(tables, clock, "device", "d1")
    bolt = Hosted(BlacklistLookupBolt, tables=tables, clock=clock)
    sent = bolt.give(
        chunk(
            {"payer": "good"},
            {"payer": "good", "payee": "bad"},
            {"payer": "good", "payee": "bad", "payee_kind": "merchant"},
            {"payer": "good", "device": "d1"},
        )
    )
    accepted = ("accepted", None, None, None, None)
    assert decided(sent) == [
        accepted,
        ("denied", "person", "account", "bad", None),
        accepted,
        ("denied", "person", "device", "d1", None),
    ]
    assert sent[0].chunk.events["decided_at"].to_physical().to_list() == [clock.now()] * 4
    assert (bolt.acked, bolt.failed) == (1, 0)


def test_the_first_party_in_declared_order_decides(tables: Unsteady, clock: ManualClock) -> None:
    for kind, party in (("device", "d1"), ("account", "b"), ("account", "a")):
        deny(tables, clock, kind, party)
    bolt = Hosted(BlacklistLookupBolt, tables=tables, clock=clock)
    sent = bolt.give(chunk({"payer": "a", "payee": "b", "device": "d1"}, {"payer": "x", "payee": "b", "device": "d1"}))
    assert [row[3] for row in decided(sent)] == ["a", "b"]


def test_a_watching_source_accepts_and_names_the_entry(tables: Unsteady, clock: ManualClock) -> None:
    publish(tables, make_hit(source="elsewhere", party="bad"))
    store.register_source(tables, "elsewhere")
    bolt = Hosted(BlacklistLookupBolt, tables=tables, clock=clock, source=WATCHING)
    assert decided(bolt.give(chunk({"payer": "bad"}))) == [("accepted", "elsewhere.per_day", "account", "bad", None)]


def test_an_open_breaker_lets_through_unless_another_partys_entry_denies(tables: Unsteady, clock: ManualClock) -> None:
    store.register_source(tables, "pay")
    publish(tables, make_hit(party="hit"))
    store.open_breaker(tables, source="pay", rule="per_day", now=1, by="x", share=1.0)
    deny(tables, clock, "account", "bad")
    bolt = Hosted(BlacklistLookupBolt, tables=tables, clock=clock)
    assert decided(bolt.give(chunk({"payer": "hit"}, {"payer": "hit", "payee": "bad"}))) == [
        ("accepted", "pay.per_day", "account", "hit", True),
        ("denied", "person", "account", "bad", None),
    ]


def test_columns_and_types_do_not_depend_on_the_rows(tables: Unsteady, clock: ManualClock) -> None:
    deny(tables, clock, "account", "bad")
    bolt = Hosted(BlacklistLookupBolt, tables=tables, clock=clock)
    schemas = [
        bolt.give(given)[0].chunk.events.schema
        for given in (chunk(), chunk({"payer": "good"}), chunk({"payer": "bad"}))
    ]
    assert schemas[0] == schemas[1] == schemas[2]
    assert schemas[0]["decided_at"] == pl.Datetime("us")
    assert [schemas[0][name] for name in DECISION] == [pl.String] * 4 + [pl.Boolean]


@pytest.mark.parametrize("counts", [(2,), (2, 3, 4)])
def test_touches_go_to_the_task_of_their_shard(tables: Unsteady, clock: ManualClock, counts: tuple[int, ...]) -> None:
    deny(tables, clock, "account", "u0")
    bolt = Hosted(BlacklistLookupBolt, tables=tables, clock=clock, counts=counts)
    sent = bolt.give(chunk(*({"payer": f"u{n}", "payee": f"u{n + 1}"} for n in range(20))))
    assert [s.stream for s in sent] == ["default"] + ["shards"] * len(counts)
    assert [s.partition for s in sent] == [3, *(route_to(i, len(counts)) for i in range(len(counts)))]
    touches = []
    for i, s in enumerate(sent[1:]):
        assert s.chunk.head == sent[0].chunk.head
        for offset, party, denied in s.chunk.events.select("log_offset", "party", "denied").rows():
            assert shard_of("account", party, 8) % len(counts) == i
            touches.append((offset, party, denied))
    assert sorted(touches) == sorted((3 * n, f"u{n + i}", n == 0) for n in range(20) for i in (0, 1))


def test_a_chunk_without_events_goes_to_the_warehouse_only(tables: Unsteady, clock: ManualClock) -> None:
    bolt = Hosted(BlacklistLookupBolt, tables=tables, clock=clock)
    assert [s.stream for s in bolt.give(chunk())] == ["default"]
    assert bolt.acked == 1


def test_a_stale_copy_fails_the_tuple_and_sends_nothing(tables: Unsteady, clock: ManualClock) -> None:
    bolt = Hosted(BlacklistLookupBolt, tables=tables, clock=clock)
    assert bolt.give(chunk({"payer": "a"}))
    tables.broken = True
    clock.advance(1.5)
    assert bolt.give(chunk({"payer": "a"})) == []
    assert (bolt.acked, bolt.failed) == (0, 1)
    tables.broken = False
    assert bolt.give(chunk({"payer": "a"}))


def test_a_chunk_of_a_version_that_cannot_be_read_fails(tables: Unsteady, clock: ManualClock) -> None:
    bolt = Hosted(BlacklistLookupBolt, tables=tables, clock=clock)
    later = EventChunk(head(0, 3, generation=1), chunk({"payer": "a"}).events)
    assert bolt.give(later) == []
    assert bolt.failed == 1


def test_a_rule_past_the_share_opens_its_breaker_and_a_person_closes_it(tables: Unsteady, clock: ManualClock) -> None:
    store.register_source(tables, "pay")
    publish(tables, make_hit(party="hit"))
    options = {"breakerShare": 0.25, "breakerMinEvents": 8}
    bolt = Hosted(BlacklistLookupBolt, tables=tables, clock=clock, options=options)
    mixed = chunk({"payer": "hit"}, {"payer": "a", "payee": "hit"}, {"payer": "b"}, {"payer": "c"})
    bolt.give(mixed)
    assert store.open_breakers(tables) == frozenset()
    bolt.give(mixed)
    assert store.open_breakers(tables) == {("pay", "per_day")}
    clock.advance(1)
    assert decided(bolt.give(mixed))[0] == ("accepted", "pay.per_day", "account", "hit", True)
    store.close_breaker(tables, source="pay", rule="per_day", now=clock.now(), by="eva")
    clock.advance(1)
    assert decided(bolt.give(mixed))[0][0] == "denied"
    assert store.open_breakers(tables) == frozenset(), "what was denied before counts no more"


def test_a_breakers_window_forgets_what_is_older_than_a_minute() -> None:
    rule, none = ("pay", "r"), frozenset[tuple[str, str]]()
    window = BreakerWindow(0.5, 10)
    assert window.count(0.0, 10, {rule: 5}, none) == []
    assert window.count(30.0, 10, {rule: 6}, none) == [(rule, 11 / 20)]
    assert window.count(59.9, 1, {}, none) == [(rule, 11 / 21)]
    assert window.count(60.0, 1, {rule: 1}, none) == [(rule, 7 / 12)]
    assert window.count(90.0, 1, {rule: 1}, none) == []
    assert window.count(400.0, 20, {rule: 10}, none) == []
