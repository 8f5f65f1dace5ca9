"""The lists with their history against a small model: rules, people, breakers, and processes that die."""

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.hosted import RULES
from tests.unit.test_desk_base import MemoryDesk
from tests.unit.test_desk_changes import Dying

from paystorm.clock import SECOND
from paystorm.desk import Who, changes, lists
from paystorm.desk.lists import Enter
from paystorm.errors import TablesError, UsageError
from paystorm.list_copy import ListCopy
from paystorm.lists import Act, HitName
from paystorm.stores import lists as store
from paystorm.stores.hits import Hit, put_hits
from paystorm.stores.lists import HistoryRow
from paystorm.stores.proposals import Proposal, all_proposals
from paystorm.stores.versions import Version, add_version

PARTIES = st.sampled_from(["u1", "u2"])
PEOPLE = st.sampled_from(["eve", "bob"])
RULE_NAMES = st.sampled_from(["per_day", "spent"])
DIES = st.one_of(st.none(), st.none(), st.integers(0, 12))
EXPIRES_AFTER = 100
"""Seconds, of the hits of `spent`."""


class ListsMachine(RuleBasedStateMachine):
    """The model: the hits that stand, and the acts in the order in which they were made."""

    def __init__(self) -> None:
        super().__init__()
        self.hits: dict[HitName, tuple[bool, int]] = {}
        """Whether it stands, and since when."""
        self.row = 0
        self.acts: list[Act] = []
        self.open_breakers: set[str] = set()
        self.history: dict[str, list[HistoryRow]] = {"u1": [], "u2": []}
        self.waiting: dict[str, Proposal] = {}

    @initialize(approvals=st.booleans())
    def start(self, approvals: bool) -> None:
        self.desk = MemoryDesk(approvals=frozenset({"lists"} if approvals else ()))
        store.register_source(self.desk.tables, "pay")
        version = Version(number=0, rules=RULES, validity={}, partitions=2, shards=2, made_at=0)
        add_version(self.desk.tables, "pay", version)
        self.copy = ListCopy(self.desk.tables, self.desk.clock)

    # Rules' facts.

    @rule(party=PARTIES, name=RULE_NAMES, start=st.sampled_from([0, 86_400]), stands=st.booleans(), again=st.booleans())
    def judges(self, party: str, name: str, start: int, stands: bool, again: bool) -> None:
        """A rule makes a hit, or withdraws one; published twice where a task died in between."""
        hit_name = ("pay", name, "account", party, start, "")
        held = self.hits.get(hit_name)
        if (held is None and not stands) or (held is not None and held[0] == stands):
            return
        self.row += 1
        since = self.desk.clock.now() if stands or held is None else held[1]
        hit = Hit(
            source="pay", rule=name, kind="account", party=party, interval_start=start, currency="",
            status="standing" if stands else "withdrawn", version=0, action="deny", limit="3", figure="4",
            topic="pay", partition=0, offset=self.row, since=since, changed_at=self.desk.clock.now(),
            expires_after=EXPIRES_AFTER if name == "spent" else None, shard=0, row=self.row,
        )  # fmt: skip
        for _ in range(1 + again):
            put_hits(self.desk.tables, "pay", self.row, [hit])
            store.announce_hits(self.desk.tables, [hit])
        self.hits[hit_name] = stands, since

    @rule(name=RULE_NAMES, opens=st.booleans())
    def breaker(self, name: str, opens: bool) -> None:
        if opens:
            opened = store.open_breaker(
                self.desk.tables, source="pay", rule=name, now=self.desk.clock.now(), by="look-up", share=0.9
            )
            assert opened == (name not in self.open_breakers)
            self.open_breakers.add(name)
            return
        try:
            lists.close_breaker(self.desk, Who("eve", "mended"), "pay", name)
            assert name in self.open_breakers
        except UsageError:
            assert name not in self.open_breakers
        self.open_breakers.discard(name)

    # People's acts.

    @rule(party=PARTIES, by=PEOPLE, allowed=st.booleans(), ends=st.sampled_from([None, 50, 500]), dies=DIES)
    def enters(self, party: str, by: str, allowed: bool, ends: int | None, dies: int | None) -> None:
        until = None if ends is None else self.desk.clock.now() + ends * SECOND
        wanted = Enter("allowlist" if allowed else "blacklist", "account", party, until)
        self.change(lambda: lists.enter(self.desk, Who(by, "why"), wanted), dies)

    @rule(party=PARTIES, by=PEOPLE, lifts=st.booleans(), dies=DIES)
    def speaks_of_hits(self, party: str, by: str, lifts: bool, dies: int | None) -> None:
        stands = any(name[3] == party and stands for name, (stands, _) in self.hits.items())
        say = lists.lift if lifts else lists.confirm
        if stands:
            self.change(lambda: say(self.desk, Who(by, "why"), "account", party), dies)
            return
        try:
            say(self.desk, Who(by, "why"), "account", party)
        except UsageError:
            return
        raise AssertionError("there was nothing to speak of")

    @precondition(lambda self: any(act.act in ("add", "allow") for act in self.acts))
    @rule(choice=st.integers(0, 9), by=PEOPLE, dies=DIES)
    def removes(self, choice: int, by: str, dies: int | None) -> None:
        entries = [act for act in self.acts if act.act in ("add", "allow")]
        entry = entries[choice % len(entries)]
        self.change(lambda: lists.remove(self.desk, Who(by, "why"), "account", entry.party, entry.id), dies)

    def change(self, make: Callable[[], Proposal], dies: int | None) -> None:
        """A person's change, during which the process may die; the next one finishes what was approved."""
        before = {p.id for p in all_proposals(self.desk.tables)}
        self.dying(make, dies)
        for made in [p for p in all_proposals(self.desk.tables) if p.id not in before]:
            if self.desk.approvals:
                assert made.state == "open"
                self.waiting[made.id] = made
            else:
                self.made(made)

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

    def made(self, proposal: Proposal) -> None:
        (held,) = [p for p in all_proposals(self.desk.tables) if p.id == proposal.id]
        assert held.state == "applied"
        mine = [a for a in store.acts_of(self.desk.tables, "account", held.party) if a.id.startswith(f"{held.id}.")]
        assert len(mine) == len(held.acts), "done twice, or not at all"
        self.acts += mine

    @precondition(lambda self: self.waiting)
    @rule(choice=st.integers(0, 9), by=PEOPLE, approves=st.booleans(), dies=DIES)
    def decides(self, choice: int, by: str, approves: bool, dies: int | None) -> None:
        """Somebody approves or rejects what waits."""
        held = self.waiting[sorted(self.waiting)[choice % len(self.waiting)]]
        late = any(a.expires_at is not None and a.expires_at <= self.desk.clock.now() for a in held.acts)
        who = Who(by, "yes")
        act = changes.approve if approves else changes.reject
        if approves and (by == held.by or late):
            try:
                act(self.desk, held.id, who)
            except UsageError:
                return
            raise AssertionError("approved by its own maker, or too late")
        self.dying(lambda: act(self.desk, held.id, who), dies)
        (now,) = [p for p in all_proposals(self.desk.tables) if p.id == held.id]
        if now.state != "open":
            del self.waiting[held.id]
        if now.state == "applied":
            self.made(held)

    @rule(seconds=st.sampled_from([1, 49, 99, 500]))
    def waits(self, seconds: int) -> None:
        self.desk.clock.advance(seconds)

    # What the model says.

    def in_force(self, act: Act) -> bool:
        removed = any(a.act == "remove" and a.target == act.id for a in self.acts)
        return not removed and (act.expires_at is None or self.desk.clock.now() < act.expires_at)

    def denied(self, party: str) -> bool:
        """Whether an entry in force covers the party (decision 0001, points 8 and 9)."""
        mine = [act for act in self.acts if act.party == party]
        if any(act.act == "allow" and self.in_force(act) for act in mine):
            return False
        if any(act.act == "add" and self.in_force(act) for act in mine):
            return True
        return any(self.lists_by(name, *held, mine) for name, held in self.hits.items() if name[3] == party)

    def lists_by(self, name: HitName, stands: bool, since: int, mine: list[Act]) -> bool:
        said = [act for act in mine if name in act.hits]
        last = max(said, key=lambda act: (act.at, act.id)).act if said else None
        if last == "lift" or (not stands and last != "confirm") or name[1] in self.open_breakers:
            return False
        return name[1] != "spent" or self.desk.clock.now() < since + EXPIRES_AFTER * SECOND

    @invariant()
    def the_lists_say_what_the_model_says(self) -> None:
        if not hasattr(self, "desk"):
            return
        now, breakers = self.desk.clock.now(), store.open_breakers(self.desk.tables)
        whole = store.load_party_facts(self.desk.tables)
        self.copy.refresh()
        fresh = ListCopy(self.desk.tables, self.desk.clock)
        fresh.refresh()
        for party in ("u1", "u2"):
            facts = store.party_facts(self.desk.tables, "account", party)
            expected = self.denied(party)
            assert any(e.denies for e in facts.entries(now, breakers)) == expected
            held = whole.get(("account", party), store.PartyFacts())
            assert (held.hits, held.acts) == (facts.hits, facts.acts)
            for copy in (self.copy, fresh):
                cover = copy.cover("account", party, now)
                assert (cover is not None and not cover.would_deny) == expected

    @invariant()
    def the_history_only_grows_and_tells_of_every_act(self) -> None:
        if not hasattr(self, "desk"):
            return
        for party, before in self.history.items():
            rows = store.history_of(self.desk.tables, "account", party)
            assert all(row in rows for row in before), "a row of the history was changed"
            said = {"add": "added", "allow": "allowed", "remove": "removed", "lift": "lifted", "confirm": "confirmed"}
            for act in self.acts:
                if act.party == party:
                    assert [r.by for r in rows if (r.id, r.what) == (act.id, said[act.act])] == [act.by]
            self.history[party] = rows


ListsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLists = ListsMachine.TestCase
