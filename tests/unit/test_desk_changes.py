"""Changes by hand: who may approve them, and that an approved one is done once, wherever a process dies."""

from collections.abc import Sequence

import pytest
from tests.unit.test_desk_base import MemoryDesk

from paystorm.clock import SECOND
from paystorm.desk import Who, changes, lists
from paystorm.desk.lists import Enter
from paystorm.errors import TablesError, UsageError
from paystorm.stores import lists as store
from paystorm.stores.lists import FEED
from paystorm.stores.proposals import all_proposals

EVE, BOB = Who("eve", "fraud"), Who("bob", "agreed")
WANTED = Enter("blacklist", "account", "u1")


@pytest.fixture
def desk() -> MemoryDesk:
    return MemoryDesk(approvals=frozenset({"lists"}))


def history(desk: MemoryDesk) -> list[tuple[str, str]]:
    return [(row.what, row.by) for row in store.history_of(desk.tables, "account", "u1")]


def states(desk: MemoryDesk) -> list[str]:
    return [e.state for e in lists.party_entries(desk, "account", "u1")]


def test_without_approvals_a_change_is_made_at_once() -> None:
    desk = MemoryDesk()
    assert lists.enter(desk, Who("eve", ""), WANTED).state == "applied"
    assert (states(desk), history(desk)) == (["in_force"], [("added", "eve")])
    assert lists.remove(desk, EVE, "account", "u1").state == "applied"
    assert states(desk) == ["removed"]


def test_a_proposal_changes_nothing_until_another_person_approves_it(desk: MemoryDesk) -> None:
    proposal = lists.enter(desk, EVE, WANTED)
    assert (proposal.state, states(desk), store.acts_of(desk.tables, "account", "u1")) == ("open", [], [])
    assert [p.id for p in changes.proposals(desk)] == [proposal.id]
    with pytest.raises(UsageError, match="eve's own: another person approves it"):
        changes.approve(desk, proposal.id, Who("eve", "x"))
    desk.clock.advance(60)
    done = changes.approve(desk, proposal.id, BOB)
    assert (done.state, done.decided_by, states(desk)) == ("applied", "bob", ["in_force"])
    (act,) = store.acts_of(desk.tables, "account", "u1")
    assert (act.at, act.by, act.reason) == (desk.clock.now(), "eve", "fraud")
    assert history(desk) == [("proposed", "eve"), ("approved", "bob"), ("added", "eve")]
    assert changes.proposals(desk) == []
    for decide in (changes.approve, changes.reject):
        with pytest.raises(UsageError, match="bob has decided on it: applied"):
            decide(desk, proposal.id, Who("ann", "late"))


def test_a_proposal_is_rejected_by_another_or_recalled_by_its_maker(desk: MemoryDesk) -> None:
    first, second = lists.enter(desk, EVE, WANTED), lists.enter(desk, EVE, WANTED)
    assert changes.reject(desk, first.id, BOB).state == "rejected"
    assert changes.reject(desk, second.id, EVE).state == "recalled"
    assert states(desk) == []
    assert sorted(history(desk)) == [("proposed", "eve"), ("proposed", "eve"), ("recalled", "eve"), ("rejected", "bob")]
    with pytest.raises(UsageError, match="a reason is needed"):
        changes.reject(desk, first.id, Who("bob", ""))
    with pytest.raises(UsageError, match="no proposal 'x'"):
        changes.approve(desk, "x", BOB)


def test_what_cannot_be_meant_any_more_is_not_approved(desk: MemoryDesk) -> None:
    proposal = lists.enter(desk, EVE, Enter("allowlist", "account", "u1", desk.clock.now() + 5 * SECOND))
    desk.clock.advance(6)
    with pytest.raises(UsageError, match="it must lie ahead"):
        changes.approve(desk, proposal.id, BOB)
    assert [p.state for p in all_proposals(desk.tables)] == ["open"]


def test_a_proposal_needs_a_reason(desk: MemoryDesk) -> None:
    with pytest.raises(UsageError, match="a reason is needed"):
        lists.enter(desk, Who("eve", ""), WANTED)


class Dying:
    """Tables whose writes fail from the n-th on: as far as a process comes that dies there."""

    def __init__(self, desk: MemoryDesk, after: int) -> None:
        self._desk, self.left = desk, after
        self._whole = {name: getattr(desk.tables, name) for name in WRITES}
        for name in WRITES:
            setattr(desk.tables, name, self._failing(name))

    def _failing(self, name: str) -> object:
        def write(*given: object, **named: object) -> object:
            if self.left == 0:
                raise TablesError("died")
            self.left -= 1
            return self._whole[name](*given, **named)

        return write

    def heal(self) -> None:
        for name in WRITES:
            setattr(self._desk.tables, name, self._whole[name])


WRITES: Sequence[str] = ("put", "put_if_absent", "replace", "delete", "delete_if", "feed_append")


@pytest.mark.parametrize("approved", [False, True])
def test_wherever_a_process_dies_a_change_is_made_once_or_not_at_all(approved: bool) -> None:
    for after in range(60):
        desk = MemoryDesk(approvals=frozenset({"lists"} if approved else ()))
        proposal = lists.enter(desk, EVE, WANTED) if approved else None
        dying = Dying(desk, after)
        try:
            if proposal is None:
                lists.enter(desk, EVE, WANTED)
            else:
                changes.approve(desk, proposal.id, BOB)
        except TablesError:
            dying.heal()
            changes.finish(desk)
        else:
            assert after > 5
            return
        acts = store.acts_of(desk.tables, "account", "u1")
        (held,) = list(all_proposals(desk.tables)) or [None]
        if held is None or held.state == "open":
            assert acts == []
            if held is not None:
                assert changes.approve(desk, held.id, BOB).state == "applied"
        else:
            assert (held.state, len(acts)) == ("applied", 1)
            items, _ = desk.tables.feed_read(FEED, b"")
            assert len(set(items)) == 1
            assert [what for what, _ in history(desk)].count("added") == 1
        assert changes.finish(desk) == 0
        assert len(store.acts_of(desk.tables, "account", "u1")) == (0 if held is None else 1)
    raise AssertionError("it takes ever more writes")


def test_two_that_finish_at_once_make_one_change(desk: MemoryDesk) -> None:
    proposal = lists.enter(desk, EVE, WANTED)
    dying = Dying(desk, 3)  # noted, begun, approved
    with pytest.raises(TablesError):
        changes.approve(desk, proposal.id, BOB)
    dying.heal()
    whole = desk.tables.replace

    def slow(*given: object) -> bool:
        desk.tables.replace = whole  # type: ignore[method-assign]
        changes.finish(desk)
        return whole(*given)  # type: ignore[arg-type]

    desk.tables.replace = slow  # type: ignore[method-assign, assignment]
    assert changes.finish(desk) == 1
    assert [p.state for p in all_proposals(desk.tables)] == ["applied"]
    assert len(store.acts_of(desk.tables, "account", "u1")) == 1


def test_a_breaker_is_closed_with_a_reason_that_is_kept() -> None:
    desk = MemoryDesk()
    with pytest.raises(UsageError, match=r"no open breaker of pay\.per_day"):
        lists.close_breaker(desk, EVE, "pay", "per_day")
    store.open_breaker(desk.tables, source="pay", rule="per_day", now=1, by="pay look-up", share=0.5)
    lists.close_breaker(desk, Who("eve", "the limit was a typo"), "pay", "per_day")
    assert lists.breakers(desk) == []
    (breaker,) = lists.breakers(desk, everything=True)
    assert (breaker.state, breaker.by, breaker.reason) == ("closed", "eve", "the limit was a typo")
    rows = store.history_of(desk.tables, store.BREAKER_KIND, "pay.per_day")
    assert [(r.what, r.detail) for r in rows] == [
        ("breaker opened", "share 0.500"),
        ("breaker closed", "the limit was a typo"),
    ]
