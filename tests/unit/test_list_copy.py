"""The look-up's copy of the lists, and the rows and the feed that it is made from."""

import random
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.test_lists import make_hit

from paystorm.clock import SECOND, ManualClock
from paystorm.errors import StaleCopyError, TablesError, UsageError
from paystorm.list_copy import FINISH_EVERY, REFRESHES, ListCopy, hashes_of
from paystorm.lists import Act, PartyFacts
from paystorm.stores import lists as store
from paystorm.stores.hits import Hit, put_hits
from paystorm.tables.memory import MemoryTables

BOUND = 1000


class Unsteady(MemoryTables):
    """Tables that fail on demand: `broken` always; `break_before` at the next call of a method of that name."""

    broken = False
    break_before = ""

    def _may(self, call: str) -> None:
        if self.broken or self.break_before == call:
            self.break_before = ""
            raise TablesError("tables: not now")

    def feed_read(self, feed: str, cursor: bytes, *, limit: int = 10_000) -> tuple[list[bytes], bytes]:
        self._may("feed_read")
        return super().feed_read(feed, cursor, limit=limit)

    def feed_end(self, feed: str) -> bytes:
        self._may("feed_end")
        return super().feed_end(feed)

    def feed_append(self, feed: str, items: Sequence[bytes]) -> None:
        self._may("feed_append")
        super().feed_append(feed, items)

    def put_if_absent(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        self._may(f"put {table}")
        return super().put_if_absent(table, rows)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tables() -> Unsteady:
    tables = Unsteady()
    store.register_source(tables, "pay")
    return tables


def publish(tables: MemoryTables, hit: Hit) -> None:
    put_hits(tables, hit.source, hit.row, [hit])
    store.announce_hits(tables, [hit])


def add(tables: MemoryTables, clock: ManualClock, party: str = "u1", expires_at: int | None = None) -> Act:
    return store.add_entry(
        tables, now=clock.now(), by="eva", kind="account", party=party, reason="fraud", expires_at=expires_at
    )


def covered(copy: ListCopy, clock: ManualClock, ids: list[str | None], kind: str = "account") -> list[str]:
    column = pl.Series("id", ids, dtype=pl.String)
    hashes = hashes_of(column.to_frame(), ["id"])["id"]
    found, one_by_one = (copy.covers(kind, column, given, clock.now()) for given in (hashes, None))
    assert found.rows.tolist() == one_by_one.rows.tolist()
    assert found.covers.tolist() == one_by_one.covers.tolist()
    assert found.ids.to_list() == one_by_one.ids.to_list() == [ids[row] for row in found.rows.tolist()]
    return found.ids.to_list()


def fresh(tables: MemoryTables, clock: ManualClock) -> ListCopy:
    copy = ListCopy(tables, clock)
    copy.ensure_fresh(BOUND)
    return copy


def test_a_copy_loads_what_stands_in_the_rows_of_every_registered_source(tables: Unsteady, clock: ManualClock) -> None:
    store.register_source(tables, "refund")
    for source in ("pay", "refund"):
        put_hits(tables, source, 1, [make_hit(source=source, party=source)])
    add(tables, clock, "u3")
    copy = fresh(tables, clock)
    assert covered(copy, clock, ["u3", None, "nobody", "refund", "pay", "u3"]) == ["u3", "refund", "pay", "u3"]
    assert covered(copy, clock, ["u3"], kind="device") == []


def test_a_source_registered_later_arrives_by_the_feed(tables: Unsteady, clock: ManualClock) -> None:
    copy = fresh(tables, clock)
    publish(tables, make_hit(source="late"))
    copy.refresh()
    assert covered(copy, clock, ["u1"]) == ["u1"]


def test_a_change_is_seen_once_the_refresh_interval_has_passed(tables: Unsteady, clock: ManualClock) -> None:
    copy = fresh(tables, clock)
    add(tables, clock)
    clock.advance(0.1)
    copy.ensure_fresh(BOUND)
    assert covered(copy, clock, ["u1"]) == []
    clock.advance(0.1)
    copy.ensure_fresh(BOUND)
    assert covered(copy, clock, ["u1"]) == ["u1"]


def test_a_copy_older_than_the_bound_decides_nothing(tables: Unsteady, clock: ManualClock) -> None:
    copy = fresh(tables, clock)
    tables.broken = True
    clock.advance(0.9)
    copy.ensure_fresh(BOUND)
    clock.advance(0.2)
    with pytest.raises(StaleCopyError, match="refreshBoundMs"):
        copy.ensure_fresh(BOUND)
    tables.broken = False
    copy.ensure_fresh(BOUND)
    assert copy.age() == 0


def test_a_copy_decides_up_to_its_bound_and_follows_the_feed_from_its_refresh_interval_on(
    tables: Unsteady, clock: ManualClock
) -> None:
    copy = fresh(tables, clock)
    tables.broken = True
    clock.advance(BOUND / 1000)
    copy.ensure_fresh(BOUND)
    tables.broken = False
    copy.refresh()
    clock.advance(0.1999)
    copy.ensure_fresh(BOUND)
    assert copy.age() == pytest.approx(0.1999), "not read again yet"


class Slow(Unsteady):
    """Tables whose feed takes its time."""

    reads = 0
    seconds = 0.0

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def feed_read(self, feed: str, cursor: bytes, *, limit: int = 10_000) -> tuple[list[bytes], bytes]:
        self.reads += 1
        self._clock.advance(self.seconds)
        return super().feed_read(feed, cursor, limit=limit)


def test_a_feed_that_takes_longer_than_the_bound_to_read_is_not_read_for_ever(clock: ManualClock) -> None:
    tables = Slow(clock)
    copy = fresh(tables, clock)
    tables.reads, tables.seconds = 0, 1.5
    clock.advance(0.5)
    with pytest.raises(StaleCopyError, match="reading it took longer"):
        copy.ensure_fresh(BOUND)
    assert tables.reads == REFRESHES
    tables.seconds = 0.5
    copy.ensure_fresh(BOUND)
    assert tables.reads == REFRESHES + 1


def test_a_feed_of_whole_blocks_is_followed_to_its_end(
    tables: Unsteady, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paystorm.list_copy.FEED_BLOCK", 2)
    copy = fresh(tables, clock)
    store.announce_hits(tables, [make_hit(party=f"u{n}") for n in range(6)])
    copy.refresh()
    assert covered(copy, clock, [f"u{n}" for n in range(6)]) == [f"u{n}" for n in range(6)]


def test_acts_left_half_done_are_looked_for_every_ten_seconds_only(
    tables: Unsteady, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    monkeypatch.setattr("paystorm.list_copy.store.finish_announcements", lambda tables: looks.append(clock.monotonic()))
    copy = fresh(tables, clock)
    for _ in range(25):
        clock.advance(1)
        copy.refresh()
    assert looks == [0, FINISH_EVERY, 2 * FINISH_EVERY]


def test_a_party_is_judged_again_only_where_something_changed(
    tables: Unsteady, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tables, make_hit())
    copy = fresh(tables, clock)
    judged: list[PartyFacts] = []
    covering = PartyFacts.covering
    monkeypatch.setattr(PartyFacts, "covering", lambda facts, *given: judged.append(facts) or covering(facts, *given))
    for seconds in (0, 0, 1):
        clock.advance(seconds)
        assert covered(copy, clock, ["u1"]) == ["u1"]
    assert judged == []
    add(tables, clock)
    copy.refresh()
    assert covered(copy, clock, ["u1"]) == ["u1"]
    assert len(judged) == 1


def test_a_listed_party_is_not_judged_again_for_each_further_hit_of_a_rule(
    tables: Unsteady, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tables, make_hit(since=10, row=1))
    copy = fresh(tables, clock)
    judged: list[PartyFacts] = []
    covering = PartyFacts.covering
    monkeypatch.setattr(PartyFacts, "covering", lambda facts, *given: judged.append(facts) or covering(facts, *given))
    later = {"since": 20, "row": 2}
    cases: list[tuple[dict[str, Any], int]] = [
        ({"interval_start": 86_400, **later}, 0),
        ({"interval_start": 2 * 86_400, "since": 5, "row": 3}, 1),  # it may come first now
        ({"interval_start": 3 * 86_400, "rule": "growth", **later}, 2),  # its rule is one more that covers
        ({"interval_start": 4 * 86_400, "expires_after": 60, **later}, 3),
        ({"interval_start": 5 * 86_400, **later}, 4),  # something of the party expires now
    ]
    for changes, expected in cases:
        publish(tables, make_hit(**changes))
        copy.refresh()
        assert covered(copy, clock, ["u1"]) == ["u1"]
        assert len(judged) == expected
        assert copy.cover("account", "u1", clock.now()) == fresh(tables, clock).cover("account", "u1", clock.now())
        del judged[expected:]


def test_a_copy_that_could_never_be_loaded_is_stale(tables: Unsteady, clock: ManualClock) -> None:
    tables.broken = True
    with pytest.raises(StaleCopyError):
        ListCopy(tables, clock).ensure_fresh(BOUND)


def test_entries_expire_and_come_back_with_the_wall_clock(tables: Unsteady, clock: ManualClock) -> None:
    add(tables, clock, expires_at=clock.now() + 5 * SECOND)
    copy = fresh(tables, clock)
    assert covered(copy, clock, ["u1"]) == ["u1"]
    clock.advance(5)
    assert covered(copy, clock, ["u1"]) == []
    clock.jump(-1)
    assert covered(copy, clock, ["u1"]) == ["u1"]


def test_a_breaker_leaves_would_deny_and_closing_it_denies_again(tables: Unsteady, clock: ManualClock) -> None:
    publish(tables, make_hit())
    copy = fresh(tables, clock)
    for call, would_deny in ((store.open_breaker, True), (store.close_breaker, False)):
        extra = {"share": 0.5} if would_deny else {}
        assert call(tables, source="pay", rule="per_day", now=clock.now(), by="x", **extra)  # type: ignore[operator]
        copy.refresh()
        cover = copy.cover("account", "u1", clock.now())
        assert cover is not None
        assert cover.would_deny == would_deny


def test_a_breaker_is_opened_once_and_old_changes_cover_no_newer_one(tables: Unsteady, clock: ManualClock) -> None:
    assert not store.close_breaker(tables, source="pay", rule="per_day", now=1, by="eva")
    assert store.open_breaker(tables, source="pay", rule="per_day", now=2, by="task 1", share=0.4)
    assert not store.open_breaker(tables, source="pay", rule="per_day", now=3, by="task 2", share=0.5)
    assert store.load_breakers(tables)[0].by == "task 1"
    assert store.close_breaker(tables, source="pay", rule="per_day", now=4, by="eva")
    items = tables.feed_read(store.FEED, b"")[0]
    copy = fresh(tables, clock)
    tables.feed_append(store.FEED, items)
    copy.refresh()
    assert copy.open_breakers == store.open_breakers(tables) == frozenset()
    assert [r.what for r in store.history_of(tables, "", "pay.per_day")] == ["breaker opened", "breaker closed"]


@pytest.mark.parametrize("call", ["feed_append", "put history"])
def test_a_breaker_that_was_left_untold_is_told_by_the_next_reader(
    tables: Unsteady, clock: ManualClock, call: str
) -> None:
    before = fresh(tables, clock)
    tables.break_before = call
    with pytest.raises(TablesError):
        store.open_breaker(tables, source="pay", rule="per_day", now=2, by="task 1", share=0.4)
    assert fresh(tables, clock).open_breakers == {("pay", "per_day")}
    before.refresh()
    assert before.open_breakers == {("pay", "per_day")}
    assert [row.what for row in store.history_of(tables, "", "pay.per_day")] == ["breaker opened"]


def test_publishing_again_writes_the_same_history_rows(tables: Unsteady) -> None:
    made, withdrawn = make_hit(), make_hit(status="withdrawn", row=2)
    for _ in range(3):
        store.announce_hits(tables, [made, withdrawn])
    assert [row.what for row in store.history_of(tables, "account", "u1")] == ["hit", "withdrawn"]


def test_two_acts_at_one_instant_are_two_acts(tables: Unsteady, clock: ManualClock) -> None:
    first, second = add(tables, clock), add(tables, clock)
    assert first.id < second.id
    assert [a.id for a in store.acts_of(tables, "account", "u1")] == [first.id, second.id]
    assert list(tables.scan(store.ANNOUNCING)) == []


@pytest.mark.parametrize("call", ["put acts", "put history", "feed_append"])
def test_an_act_that_was_left_half_done_is_finished_by_the_next_reader(
    tables: Unsteady, clock: ManualClock, call: str
) -> None:
    copy = fresh(tables, clock)
    tables.break_before = call
    with pytest.raises(TablesError):
        add(tables, clock)
    clock.advance(FINISH_EVERY)
    copy.ensure_fresh(BOUND)
    assert covered(copy, clock, ["u1"]) == ["u1"]
    assert [row.what for row in store.history_of(tables, "account", "u1")] == ["added"]
    assert len(store.acts_of(tables, "account", "u1")) == 1
    assert list(tables.scan(store.ANNOUNCING)) == []


def test_acts_that_cannot_be_meant_are_refused(tables: Unsteady, clock: ManualClock) -> None:
    who = {"now": clock.now(), "by": "eva", "kind": "account", "party": "u1", "reason": ""}
    with pytest.raises(UsageError, match="lie ahead"):
        store.add_entry(tables, **who, expires_at=clock.now())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no entry by a person"):
        store.remove_entry(tables, **who, target="1-000000")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="hit of another party"):
        store.lift(tables, **who, hits=[make_hit(party="u2").name()])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="names 1 to"):
        store.confirm(tables, **who, hits=[])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="party must have"):
        store.allow(tables, **{**who, "party": "x" * 257})  # type: ignore[arg-type]
    assert list(tables.scan(store.ACTS)) == []


def test_lift_confirm_allow_and_remove_reach_the_copy(tables: Unsteady, clock: ManualClock) -> None:
    hit = make_hit()
    publish(tables, hit)
    copy = fresh(tables, clock)
    who = {"by": "eva", "kind": "account", "party": "u1", "reason": ""}

    def now_covered() -> bool:
        clock.advance(1)
        copy.refresh()
        return bool(covered(copy, clock, ["u1"]))

    store.lift(tables, now=clock.now(), **who, hits=[hit.name()])  # type: ignore[arg-type]
    assert not now_covered()
    store.confirm(tables, now=clock.now(), **who, hits=[hit.name()])  # type: ignore[arg-type]
    publish(tables, make_hit(status="withdrawn", row=2))
    assert now_covered()
    entry = store.allow(tables, now=clock.now(), **who)  # type: ignore[arg-type]
    assert not now_covered()
    store.remove_entry(tables, now=clock.now(), **who, target=entry.id)  # type: ignore[arg-type]
    assert now_covered()
    facts = store.load_party_facts(tables)["account", "u1"]
    assert [e.state for e in facts.entries(clock.now(), frozenset())] == ["confirmed", "removed"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["hit", "withdraw", "add", "allow", "expire"]))),
    st.randoms(),
)
def test_a_copy_that_followed_the_feed_equals_one_loaded_now(
    changes: list[tuple[int, str]], rng: random.Random
) -> None:
    clock, tables = ManualClock(), MemoryTables()
    store.register_source(tables, "pay")
    copy = fresh(tables, clock)
    ids = [f"u{n}" for n in range(31)]
    for row, (number, what) in enumerate(changes):
        party = f"u{number}"
        if what in ("hit", "withdraw"):
            status = "standing" if what == "hit" else "withdrawn"
            publish(tables, make_hit(party=party, status=status, row=row, since=clock.now(), expires_after=7))
        elif what == "allow":
            store.allow(tables, now=clock.now(), by="eva", kind="account", party=party, reason="")
        else:
            add(tables, clock, party, clock.now() + 3 * SECOND if what == "expire" else None)
        clock.advance(rng.choice([0, 0.5, 4]))
        if rng.random() < 0.5:
            copy.ensure_fresh(BOUND)
            covered(copy, clock, ids)
    copy.refresh()
    assert covered(copy, clock, ids) == covered(fresh(tables, clock), clock, ids)


def test_a_long_list_misses_nobody(tables: Unsteady, clock: ManualClock) -> None:
    copy = fresh(tables, clock)
    for start in range(0, 6000, 500):
        store.announce_hits(tables, [make_hit(party=f"u{n}") for n in range(start, start + 500)])
        copy.refresh()
        ids: list[str | None] = [f"u{n}" for n in range(8000)]
        assert covered(copy, clock, ids) == ids[: start + 500]
