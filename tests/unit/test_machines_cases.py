"""Cases against a small model: hits, decisions, second persons and processes that die, in any order."""

from collections.abc import Callable
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.hosted import RULES
from tests.unit.test_desk_base import MemoryDesk
from tests.unit.test_desk_changes import Dying

from paystorm.desk import Who, changes, lists
from paystorm.desk.cases import Verdict, cases, decide
from paystorm.errors import TablesError, UsageError
from paystorm.stores import lists as store
from paystorm.stores.cases import Case, Decision, decisions_on, open_cases
from paystorm.stores.hits import Hit, put_hits
from paystorm.stores.proposals import Proposal, all_proposals
from paystorm.stores.versions import Version, add_version
from paystorm.warehouse.base import Warehouse

PARTIES = st.sampled_from(["u1", "u2"])
DIES = st.one_of(st.none(), st.none(), st.integers(0, 14))


class Empty:
    """A warehouse in which nothing is stored."""

    def folders(self, source: str) -> list[Any]:
        return []


class CasesMachine(RuleBasedStateMachine):
    """The model: for each case its decisions, and whether a hit came behind the last."""

    def __init__(self) -> None:
        super().__init__()
        self.cases: dict[str, list[Decision]] = {}
        self.hits: dict[str, int] = {}
        self.waiting: dict[str, Proposal] = {}

    @initialize(approvals=st.booleans())
    def start(self, approvals: bool) -> None:
        wanted = frozenset({"lists"} if approvals else ())
        self.desk = MemoryDesk(approvals=wanted, warehouse=cast(Warehouse, Empty()))
        store.register_source(self.desk.tables, "pay")
        add_version(
            self.desk.tables, "pay", Version(number=0, rules=RULES, validity={}, partitions=2, shards=2, made_at=0)
        )

    @rule(party=PARTIES)
    def a_rule_lists(self, party: str) -> None:
        self.desk.clock.advance(1)
        now = self.desk.clock.now()
        hit = Hit(
            source="pay", rule="per_day", kind="account", party=party, interval_start=self.hits.get(party, 0) // 10**6,
            currency="", status="standing", version=0, action="deny", limit="3", figure="4", topic="pay", partition=0,
            offset=1, since=now, expires_after=None, shard=0, row=0,
        )  # fmt: skip
        put_hits(self.desk.tables, "pay", 0, [hit])
        opened = Case(kind="account", party=party, opened_at=now, source="pay", cause="per_day")
        for _ in range(2):
            open_cases(self.desk.tables, [opened])
        self.hits[party] = now
        self.cases.setdefault(party, [])

    @rule(
        party=PARTIES,
        verdict=st.sampled_from(["confirmed", "false_alarm", "inconclusive", "reopened"]),
        lift=st.booleans(),
        by=st.sampled_from(["eve", "bob"]),
        dies=DIES,
    )
    def decides(self, party: str, verdict: Verdict, lift: bool, by: str, dies: int | None) -> None:
        entries = lists.party_entries(self.desk, "account", party)
        listed = any(e.state in lists.IN_FORCE for e in entries)
        possible = party in self.cases and not (lift and (verdict == "confirmed" or not listed))
        before = {p.id for p in all_proposals(self.desk.tables)}
        try:
            self.dying(lambda: decide(self.desk, Who(by, "seen"), "account", party, verdict, lift=lift), dies)
        except UsageError:
            assert not possible
            return
        assert possible or dies is not None
        for made in [p for p in all_proposals(self.desk.tables) if p.id not in before]:
            if lift and self.desk.approvals:
                assert made.state == "open"
                self.waiting[made.id] = made
            else:
                self.made(made.id)

    @precondition(lambda self: self.waiting)
    @rule(choice=st.integers(0, 9), approves=st.booleans(), dies=DIES)
    def another_person_decides(self, choice: int, approves: bool, dies: int | None) -> None:
        held = self.waiting[sorted(self.waiting)[choice % len(self.waiting)]]
        act = changes.approve if approves else changes.reject
        self.dying(lambda: act(self.desk, held.id, Who("ann", "agreed")), dies)
        (now,) = [p for p in all_proposals(self.desk.tables) if p.id == held.id]
        if now.state != "open":
            del self.waiting[held.id]
        if now.state == "applied":
            self.made(held.id)
            assert "in_force" not in {e.state for e in self.named(held)}

    def named(self, held: Proposal) -> list[Any]:
        """The entries that a lift named."""
        hits = {name for act in held.acts for name in act.hits}
        return [e for e in lists.party_entries(self.desk, "account", held.party) if e.hit in hits]

    def dying(self, do: Callable[[], Any], dies: int | None) -> None:
        if dies is None:
            do()
            return
        dying = Dying(self.desk, dies)
        try:
            do()
        except TablesError:
            pass
        finally:
            dying.heal()
        changes.finish(self.desk)

    def made(self, proposal_id: str) -> None:
        """An applied proposal is one decision more, and each of its acts is there once."""
        (held,) = [p for p in all_proposals(self.desk.tables) if p.id == proposal_id]
        assert held.state == "applied"
        found = [d for d in decisions_on(self.desk.tables, "account", held.party) if d.id == proposal_id]
        assert len(found) == 1
        self.cases[held.party] += found
        acts = store.acts_of(self.desk.tables, "account", held.party)
        assert len([a for a in acts if a.id.startswith(f"{proposal_id}.")]) == len(held.acts)

    @invariant()
    def the_cases_are_those_of_the_model(self) -> None:
        if not hasattr(self, "desk"):
            return
        rows = {row.party: row for row in cases(self.desk).cases}
        assert rows.keys() == self.cases.keys()
        for party, decided in self.cases.items():
            assert decisions_on(self.desk.tables, "account", party) == decided
            expected = "open"
            if decided:
                anew = decided[-1].verdict == "reopened" or self.hits[party] > decided[-1].newest_hit
                expected = "reopened" if anew else decided[-1].verdict
            assert rows[party].status == expected


CasesMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestCases = CasesMachine.TestCase
