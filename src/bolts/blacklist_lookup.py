"""The bolt that denies: it looks up the parties of each event on the lists, and sends touches to the counting tasks."""

from collections import deque
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
from streamparse import Stream

from paystorm.chunk import EventChunk, Head
from paystorm.errors import FencedError, TablesError
from paystorm.list_copy import Covered, ListCopy, hashes_of
from paystorm.lists import RuleName
from paystorm.rows import FEW
from paystorm.shards import route_to
from paystorm.source import Party
from paystorm.stores.lists import open_breaker, register_source
from paystorm.stores.versions import load_versions
from paystorm.storm import ChunkBolt
from paystorm.touches import TouchPlan, columns_read

COUNTS = "counts"
"""The name of the counting component in every topology."""
SHARDS = "shards"
"""The stream of touches, by the counting task that has their shards."""

DECISION: dict[str, Any] = {
    "decided_at": pl.Datetime("us"),
    "verdict": pl.String,
    "verdict_reason": pl.String,
    "entry_kind": pl.String,
    "entry_party": pl.String,
    "would_deny": pl.Boolean,
}
"""The columns of a decision."""
_ACCEPTED = [
    pl.Series(name, ["accepted" if name == "verdict" else None], dtype=DECISION[name])
    for name in DECISION
    if name != "decided_at"
]
"""Those behind decided_at, of an event that nothing covers."""
_NO_PARTY = pl.Series("", [None], dtype=pl.String)

Matches = list[tuple[str, Covered]]
"""(kind, covered rows of one of the declared parties), in the order in which parties are declared; none empty."""


class BlacklistLookupBolt(ChunkBolt):
    """Decides: an event is denied where an entry in force covers one of its parties, and the source enforces.

    Adds the columns decided_at, verdict, verdict_reason, entry_kind, entry_party, would_deny. In a source that only
    watches the verdict stays accepted, and the entry says which case the event joins.
    """

    outputs: ClassVar[list[Any]] = [
        Stream(fields=["partition", "chunk"]),
        Stream(fields=["route", "chunk"], name=SHARDS),
    ]

    def prepare(self) -> None:
        """An empty copy of the lists; it is loaded with the first chunk."""
        self._copy = ListCopy(self.tables, self.clock, refresh_ms=self.settings["refreshMs"])
        self._bound_ms: int = self.settings["refreshBoundMs"]
        self._parties = [(party, self._kinds_of(party)) for party in self.source.parties]
        self._registered = False
        self._plan: TouchPlan | None = None
        self._read: frozenset[str] = frozenset()
        self._generation = -1
        self._shards = 0
        share = self.settings["breakerShare"]
        self._breaker = (
            None
            if share is None or not self.source.enforces
            else BreakerWindow(share, self.settings["breakerMinEvents"])
        )

    def handle(self, tup: Any) -> None:
        """Decide a chunk. Raises StaleCopyError or TablesError, with nothing sent, where it cannot be decided now."""
        chunk = self.chunk(EventChunk, tup)
        plan = self._plan_for(chunk.head)
        self._copy.ensure_fresh(self._bound_ms)
        now = self.clock.now()
        events = chunk.having(self._read)
        matches = self._matches(events, now)
        decided = self._decided(chunk, matches, now)
        tasks = len(self.tasks.get(COUNTS, ()))
        parts = plan.split(plan.touches(decided.having(self._read | DECISION.keys())), self._shards, tasks)
        self._watch_breakers(events.height, matches)
        self.send(decided, chunk.head.partition, anchor=tup)
        for task, touches in parts:
            self.send(EventChunk(chunk.head, touches), route_to(task, tasks), anchor=tup, stream=SHARDS)
        self.done(tup)

    def _plan_for(self, head: Head) -> TouchPlan:
        """The plan for the rules of all versions, those that the spout knows included."""
        if self._plan is None or head.generation > self._generation:
            if not self._registered:
                register_source(self.tables, self.source.name)
                self._registered = True
            versions = load_versions(self.tables, self.source.name)
            if not versions or versions[-1].number < head.generation:
                raise TablesError(
                    f"{self.source.name}.versions: version {head.generation} is not there yet; trying again"
                )
            rules = [rule for version in versions for rule in version.rules]
            self._plan, self._read = TouchPlan(self.source, rules), columns_read(self.source, rules)
            self._generation, self._shards = versions[-1].number, versions[0].shards
        if head.generation < self._generation:
            raise FencedError(
                f"source {self.source.name}: a spout of version {head.generation} is still running; "
                f"version {self._generation} has taken its place"
            )
        return self._plan

    def _matches(self, events: pl.DataFrame, now: int) -> Matches:
        """Every covered party of every event."""
        matches: Matches = []
        parties = self._parties_covered(now)
        if not parties or events.is_empty():
            return matches
        hashes = hashes_of(events, [party.field for party, _ in parties]) if events.height > FEW else {}
        for party, kinds in parties:
            ids = events.get_column(party.field)
            said = events.get_column(party.kind_field) if party.kind_field is not None else None
            unsaid = said is None or said.null_count() == len(said)
            for kind in (kind for kind in kinds if not unsaid or kind == party.kind):
                found = self._copy.covers(kind, ids, hashes.get(party.field), now)
                if len(found) and said is not None and not unsaid:
                    mine = said[pl.Series(found.rows.astype(np.uint32))].fill_null(party.kind) == kind
                    found = found.at(mine.to_numpy())
                if len(found):
                    matches.append((kind, found))
        return matches

    def _kinds_of(self, party: Party) -> list[str]:
        """The kinds that a declared party may have."""
        values = self.source.field(party.kind_field).values if party.kind_field is not None else ()
        return list(dict.fromkeys((party.kind, *values)))

    def _parties_covered(self, now: int) -> list[tuple[Party, list[str]]]:
        """The declared parties that may be covered, with the kinds that they may be covered as."""
        covered = self._copy.kinds_covered(now)
        if not covered:
            return []
        known = ((party, [kind for kind in kinds if kind in covered]) for party, kinds in self._parties)
        return [(party, kinds) for party, kinds in known if kinds]

    def _decided(self, chunk: EventChunk, matches: Matches, now: int) -> EventChunk:
        """The chunk with the columns of the decision.

        The first party that an entry denies decides; where none is denied, the first that would be.
        """
        height = chunk.having(()).height
        at = pl.Series("decided_at", [now], dtype=pl.Int64).cast(DECISION["decided_at"]).new_from_index(0, height)
        columns = self._columns(matches, height) if matches else [one.new_from_index(0, height) for one in _ACCEPTED]
        if not DECISION.keys().isdisjoint(chunk.columns):
            chunk = EventChunk(chunk.head, chunk.events.drop(DECISION, strict=False))
        return chunk.adding(pl.DataFrame([at, *columns]))

    def _columns(self, matches: Matches, height: int) -> list[pl.Series]:
        """The columns of the decision behind decided_at."""
        covers = self._copy.distinct
        rows = np.concatenate([found.rows for _, found in matches])
        numbers = np.concatenate([found.covers for _, found in matches])
        would_deny = np.array([cover.would_deny for cover in covers], dtype=np.bool_)
        order = np.lexsort((would_deny[numbers], rows))  # stable: among equals the party that is declared first
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = rows[order[1:]] != rows[order[:-1]]
        deciding = order[first]
        denies = self.source.enforces
        verdicts = ["denied" if denies and not cover.would_deny else "accepted" for cover in covers]
        kinds = np.repeat(np.arange(len(matches)), [len(found) for _, found in matches])
        tables = {
            "verdict": (["accepted", *verdicts], numbers),
            "verdict_reason": ([None, *(cover.reason for cover in covers)], numbers),
            "entry_kind": ([None, *(kind for kind, _ in matches)], kinds),
            "entry_party": (
                pl.concat([_NO_PARTY, *(found.ids.alias("") for _, found in matches)]),
                np.arange(len(rows)),
            ),
            "would_deny": ([None, *(cover.would_deny or None for cover in covers)], numbers),
        }
        return [
            pl.Series(name, values, dtype=DECISION[name])[_places(rows[deciding], of_matches[deciding], height)]
            for name, (values, of_matches) in tables.items()
        ]

    def _watch_breakers(self, events: int, matches: Matches) -> None:
        """Count what rules deny, and open the breaker of one that is past the share."""
        if self._breaker is None:
            return
        rows_of: dict[RuleName, list[npt.NDArray[np.int64]]] = {}
        for _, found in matches:
            for number in np.unique(found.covers).tolist():
                for name in self._copy.distinct[number].rules:
                    rows_of.setdefault(name, []).append(found.rows[found.covers == number])
        counts = {name: len(np.unique(np.concatenate(rows))) for name, rows in rows_of.items()}
        past = self._breaker.count(self.clock.monotonic(), events, counts, self._copy.open_breakers)
        for (source, rule), share in past:
            by = f"{self.source.name} look-up"
            if open_breaker(self.tables, source=source, rule=rule, now=self.clock.now(), by=by, share=share):
                self.logger.error("breaker of %s.%s opened: it denied %.1f%% of events", source, rule, share * 100)


def _places(rows: npt.NDArray[np.int64], values: npt.NDArray[np.integer[Any]], height: int) -> pl.Series:
    """For each of `height` events its place in a table whose place 0 is for those without a match."""
    places = np.zeros(height, dtype=np.uint32)
    places[rows] = values + 1
    return pl.Series(places)


class BreakerWindow:
    """What each rule's entries denied of all events, over the last minute, by the second."""

    SECONDS = 60

    def __init__(self, share: float, min_events: int) -> None:
        self._share = share
        self._min_events = min_events
        self._seconds: deque[tuple[int, dict[RuleName | None, int]]] = deque()
        """(second, events by rule that denied them); all events under None."""
        self._totals: dict[RuleName | None, int] = {}
        self._open: frozenset[RuleName] = frozenset()

    def count(
        self, monotonic: float, events: int, denied: dict[RuleName, int], open_breakers: frozenset[RuleName]
    ) -> list[tuple[RuleName, float]]:
        """Add a chunk, and give each rule past the share whose breaker is not open, with its share."""
        if self._open - open_breakers:
            # Somebody closed a breaker: what was denied before is no reason to open it again.
            self._seconds.clear()
            self._totals.clear()
        self._open = open_breakers
        second = int(monotonic)
        while self._seconds and self._seconds[0][0] <= second - self.SECONDS:
            self._add(self._seconds.popleft()[1], -1)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, {}))
        held = self._seconds[-1][1]
        more: dict[RuleName | None, int] = {None: events}
        more.update(denied.items())
        for rule, figure in more.items():
            held[rule] = held.get(rule, 0) + figure
        self._add(more, 1)
        total = self._totals[None]
        if total < self._min_events:
            return []
        shares = [(rule, figure / total) for rule, figure in self._totals.items() if rule is not None]
        return [(rule, share) for rule, share in shares if share > self._share and rule not in open_breakers]

    def _add(self, figures: dict[RuleName | None, int], sign: int) -> None:
        for rule, figure in figures.items():
            total = self._totals.get(rule, 0) + sign * figure
            if total or rule is None:
                self._totals[rule] = total
            else:
                self._totals.pop(rule, None)
