"""Verdicts on the way back: by id, with a wait where one is wanted, and as a stream for an application."""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from paystorm.clock import Clock
from paystorm.errors import PaystormError
from paystorm.ingest.envelope import Route
from paystorm.ingest.ids import IdStore, Place
from paystorm.ingest.metrics import Metrics
from paystorm.ingest.problems import Problem
from paystorm.ingest.verdict_index import VerdictIndex
from paystorm.log.base import Log
from paystorm.stores.checkpoints import load_checkpoint
from paystorm.stores.letters import claims_on
from paystorm.stores.retry import load_parked
from paystorm.tables.base import Tables

LOOK = 0.1
"""Seconds between two looks at the verdict topics."""
LOOK_AGAIN = 0.5
"""Seconds after which a long-poll asks the tables again."""
LOOK_UP = 0.5
"""Seconds after which a stream without verdicts looks whether it goes on."""
TIDY_SECONDS = 600.0
BEAT = 15.0
"""Seconds without a verdict after which a stream sends a comment, so that nobody on the way takes it for dead."""
MAX_CURSOR = 65_536
"""Characters of a cursor, at most."""
_CURSOR = re.compile(r"[0-9]{1,5}:[0-9]{1,18}(,[0-9]{1,5}:[0-9]{1,18})*")
MAX_REPLAYS = 100
_AT_ONCE = 2000
_AT_ONCE_BYTES = 1 << 20
_logger = logging.getLogger(__name__)


class _Whose(msgspec.Struct, gc=False):
    ApplicationRef: str | None = None


_whose = msgspec.json.Decoder(_Whose).decode


class Verdicts:
    """The verdicts of all sources that applications send to."""

    def __init__(
        self,
        log: Log,
        tables: Tables,
        clock: Clock,
        store: IdStore,
        routes: Mapping[str, Route],
        folder: Path,
        hours: int,
        metrics: Metrics,
    ) -> None:
        self._log = log
        self._tables = tables
        self._clock = clock
        self._store = store
        self._routes = routes
        self._metrics = metrics
        by_source = {route.source: route.topic for route in routes.values()}
        self._indexes = {s: VerdictIndex(log, clock, folder, s, topic, hours) for s, topic in by_source.items()}
        self._by_topic = {index.topic: index for index in self._indexes.values()}
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="ingest-verdicts")
        self._news = asyncio.Event()
        self.stopping = asyncio.Event()
        self._tailer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow the verdict topics."""
        self._tailer = asyncio.create_task(self._follow())

    def drain(self) -> None:
        """End the streams and the long-polls."""
        self.stopping.set()
        self._tell()

    async def stop(self) -> None:
        """Stop following; what was read is written down. Raises OSError."""
        self.drain()
        if self._tailer is not None:
            await self._tailer
        self._threads.shutdown()
        for index in self._indexes.values():
            index.close()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        tidied = loop.time()
        troubled = False
        while not self.stopping.is_set():
            try:
                for name, index in self._indexes.items():
                    count = await loop.run_in_executor(self._threads, index.tail)
                    if count:
                        self._metrics.verdicts.labels(name).inc(count)
                        self._tell()
                if loop.time() - tidied >= TIDY_SECONDS:
                    tidied = loop.time()
                    for index in self._indexes.values():
                        await loop.run_in_executor(self._threads, index.tidy)
                troubled = False
            except (PaystormError, OSError) as error:
                if not troubled:
                    _logger.warning("verdict topics cannot be read: %s", error)
                troubled = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), LOOK * (10 if troubled else 1))

    # By id

    async def of(self, application: str, event_id: str, wait: float) -> dict[str, Any]:
        """The verdict of an event, at most `wait` seconds later where it is pending; as docs/ingest.md has it."""
        route = self._routes.get(application)
        if route is None:
            raise Problem("unknown_application", f"ApplicationRef {application!r} is not configured")
        answer: dict[str, Any] = {"ApplicationRef": application, "id": event_id}
        place = self._store.find([route.key(event_id.encode())])[0]
        if place is None:
            return {**answer, "verdict": "unknown"}
        answer |= {"topic": place.topic, "partition": place.partition, "offset": place.offset}
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while True:
            news = self._news
            found = await loop.run_in_executor(self._threads, self._look, place)
            left = until - loop.time()
            if found is not None or left <= 0 or self.stopping.is_set():
                return {**answer, **(found or {"verdict": "pending"})}
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), min(left, LOOK_AGAIN))

    def _look(self, place: Place) -> dict[str, Any] | None:
        """What is known of the event's verdict; None: pending. Raises LogError, TablesError."""
        index = self._by_topic.get(place.topic)
        if index is None:
            return None
        found = self._verdict(index, place.partition, place.offset)
        if found is not None:
            return self._of_replays(index, place, found)
        checkpoint = load_checkpoint(self._tables, index.source, place.topic, place.partition)
        if checkpoint is None or place.offset >= checkpoint.committed:
            return None
        if load_parked(self._tables, index.source, place.partition, place.offset) is not None:
            return None
        # A verdict is published before its offset is committed: read to the end now, it is there or was not published.
        index.tail(surely=True)
        found = self._verdict(index, place.partition, place.offset)
        return {"verdict": "accepted", "reason": None, "entry": None} if found is None else found

    def _of_replays(self, index: VerdictIndex, place: Place, found: dict[str, Any]) -> dict[str, Any]:
        """The verdict of a dead letter's replay, where it has been sent again and has one."""
        offset = place.offset
        for _ in range(MAX_REPLAYS):
            if found["verdict"] != "dead_lettered":
                break
            claimed = claims_on(self._tables, index.source, index.topic, [(place.partition, offset)])[0]
            again = None if claimed is None else self._verdict(index, place.partition, claimed)
            if again is None or claimed is None:
                break
            offset = claimed
            found = {**again, "replayed_as": offset}
        return found

    @staticmethod
    def _verdict(index: VerdictIndex, partition: int, offset: int) -> dict[str, Any] | None:
        seen = index.find(partition, offset)
        if seen is None:
            return None
        read: dict[str, Any] = {} if seen.raw is None else msgspec.json.decode(seen.raw)
        if read.get("offset") != offset or read.get("partition") != partition:  # removed, or the topic was made anew
            return {"verdict": "accepted", "reason": None, "entry": None} if seen.accepted else {"verdict": "unknown"}
        return {name: read[name] for name in ("verdict", "reason", "entry", "would_deny") if name in read}

    # As a stream

    async def stream(
        self, application: str, cursor: str | None, from_start: bool, goes_on: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """Server-sent events: the application's verdicts from a cursor on, each with the next cursor. At least once.

        It ends once `goes_on` says so. Raises Problem for a cursor that cannot be read.
        """
        route = self._routes.get(application)
        if route is None:
            raise Problem("unknown_application", f"ApplicationRef {application!r} is not configured")
        index = self._indexes[route.source]
        places = parse_cursor(cursor) if cursor is not None else None
        return self._events(index, application, places, from_start, goes_on)

    async def _events(
        self,
        index: VerdictIndex,
        application: str,
        places: dict[int, int] | None,
        from_start: bool,
        goes_on: Callable[[], bool],
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        at = await loop.run_in_executor(self._threads, self._begin, index, places, from_start)
        yield f"id: {format_cursor(at)}\nevent: ready\ndata: {{}}\n\n".encode()
        sent = loop.time()
        while not self.stopping.is_set() and goes_on():
            news = self._news
            try:
                block, more = await loop.run_in_executor(self._threads, self._read, index, application, at)
            except PaystormError as error:
                _logger.warning("a stream of verdicts has ended: %s", error)
                return
            if block:
                yield block
                sent = loop.time()
            elif loop.time() - sent >= BEAT:
                yield b": all is well\n\n"
                sent = loop.time()
            if not more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), LOOK_UP)

    def _begin(self, index: VerdictIndex, places: dict[int, int] | None, from_start: bool) -> dict[int, int]:
        log, name = self._log, index.verdicts
        if name not in log.topics():
            return dict.fromkeys(range(log.partitions(index.topic)), 0)
        out = {}
        for partition in range(log.partitions(name)):
            start, end = log.start_offset(name, partition), log.end_offset(name, partition)
            if places is None:
                out[partition] = start if from_start else end
            else:
                held = places.get(partition, start)
                out[partition] = held if start <= held <= end else start
        return out

    def _read(self, index: VerdictIndex, application: str, at: dict[int, int]) -> tuple[bytes, bool]:
        """Events as text, `at` moved behind them; whether there may be more at once."""
        log, name = self._log, index.verdicts
        if name not in log.topics():
            return b"", False
        out: list[bytes] = []
        more = False
        for partition in range(log.partitions(name)):
            at.setdefault(partition, 0)
            batch = log.read(name, partition, at[partition], max_records=_AT_ONCE, max_bytes=_AT_ONCE_BYTES)
            if batch is None:
                continue
            more = True
            for offset, value in zip(batch.offsets.tolist(), batch.all_values(), strict=True):
                at[partition] = offset + 1
                try:
                    if _whose(value).ApplicationRef != application:
                        continue
                except (msgspec.DecodeError, RecursionError):
                    continue
                out.append(b"id: %b\nevent: verdict\ndata: %b\n\n" % (format_cursor(at).encode(), value))
            at[partition] = batch.next
        return b"".join(out), more


def format_cursor(places: Mapping[int, int]) -> str:
    """The place in a verdict topic as text: `0:17,1:4`."""
    return ",".join(f"{partition}:{offset}" for partition, offset in sorted(places.items()))


def parse_cursor(text: str) -> dict[int, int]:
    """The place that a text names. Raises Problem where it names none."""
    if len(text) > MAX_CURSOR or not _CURSOR.fullmatch(text):
        raise Problem("invalid_parameter", f"not the id of an event of this stream: {text[:80]!r}")
    pairs = (part.split(":") for part in text.split(","))
    return {int(partition): int(offset) for partition, offset in pairs}
