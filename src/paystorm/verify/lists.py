"""Lists, denials and crossings: what the oracle's standing hits and people's acts say against what was done."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import polars as pl

from paystorm.clock import SECOND
from paystorm.lists import Act
from paystorm.oracle import Change, Computed, Crossing, Denied, Difference, ListHistory
from paystorm.oracle.lists import check_crossings, check_denied
from paystorm.oracle.model import CellKey, Key, Words
from paystorm.source import Source
from paystorm.stores.hits import Hit
from paystorm.stores.lists import BREAKER_KIND, HistoryRow
from paystorm.verify.counts import cell_key
from paystorm.verify.reading import Snapshot
from paystorm.verify.stored import StoredEvents

SPREADING = 60 * SECOND
"""How long a change may be on its way before the refresh bound begins, where no row says when it was announced: what a
task that dies leaves unpublished is published by the next one. µs."""
_BREAKER = {"breaker opened": "breaker_open", "breaker closed": "breaker_closed"}
Party = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Made:
    """A row of the history about a hit, its id taken apart."""

    row: HistoryRow
    shard: int
    number: int
    source: str
    name: str
    """The hit, as one text."""


class Lists:
    """The checks about lists. `bound`: the refresh bound, µs; `sees`: whether a hit could be computed anew."""

    def __init__(
        self, source: Source, snapshot: Snapshot, bound: int, sees: Callable[[CellKey], bool] = lambda cell: True
    ) -> None:
        self._sees = sees
        self._source, self._snapshot, self._bound = source, snapshot, bound
        self._hits = {_name(h): h for facts in snapshot.facts.values() for h in facts.hits.values()}
        self._made = [made for made in map(_taken_apart, snapshot.history) if made is not None]
        self._made_at: dict[str, list[str]] = {}
        for made in self._made:
            if made.row.what == "hit":
                self._made_at.setdefault(made.name, []).append(f"{made.name}@{made.row.at}")
        self.history = ListHistory(self._changes(late=True))
        """Withdrawals as late as they can have spread: what could be denied was in force by this."""
        self._early = ListHistory(self._changes(late=False))

    def in_force(self, computed: Computed) -> tuple[int, list[Difference]]:
        """Whether each party is in force on the blacklist now: how many parties, and those that differ."""
        snapshot = self._snapshot
        now = max([snapshot.at, *(act.at for facts in snapshot.facts.values() for act in facts.acts.values())])
        history = ListHistory(self._now(computed))
        parties = {(h.kind, h.party): None for h in computed.hits.values()} | dict.fromkeys(snapshot.facts)
        found = []
        for kind, party in parties:
            expected = history.in_force_at(kind, party, now)
            facts = snapshot.facts.get((kind, party))
            cover = None if facts is None else facts.covering(now, snapshot.breakers)
            held = cover is not None and not cover.would_deny
            if expected != held:
                found.append(Difference("entries", (kind, party), _listed(expected), _listed(held)))
        return len(parties), found

    def denied(self, events: StoredEvents) -> Iterator[Difference]:
        """Every event that was denied, or joined a case, names a party of its own that was in force then."""
        with_entry = (pl.col("verdict") == "denied") | pl.col("entry_kind").is_not_null()
        columns = ["log_partition", "log_offset", "decided_at", "entry_kind", "entry_party", "entry_fits"]
        rows = events.light.filter(with_entry & ~pl.col("would_deny").fill_null(False)).select(*columns, "verdict")
        for partition, offset, at, kind, party, fits, verdict in rows.iter_rows():
            key = (partition, offset)
            if kind is None or party is None or not fits:
                yield Difference("denied", key, Words("an entry for a party of the event"), Words(f"{kind}:{party}"))
            elif verdict == "accepted" and self._source.enforces:
                yield Difference("denied", key, Words("denied"), Words(f"accepted, with the entry {kind}:{party}"))
            else:
                event = Denied(partition, offset, [(kind, party)], at or 0, f"{kind}:{party}")
                yield from check_denied([event], self.history, self._bound)

    def let_through(self, events: StoredEvents, caught: set[Key]) -> Iterator[Difference]:
        """An enforcing source accepts nothing of a party that has been in force, unchanged, for long enough.

        Events that were caught late are those of the check of crossings.
        """
        if not self._source.enforces:
            return
        moments = self._moments()
        long = SPREADING + self._bound
        for partition, offset, at, kind, party in events.accepted_of_listed.iter_rows():
            if (partition, offset) in caught or not self.history.in_force_at(kind, party, at - long):
                continue
            near = [*moments.get((kind, party), ()), *moments.get(("", ""), ())]
            if any(at - long <= moment <= at + self._bound for moment in near):
                continue
            if self.history.in_force_at(kind, party, at):
                held = Words(f"accepted at {at}, with {kind} {party!r} in force since more than {long // SECOND} s")
                yield Difference("denied", (partition, offset), Words("denied"), held)

    def crossings(self, computed: Computed, events: StoredEvents, caught: set[Key]) -> Iterator[Difference]:
        """After each crossing every event of the party was denied or caught late."""
        crossings = [
            Crossing(h.rule, h.kind, h.party, h.interval_start, h.currency, h.before)
            for h in self._snapshot.hits
            if h.status == "standing" and h.action == "deny"
        ]
        # One look-up of a party's events by hit.
        computed.facts.database.execute("CREATE INDEX IF NOT EXISTS facts_by_party ON facts (party)")
        return check_crossings(computed, crossings, events.stored, caught, history=self._early)

    def hit_rows(self, computed: Computed) -> Iterator[Difference]:
        """Standing hits have the action of their rule, and a row in the history."""
        for hit in self._snapshot.hits:
            version = computed.rule_version(hit.rule, hit.version)
            if hit.status != "standing" or version is None:
                continue
            action = "deny" if version.rule.denies else "review"
            if hit.action != action:
                yield Difference("hits", (*cell_key(hit), "action"), Words(action), Words(hit.action))
            if f"{_name(hit)}@{hit.since}" not in self._made_at.get(_name(hit), ()):
                yield Difference("history", cell_key(hit), Words(f"a row of the hit, at {hit.since}"), None)

    def cases(self, events: StoredEvents) -> Iterator[Difference]:
        """A case for every party that an event was denied for, caught late for, or that a rule asks to review."""
        named = events.light.filter(pl.col("entry_kind").is_not_null()).select("entry_kind", "entry_party").unique()
        wanted = set(named.iter_rows()) | {(c.kind, c.party) for c in self._snapshot.caught}
        wanted |= {(h.kind, h.party) for h in self._snapshot.hits if h.status == "standing" and h.action == "review"}
        for party in sorted(wanted - self._snapshot.cases):
            yield Difference("cases", party, Words("a case"), None)

    # The history as the oracle takes it.

    def _rule(self, source: str, rule: str) -> str:
        """The name of a rule among all sources': the source's own are called as the oracle calls them."""
        return rule if source == self._source.name else f"{source}.{rule}"

    def _changes(self, late: bool) -> Iterator[Change]:
        """All changes. A withdrawal's time is not in its row: `late`: the latest it can be; else the earliest."""
        yield from self._breaker_changes()
        names = {name: [name, *made] for name, made in self._made_at.items()}
        for act in self._acts():
            yield _of_act(act, names)
        last: dict[str, str] = {}
        for made in self._made:
            row = made.row
            if row.what == "hit":
                last[made.name] = f"{made.name}@{row.at}"
                yield self._hit_change(made)
            elif made.name in last:
                at = self._withdrawn_at(made) if late else row.at
                yield Change(at, row.kind, row.party, "withdrawn", {"hit": last[made.name]})

    def _hit_change(self, made: _Made) -> Change:
        row, held = made.row, self._hits.get(made.name)
        rule = row.by.removeprefix(f"{made.source}.")
        detail = {
            "hit": f"{made.name}@{row.at}",
            "rule": self._rule(made.source, rule),
            "action": row.detail.rpartition(", ")[2],
            "expires_after": None if held is None else held.expires_after,
            "since": row.at,
        }
        return Change(row.at, row.kind, row.party, "hit", detail)

    def _withdrawn_at(self, made: _Made) -> int:
        own = made.source == self._source.name
        written = self._snapshot.figures.rows_at.get((made.shard, made.number)) if own else None
        return self._snapshot.at if written is None else written + SPREADING

    def _breaker_changes(self) -> Iterator[Change]:
        for row in self._snapshot.history:
            if row.kind == BREAKER_KIND and row.what in _BREAKER:
                source, _, rule = row.party.partition(".")
                yield Change(row.at, "", "", _BREAKER[row.what], {"rule": self._rule(source, rule)})

    def _acts(self) -> list[Act]:
        acts = [act for facts in self._snapshot.facts.values() for act in facts.acts.values()]
        return sorted(acts, key=lambda act: (act.at, act.id))

    def _moments(self) -> dict[Party, list[int]]:
        """When something changed for each party (of breakers: for the party ("", ""))."""
        found: dict[Party, list[int]] = {}
        for change in (*self._changes(late=True), *self._changes(late=False)):
            found.setdefault((change.kind, change.party), []).append(change.at)
        return found

    def _now(self, computed: Computed) -> Iterator[Change]:
        """The facts of now: of this source the hits that the oracle found, of others those that they hold."""
        snapshot = self._snapshot
        for source, rule in snapshot.breakers:
            yield Change(0, "", "", "breaker_open", {"rule": self._rule(source, rule)})
        expected = {
            f"{self._source.name}/{h.rule}/{h.interval_start}/{h.currency}/{h.kind}/{h.party}": h
            for h in computed.hits.values()
            if self._sees(h.key)
        }
        for name in expected.keys() | self._hits.keys():
            held, found = self._hits.get(name), expected.get(name)
            own = found is not None or (
                held is not None and held.source == self._source.name and self._sees(cell_key(held))
            )
            version = None if found is None else computed.rule_version(found.rule, found.version)
            detail: dict[str, object] = {"hit": name}
            if version is not None and found is not None:
                kind, party, since = found.kind, found.party, held.since if held is not None else 0
                action = "deny" if version.rule.denies else "review"
                detail |= {"rule": version.rule.name, "action": action, "expires_after": version.rule.expires_after}
            else:
                assert held is not None
                kind, party, since = held.kind, held.party, held.since
                rule = self._rule(held.source, held.rule)
                detail |= {"rule": rule, "action": held.action, "expires_after": held.expires_after}
            yield Change(since, kind, party, "hit", {**detail, "since": since})
            standing = found is not None if own else held is not None and held.status == "standing"
            if not standing:
                yield Change(since, kind, party, "withdrawn", {"hit": name})
        for act in self._acts():
            yield _of_act(act, {})


def listed_parties(snapshot: Snapshot) -> list[Party]:
    """The parties of which something stands, or stood, on a list."""
    return list(snapshot.facts)


def _of_act(act: Act, names: dict[str, list[str]]) -> Change:
    """A person's act; a lift or confirmation names every making of its hits, which the oracle knows as one each."""
    if act.act in ("lift", "confirm"):
        hits = [f"{h[0]}/{h[1]}/{h[4]}/{h[5]}/{h[2]}/{h[3]}" for h in act.hits]
        return Change(act.at, act.kind, act.party, act.act, {"hits": [n for h in hits for n in names.get(h, [h])]})
    if act.act == "remove":
        return Change(act.at, act.kind, act.party, "remove", {"list": act.list, "entry": act.target or ""})
    detail = {"list": "allowlist" if act.act == "allow" else "blacklist", "entry": act.id, "expires": act.expires_at}
    return Change(act.at, act.kind, act.party, "add", detail)


def _name(hit: Hit) -> str:
    return f"{hit.source}/{hit.rule}/{hit.interval_start}/{hit.currency}/{hit.kind}/{hit.party}"


def _taken_apart(row: HistoryRow) -> _Made | None:
    """A row about a hit: its id is `<shard>-<row>/<source>/<rule>/<interval start>/<currency>`."""
    if row.what not in ("hit", "withdrawn"):
        return None
    number, _, name = row.id.partition("/")
    shard, _, journal_row = number.partition("-")
    source = name.partition("/")[0]
    return _Made(row, int(shard), int(journal_row), source, f"{name}/{row.kind}/{row.party}")


def _listed(in_force: bool) -> Words:
    return Words("in force on the blacklist" if in_force else "not in force on the blacklist")


def caught_keys(snapshot: Snapshot) -> set[Key]:
    """The events that were caught late."""
    return {(c.partition, c.offset) for c in snapshot.caught}


def check_caught(snapshot: Snapshot, events: StoredEvents) -> Iterable[Difference]:
    """What is caught late was accepted."""
    for key in sorted(caught_keys(snapshot)):
        stored = events.stored(key)
        if stored is None or stored.verdict != "accepted":
            held = None if stored is None else Words(stored.verdict)
            yield Difference("caught_late", key, Words("an accepted event"), held)
