"""Storage that fails as it is told: before a write, after it, in the middle of it, or with its writer dying of it.

Every durable write of a component passes through one `Faults`, which numbers it and asks a plan what becomes of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from paystorm.clock import ManualClock
from paystorm.errors import LogError, PaystormError, TablesError
from paystorm.log.base import Log, OutRecord, RecordBatch
from paystorm.tables.base import Tables
from paystorm.warehouse.base import NONE, Columns, EventFile, Warehouse

When = Literal["before", "after", "half"]
"""before: nothing is written; after: all is, and the reply is lost; half: the first half of the rows is."""
What = Literal["error", "kill", "crash"]
"""error: the call raises; kill: the component dies, and is replaced; crash: the whole process dies."""


class ComponentKilledError(SystemExit):
    """The component dies here. No Exception: none of its own handlers may catch it, as none catches `kill -9`."""


class ProcessCrashedError(BaseException):
    """The whole process dies here: it leaves the driver, which is thrown away."""


@dataclass(frozen=True, slots=True)
class Write:
    """A write that is about to be done."""

    number: int
    """Counted from 1, over all storage of the world."""
    what: str
    """Such as `tables.put_if_absent`, `log.append`, `warehouse.stage`."""
    name: str
    """The table, feed, topic, or source of a file."""
    rows: int

    def __str__(self) -> str:
        return f"write {self.number}: {self.what} {self.name} ({self.rows} rows)"


@dataclass(frozen=True, slots=True)
class WriteFault:
    """What becomes of a write. `stall`: seconds that pass before it."""

    when: When = "before"
    what: What = "error"
    stall: float = 0.0


Plan = Callable[[Write], WriteFault | None]
"""Asked for each write."""
Watch = Callable[[Write, Any], None]
"""Told of each write just before it is done: the write, and its rows or items."""


class Faults:
    """The numbering of writes, the plan, and what is down."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.plan: Plan | None = None
        self.watches: list[Watch] = []
        self.down: Callable[[str, str, bool], bool] = lambda what, name, write: False
        """Whether a call (what, name, whether it writes) fails now because its storage cannot be reached."""
        self.writes = 0
        self.log: list[str] = []
        """What was inflicted, for the story of a failed run."""

    def read(self, what: str, name: str) -> None:
        """Before a read. Raises TablesError or LogError where the storage is down."""
        if self.down(what, name, False):
            raise _error(what, f"{what} {name}: it cannot be reached (simulated)")

    def write(self, what: str, name: str, rows: Sequence[Any], do: Callable[[Sequence[Any]], Any]) -> Any:
        """Do a write as the plan wants it. `do` writes some of the rows."""
        if self.down(what, name, True):
            raise _error(what, f"{what} {name}: it cannot be reached (simulated)")
        self.writes += 1
        write = Write(self.writes, what, name, len(rows))
        fault = self.plan(write) if self.plan is not None else None
        if fault is None:
            return self._do(write, rows, do)
        self.log.append(f"{self.clock.monotonic():.3f} {write}: {fault}")
        if fault.stall:
            self.clock.advance(fault.stall)
        if fault.when == "after":
            self._do(write, rows, do)
        elif fault.when == "half" and len(rows) > 1:
            self._do(write, rows[: len(rows) // 2], do)
        if fault.what == "crash":
            raise ProcessCrashedError(str(write))
        if fault.what == "kill":
            raise ComponentKilledError(str(write))
        raise _error(what, f"{write}: failed {fault.when} it was done (simulated)")

    def _do(self, write: Write, rows: Sequence[Any], do: Callable[[Sequence[Any]], Any]) -> Any:
        for watch in self.watches:
            watch(write, rows)
        return do(rows)


def _error(what: str, text: str) -> PaystormError:
    return LogError(text) if what.startswith("log.") else TablesError(text)


class FaultyTables:
    """Tables whose writes pass through `Faults`."""

    def __init__(self, inner: Tables, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def get(self, table: str, key: bytes) -> bytes | None:
        """As `Tables.get`."""
        self._faults.read("tables.get", table)
        return self._inner.get(table, key)

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `Tables.get_many`."""
        self._faults.read("tables.get_many", table)
        return self._inner.get_many(table, keys)

    def scan(
        self,
        table: str,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        """As `Tables.scan`."""
        self._faults.read("tables.scan", table)
        return self._inner.scan(table, start, stop, limit=limit, reverse=reverse)

    def together(self) -> AbstractContextManager[None]:
        """As `Tables.together`: each write stands for itself here, so that a fault can come between any two."""
        return nullcontext()

    def put(self, table: str, rows: Sequence[tuple[bytes, bytes]], *, version: int = 0) -> None:
        """As `Tables.put`."""
        self._faults.write("tables.put", table, rows, lambda some: self._inner.put(table, some, version=version))

    def put_if_absent(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        """As `Tables.put_if_absent`."""
        put: list[bool] = self._faults.write(
            "tables.put_if_absent", table, rows, lambda some: self._inner.put_if_absent(table, some)
        )
        return put

    def replace(self, table: str, key: bytes, expected: bytes, value: bytes) -> bool:
        """As `Tables.replace`."""
        return bool(
            self._faults.write(
                "tables.replace", table, [(key, value)], lambda _: self._inner.replace(table, key, expected, value)
            )
        )

    def delete(self, table: str, keys: Sequence[bytes]) -> None:
        """As `Tables.delete`."""
        self._faults.write("tables.delete", table, keys, lambda some: self._inner.delete(table, some))

    def delete_if(self, table: str, key: bytes, expected: bytes) -> bool:
        """As `Tables.delete_if`."""
        return bool(
            self._faults.write("tables.delete_if", table, [key], lambda _: self._inner.delete_if(table, key, expected))
        )

    def feed_append(self, feed: str, items: Sequence[bytes]) -> None:
        """As `Tables.feed_append`."""
        self._faults.write("tables.feed_append", feed, items, lambda some: self._inner.feed_append(feed, some))

    def feed_read(self, feed: str, cursor: bytes, *, limit: int = 10_000) -> tuple[list[bytes], bytes]:
        """As `Tables.feed_read`."""
        self._faults.read("tables.feed_read", feed)
        return self._inner.feed_read(feed, cursor, limit=limit)

    def feed_end(self, feed: str) -> bytes:
        """As `Tables.feed_end`."""
        self._faults.read("tables.feed_end", feed)
        return self._inner.feed_end(feed)

    def close(self) -> None:
        """The inner tables outlive their users."""


class FaultyLog:
    """A log whose appends pass through `Faults`."""

    def __init__(self, inner: Log, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def create_topic(self, topic: str, partitions: int) -> None:
        """As `Log.create_topic`."""
        self._faults.write("log.create_topic", topic, [topic], lambda _: self._inner.create_topic(topic, partitions))

    def delete_topic(self, topic: str) -> None:
        """As `Log.delete_topic`."""
        self._inner.delete_topic(topic)

    def topics(self) -> list[str]:
        """As `Log.topics`."""
        self._faults.read("log.topics", "")
        return self._inner.topics()

    def topic_id(self, topic: str) -> str | None:
        """As `Log.topic_id`."""
        self._faults.read("log.topic_id", topic)
        return self._inner.topic_id(topic)

    def partitions(self, topic: str) -> int:
        """As `Log.partitions`."""
        self._faults.read("log.partitions", topic)
        return self._inner.partitions(topic)

    def start_offset(self, topic: str, partition: int) -> int:
        """As `Log.start_offset`."""
        self._faults.read("log.start_offset", topic)
        return self._inner.start_offset(topic, partition)

    def end_offset(self, topic: str, partition: int) -> int:
        """As `Log.end_offset`."""
        self._faults.read("log.end_offset", topic)
        return self._inner.end_offset(topic, partition)

    def append(self, topic: str, records: Sequence[OutRecord]) -> list[tuple[int, int]]:
        """As `Log.append`."""
        placed: list[tuple[int, int]] = self._faults.write(
            "log.append", topic, records, lambda some: self._inner.append(topic, some)
        )
        return placed

    def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        max_records: int,
        max_bytes: int,
        keys: bool = False,
    ) -> RecordBatch | None:
        """As `Log.read`."""
        self._faults.read("log.read", topic)
        return self._inner.read(topic, partition, offset, max_records=max_records, max_bytes=max_bytes, keys=keys)

    def close(self) -> None:
        """The inner log outlives its users."""


class FaultyWarehouse:
    """A warehouse whose steps pass through `Faults`."""

    def __init__(self, inner: Warehouse, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def stage(self, file: EventFile, frame: pl.DataFrame) -> None:
        """As `Warehouse.stage`."""
        self._faults.write("warehouse.stage", file.source, [file], lambda _: self._inner.stage(file, frame))

    def place(self, files: Sequence[EventFile]) -> None:
        """As `Warehouse.place`."""
        if files:
            self._faults.write("warehouse.place", files[0].source, files, self._inner.place)

    def discard_staged(self, source: str, keep: Sequence[str], *, prefix: str = "") -> None:
        """As `Warehouse.discard_staged`."""
        self._faults.write(
            "warehouse.discard_staged",
            source,
            [source],
            lambda _: self._inner.discard_staged(source, keep, prefix=prefix),
        )

    def read(self, file: EventFile) -> pl.DataFrame:
        """As `Warehouse.read`."""
        self._faults.read("warehouse.read", file.source)
        return self._inner.read(file)

    def folders(self, source: str) -> list[Path]:
        """As `Warehouse.folders`."""
        return self._inner.folders(source)

    def query(self, sql: str, known: Mapping[str, Columns] = NONE) -> tuple[list[str], list[tuple[Any, ...]]]:
        """As `Warehouse.query`."""
        return self._inner.query(sql, known)

    def close(self) -> None:
        """The inner warehouse outlives its users."""
