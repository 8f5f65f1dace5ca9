"""Counts parties by interval and keeps the rules: what it finds puts parties on the blacklist."""

from functools import partial
from typing import Any, ClassVar

from paystorm.chunk import EventChunk, Head, Refusal
from paystorm.errors import ConfigError
from paystorm.list_copy import ListCopy
from paystorm.shards import route_to
from paystorm.stores.index_tail import IndexTail
from paystorm.stores.retry import put_answer, still_asked
from paystorm.storm import ChunkBolt
from paystorm.verdicts import VerdictLog
from paystorm.windows.effects import Effects
from paystorm.windows.task import MAX_TOUCHES, Arrival, CountingTask

SETTLE_EVERY = 0.1
"""Seconds between two looks whether the warehouse has stored the events of a note, while there is more to count."""


class WindowCountBolt(ChunkBolt):
    """Gathers touches, counts them by `CountingTask`, and acknowledges them once what they caused is published."""

    outputs: ClassVar[list[Any]] = []

    def prepare(self) -> None:
        """Called before the first tuple."""
        log = self.here.resources.log
        self._index = IndexTail(self.tables, self.source.name)
        self._lists = ListCopy(self.tables, self.clock, refresh_ms=self.settings["refreshMs"])
        self._effects = Effects(
            self.source,
            self.tables,
            self._index.verdicts,
            partial(VerdictLog(log, self.source.name, self.source.topic).append_events, accepted=False),
            self.clock.monotonic,
        )
        siblings = self.tasks.get(self.component_name, [self.task_id])
        place = siblings.index(self.task_id)
        self._route = route_to(place, len(siblings))
        self._task = CountingTask(
            self.source,
            self.settings,
            self.tables,
            self.clock,
            lambda shards: [s for s in range(shards) if s % len(siblings) == place],
            self._effects,
            self._overruled,
        )
        self._clear()

    def _clear(self) -> None:
        self._held: list[tuple[Any, Arrival]] = []
        self._touches = self._records = 0
        self._since = 0.0
        self._unpublished: list[tuple[str, Head]] = []
        """Ids of tuples whose touches are counted: not the tuples, which would keep their chunks in memory."""
        self._settle_at = 0.0

    def handle(self, tup: Any) -> None:
        """Gather a chunk's touches; answer a refusal at once, behind all that came before it."""
        if tup.stream == "refusals":
            self._flush()
            self._answer(tup, self.chunk(Refusal, tup))
            return
        if tup.values[0] != self._route:
            raise ConfigError(f"{self.component_name}: touches of another task came: group the stream by route")
        chunk = self.chunk(EventChunk, tup)
        if self._touches + len(chunk.events) > MAX_TOUCHES:
            self._flush()
        if not self._held:
            self._since = self.clock.monotonic()
        self._held.append((tup, Arrival(chunk.head, chunk.events)))
        self._touches += len(chunk.events)
        self._records += chunk.head.after - chunk.head.first

    def flush_if_due(self) -> None:
        """Count what has been gathered where enough or long enough; acknowledge what has been published."""
        due = self.clock.monotonic() - self._since >= self.settings["flushMs"] / 1000
        try:
            if self._held and (due or self._records >= self.settings["flushRecords"]):
                self._flush()
            self._acknowledge()
        except Exception as error:  # it fails the tuples that are held, the last one among them: none of them twice
            self.failed_here(error)

    def due_in(self) -> float | None:
        """Seconds until what is held is to be counted, or what was counted may have become ready to acknowledge."""
        due = [SETTLE_EVERY] if self._unpublished else []
        if self._held:
            due.append(self._since + self.settings["flushMs"] / 1000 - self.clock.monotonic())
        return min(due, default=None)

    def drop(self, error: Exception) -> None:
        """Forget everything; every tuple that is held comes again."""
        held = [*(tup.id for tup, _ in self._held), *(tup_id for tup_id, _ in self._unpublished)]
        self._clear()
        self._task.forget()
        for tup_id in held:
            self.undone(tup_id)

    def _flush(self) -> None:
        if not self._held:
            return
        self._task.apply([arrival for _, arrival in self._held])
        self._unpublished += [(tup.id, arrival.head) for tup, arrival in self._held]
        self._held, self._touches, self._records = [], 0, 0

    def _acknowledge(self) -> None:
        now = self.clock.monotonic()
        if self._effects.waits() and (now >= self._settle_at or not self._held):
            self._effects.settle()
            self._settle_at = now + SETTLE_EVERY
        published, waiting = [], []
        for tup_id, head in self._unpublished:
            waits = self._effects.waits_for(head)
            (waiting if waits else published).append((tup_id, head))
        self._unpublished = waiting
        for tup_id, _ in published:
            self.done(tup_id)

    def _answer(self, tup: Any, asked: Refusal) -> None:
        """Refuse an offset, or take it back, in every shard of this task; say durably which hold it."""
        head, name = asked.head, self.source.name
        if asked.lift or still_asked(self.tables, name, head.partition, asked.offset):
            held = self._task.refuse(head, asked.offset, asked.lift)
            if not asked.lift:
                for shard in sorted(held):
                    put_answer(self.tables, name, head.partition, asked.offset, f"counts/{shard}", held=held[shard])
        self.done(tup)

    def _overruled(self, kind: str, standing: dict[str, int], now: int) -> set[str]:
        """The parties of whose hits of this source an act, an expiry or a breaker keeps all from denying."""
        copy = self._lists
        copy.ensure_fresh(self.settings["refreshBoundMs"])
        # Nothing but an act, an expiry or a breaker takes a standing hit its force.
        asked = standing if copy.open_breakers else [party for party in standing if (kind, party) in copy.special]
        return {party for party in asked if self._is_overruled(kind, party, standing[party], now)}

    def _is_overruled(self, kind: str, party: str, standing: int, now: int) -> bool:
        facts = self._lists.party_facts(kind, party)
        if facts is None:
            return False
        if facts.allowed(now):
            return True
        mine = [h for h in facts.hits.values() if h.source == self.source.name and h.status == "standing"]
        # A hit that the copy has not heard of yet was made a moment ago: no act can name it.
        known = [h for h in mine if h.action == "deny"]
        return len(known) >= standing and not any(facts.hit_in_force(h, now, self._lists.open_breakers) for h in known)
