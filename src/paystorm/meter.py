"""How busy a task is: what Storm and its UI cannot show for a Python component. Best effort, never in the way."""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from paystorm.clock import Clock
from paystorm.errors import TablesError
from paystorm.stores.gauges import Gauge, put_gauge
from paystorm.tables.base import Tables

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Place:
    """Which task of which source a meter is for."""

    source: str
    component: str
    task: int
    own_process: bool
    """Whether the task has a process of its own, as under Storm: only then its CPU and memory are known."""


class Meter:
    """Sums up what a task does, and puts it into the tables every so often. A put that fails is passed over."""

    def __init__(self, place: Place, tables: Tables, clock: Clock, every: float) -> None:
        """`every`: seconds between two puts; 0: none."""
        self._place, self._tables, self._clock, self._every = place, tables, clock, every
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._since = clock.monotonic()
        self._cpu = time.process_time()
        self._busy = 0.0
        self._records = self._tuples = self._all_records = 0
        self._slowest = 0.0

    def worked(self, since: float, tuples: int = 1) -> None:
        """So many tuples have been worked on from `since` (monotonic seconds) until now; 0: a flush at a tick."""
        self._busy += self._clock.monotonic() - since
        self._tuples += tuples

    def saw(self, records: int) -> None:
        """So many records came."""
        self._records += records

    def stored(self, read_at: int) -> None:
        """Events became durable that the spout had read at `read_at` (µs since 1970-01-01 UTC)."""
        self._slowest = max(self._slowest, (self._clock.now() - read_at) / 1000)

    def tell_if_due(self) -> None:
        """Put the figures of the time since the last put, where it is time for that."""
        now = self._clock.monotonic()
        passed = now - self._since
        if not 0 < self._every <= passed:
            return
        cpu = time.process_time()
        own = self._place.own_process
        self._all_records += self._records
        gauge = Gauge(
            component=self._place.component,
            task=self._place.task,
            host=self._host,
            pid=self._pid,
            at=self._clock.now(),
            seconds=passed,
            busy=min(self._busy / passed, 1.0),
            cpu=(cpu - self._cpu) / passed if own else None,
            memory=_resident() if own else None,
            tuples=self._tuples,
            records=self._records,
            all_records=self._all_records,
            slowest_ms=self._slowest,
        )
        self._since, self._cpu, self._busy, self._slowest = now, cpu, 0.0, 0.0
        self._tuples = self._records = 0
        try:
            put_gauge(self._tables, self._place.source, gauge)
        except TablesError:
            return  # the next one may get through; the work itself says what is wrong


def _resident() -> int | None:
    """Bytes of memory that this process has, where the system tells."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError, ValueError):
        return None
