"""What stands on the lists for a party, computed from rules' facts (hits) and people's facts (acts).

Neither sort of fact overwrites the other; every state is a function of both, the time, and the breakers that are open
(SEMANTICS.md §5; decision 0001, points 8 and 9). All points in time are µs since 1970-01-01 UTC.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import msgspec

from paystorm.clock import SECOND
from paystorm.stores.hits import Hit

HitName = tuple[str, str, str, str, int, str]
"""(source, rule, kind, party, interval start, currency), as `Hit.name()`."""
RuleName = tuple[str, str]
"""(source, rule)."""
ListName = Literal["blacklist", "allowlist"]
ActKind = Literal["add", "remove", "lift", "confirm", "allow"]
MadeBy = Literal["rule", "person"]
State = Literal["in_force", "confirmed", "breaker_open", "overruled", "expired", "withdrawn", "lifted", "removed"]
"""in_force: it denies (on the allowlist: it overrules). confirmed: it denies, and goes on when its hit is withdrawn.
breaker_open: it would deny, were the breaker of its rule not open. overruled: an allowlist entry of the party is in
force. expired, withdrawn, lifted, removed: over. Where several hold: removed or lifted, then withdrawn, expired,
overruled, breaker_open, in this order."""


class Act(msgspec.Struct, frozen=True, kw_only=True, tag="act"):
    """Something that a person did to the lists. Acts are never changed; a later act may take one back."""

    id: str
    """Unique among the acts of the party."""
    at: int
    by: str
    act: ActKind
    list: ListName
    kind: str
    party: str
    reason: str
    expires_at: int | None = None
    """Of an add or allow: when the entry expires; None: never."""
    hits: tuple[HitName, ...] = ()
    """Of a lift or confirm: the hits that it names."""
    target: str | None = None
    """Of a remove: the id of the add or allow that it takes back."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a party, with its state at a moment."""

    kind: str
    party: str
    list: ListName
    made_by: MadeBy
    reason: str
    """`<source>.<rule>`, or `person`."""
    since: int
    expires_at: int | None
    state: State
    by: str | None = None
    """Who made it, or who lifted or confirmed it last."""
    note: str = ""
    """What that person gave as the reason."""
    act: str | None = None
    """Of a person's entry: the id of the act that made it."""
    hit: HitName | None = None
    """Of a rule's entry: the hit that made it."""

    @property
    def denies(self) -> bool:
        """Whether the entry makes an enforcing source deny."""
        return self.list == "blacklist" and self.state in ("in_force", "confirmed")

    @property
    def would_deny(self) -> bool:
        """Whether only its breaker keeps the entry from denying."""
        return self.state == "breaker_open"

    @property
    def rule(self) -> RuleName | None:
        """The rule that made it."""
        return self.hit[:2] if self.hit is not None else None


@dataclass(frozen=True, slots=True)
class Cover:
    """That an entry covers a party, and by what. Many parties are covered alike: there are few that differ."""

    made_by: MadeBy
    reason: str
    would_deny: bool
    """True where no entry denies, and only an open breaker keeps this one from it."""
    rules: tuple[RuleName, ...] = ()
    """Every rule with an entry that denies the party, or would: what the breaker counts."""


class Hits(Protocol):
    """The hits of one party: whole ones, or packed (`packed_hits.py`)."""

    def add(self, hit: Hit) -> bool:
        """Take in the state of a hit, unless one of a later journal row is held; says whether anything changed."""
        ...

    def values(self) -> Iterable[Hit]:
        """All of them."""
        ...


class WholeHits(dict[HitName, Hit]):
    """The hits of one party, with all their fields."""

    def add(self, hit: Hit) -> bool:
        """As `Hits.add`."""
        name = hit.name()
        held = self.get(name)
        if held is not None and (held.row > hit.row or held == hit):
            return False
        self[name] = hit
        return True


class PartyFacts:
    """All facts about one party. Adding one twice, or in any order, leaves the same facts."""

    __slots__ = ("acts", "hits")

    def __init__(self, hits: Hits | None = None) -> None:
        """`hits`: what is to hold them, still empty; by default whole."""
        self.hits: Hits = WholeHits() if hits is None else hits
        self.acts: dict[str, Act] = {}

    def add_hit(self, hit: Hit) -> bool:
        """Take in the state of a hit, unless one of a later journal row is held; says whether anything changed."""
        return self.hits.add(hit)

    def add_act(self, act: Act) -> bool:
        """Take in an act; says whether it was new."""
        if act.id in self.acts:
            return False
        self.acts[act.id] = act
        return True

    def covering(self, now: int, open_breakers: AbstractSet[RuleName]) -> Cover | None:
        """The entry that covers the party: the oldest that denies, else the oldest that would; None: there is none."""
        entries = self.entries(now, open_breakers)
        denying = [e for e in entries if e.denies]
        would = [e for e in entries if e.would_deny]
        if not denying and not would:
            return None
        first = (denying or would)[0]
        rules = dict.fromkeys(e.rule for e in denying + would if e.rule is not None)
        return Cover(first.made_by, first.reason, not denying, tuple(rules))

    def entries(self, now: int, open_breakers: AbstractSet[RuleName]) -> list[Entry]:
        """Every entry that the party has or had, oldest first; equal times by who made it, reason, act and hit."""
        removed = {a.target for a in self.acts.values() if a.act == "remove"}
        people = [_by_person(a, removed, now) for a in self.acts.values() if a.act in ("add", "allow")]
        allowed = any(e.list == "allowlist" and e.state == "in_force" for e in people)
        if allowed:
            people = [_overruled(e) for e in people]
        said = self._said()
        rules = [
            _by_rule(hit, said.get(hit.name()) if said else None, allowed, now, open_breakers)
            for hit in self.hits.values()
            if hit.action == "deny"
        ]
        return sorted(people + rules, key=_order)

    def hit_in_force(self, hit: Hit, now: int, open_breakers: AbstractSet[RuleName]) -> bool:
        """Whether the entry of `hit`, in the state given and not the one held here, denies.

        For the counting bolt, which knows its own hits sooner than any copy does.
        """
        return hit.action == "deny" and (
            _by_rule(hit, self._said().get(hit.name()), self.allowed(now), now, open_breakers).denies
        )

    def next_change(self, now: int) -> int | None:
        """The next moment after `now` at which the state of an entry changes by time alone, or None."""
        ends = any(a.expires_at is not None for a in self.acts.values())
        if not ends and all(hit.expires_after is None for hit in self.hits.values()):
            return None
        coming = [
            e.expires_at
            for e in self.entries(now, frozenset())
            if e.expires_at is not None and e.state in ("in_force", "confirmed", "overruled")
        ]
        return min(coming, default=None)

    def _said(self) -> dict[HitName, Act]:
        """For each hit the last act that names it (decision 0001, point 8)."""
        if not self.acts:
            return {}
        said: dict[HitName, Act] = {}
        for act in sorted(self.acts.values(), key=lambda a: (a.at, a.id)):
            if act.act in ("lift", "confirm"):
                said.update(dict.fromkeys(act.hits, act))
        return said

    def allowed(self, now: int) -> bool:
        removed = {a.target for a in self.acts.values() if a.act == "remove"}
        return any(a.act == "allow" and _by_person(a, removed, now).state == "in_force" for a in self.acts.values())


NO_FACTS = PartyFacts()
"""A party that nothing is known of; not to be added to."""


def expiry(hit: Hit) -> int | None:
    """When the entry of a hit expires; None: never."""
    return None if hit.expires_after is None else hit.since + hit.expires_after * SECOND


def _by_person(act: Act, removed: AbstractSet[str | None], now: int) -> Entry:
    state: State = "in_force"
    if act.id in removed:
        state = "removed"
    elif act.expires_at is not None and now >= act.expires_at:
        state = "expired"
    return Entry(
        kind=act.kind,
        party=act.party,
        list="allowlist" if act.act == "allow" else "blacklist",
        made_by="person",
        reason="person",
        since=act.at,
        expires_at=act.expires_at,
        state=state,
        by=act.by,
        note=act.reason,
        act=act.id,
    )


def _overruled(entry: Entry) -> Entry:
    return replace(entry, state="overruled") if entry.denies else entry


def _by_rule(hit: Hit, said: Act | None, allowed: bool, now: int, open_breakers: AbstractSet[RuleName]) -> Entry:
    expires_at = expiry(hit)
    confirmed = said is not None and said.act == "confirm"
    state: State
    if said is not None and not confirmed:
        state = "lifted"
    elif hit.status == "withdrawn" and not confirmed:
        state = "withdrawn"
    elif expires_at is not None and now >= expires_at:
        state = "expired"
    elif allowed:
        state = "overruled"
    elif (hit.source, hit.rule) in open_breakers:
        state = "breaker_open"
    else:
        state = "confirmed" if confirmed else "in_force"
    return Entry(
        kind=hit.kind,
        party=hit.party,
        list="blacklist",
        made_by="rule",
        reason=f"{hit.source}.{hit.rule}",
        since=hit.since,
        expires_at=expires_at,
        state=state,
        by=said.by if said is not None else None,
        note=said.reason if said is not None else "",
        hit=hit.name(),
    )


def _order(entry: Entry) -> tuple[int, MadeBy, str, str, HitName]:
    return entry.since, entry.made_by, entry.reason, entry.act or "", entry.hit or ("", "", "", "", 0, "")
