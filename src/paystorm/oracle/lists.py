"""When a party was in force on the blacklist, from the append-only history (decisions/0001, points 8 to 10)."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from paystorm.oracle.compute import Computed
from paystorm.oracle.model import Change, Crossing, Denied, Difference, Key, OracleError, Stored, Words

SECOND = 1_000_000
Piece = tuple[int, int | None]
"""A span of time [from, to) in microseconds; None: without end."""
Party = tuple[str, str]

_BREAKER = frozenset({"breaker_open", "breaker_closed"})
_LOOSENS = frozenset({"withdrawn", "lift", "confirm", "add", "remove", "expire"})
"""After one of these an event after the crossing may have been let through rightly."""


@dataclass(slots=True)
class _HitState:
    rule: str
    denies: bool
    expires: int | None
    standing: bool = True
    expired: bool = False


@dataclass(slots=True)
class _State:
    """The state of one party's lists at a moment."""

    hits: dict[str, _HitState] = field(default_factory=dict)
    acts: dict[str, str] = field(default_factory=dict)
    """The last act (`lift`, `confirm`) that names the hit."""
    entries: dict[tuple[str, str], int | None] = field(default_factory=dict)
    """Expiry of each entry made by a person, by list and entry."""
    open: set[str] = field(default_factory=set)
    """Rules whose breaker is open."""

    def apply(self, change: Change) -> None:
        detail = change.detail
        match change.what:
            case "hit":
                self._hit(change)
            case "withdrawn":
                if detail["hit"] in self.hits:
                    self.hits[detail["hit"]].standing = False
            case "lift" | "confirm":
                self.acts.update(dict.fromkeys(detail["hits"], change.what))
            case "add":
                self.entries[detail["list"], detail.get("entry", "")] = detail.get("expires")
            case "remove":
                self.entries.pop((detail["list"], detail.get("entry", "")), None)
            case "expire":
                if "hit" not in detail:
                    self.entries.pop((detail["list"], detail.get("entry", "")), None)
                elif detail["hit"] in self.hits:
                    self.hits[detail["hit"]].expired = True
            case "breaker_open":
                self.open.add(detail["rule"])
            case "breaker_closed":
                self.open.discard(detail["rule"])
            case _:
                raise OracleError(f"history: no change is called {change.what!r} (of {change.kind} {change.party})")

    def _hit(self, change: Change) -> None:
        # Made again, it is the same row with a new `since`, from which its expiry counts (point 11), and does what the
        # version says by which it holds now.
        detail = change.detail
        after = detail.get("expires_after")
        expires = None if after is None else detail.get("since", change.at) + after * SECOND
        self.hits[detail["hit"]] = _HitState(detail["rule"], detail["action"] == "deny", expires)

    def in_force(self, at: int) -> bool:
        """Point 9 of 0001."""
        people = {name for (name, _), expires in self.entries.items() if expires is None or at < expires}
        if "allowlist" in people:
            return False
        return "blacklist" in people or any(self._lists(name, hit, at) for name, hit in self.hits.items())

    def _lists(self, name: str, hit: _HitState, at: int) -> bool:
        act = self.acts.get(name)
        listed = hit.denies and (act == "confirm" or (hit.standing and act != "lift"))
        ended = hit.expired or (hit.expires is not None and at >= hit.expires)
        return listed and not ended and hit.rule not in self.open

    def expiries(self) -> Iterator[int]:
        """The moments at which something expires."""
        yield from (expires for expires in self.entries.values() if expires is not None)
        yield from (hit.expires for hit in self.hits.values() if hit.expires is not None)


class ListHistory:
    """The history of the lists, asked by party. Rows of one microsecond stand in the order in which they were added."""

    def __init__(self, history: Iterable[Change]) -> None:
        self._changes: dict[Party, list[tuple[int, int, Change]]] = {}
        self._breakers: list[tuple[int, int, Change]] = []
        for number, change in enumerate(history):
            row = (change.at, number, change)
            if change.what in _BREAKER:
                self._breakers.append(row)
            else:
                self._changes.setdefault((change.kind, change.party), []).append(row)
        self._pieces: dict[Party, list[Piece]] = {}

    def in_force_within(self, kind: str, party: str, first: int, last: int) -> bool:
        """Whether the party was in force on the blacklist at some moment of [first, last], microseconds."""
        pieces = self._in_force(kind, party)
        after = bisect_right(pieces, last, key=lambda piece: piece[0])
        # A piece of no length is a moment too: hit and withdrawal of one microsecond.
        return any(end is None or end > first or start == end == first for start, end in pieces[:after])

    def in_force_at(self, kind: str, party: str, at: int) -> bool:
        """Whether the party was in force on the blacklist at a moment, microseconds."""
        return any(start <= at and (end is None or at < end) for start, end in self._in_force(kind, party))

    def in_force_throughout(self, kind: str, party: str, first: int, last: int) -> bool:
        """Whether the party was in force on the blacklist at every moment of [first, last], microseconds.

        False also where something loosened it meanwhile, were it for less than a microsecond.
        """
        loosened = [at for at, _, change in self._changes.get((kind, party), []) if change.what in _LOOSENS]
        loosened += [at for at, _, change in self._breakers if change.what == "breaker_open"]
        if any(first <= at <= last for at in loosened):
            return False
        return any(start <= first and (end is None or end > last) for start, end in self._in_force(kind, party))

    def loosened(self, kind: str, party: str, rule: str, expires_after: int | None) -> int | None:
        """The first moment of an act, withdrawal, expiry or opened breaker for the party or rule; None without one.

        expires_after: seconds from the rule's hit to the expiry of its entry, where the rule sets it.
        """
        moments = [at for at, _, change in self._changes.get((kind, party), []) if change.what in _LOOSENS]
        moments += [at for at, _, c in self._breakers if c.what == "breaker_open" and c.detail["rule"] == rule]
        for at, _, change in self._changes.get((kind, party), []):
            if change.what == "hit" and change.detail["rule"] == rule:
                after = change.detail.get("expires_after", expires_after)
                if after is not None:
                    moments.append(change.detail.get("since", at) + after * SECOND)
        return min(moments, default=None)

    def _in_force(self, kind: str, party: str) -> list[Piece]:
        if (kind, party) not in self._pieces:
            self._pieces[kind, party] = self._compute(kind, party)
        return self._pieces[kind, party]

    def _compute(self, kind: str, party: str) -> list[Piece]:
        own = self._changes.get((kind, party), [])
        if not own:
            return []
        rules = {c.detail["rule"] for _, _, c in own if c.what == "hit"}
        rows = sorted([*own, *(row for row in self._breakers if row[2].detail["rule"] in rules)], key=lambda r: r[:2])
        state = _State()
        pieces: list[Piece] = []
        for place, (at, _, change) in enumerate(rows):
            state.apply(change)
            following = rows[place + 1][0] if place + 1 < len(rows) else None
            expiries = {e for e in state.expiries() if e > at and (following is None or e < following)}
            moments = [at, *sorted(expiries)]
            for start, end in zip(moments, [*moments[1:], following], strict=True):
                if not state.in_force(start):
                    continue
                if pieces and pieces[-1][1] == start:
                    pieces[-1] = (pieces[-1][0], end)
                else:
                    pieces.append((start, end))
        return pieces


def check_denied(denied: Iterable[Denied], history: ListHistory, bound: int) -> Iterator[Difference]:
    """Of each denied event: at a moment within `bound` (microseconds) of its decision a party of it was in force."""
    for event in denied:
        first, last = event.decided_at - bound, event.decided_at + bound
        if not any(history.in_force_within(kind, party, first, last) for kind, party in event.parties):
            yield Difference(
                "denied",
                (event.partition, event.offset),
                Words("an entry in force on the blacklist"),
                Words(f"denied by {event.entry!r} at {event.decided_at} with none in force"),
            )


def check_crossings(
    computed: Computed,
    crossings: Iterable[Crossing],
    stored: Mapping[Key, Stored] | Callable[[Key], Stored | None],
    caught_late: AbstractSet[Key],
    *,
    history: ListHistory,
    bound: int | None = None,
) -> Iterator[Difference]:
    """Of each standing deny hit of an enforcing source: every event after the crossing was denied or caught late.

    stored: the stored events, as a mapping or a function of partition and offset; one that is not stored is left to
    the comparison of event rows. Where a person, an expiry or a breaker ever loosened the entry nothing is asked: an
    event decided before may have been applied after (its range was sent again), and when is not on record. A simulator
    that knows gives that time as `decided_at`, and a bound, µs: events before (the loosening − bound) are asked for.
    """
    if not computed.source.get("enforces", False):
        return
    look_up = stored if callable(stored) else stored.get
    for crossing in crossings:
        hit = computed.hits.get(crossing.key)
        version = None if hit is None else computed.rule_version(hit.rule, hit.version)
        if version is None or not version.rule.denies:
            continue
        rule = version.rule
        loosened = history.loosened(crossing.kind, crossing.party, rule.name, rule.expires_after)
        if loosened is not None and bound is None:
            continue
        asked_until = None if loosened is None or bound is None else loosened - bound
        for key in computed.events_of(crossing.kind, crossing.party):
            if _within(crossing.before, key) or key in caught_late:
                continue
            event = look_up(key)
            if event is None or event.verdict == "denied":
                continue
            if asked_until is None or event.decided_at < asked_until:
                yield Difference("after_crossing", (*crossing.key, *key), Words("denied or caught late"), event.verdict)


def _within(ranges: Mapping[int, Any], key: Key) -> bool:
    partition, offset = key
    return any(first <= offset < following for first, following in ranges.get(partition, ()))
