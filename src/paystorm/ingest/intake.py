"""The intake: events gathered into groups, each id once, one append a group, answered when the log has them.

All decisions are made in the event loop, one group after the other: so the same id twice, in one batch or from two
connections, is one record. Only the waiting for the log is done in threads.
"""

import asyncio
import itertools
import logging
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from paystorm.clock import SECOND, Clock
from paystorm.errors import LogError, PaystormError, RecordTooLargeError
from paystorm.ingest.catching_up import Found, note, read_on, record_at
from paystorm.ingest.envelope import Prepared, Route, data_of, same_content
from paystorm.ingest.ids import IdStore, Place
from paystorm.ingest.metrics import Metrics
from paystorm.ingest.problems import Problem
from paystorm.ingest.settings import IngestSettings
from paystorm.log.base import ColumnLog, Log, OutRecord

GROUP_RECORDS = 5_000
"""Records of one group, at most: deciding on a group holds the event loop."""
GROUP_BYTES = 16 << 20
WRITERS = 4
"""Threads that append: the syncs of several partitions go at once."""
CHECK_SECONDS = 1.0
"""Seconds for which a topic is believed to be the one that was read."""
RETRY_AFTER = 2
"""Seconds after which a client should try again what was refused with 503."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_logger = logging.getLogger(__name__)


class Accepted(NamedTuple):
    """The answer to an event that is in the log."""

    id: str
    topic: str
    partition: int
    offset: int


Answer = Accepted | Problem


@dataclass(slots=True)
class _Parcel:
    """Events that came together, and the answers that they wait for."""

    events: Sequence[Prepared]
    size: int
    answers: asyncio.Future[list[Answer]]


@dataclass(slots=True)
class _Group:
    """What is decided on at once."""

    events: list[Prepared]
    answers: list[Answer | None]
    new: dict[bytes, int] = field(default_factory=dict)
    """The index of the first event of each id that is to be appended."""
    repeats: list[int] = field(default_factory=list)
    """Events whose id stands earlier in the group."""
    doubtful: list[tuple[int, Place]] = field(default_factory=list)
    """Events whose id has been taken with other bytes."""


_Slot = tuple[str, int]


class Intake:
    """Takes events for the log. `start` before, `stop` after."""

    def __init__(
        self,
        log: Log,
        clock: Clock,
        store: IdStore,
        routes: Mapping[str, Route],
        settings: IngestSettings,
        metrics: Metrics,
    ) -> None:
        self._log = log
        self._clock = clock
        self._store = store
        self._routes = list(routes.values())
        self._topics = sorted({route.topic for route in self._routes})
        self._settings = settings
        self._metrics = metrics
        self._waiting: deque[_Parcel] = deque()
        self.queued = 0
        """Records that wait."""
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._threads = ThreadPoolExecutor(WRITERS, thread_name_prefix="ingest-log")
        self._turn = itertools.count()
        self._partitions: dict[str, int] = {}
        self._topic_ids: dict[str, str | None] = {}
        self.down: str | None = "the ids are being read from the log"
        """Why nothing is taken now; None: all is well."""
        self._worker: asyncio.Task[None] | None = None
        self._stopping = False
        self._checked_at = 0.0

    # Life

    async def start(self) -> None:
        """Read the log from the checkpoints to its end, then take events. Raises LogError."""
        await self._catch_up(self._topics)
        self.down = None
        self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Finish what was taken; then nothing is taken any more."""
        self._stopping = True
        self._wake.set()
        if self._worker is not None:
            await self._worker
        self._threads.shutdown()

    async def _catch_up(self, topics: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        for topic in topics:
            count = await loop.run_in_executor(self._threads, self._log.partitions, topic)
            self._topic_ids[topic] = await loop.run_in_executor(self._threads, self._log.topic_id, topic)
            for partition in range(count):
                held = self._store.checkpoint(topic, partition)
                pieces = read_on(self._log, topic, partition, held, self._routes, self._store.oldest())

                def following(pieces: "object" = pieces) -> Found | None:
                    return next(pieces, None)  # type: ignore[call-overload,no-any-return]

                while (found := await loop.run_in_executor(self._threads, following)) is not None:
                    note(self._store, found)
                    while not self._store.room() and self._store.freeze():
                        await asyncio.sleep(0.05)  # until the table has been written
            self._partitions[topic] = count

    async def _recover(self, topics: Sequence[str]) -> None:
        """After an append that failed: what of it is in the log is known only by reading it."""
        pause = _FIRST_PAUSE
        while not self._stopping:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                await self._catch_up(topics)
            except PaystormError as error:
                self.down = f"the log cannot be used: {error}"
                continue
            self.down = None
            _logger.warning("the log can be used again")
            return

    # Taking

    def submit(self, events: Sequence[Prepared]) -> asyncio.Future[list[Answer]]:
        """Take events: the answer of each, once the log has them. Raises Problem where nothing can be taken now."""
        if self._stopping:
            raise Problem("unavailable", "the service is being stopped", RETRY_AFTER)
        if self.down is not None:
            raise Problem("unavailable", self.down, RETRY_AFTER)
        size = sum(len(event.value) for event in events)
        full = self.queued + len(events) > self._settings.max_queue_records
        if self.queued and (full or self._queued_bytes + size > self._settings.max_queue_bytes):
            raise Problem("unavailable", "the queue before the log is full", RETRY_AFTER)
        answers: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Parcel(events, size, answers))
        self.queued += len(events)
        self._queued_bytes += size
        self._wake.set()
        return answers

    async def _work(self) -> None:
        while True:
            if not self._waiting:
                if self._stopping:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            parcels = self._take()
            try:
                await self._settle(parcels)
            except Exception:  # whatever it is, nobody may wait for ever, and the next group has its chance
                _logger.exception("a group of events failed")
                problem = Problem(
                    "internal", "the service failed; what became of the event is not known: send it again"
                )
                for parcel in parcels:
                    if not parcel.answers.done():
                        parcel.answers.set_result([problem] * len(parcel.events))

    def _take(self) -> list[_Parcel]:
        parcels: list[_Parcel] = []
        records = size = 0
        while self._waiting and (not parcels or records + len(self._waiting[0].events) <= GROUP_RECORDS):
            if parcels and size + self._waiting[0].size > GROUP_BYTES:
                break
            parcel = self._waiting.popleft()
            parcels.append(parcel)
            records += len(parcel.events)
            size += parcel.size
        self.queued -= records
        self._queued_bytes -= size
        return parcels

    async def _settle(self, parcels: Sequence[_Parcel]) -> None:
        group = self._decide([event for parcel in parcels for event in parcel.events])
        if group.new:
            await self._append(group)
        for i, place in group.doubtful:
            group.answers[i] = await self._compare(group.events[i], place)
        for i in group.repeats:
            group.answers[i] = self._repeat(group, i)
        at = 0
        for parcel in parcels:
            answers = group.answers[at : at + len(parcel.events)]
            at += len(parcel.events)
            if not parcel.answers.done():  # else the client has gone
                parcel.answers.set_result(answers)  # type: ignore[arg-type]  # every event has its answer by now

    def _decide(self, events: list[Prepared]) -> _Group:
        group = _Group(events, [None] * len(events))
        answers, new = group.answers, group.new
        places = self._store.find([event.key for event in events])
        room = self._store.room()
        for i, (event, place) in enumerate(zip(events, places, strict=True)):
            if place is not None:
                if place.content == event.content:
                    answers[i] = Accepted(event.id, place.topic, place.partition, place.offset)
                else:
                    group.doubtful.append((i, place))
            elif event.key in new:
                group.repeats.append(i)
            elif len(new) >= room:
                text = "the id store is full: none is forgotten before its time"
                answers[i] = Problem("unavailable", text, 60)
            elif self.down is not None:
                answers[i] = Problem("unavailable", self.down, RETRY_AFTER)
            else:
                new[event.key] = i
        self._metrics.repeats.inc(sum(a is not None and type(a) is Accepted for a in answers) + len(group.repeats))
        return group

    def _repeat(self, group: _Group, i: int) -> Answer:
        """The answer to an event whose id came earlier in its group: that of the first."""
        event = group.events[i]
        first = group.new[event.key]
        held = group.events[first]
        answer = group.answers[first]
        assert answer is not None
        if isinstance(answer, Problem) and held.content != event.content:
            # It was not taken, so there is nothing to differ from
            return Problem("unavailable", "an event with this id came just before and was not taken", RETRY_AFTER)
        if held.content != event.content and not same_content(data_of(held.value) or b"", data_of(event.value) or b""):
            return _conflict(event)
        return answer

    async def _compare(self, event: Prepared, place: Place) -> Answer:
        """The answer to an event whose id is taken with other bytes: perhaps they say the same."""
        loop = asyncio.get_running_loop()
        where = place.topic, place.partition, place.offset
        try:
            held = await loop.run_in_executor(self._threads, record_at, self._log, *where)
        except LogError as error:
            return Problem("unavailable", f"the id is taken, perhaps by this event: {error}", RETRY_AFTER)
        first = data_of(held) if held is not None else None
        own = data_of(event.value)
        if first is not None and own is not None and same_content(first, own):
            return Accepted(event.id, *where)
        return _conflict(event)

    # Appending

    async def _append(self, group: _Group) -> None:
        slots: dict[_Slot, list[int]] = {}
        partitions, turn = self._partitions, self._turn
        for i in group.new.values():
            event = group.events[i]
            topic = event.route.topic
            count = partitions[topic]
            number = next(turn) % count if event.party is None else zlib.crc32(event.party) % count
            slots.setdefault((topic, number), []).append(i)
        loop = asyncio.get_running_loop()
        at = self._clock.now() // SECOND
        began = loop.time()
        try:
            await self._check_topics(began)
        except PaystormError as error:
            for (topic, _), members in slots.items():
                self._refuse(group, members, topic)
            self._fail(dict.fromkeys(self._topics, str(error)))
            return
        work = [
            loop.run_in_executor(self._threads, self._write, slot, [group.events[i] for i in members])
            for slot, members in slots.items()
        ]
        done = await asyncio.gather(*work, return_exceptions=True)
        self._metrics.append_seconds.observe(loop.time() - began)
        failed: dict[str, str] = {}
        for (slot, members), offsets in zip(slots.items(), done, strict=True):
            topic, partition = slot
            if isinstance(offsets, BaseException):
                if not isinstance(offsets, PaystormError):
                    _logger.error("append to %s/%d", topic, partition, exc_info=offsets)
                failed[topic] = str(offsets)
                self._refuse(group, members, topic)
                continue
            events = group.events
            placed = [(i, offset) for i, offset in zip(members, offsets, strict=True) if offset is not None]
            if len(placed) < len(members):
                for i in set(members) - {i for i, _ in placed}:
                    text = f"the log takes no record of {len(events[i].value):,} bytes (topic {topic})"
                    group.answers[i] = Problem("too_large", text)
            for i, offset in placed:
                group.answers[i] = Accepted(events[i].id, topic, partition, offset)
            self._store.add(topic, partition, ((events[i].key, events[i].content, o, at) for i, o in placed))
            if placed:
                self._store.move(topic, self._topic_ids[topic], partition, placed[-1][1] + 1)
        if failed:
            self._fail(failed)

    async def _check_topics(self, now: float) -> None:
        """Raises LogError where a topic is another one than was read: looked at once a second."""
        if now - self._checked_at < CHECK_SECONDS:
            return
        loop = asyncio.get_running_loop()
        for topic, known in self._topic_ids.items():
            if await loop.run_in_executor(self._threads, self._log.topic_id, topic) != known:
                raise LogError(f"topic {topic}: was deleted and made anew")
        self._checked_at = now

    def _write(self, slot: _Slot, events: Sequence[Prepared]) -> Sequence[int | None]:
        """Append to one partition; the offset of each, None of those that are too long for the log. Raises LogError."""
        left = list(range(len(events)))
        while left:
            try:
                offsets = self._write_all(slot, [events[i] for i in left])
            except RecordTooLargeError as error:
                refused = {left[i] for i in error.records}
                assert refused
                left = [i for i in left if i not in refused]
                continue
            if len(left) == len(events):
                return offsets
            placed = dict(zip(left, offsets, strict=True))
            return [placed.get(i) for i in range(len(events))]
        return [None] * len(events)

    def _write_all(self, slot: _Slot, events: Sequence[Prepared]) -> Sequence[int]:
        """Append to one partition; the offset of each. Raises LogError."""
        topic, partition = slot
        log = self._log
        keys = [event.party for event in events]
        if not isinstance(log, ColumnLog) or None in keys:
            places = log.append(topic, [OutRecord(event.value, event.party, partition) for event in events])
            return [offset for _, offset in places]
        values = [event.value for event in events]
        lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
        values.append(b"")
        offsets = log.append_keyed(topic, partition, b"\n".join(values), lengths, keys)  # type: ignore[arg-type]
        told: list[int] = offsets.tolist()
        return told

    def _refuse(self, group: _Group, members: Sequence[int], topic: str) -> None:
        problem = Problem("unavailable", f"the log did not take it (topic {topic}): send it again", RETRY_AFTER)
        for i in members:
            group.answers[i] = problem

    def _fail(self, failed: Mapping[str, str]) -> None:
        self.down = f"the log cannot be used: {next(iter(failed.values()))}"
        _logger.error("%s", self.down)
        self._metrics.log_failures.inc()
        self._recovery = asyncio.create_task(self._recover(sorted(failed)))


def _conflict(event: Prepared) -> Problem:
    return Problem("conflict", f"id {event.id!r} has been taken by an event with other data", extra={"id": event.id})
