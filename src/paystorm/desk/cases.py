"""Cases: who is under investigation, what there is to see of a case, and what people decide on it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from paystorm import exports
from paystorm.chunk import frame_from_bytes
from paystorm.desk.base import Desk, Who, utc
from paystorm.desk.changes import finish, submit
from paystorm.desk.events import (
    Amounts,
    DealtWith,
    Offset,
    Tally,
    add_amounts,
    amounts_at,
    case_events,
    dealt_with,
    events_at,
    micros,
    tallies,
)
from paystorm.desk.lists import IN_FORCE, Enter, entering, standing
from paystorm.errors import NotThereError, UsageError
from paystorm.lists import Act, Entry
from paystorm.shards import shard_of
from paystorm.stores import lists as store
from paystorm.stores.cases import Case, Decision, Verdict, all_cases, case_of, decisions_on, last_decisions
from paystorm.stores.hits import Hit, load_hits
from paystorm.stores.proposals import Proposal, all_proposals
from paystorm.stores.versions import load_versions
from paystorm.tables.keys import under
from paystorm.windows.effects import load_caught_late

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Status = Literal["open", "confirmed", "false_alarm", "inconclusive", "reopened"]
STATUSES: tuple[Status, ...] = get_args(Status)
"""open: nobody has decided; reopened: a person asked for it, or something has come since the decision."""
Sort = Literal["events", "amount", "opened", "last"]
SORTS: tuple[Sort, ...] = get_args(Sort)
MAX_PAGE = 10_000
MAX_SHOWN = 1_000
Party = tuple[str, str]


@dataclass(frozen=True, slots=True)
class CaseRow:
    """A case in short."""

    kind: str
    party: str
    source: str
    """The source that opened it."""
    cause: str
    """The rule that opened it, or `person`."""
    opened_at: int
    """µs since 1970-01-01 UTC."""
    denied: int
    caught_late: int
    joined: int
    """Events that were accepted by a source that only watches, or marked `would_deny`."""
    amounts: Amounts
    """Of all its events, by currency."""
    last_at: int | None
    """When the newest denied or joined event was decided, µs."""
    status: Status
    decision: Decision | None
    """The last."""

    @property
    def events(self) -> int:
        """All events of the case."""
        return self.denied + self.caught_late + self.joined


@dataclass(frozen=True, slots=True)
class CasePage:
    """Cases in the order asked for."""

    cases: tuple[CaseRow, ...]
    total: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Count:
    """What a rule has counted of the party in an interval."""

    source: str
    rule: str
    start: datetime
    currency: str | None
    value: str
    limit: str | None
    """Of the rule now; `×factor` of growth."""


@dataclass(frozen=True, slots=True)
class CaseView:
    """Everything there is to see of a case."""

    row: CaseRow
    entries: tuple[Entry, ...]
    hits: tuple[Hit, ...]
    events: tuple[dict[str, Any], ...]
    """The newest, each with its source, columns and verdict (`caught_late` of those)."""
    counts: tuple[Count, ...]
    dealt_with: tuple[DealtWith, ...]
    decisions: tuple[Decision, ...]
    waiting: tuple[Proposal, ...]
    """Proposals about the party that wait for another person."""


def cases(
    desk: Desk,
    *,
    statuses: frozenset[Status] = frozenset(),
    kind: str | None = None,
    source: str | None = None,
    sort: Sort = "events",
    currency: str | None = None,
    limit: int = 50,
    skip: int = 0,
) -> CasePage:
    """One page of the cases, the weightiest first: by events, by the amount in a currency, or the newest first."""
    if not 1 <= limit <= MAX_PAGE or not 0 <= skip <= 100 * MAX_PAGE:
        raise UsageError(f"a page has 1 to {MAX_PAGE:,} cases, got {limit:,} behind {skip:,}")
    if kind is not None:
        desk.check_kind(kind)
    if source is not None:
        desk.source(source)
    finish(desk)
    rows = [
        row
        for row in _rows(desk)
        if kind in (None, row.kind) and source in (None, row.source) and (not statuses or row.status in statuses)
    ]
    rows.sort(key=lambda row: (-_weight(row, sort, currency), row.kind, row.party))
    return CasePage(tuple(rows[skip : skip + limit]), len(rows), skip)


def show(
    desk: Desk, kind: str, party: str, *, events: int = 20, others: int = 20, since: datetime | None = None
) -> CaseView:
    """A case with its newest events, and the parties that it dealt with. Raises UsageError where there is none.

    since: only other parties of events that were stored from that day on.
    """
    if not 0 <= events <= MAX_SHOWN or not 0 <= others <= MAX_SHOWN:
        raise UsageError(f"at most {MAX_SHOWN:,} events and parties are shown, got {events:,} and {others:,}")
    case = _case(desk, kind, party)
    finish(desk)
    facts = store.party_facts(desk.tables, kind, party)
    caught = {s.name: _caught_of(desk, s.name, kind, party) for s in desk.some()}
    row = _row_of(desk, case, max((h.since for h in facts.hits.values()), default=0), caught)
    found = [e for s in desk.some() for e in case_events(desk, s, (kind, party), events)]
    for s in desk.some():
        rules = caught[s.name]
        for event in events_at(desk, s, sorted(rules)[-events:] if events else [], events):
            rule = rules[event["log_partition"], event["log_offset"]]
            found.append({**event, "verdict": "caught_late", "verdict_reason": f"{s.name}.{rule}"})
    found.sort(key=lambda e: (e["decided_at"], e["source"], e["log_partition"], e["log_offset"]), reverse=True)
    met = [other for s in desk.some() for other in dealt_with(desk, s, (kind, party), limit=others, since=since)]
    met.sort(key=lambda other: (-other.events, other.source, other.kind, other.party))
    return CaseView(
        row=row,
        entries=tuple(facts.entries(desk.clock.now(), store.open_breakers(desk.tables))),
        hits=tuple(sorted(facts.hits.values(), key=lambda h: (h.since, h.name()))),
        events=tuple(found[:events]),
        counts=tuple(_counts(desk, kind, party)),
        dealt_with=tuple(met[:others]),
        decisions=tuple(decisions_on(desk.tables, kind, party)),
        waiting=tuple(
            p for p in all_proposals(desk.tables) if p.state == "open" and (p.kind, p.party) == (kind, party)
        ),
    )


def decide(
    desk: Desk,
    who: Who,
    kind: str,
    party: str,
    verdict: Verdict,
    *,
    lift: bool = False,
    keep: bool = False,
    allow_until: int | None = None,
) -> Proposal:
    """Decide on a case, and keep that. Raises UsageError where there is no case, or nothing to lift or keep.

    lift: take away what lists the party: rules' entries and people's; keep: keep rules' entries also if their hits are
    withdrawn; allow_until: put the party on the allowlist until then, µs. Where lists take an approval, the decision
    waits with them.
    """
    who.with_reason()
    if verdict not in VERDICTS:
        raise UsageError(f"a decision is {', '.join(VERDICTS)}, got {verdict!r}")
    if lift and keep:
        raise UsageError("--lift and --keep exclude each other")
    if verdict == "confirmed" and (lift or allow_until is not None):
        raise UsageError("what is confirmed to be fraud is neither lifted nor allowed: decide false_alarm for that")
    if verdict == "false_alarm" and keep:
        raise UsageError("a false alarm keeps nobody listed: leave --keep out, or decide confirmed")
    case = _case(desk, kind, party)
    finish(desk)
    facts = store.party_facts(desk.tables, kind, party)
    acts, did = [], []
    if lift:
        acts += _lifting(desk, who, kind, party)
        did.append("lift its entries")
    if keep:
        hits = standing(facts, kind, party)
        now = desk.clock.now()
        acts.append(store.act_of("confirm", now=now, by=who.by, kind=kind, party=party, reason=who.reason, hits=hits))
        did.append("keep its entries")
    if allow_until is not None:
        acts.append(entering(desk, who, Enter("allowlist", kind, party, allow_until)))
        did.append(f"allow it until {utc(allow_until):%Y-%m-%dT%H:%M:%SZ}")
    newest = max((h.since for h in facts.hits.values()), default=0)
    row = _row_of(desk, case, newest, {s.name: _caught_of(desk, s.name, kind, party) for s in desk.some()})
    decision = Decision(
        id="",
        kind=kind,
        party=party,
        at=0,
        by=who.by,
        verdict=verdict,
        reason=who.reason,
        events=row.denied + row.joined,
        caught_late=row.caught_late,
        newest_hit=newest,
        did=tuple(did),
    )
    what = ", ".join([f"decide {verdict}", *did])
    return submit(desk, who, kind=kind, party=party, what=what, acts=tuple(acts), decision=decision)


def status_of(
    last: Decision | None, *, last_at: int | None, caught_late: int, newest_hit: int, spreading: int
) -> Status:
    """What a case has come to: the last decision, unless something has come that it did not see.

    Events of the first `spreading` µs are what was under way while the decision spread. Of a case that is confirmed,
    more denied events are what was to be expected; a new hit, or an event that slipped through, is not.
    """
    if last is None:
        return "open"
    more = caught_late > last.caught_late or newest_hit > last.newest_hit
    if last.verdict != "confirmed":
        # By time and not by how many there are: those that the decision saw may have gone with their retention
        more = more or (last_at or 0) > last.at + spreading
    return "reopened" if more or last.verdict == "reopened" else last.verdict


# Private


def _case(desk: Desk, kind: str, party: str) -> Case:
    desk.check_kind(kind)
    case = case_of(desk.tables, kind, party)
    if case is None:
        raise NotThereError(f"no case of {kind} {party!r}; paystorm cases list shows those there are")
    return case


def _rows(desk: Desk) -> Iterator[CaseRow]:
    """Every case in short."""
    stored: dict[Party, list[Tally]] = {}
    caught: dict[Party, set[tuple[str, Offset]]] = {}
    amounts: dict[tuple[str, Offset], Amounts] = {}
    for source in desk.some():
        for tally in tallies(desk, source):
            stored.setdefault((tally.kind, tally.party), []).append(tally)
        late = {((c.kind, c.party), (c.partition, c.offset)) for c in load_caught_late(desk.tables, source.name)}
        for party, offset in late:
            caught.setdefault(party, set()).add((source.name, offset))
        found = amounts_at(desk, source, {offset for _, offset in late})
        amounts.update({(source.name, offset): figure for offset, figure in found.items()})
    newest: dict[Party, int] = {}
    for name in store.registered_sources(desk.tables):
        for hit in load_hits(desk.tables, name):
            newest[hit.kind, hit.party] = max(newest.get((hit.kind, hit.party), 0), hit.since)
    decided = last_decisions(desk.tables)
    for case in all_cases(desk.tables):
        of = case.kind, case.party
        mine = caught.get(of, set())
        sums = [amounts[event] for event in mine if event in amounts]
        yield _row(desk, case, stored.get(of, ()), (len(mine), sums), newest.get(of, 0), decided.get(of))


def _row_of(desk: Desk, case: Case, newest: int, caught: dict[str, dict[Offset, str]]) -> CaseRow:
    """One case in short."""
    stored = [tally for source in desk.some() for tally in tallies(desk, source, (case.kind, case.party))]
    decided = decisions_on(desk.tables, case.kind, case.party)
    sums = [figure for source in desk.some() for figure in amounts_at(desk, source, caught[source.name]).values()]
    late = sum(len(offsets) for offsets in caught.values())
    return _row(desk, case, stored, (late, sums), newest, decided[-1] if decided else None)


def _row(
    desk: Desk,
    case: Case,
    stored: Sequence[Tally],
    caught: tuple[int, Sequence[Amounts]],
    newest: int,
    last: Decision | None,
) -> CaseRow:
    """`caught`: how many events were caught late, and their amounts."""
    denied = sum(t.count for t in stored if t.verdict == "denied")
    joined = sum(t.count for t in stored if t.verdict != "denied")
    last_at = max((micros(t.last) for t in stored), default=None)
    late, sums = caught
    return CaseRow(
        kind=case.kind,
        party=case.party,
        source=case.source,
        cause=case.cause,
        opened_at=case.opened_at,
        denied=denied,
        caught_late=late,
        joined=joined,
        amounts=add_amounts([*(t.amounts for t in stored), *sums]),
        last_at=last_at,
        status=status_of(
            last,
            last_at=last_at,
            caught_late=late,
            newest_hit=newest,
            spreading=desk.spreading,
        ),
        decision=last,
    )


def _weight(row: CaseRow, sort: Sort, currency: str | None) -> float:
    if sort == "events":
        return row.events
    if sort == "opened":
        return row.opened_at
    if sort == "last":
        return row.last_at or 0
    return max((float(figure) for c, figure in row.amounts.items() if currency in (None, c)), default=0.0)


def _caught_of(desk: Desk, source: str, kind: str, party: str) -> dict[Offset, str]:
    """The caught-late events of a party in a source, with a rule whose entry was in force."""
    versions = load_versions(desk.tables, source)
    if not versions:
        return {}
    found: dict[Offset, str] = {}
    start, stop = under(shard_of(kind, party, versions[0].shards))
    for _, value in desk.tables.scan(f"{source}.caught_late", start, stop):
        frame = frame_from_bytes(value)
        mine = frame.filter((frame["kind"] == kind) & (frame["party"] == party))
        found.update({(p, o): rule for p, o, rule in mine.select("partition", "offset", "rule").iter_rows()})
    return found


def _counts(desk: Desk, kind: str, party: str) -> Iterator[Count]:
    for source in desk.some():
        limits = {rule.name: rule for rule in source.rules}
        for frame in exports.counts(desk.resources, source, (kind, party)):
            for _, rule, _, _, start, currency, value in frame.iter_rows():
                yield Count(source.name, rule, start, currency, value, _limit(limits.get(rule), currency))


def _limit(rule: Any, currency: str | None) -> str | None:
    if rule is None:
        return None
    if rule.factor is not None:
        return f"×{rule.factor}"
    figure = rule.figures().get(currency or "")
    return None if figure is None else str(figure)


def _lifting(desk: Desk, who: Who, kind: str, party: str) -> list[Act]:
    """The acts that take away what lists a party. Raises UsageError where nothing does."""
    tables, now = desk.tables, desk.clock.now()
    facts = store.party_facts(tables, kind, party)
    found = facts.entries(now, store.open_breakers(tables))
    mine = [e for e in found if e.list == "blacklist" and e.state in IN_FORCE]
    if not mine:
        raise UsageError(f"nothing lists {kind} {party!r}: leave --lift out")
    hits = tuple(e.hit for e in mine if e.hit is not None)
    acts = []
    if hits:
        acts.append(store.act_of("lift", now=now, by=who.by, kind=kind, party=party, reason=who.reason, hits=hits))
    acts += [
        store.removal(tables, now=now, by=who.by, kind=kind, party=party, target=e.act, reason=who.reason)
        for e in mine
        if e.act is not None
    ]
    return acts
