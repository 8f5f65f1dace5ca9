"""An hour of small files, and a look at every write of what merges them."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
from tests.contract.warehouse_contract import NoLog

from paystorm.chunk import EventChunk, Head
from paystorm.clock import SECOND, ManualClock
from paystorm.source import Field, Party, Source
from paystorm.stores.hours import Hours
from paystorm.stores.index import index_table, rows_from, snapshot_table
from paystorm.tables.memory import MemoryTables
from paystorm.verdicts import VerdictLog
from paystorm.verify.stored import StoredEvents, files_and_hours, files_in_place
from paystorm.warehouse.local import LocalWarehouse
from paystorm.warehouse.merging import Merged, Merger, MergeSettings, hour_start
from paystorm.warehouse.writer import PartitionWriter

SOURCE = Source(
    name="purchase",
    topic="purchases",
    enforces=True,
    fields=(Field(name="event_time", type="time", required=True), Field(name="account", type="id")),
    parties=(Party(field="account", role="customer", kind="account"),),
)
HOUR = "2026-01-01T00"
SETTINGS = MergeSettings(files=3, rows=25)
"""Merged files of at least 25 rows, so that there are several of them."""


class DiedError(BaseException):
    """The process dies: nothing of ours may catch it."""


class Storage:
    """What outlives a crash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables = MemoryTables()
        self.clock = ManualClock(hour_start(HOUR))
        self.random = Random(1)

    @property
    def warehouse(self) -> LocalWarehouse:
        """The warehouse as a new process has it."""
        return LocalWarehouse(self.folder, Hours(self.tables))

    def writer(
        self, partition: int, *, at: int | None = None, warehouse: LocalWarehouse | None = None
    ) -> PartitionWriter:
        """A new owner of a partition, with a clock of its own where it is `at` another time."""
        return PartitionWriter(
            SOURCE,
            partition,
            tables=self.tables,
            warehouse=warehouse or self.warehouse,
            verdicts=VerdictLog(NoLog(), "purchase", "purchases"),  # type: ignore[arg-type]
            clock=self.clock if at is None else ManualClock(at),
            random=self.random,
        )

    def merge(self, settings: MergeSettings = SETTINGS) -> Merged:
        return Merger(self.tables, self.warehouse, self.clock, settings).run("purchase")

    def visible(self) -> list[tuple[Any, ...]]:
        """Every row that a query sees."""
        frames = [pl.read_parquet(file) for f in self.warehouse.folders("purchase") for file in f.glob("*.parquet")]
        whole = pl.concat(frames, how="diagonal")
        return whole.select(sorted(whole.columns)).sort("log_partition", "log_offset").rows()

    def differences(self) -> list[Any]:
        """What `verify` says of files and index, and the number of stored events."""
        partitions = {p: list(rows_from(self.tables, "purchase", p, 0)) for p in range(8)}
        files, hours = files_and_hours(self.warehouse, self.tables, "purchase")
        return StoredEvents(SOURCE, self.warehouse, files, partitions, hours, []).differences


def chunk(partition: int, first: int, after: int, *, shop: bool = False) -> EventChunk:
    offsets = list(range(first, after))
    head = Head(
        source="purchase", topic="purchases", partition=partition, first=first, after=after, epoch=0, generation=0,
        committed=first,
    )  # fmt: skip
    at = pl.Series([hour_start(HOUR) + o * SECOND for o in offsets], dtype=pl.Int64).cast(pl.Datetime("us"))
    events = pl.DataFrame(
        {
            "log_offset": offsets,
            "event_id": [f"ü{partition}-{o}" for o in offsets],
            "application": "shop",
            "received_at": at,
            "event_time": at,
            "account": [f"u{o % 9}" for o in offsets],
            "data": [f'{{"o":{o}}}' for o in offsets],
            "decided_at": at,
            "verdict": ["denied" if o % 4 == 0 else "accepted" for o in offsets],
            "verdict_reason": ["purchase.r" if o % 4 == 0 else None for o in offsets],
            "entry_kind": ["account" if o % 4 == 0 else None for o in offsets],
            "entry_party": [f"u{o % 9}" if o % 4 == 0 else None for o in offsets],
        }
    ).with_columns(would_deny=pl.lit(None, pl.Boolean))
    return EventChunk(head, events.with_columns(shop=pl.lit("m1")) if shop else events)


def fill(storage: Storage, flushes: int = 8, rows: int = 3, partitions: int = 2) -> None:
    """Flushes of two partitions in one hour; then it is two hours later."""
    for partition in range(partitions):
        writer = storage.writer(partition)
        for i in range(flushes):
            writer.gather(chunk(partition, i * rows, (i + 1) * rows, shop=i >= flushes - 2))
            writer.flush()
    storage.clock.advance(2 * 3600)


def filled(folder: Path) -> Storage:
    """What `fill` makes, copied from a first one beside it: most tests want it some dozens of times."""
    first = folder.parent / "first"
    if first not in _FIRST:
        _FIRST[first] = Storage(first)
        fill(_FIRST[first])
    shutil.copytree(first, folder)
    storage = Storage(folder)
    storage.random = Random(str(folder))
    storage.clock.advance(2 * 3600)
    for table in (index_table("purchase"), snapshot_table("purchase")):
        storage.tables.put(table, list(_FIRST[first].tables.scan(table)))
    return storage


_FIRST: dict[Path, Storage] = {}


def moments(work: Callable[[], object]) -> int:
    """How many writes a piece of work does."""
    with writes_watched() as seen:
        work()
    return len(seen)


@contextlib.contextmanager
def writes_watched(at: int = -1, act: Callable[[str, Any], None] = lambda what, target: None) -> Iterator[list[str]]:
    """Every write to disk and tables, by name; before that of number `at`, `act` is called, with all unwatched."""
    seen: list[str] = []
    originals: dict[tuple[Any, str], Any] = {}

    def watch(owner: Any, name: str) -> None:
        original = originals[owner, name] = getattr(owner, name)

        def write(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            if len(seen) - 1 == at:
                restore()
                act(name, args[0])
                patch()
            return original(*args, **kwargs)

        setattr(owner, name, write)

    def patch() -> None:
        for name in ("link", "rename", "unlink", "rmdir", "mkdir", "fsync"):
            watch(os, name)
        for name in ("put", "put_if_absent", "replace"):
            watch(MemoryTables, name)

    def restore() -> None:
        for (owner, name), original in originals.items():
            setattr(owner, name, original)

    patch()
    try:
        yield seen
    finally:
        restore()


def die(what: str, target: Any) -> None:
    raise DiedError


def die_half_written(what: str, target: Any) -> None:
    """A power cut: what was not synced is half there."""
    if what == "fsync" and os.path.isfile(f"/proc/self/fd/{target}"):
        with contextlib.suppress(OSError):
            os.truncate(target, os.fstat(target).st_size // 2)
    raise DiedError


def hour_files(storage: Storage) -> list[str]:
    return sorted(f.name for f in files_in_place(storage.warehouse, "purchase") if f.hour == HOUR)
