"""The service behind the end points: what it is made of, its start and its end, and what it does meanwhile."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from starlette.types import Scope

from paystorm.errors import DataFolderError, PaystormError
from paystorm.ingest.access_log import AccessLog
from paystorm.ingest.envelope import Prepared, Preparer, Route
from paystorm.ingest.http import header
from paystorm.ingest.ids import IdStore
from paystorm.ingest.intake import Answer, Intake
from paystorm.ingest.keys import EVERYBODY, ApiKey, Caller, KeyRing, all_keys, bearer
from paystorm.ingest.limits import Rates
from paystorm.ingest.metrics import Metrics
from paystorm.ingest.ownership import StoreLock, claim, lost, store_id
from paystorm.ingest.problems import Problem
from paystorm.ingest.settings import IngestSettings
from paystorm.ingest.verdicts import Verdicts
from paystorm.resources import Resources
from paystorm.source import Source

KEYS_SECONDS = 0.5
"""Seconds between two looks at the API keys: a revoked one is refused within twice that."""
OWNER_SECONDS = 5.0
TIDY_SECONDS = 1.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a service is for."""

    resources: Resources
    sources: Mapping[str, Source]
    applications: Mapping[str, str]
    """The source of each application."""
    partitions: int
    """Of topics that are made."""
    folder: Path
    """Of the id store."""
    settings: IngestSettings
    max_record_bytes: int
    ask_for_keys: bool = True
    take_over: bool = False
    access_log: Path | None = None
    """None: standard error."""


class Service:
    """The ingest service. `open` takes the store, `start` reads the log, `stop` finishes what was accepted."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.settings = setup.settings
        self.max_record_bytes = setup.max_record_bytes
        self.metrics = Metrics()
        self.access = AccessLog(setup.access_log)
        self.rates = Rates(setup.settings.events_per_second, setup.settings.event_burst)
        self.ring = KeyRing()
        self.routes = {name: Route(name, setup.sources[source]) for name, source in setup.applications.items()}
        self.preparer = Preparer(self.routes, setup.max_record_bytes, self._new_id)
        self.requests = 0
        """Requests at work."""
        self.streams = 0
        self.draining = False
        self.started = False
        """The log has been read once: ids are known."""
        self._clock = setup.resources.clock
        self._taken: str | None = None
        self._troubles: dict[str, str] = {}
        """What housekeeping could not do when it last tried, so that it is told once."""
        self._housekeeping: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Take the store and make the topics. Raises PaystormError."""
        setup, resources = self.setup, self.setup.resources
        self._lock = StoreLock(setup.folder)
        try:
            self._store_id = store_id(setup.folder)
        except OSError as error:
            raise DataFolderError(f"id store {setup.folder}: {error.strerror}: make it accessible") from error
        now = self._clock.now()
        claim(
            resources.tables,
            self.routes,
            store=self._store_id,
            folder=setup.folder,
            now=now,
            take_over=setup.take_over,
        )
        for topic in sorted({route.topic for route in self.routes.values()}):
            resources.log.create_topic(topic, setup.partitions)
        settings = setup.settings
        self.store = IdStore(setup.folder, self._clock, limit=settings.max_ids, hours=settings.id_hours)
        for route in self.routes.values():
            self.store.topic_number(route.topic)
        if setup.ask_for_keys:
            self.ring.load(self._read_keys())

    def build(self) -> None:
        """Make what lives in the event loop."""
        setup, resources = self.setup, self.setup.resources
        self.intake = Intake(resources.log, self._clock, self.store, self.routes, self.settings, self.metrics)
        self.verdicts = Verdicts(
            resources.log,
            resources.tables,
            self._clock,
            self.store,
            self.routes,
            setup.folder / "verdicts",
            self.settings.id_hours,
            self.metrics,
        )
        gauge = self.metrics.gauge
        gauge("ready", lambda: float(self.not_ready() is None))
        gauge("ids", lambda: float(len(self.store)))
        gauge("ids_limit", lambda: float(self.settings.max_ids))
        gauge("queue_records", lambda: float(self.intake.queued))
        gauge("requests_at_work", lambda: float(self.requests))
        gauge("streams", lambda: float(self.streams))

    async def start(self) -> None:
        """Read the log to its end; then events are taken. Raises PaystormError."""
        self._housekeeping = asyncio.create_task(self._keep_house())
        self.verdicts.start()
        await self.intake.start()
        self.started = True

    async def stop(self) -> None:
        """Finish what was taken, write the store, give it up."""
        self.drain()
        await self.intake.stop()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._housekeeping
        try:
            await self.verdicts.stop()
            self.store.close()
        except OSError as error:
            _logger.error("the id store was not written, its newest ids are read from the log again: %s", error)
        with contextlib.suppress(OSError):
            self.access.flush()
        self._lock.release()

    def drain(self) -> None:
        """Be ready no more, and end the streams."""
        self.draining = True
        self.verdicts.drain()

    def not_ready(self) -> str | None:
        """Why events are not taken now; None: they are."""
        if self.draining:
            return "the service is being stopped"
        if self._taken is not None:
            return self._taken
        if self.intake.down is not None:
            return self.intake.down
        return None if self.store.room() else "the id store is full"

    # For the end points

    def caller(self, scope: Scope) -> Caller:
        """Who sends the request. Raises Problem."""
        if self._taken is not None:
            raise Problem("unavailable", self._taken, 60)
        if not self.setup.ask_for_keys:
            return EVERYBODY
        caller = self.ring.caller(bearer(header(scope, b"authorization")), self._clock.now())
        scope["paystorm.key"] = caller.id
        return caller

    def is_caller(self, scope: Scope, known: Caller) -> bool:
        """Whether who sent the request could send it now."""
        try:
            return self.caller(scope) == known
        except Problem:
            return False

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""
        return self._clock.monotonic()

    def now_text(self) -> str:
        """Now, as `received_at` has it."""
        at = _EPOCH + timedelta(microseconds=self._clock.now())
        return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def count(self, source: str, status: int, events: int = 1) -> None:
        """Count events by their answer."""
        self.metrics.events.labels(source, str(status)).inc(events)

    def count_all(self, events: Sequence[Prepared], answers: Sequence[Answer]) -> None:
        """Count the events of a block."""
        found: dict[tuple[str, int], int] = {}
        for event, answer in zip(events, answers, strict=False):
            kind = (event.route.source, answer.status if isinstance(answer, Problem) else 202)
            found[kind] = found.get(kind, 0) + 1
        for (source, status), number in found.items():
            self.count(source, status, number)

    def _new_id(self) -> str:
        """An id that nobody else makes, in order of time (UUID version 7)."""
        number = (self._clock.now() // 1000) << 80 | int.from_bytes(os.urandom(10), "big")
        number = number & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62
        text = f"{number:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    # Meanwhile

    async def _keep_house(self) -> None:
        loop = asyncio.get_running_loop()
        owner_at = tidied_at = loop.time()
        while True:
            await asyncio.sleep(KEYS_SECONDS)
            due = [self._flush_log]
            if self.setup.ask_for_keys:
                due.append(self._look_at_keys)
            if loop.time() - owner_at >= OWNER_SECONDS:
                owner_at = loop.time()
                due.append(self._check_owner)
            if loop.time() - tidied_at >= TIDY_SECONDS:
                tidied_at = loop.time()
                due.append(self._tidy_store)
            for act in due:  # what goes wrong with one keeps none of the others from being done
                try:
                    await act()
                    self._troubles.pop(act.__name__, None)
                except Exception as error:
                    if self._troubles.get(act.__name__) != str(error):
                        known = isinstance(error, PaystormError | OSError)
                        _logger.warning("housekeeping: %s", error, exc_info=None if known else error)
                    self._troubles[act.__name__] = str(error)

    async def _flush_log(self) -> None:
        self.access.flush()

    async def _look_at_keys(self) -> None:
        self.ring.load(await asyncio.to_thread(self._read_keys))

    def _read_keys(self) -> list[ApiKey]:
        return list(all_keys(self.setup.resources.tables))

    async def _check_owner(self) -> None:
        tables, routes = self.setup.resources.tables, list(self.routes)
        gone = await asyncio.to_thread(lost, tables, routes, self._store_id)
        if gone is not None and self._taken is None:
            self._taken = f"application {gone} has been taken over by another instance: stop this one"
            _logger.error("%s", self._taken)

    async def _tidy_store(self) -> None:
        store = self.store
        if store.freeze():
            run = await asyncio.to_thread(store.write)
            assert run is not None
            store.written(run)
        for run in store.expired():
            store.tidied([run], None)
        group = store.to_merge()
        if group:
            store.tidied(group, await asyncio.to_thread(store.tidy, group))
