"""The lists as rows: people's acts, breakers, history, and the feed `lists` by which changes reach every look-up.

Tables, shared by all sources: `acts` (kind, party, at, id), never changed; `acts.announcing`, acts whose announcement
may be incomplete; `history` (kind, party, at, id), never changed; `breakers` (source, rule); `sources` (name).
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from paystorm.errors import NotThereError, UsageError
from paystorm.lists import Act, HitName, ListName, PartyFacts, RuleName
from paystorm.stores.hits import Hit, load_hits, party_hits
from paystorm.stores.versions import load_versions
from paystorm.tables.base import Tables
from paystorm.tables.keys import key, parts, under

FEED = "lists"
ACTS = "acts"
ANNOUNCING = "acts.announcing"
HISTORY = "history"
BREAKERS = "breakers"
SOURCES = "sources"

BREAKER_KIND = ""
"""The kind under which the history of breakers stands, with `<source>.<rule>` as party: no party is of this kind."""

MAX_ID = 256
MAX_REASON = 10_000
MAX_HITS = 10_000
"""Hits that one lift or confirmation can name."""


class HitChange(msgspec.Struct, frozen=True, tag="hit"):
    """A feed item: the new state of a hit, without `before`, which no list needs."""

    hit: Hit


class BreakerChange(msgspec.Struct, frozen=True, kw_only=True, tag="breaker"):
    """The state of a rule's breaker: its row, and a feed item."""

    source: str
    rule: str
    state: Literal["open", "closed"]
    number: int
    """Counts the changes of the row, so that an older one never covers a newer."""
    at: int
    """µs since 1970-01-01 UTC."""
    by: str
    share: float | None
    """The share of events that opened it; None once closed."""
    reason: str = ""
    """What was said when it was closed."""

    def name(self) -> RuleName:
        """(source, rule)."""
        return self.source, self.rule


FeedItem = HitChange | Act | BreakerChange


What = Literal[
    "added",
    "allowed",
    "removed",
    "lifted",
    "confirmed",
    "hit",
    "withdrawn",
    "breaker opened",
    "breaker closed",
    "proposed",
    "approved",
    "rejected",
    "recalled",
    "decided",
]


class HistoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """A change to the lists, as it is kept for ever."""

    kind: str
    party: str
    at: int
    """µs since 1970-01-01 UTC."""
    id: str
    what: What
    detail: str
    by: str
    """A person, or `<source>.<rule>`."""


_WHAT: dict[str, Literal["added", "allowed", "removed", "lifted", "confirmed"]] = {
    "add": "added",
    "allow": "allowed",
    "remove": "removed",
    "lift": "lifted",
    "confirm": "confirmed",
}


# Sources.


def register_source(tables: Tables, name: str) -> None:
    """Note that the source exists, before it makes its first hit, so that every look-up loads its hits."""
    tables.put_if_absent(SOURCES, [(key(name), b"1")])


def registered_sources(tables: Tables) -> list[str]:
    """The names of all sources that ever started."""
    return [str(parts(row_key)[0]) for row_key, _ in tables.scan(SOURCES)]


# People's acts.


def act_of(
    what: Literal["add", "allow", "lift", "confirm"],
    *,
    now: int,
    by: str,
    kind: str,
    party: str,
    reason: str,
    expires_at: int | None = None,
    hits: tuple[HitName, ...] = (),
) -> Act:
    """An act that is not written yet, and has no id."""
    on: ListName = "allowlist" if what == "allow" else "blacklist"
    said = Act(id="", at=now, by=by, act=what, list=on, kind=kind, party=party, reason=reason)
    return msgspec.structs.replace(said, expires_at=expires_at, hits=hits)


def check_act(tables: Tables, act: Act) -> None:
    """Raise UsageError for an act that cannot be meant, or no longer."""
    for what, text, limit in (("party", act.party, MAX_ID), ("kind", act.kind, MAX_ID), ("by", act.by, MAX_ID)):
        if not 1 <= len(text) <= limit:
            raise UsageError(f"{what} must have 1 to {limit} characters, got {len(text)}")
    if len(act.reason) > MAX_REASON:
        raise UsageError(f"reason must have at most {MAX_REASON} characters, got {len(act.reason)}")
    if act.expires_at is not None and act.expires_at <= act.at:
        raise UsageError(f"expiry of {act.kind} {act.party!r}: it must lie ahead, got a time that has passed")
    if act.act == "remove":
        _check_target(tables, act)
    if act.act in ("lift", "confirm"):
        _check_hits(act)


def _check_target(tables: Tables, act: Act) -> None:
    acts = acts_of(tables, act.kind, act.party)
    if not any(a.id == act.target and a.act in ("add", "allow") for a in acts):
        raise NotThereError(
            f"entry {act.target}: {act.kind} {act.party!r} has no entry by a person with this id; its history lists "
            "them"
        )


def _check_hits(act: Act) -> None:
    if not 1 <= len(act.hits) <= MAX_HITS:
        raise UsageError(f"{act.act} of {act.kind} {act.party!r}: it names 1 to {MAX_HITS} hits, got {len(act.hits)}")
    for name in act.hits:
        if name[2:4] != (act.kind, act.party):
            raise UsageError(f"{act.act} of {act.kind} {act.party!r}: {name!r} is a hit of another party")


def write_act(tables: Tables, act: Act) -> Act:
    """Check an act, write and announce it, under the first id of its instant that is free. Raises UsageError."""
    check_act(tables, act)
    for n in range(1_000_000):
        act = msgspec.structs.replace(act, id=f"{act.at}-{n:06d}")
        row_key, value = key(act.kind, act.party, act.at, act.id), msgspec.msgpack.encode(act)
        if tables.get(ACTS, row_key) is not None or not tables.put_if_absent(ANNOUNCING, [(row_key, value)])[0]:
            continue
        if _announce(tables, row_key, value):
            return act
    raise UsageError(f"{act.kind} {act.party!r}: a million acts at one instant; is the clock standing still?")


def put_act(tables: Tables, act: Act) -> None:
    """Write and announce an act that has its id. Done again it is the same act."""
    row_key, value = key(act.kind, act.party, act.at, act.id), msgspec.msgpack.encode(act)
    if tables.get(ACTS, row_key) is None:
        tables.put_if_absent(ANNOUNCING, [(row_key, value)])
    _announce(tables, row_key, value)


def add_entry(
    tables: Tables, *, now: int, by: str, kind: str, party: str, reason: str, expires_at: int | None = None
) -> Act:
    """Put a party on the blacklist. Times in µs. Raises UsageError for what cannot be meant."""
    act = act_of("add", now=now, by=by, kind=kind, party=party, reason=reason, expires_at=expires_at)
    return write_act(tables, act)


def allow(
    tables: Tables, *, now: int, by: str, kind: str, party: str, reason: str, expires_at: int | None = None
) -> Act:
    """Put a party on the allowlist. Times in µs. Raises UsageError for what cannot be meant."""
    act = act_of("allow", now=now, by=by, kind=kind, party=party, reason=reason, expires_at=expires_at)
    return write_act(tables, act)


def remove_entry(tables: Tables, *, now: int, by: str, kind: str, party: str, target: str, reason: str) -> Act:
    """Take back the add or allow with the id `target`. Raises UsageError where the party has no such act."""
    return write_act(tables, removal(tables, now=now, by=by, kind=kind, party=party, target=target, reason=reason))


def removal(tables: Tables, *, now: int, by: str, kind: str, party: str, target: str, reason: str) -> Act:
    """The act that takes back another, not written yet."""
    entry = next((a for a in acts_of(tables, kind, party) if a.id == target), None)
    of = "blacklist" if entry is None else entry.list
    return Act(id="", at=now, by=by, act="remove", list=of, kind=kind, party=party, reason=reason, target=target)


def lift(tables: Tables, *, now: int, by: str, kind: str, party: str, hits: Iterable[HitName], reason: str) -> Act:
    """Lift the entries of these hits, withdrawn and made again or not. Raises UsageError as `confirm` does."""
    return write_act(tables, act_of("lift", now=now, by=by, kind=kind, party=party, reason=reason, hits=tuple(hits)))


def confirm(tables: Tables, *, now: int, by: str, kind: str, party: str, hits: Iterable[HitName], reason: str) -> Act:
    """Keep the entries of these hits also once withdrawn. Raises UsageError for no hit, or one of another party."""
    return write_act(tables, act_of("confirm", now=now, by=by, kind=kind, party=party, reason=reason, hits=tuple(hits)))


def acts_of(tables: Tables, kind: str, party: str) -> list[Act]:
    """A party's acts, oldest first."""
    start, stop = under(kind, party)
    return [_decoded(value) for _, value in tables.scan(ACTS, start, stop)]


def load_acts(tables: Tables) -> Iterator[Act]:
    """All acts, in order of kind, party, time."""
    for _, value in tables.scan(ACTS):
        yield _decoded(value)


def finish_announcements(tables: Tables) -> int:
    """Finish what a process left half done that died between a row and its announcement; gives how many.

    The rows are acts, and changes of breakers: a look-up that has loaded one does not turn it, so that none would tell.
    """
    rows = list(tables.scan(ANNOUNCING))
    for row_key, value in rows:
        _announce(tables, row_key, value)
    breakers = load_breakers(tables)
    known = tables.get_many(HISTORY, [_breaker_history(change)[0] for change in breakers])
    untold = [change for change, row in zip(breakers, known, strict=True) if row is None]
    for change in untold:
        _tell_breaker(tables, change)
    return len(rows) + len(untold)


def _announce(tables: Tables, row_key: bytes, value: bytes) -> bool:
    """Put an act's row and history row where absent, append it to the feed. False: the id was another act's."""
    put = tables.put_if_absent(ACTS, [(row_key, value)])[0]
    # Not put, and yet the same: somebody found it in `acts.announcing` and was quicker.
    ours = put or tables.get(ACTS, row_key) == value
    if ours:
        act = _decoded(value)
        row = HistoryRow(
            kind=act.kind, party=act.party, at=act.at, id=act.id, what=_WHAT[act.act], detail=act.reason, by=act.by
        )
        tables.put_if_absent(HISTORY, [(row_key, msgspec.msgpack.encode(row))])
        tables.feed_append(FEED, [value])
    tables.delete_if(ANNOUNCING, row_key, value)
    return ours


def _decoded(value: bytes) -> Act:
    return msgspec.msgpack.decode(value, type=Act)


# Rules' hits.


def announce_hits(tables: Tables, hits: Iterable[Hit]) -> None:
    """Write the history of hits that a journal row made or withdrew, and tell the look-ups.

    Publishing the same states again writes the same history rows, and feed items that followers know.
    """
    slim = [msgspec.structs.replace(hit, before={}) for hit in hits]
    if not slim:
        return
    # First the look-ups: events are accepted until they know.
    tables.feed_append(FEED, [msgspec.msgpack.encode(HitChange(hit)) for hit in slim])
    # No condition: the row of a journal row's hit is always the same, and conditions cost HBase a call each.
    tables.put(HISTORY, [_history_of(hit) for hit in slim])


def _history_of(hit: Hit) -> tuple[bytes, bytes]:
    number = f"{hit.shard:04d}-{hit.row:012d}"
    row = HistoryRow(
        kind=hit.kind,
        party=hit.party,
        at=hit.since if hit.status == "standing" else max(hit.since, hit.changed_at),
        id=f"{number}/{hit.source}/{hit.rule}/{hit.interval_start}/{hit.currency}",
        what="hit" if hit.status == "standing" else "withdrawn",
        detail=f"{hit.figure} against {hit.limit}{' ' * bool(hit.currency)}{hit.currency}, record {hit.topic}/"
        f"{hit.partition}/{hit.offset}, version {hit.version}, {hit.action}",
        by=f"{hit.source}.{hit.rule}",
    )
    return key(row.kind, row.party, row.at, row.id), msgspec.msgpack.encode(row)


def note(tables: Tables, row: HistoryRow) -> None:
    """Keep a row of the history; putting it again changes nothing."""
    tables.put_if_absent(HISTORY, [(key(row.kind, row.party, row.at, row.id), msgspec.msgpack.encode(row))])


def history_of(tables: Tables, kind: str, party: str) -> list[HistoryRow]:
    """The history of a party, oldest first."""
    start, stop = under(kind, party)
    return [msgspec.msgpack.decode(value, type=HistoryRow) for _, value in tables.scan(HISTORY, start, stop)]


# Breakers.


def open_breaker(tables: Tables, *, source: str, rule: str, now: int, by: str, share: float) -> bool:
    """Open a rule's breaker where it is not open, and announce its state; says whether this call opened it."""
    return _turn_breaker(
        tables, BreakerChange(source=source, rule=rule, state="open", number=0, at=now, by=by, share=share)
    )


def close_breaker(tables: Tables, *, source: str, rule: str, now: int, by: str, reason: str = "") -> bool:
    """Close a rule's breaker where it is open, and announce its state; says whether this call closed it."""
    closed = BreakerChange(
        source=source, rule=rule, state="closed", number=0, at=now, by=by, share=None, reason=reason[:MAX_REASON]
    )
    return _turn_breaker(tables, closed)


def load_breakers(tables: Tables) -> list[BreakerChange]:
    """The last change of every breaker that was ever open."""
    return [_breaker_of(value) for _, value in tables.scan(BREAKERS)]


def open_breakers(tables: Tables) -> frozenset[RuleName]:
    """The rules whose breakers are open."""
    return frozenset(b.name() for b in load_breakers(tables) if b.state == "open")


def _turn_breaker(tables: Tables, change: BreakerChange) -> bool:
    row_key = key(change.source, change.rule)
    turned = False
    while not turned:
        held = tables.get(BREAKERS, row_key)
        old = None if held is None else _breaker_of(held)
        if old is None and change.state == "closed":
            return False
        if old is not None and old.state == change.state:
            change = old
            break
        change = msgspec.structs.replace(change, number=0 if old is None else old.number + 1)
        value = msgspec.msgpack.encode(change)
        if held is None:
            turned = tables.put_if_absent(BREAKERS, [(row_key, value)])[0]
        else:
            turned = tables.replace(BREAKERS, row_key, held, value)
    # Told also where nothing was turned: whoever turned it may have died before it could tell.
    _tell_breaker(tables, change)
    return turned


def _tell_breaker(tables: Tables, change: BreakerChange) -> None:
    """The feed first: where the history has a change, the look-ups have been told."""
    tables.feed_append(FEED, [msgspec.msgpack.encode(change)])
    tables.put_if_absent(HISTORY, [_breaker_history(change)])


def _breaker_history(change: BreakerChange) -> tuple[bytes, bytes]:
    row = HistoryRow(
        kind=BREAKER_KIND,
        party=f"{change.source}.{change.rule}",
        at=change.at,
        id=f"{change.number:06d}",
        what="breaker opened" if change.state == "open" else "breaker closed",
        detail=change.reason if change.share is None else f"share {change.share:.3f}",
        by=change.by,
    )
    return key(row.kind, row.party, row.at, row.id), msgspec.msgpack.encode(row)


def _breaker_of(value: bytes) -> BreakerChange:
    return msgspec.msgpack.decode(value, type=BreakerChange)


# Reading the whole.


def read_feed(tables: Tables, cursor: bytes, limit: int) -> tuple[list[FeedItem], bytes]:
    """Changes since `cursor`, and the cursor to go on from; a change may come more than once."""
    items, after = tables.feed_read(FEED, cursor, limit=limit)
    return [msgspec.msgpack.decode(item, type=FeedItem) for item in items], after


def feed_end(tables: Tables) -> bytes:
    """A cursor behind every change that has been acknowledged."""
    return tables.feed_end(FEED)


def load_party_facts(tables: Tables) -> dict[tuple[str, str], PartyFacts]:
    """The facts of every party that has any, by (kind, id): for exports and `status`, read from the rows themselves."""
    out: dict[tuple[str, str], PartyFacts] = {}
    for source in registered_sources(tables):
        for hit in load_hits(tables, source):
            out.setdefault((hit.kind, hit.party), PartyFacts()).add_hit(hit)
    for act in load_acts(tables):
        out.setdefault((act.kind, act.party), PartyFacts()).add_act(act)
    return out


def party_facts(tables: Tables, kind: str, party: str) -> PartyFacts:
    """The facts of one party, as `load_party_facts` has them."""
    facts = PartyFacts()
    for source in registered_sources(tables):
        rules = {rule.name for version in load_versions(tables, source) for rule in version.rules}
        for hit in party_hits(tables, source, rules, kind, party):
            facts.add_hit(hit)
    for act in acts_of(tables, kind, party):
        facts.add_act(act)
    return facts
