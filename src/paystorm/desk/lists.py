"""The lists: parties put on and taken off by hand, rules' entries lifted and confirmed, breakers closed.

Each gives the proposal that came of it: applied, or open where another person has to approve it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from paystorm.desk.base import Desk, Who
from paystorm.desk.changes import finish, submit
from paystorm.errors import ConflictError, NotThereError
from paystorm.lists import Act, Entry, HitName, ListName, PartyFacts
from paystorm.stores import lists as store
from paystorm.stores.proposals import Proposal

IN_FORCE = ("in_force", "confirmed", "breaker_open", "overruled")
"""States of entries that are not over."""


@dataclass(frozen=True, slots=True)
class Enter:
    """A party to be put on a list."""

    list: ListName
    kind: str
    party: str
    expires_at: int | None = None
    """µs; None: never."""


def enter(desk: Desk, who: Who, wanted: Enter) -> Proposal:
    """Put a party on the blacklist or the allowlist. Raises UsageError for what cannot be meant."""
    desk.check_kind(wanted.kind)
    act = entering(desk, who, wanted)
    what = f"put it on the {wanted.list}"
    return submit(desk, who, kind=wanted.kind, party=wanted.party, what=what, acts=(act,))


def entering(desk: Desk, who: Who, wanted: Enter) -> Act:
    """The act of `enter`, not written yet."""
    return store.act_of(
        "allow" if wanted.list == "allowlist" else "add",
        now=desk.clock.now(),
        by=who.by,
        kind=wanted.kind,
        party=wanted.party,
        reason=who.reason,
        expires_at=wanted.expires_at,
    )


def remove(desk: Desk, who: Who, kind: str, party: str, entry: str | None = None) -> Proposal:
    """Take back an entry that a person made: the one of this id, or the only one in force. Raises UsageError."""
    desk.check_kind(kind)
    if entry is None:
        entry = _only_entry(party_entries(desk, kind, party), kind, party)
    act = store.removal(
        desk.tables, now=desk.clock.now(), by=who.by, kind=kind, party=party, target=entry, reason=who.reason
    )
    return submit(desk, who, kind=kind, party=party, what=f"take entry {entry} off the {act.list}", acts=(act,))


def lift(desk: Desk, who: Who, kind: str, party: str, rule: str | None = None) -> Proposal:
    """Lift what rules listed a party for. `rule`: `<source>.<rule>`, default all. Raises UsageError for no hit."""
    desk.check_kind(kind)
    hits = standing(store.party_facts(desk.tables, kind, party), kind, party, rule)
    act = store.act_of("lift", now=desk.clock.now(), by=who.by, kind=kind, party=party, reason=who.reason, hits=hits)
    return submit(desk, who, kind=kind, party=party, what=f"lift {_hits(hits)}", acts=(act,))


def confirm(desk: Desk, who: Who, kind: str, party: str, rule: str | None = None) -> Proposal:
    """Keep what rules listed a party for, also once withdrawn. As `lift`."""
    desk.check_kind(kind)
    hits = standing(store.party_facts(desk.tables, kind, party), kind, party, rule)
    act = store.act_of("confirm", now=desk.clock.now(), by=who.by, kind=kind, party=party, reason=who.reason, hits=hits)
    return submit(desk, who, kind=kind, party=party, what=f"confirm {_hits(hits)}", acts=(act,))


def close_breaker(desk: Desk, who: Who, source: str, rule: str) -> None:
    """Close a rule's breaker: its entries deny again. Raises UsageError where none is open."""
    now = desk.clock.now()
    if not store.close_breaker(desk.tables, source=source, rule=rule, now=now, by=who.by, reason=who.reason):
        raise NotThereError(f"no open breaker of {source}.{rule}; paystorm lists breakers shows those that are")


def breakers(desk: Desk, *, everything: bool = False) -> list[store.BreakerChange]:
    """The breakers that are open, or all that ever were."""
    return [b for b in store.load_breakers(desk.tables) if everything or b.state == "open"]


def entries(desk: Desk, kind: str | None = None, party: str | None = None, *, everything: bool = False) -> list[Entry]:
    """What stands on the lists; with `everything`, and of one party, also what is over."""
    if kind is not None:
        desk.check_kind(kind)
    finish(desk)
    if kind is not None and party is not None:
        return party_entries(desk, kind, party)
    now, opened = desk.clock.now(), store.open_breakers(desk.tables)
    return [
        entry
        for (its_kind, its_id), facts in sorted(store.load_party_facts(desk.tables).items())
        if kind in (None, its_kind) and party in (None, its_id)
        for entry in facts.entries(now, opened)
        if everything or party is not None or entry.state in IN_FORCE
    ]


def party_entries(desk: Desk, kind: str, party: str) -> list[Entry]:
    """Every entry that a party has or had, oldest first."""
    return store.party_facts(desk.tables, kind, party).entries(desk.clock.now(), store.open_breakers(desk.tables))


def history(desk: Desk, kind: str, party: str) -> list[store.HistoryRow]:
    """Every change to a party's entries and case, and what was proposed, oldest first."""
    desk.check_kind(kind)
    finish(desk)
    return store.history_of(desk.tables, kind, party)


def standing(facts: PartyFacts, kind: str, party: str, rule: str | None = None) -> tuple[HitName, ...]:
    """The standing hits that list a party. Raises UsageError where there is none."""
    found = tuple(
        sorted(
            hit.name()
            for hit in facts.hits.values()
            if hit.action == "deny" and hit.status == "standing" and rule in (None, f"{hit.source}.{hit.rule}")
        )
    )
    if not found:
        of = f" of rule {rule}" if rule is not None else ""
        raise NotThereError(f"{kind} {party!r} has no standing hit{of}; paystorm lists show {kind} {party} shows all")
    return found


def _only_entry(found: Sequence[Entry], kind: str, party: str) -> str:
    mine = [e for e in found if e.made_by == "person" and e.state in IN_FORCE and e.act is not None]
    if not mine:
        raise NotThereError(
            f"{kind} {party!r} has no entry by a person that is in force; paystorm lists lift is for rules'"
        )
    if len(mine) > 1:
        ids = ", ".join(f"{e.act} ({e.list})" for e in mine)
        raise ConflictError(f"{kind} {party!r} has several entries, name one: {ids}")
    assert mine[0].act is not None
    return mine[0].act


def _hits(hits: Sequence[HitName]) -> str:
    rules = dict.fromkeys(f"{h[0]}.{h[1]}" for h in hits)
    return f"{len(hits)} hit{'' if len(hits) == 1 else 's'} of {', '.join(rules)}"
