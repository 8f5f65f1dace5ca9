"""A partition's writer over storage that tells of every write."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl

from paystorm.chunk import EventChunk, Head, Refusal
from paystorm.clock import ManualClock
from paystorm.log.base import OutRecord
from paystorm.offsets import OffsetSet
from paystorm.source import Field, Party, Source
from paystorm.stores.cases import all_cases
from paystorm.stores.index import PartitionIndex, rows_from
from paystorm.stores.index_tail import IndexTail
from paystorm.tables.keys import key
from paystorm.tables.memory import MemoryTables
from paystorm.verdicts import VerdictLog
from paystorm.warehouse.local import LocalWarehouse
from paystorm.warehouse.writer import PartitionWriter

SOURCE = Source(
    name="purchase",
    topic="purchases",
    enforces=True,
    fields=(Field(name="event_time", type="time", required=True), Field(name="account", type="id")),
    parties=(Party(field="account", role="customer", kind="account"),),
)
PARTITION = 3
END = 60
INVALID = {7, 23, 45}
"""Offsets without an event: dead-lettered, or gaps of the log."""
VALID = [o for o in range(END) if o not in INVALID]


class MemoryLog:
    """As much of a log as verdicts need."""

    def __init__(self) -> None:
        self.records: list[OutRecord] = []

    def partitions(self, topic: str) -> int:
        return 8

    def create_topic(self, topic: str, partitions: int) -> None:
        pass

    def append(self, topic: str, records: list[OutRecord]) -> list[tuple[int, int]]:
        assert topic == "purchase-verdicts"
        self.records += records
        return [(PARTITION, 0)] * len(records)


WRITES = {"put", "put_if_absent", "stage", "place", "discard_staged", "append"}


class Storage:
    """What outlives a crash, and a way to act before or after its k-th write, or in the middle of it."""

    def __init__(self, folder: Path) -> None:
        self.tables = MemoryTables()
        self.log = MemoryLog()
        self.warehouse = LocalWarehouse(folder)
        self.writes: list[int] = []
        """The writes of the writer that was made last: how many rows, files or records each has."""
        self.clock = ManualClock()
        self.random = Random(1)

    def writer(
        self, at: int = -1, when: str = "", act: Callable[[], None] = lambda: None, **more: Any
    ) -> PartitionWriter:
        """An owner of the partition with storage that calls `act` at its write number `at`."""
        self.writes = writes = []

        def watch(target: Any) -> Any:
            return _Watched(target, writes, at, when, act)

        return PartitionWriter(
            SOURCE,
            PARTITION,
            tables=watch(self.tables),
            warehouse=watch(self.warehouse),
            verdicts=VerdictLog(watch(self.log), "purchase", "purchases"),  # type: ignore[arg-type]
            clock=self.clock,
            random=self.random,
            snapshot_rows=3,
            **more,
        )


class _Watched:
    def __init__(self, target: Any, writes: list[int], at: int, when: str, act: Callable[[], None]) -> None:
        self._parts = target, writes, at, when, act

    def __getattr__(self, name: str) -> Any:
        target, writes, at, when, act = self._parts
        method = getattr(target, name)
        if name not in WRITES:
            return method

        def write(*args: Any, **kwargs: Any) -> Any:
            now = len(writes) == at
            writes.append(len(args[-1]) if isinstance(args[-1], list) else 1)
            if now and when == "before":
                act()
            if now and when == "within":
                method(*args[:-1], args[-1][: len(args[-1]) // 2], **kwargs)
                act()
            result = method(*args, **kwargs)
            if now and when == "after":
                act()
            return result

        return write


class CrashError(Exception):
    pass


def crash() -> None:
    raise CrashError


def chunk(
    first: int, after: int, seed: int, *, committed: int = 0, parked: tuple = (), left_out: tuple = ()
) -> EventChunk:
    """A chunk whose verdicts depend on the seed: an event sent again may be judged in another way."""
    offsets = [o for o in range(first, after) if o in set(VALID) - set(left_out)]
    denied = [(o * 7 + seed) % 4 == 0 for o in offsets]
    parties = [f"u{o % 9}" for o in offsets]
    head = Head(
        source="purchase", topic="purchases", partition=PARTITION, first=first, after=after, epoch=0, generation=0,
        committed=committed, parked=parked, left_out=left_out,
    )  # fmt: skip
    at = pl.Series([1_767_225_600_000_000 + seed] * len(offsets), dtype=pl.Int64).cast(pl.Datetime("us"))
    events = pl.DataFrame(
        {
            "log_offset": pl.Series(offsets, dtype=pl.Int64),
            "event_id": pl.Series([f"e{o}" for o in offsets], dtype=pl.String),
            "application": pl.Series(["shop"] * len(offsets), dtype=pl.String),
            "received_at": at,
            "event_time": at,
            "account": pl.Series(parties, dtype=pl.String),
            "data": pl.Series([f'{{"o":{o}}}' for o in offsets], dtype=pl.String),
            "decided_at": at,
            "verdict": pl.Series(["denied" if d else "accepted" for d in denied], dtype=pl.String),
            "verdict_reason": pl.Series(["purchase.account_per_day" if d else None for d in denied], dtype=pl.String),
            "entry_kind": pl.Series(["account" if d else None for d in denied], dtype=pl.String),
            "entry_party": pl.Series(
                [party if d else None for party, d in zip(parties, denied, strict=True)], dtype=pl.String
            ),
            "would_deny": pl.Series([None] * len(offsets), dtype=pl.Boolean),
        }
    )
    return EventChunk(head, events)


def first_run() -> list[list[EventChunk]]:
    """Flushes of a first run: overlaps, a chunk without rows, an offset parked at 31 and sent alone afterwards."""
    return [
        [chunk(0, 10, 1)],
        [chunk(10, 20, 2, committed=5), chunk(20, 25, 2, committed=5), chunk(18, 22, 3, committed=5)],
        [chunk(25, 40, 4, committed=20, left_out=(31,))],
        [chunk(15, 45, 5, committed=20, left_out=(31,)), chunk(40, 46, 6, committed=20)],
        [chunk(45, 46, 7, committed=40, parked=(31,))],
        [chunk(31, 32, 8, committed=45, parked=(31,))],
        [chunk(46, END, 9, committed=45)],
    ]


def replay(seed: int = 20) -> list[list[EventChunk]]:
    """Everything again, cut elsewhere and judged anew."""
    return [
        [chunk(0, 17, seed), chunk(17, 33, seed + 1, left_out=(31,))],
        [chunk(33, 59, seed + 2)],
        [chunk(31, 32, seed + 3)],
        [chunk(59, END, seed + 4), chunk(30, 50, seed + 5)],
    ]


def run(writer: PartitionWriter, flushes: list[list[EventChunk]]) -> None:
    for chunks in flushes:
        for each in chunks:
            writer.gather(each)
        writer.flush()


def stored(storage: Storage) -> dict[int, tuple[str, int]]:
    """Offset → (verdict, time of the decision) of every event that the index names, each once."""
    out: dict[int, tuple[str, int]] = {}
    for row in rows_from(storage.tables, "purchase", PARTITION, 0):
        for file in row.files:
            frame = storage.warehouse.read(file.of("purchase"))
            assert len(frame) == file.rows
            columns = frame.select("log_offset", "verdict", pl.col("decided_at").cast(int))
            for offset, verdict, at in columns.iter_rows():
                assert offset not in out
                out[offset] = (verdict, at)
    return out


def check(storage: Storage, folder: Path, before: dict[int, tuple[str, int]]) -> None:
    """All is stored once, in place and published; what was stored before has kept its verdict."""
    now = stored(storage)
    assert sorted(now) == VALID
    assert before.items() <= now.items()
    hours = storage.warehouse.folders("purchase")
    placed = pl.concat(pl.read_parquet(path) for hour in hours for path in hour.iterdir())
    assert placed.sort("log_offset").select("log_offset", "verdict", "log_topic", "log_partition").rows() == [
        (o, now[o][0], "purchases", PARTITION) for o in VALID
    ]
    assert list((folder / "purchase" / ".staging").iterdir()) == []
    published: dict[bytes | None, bytes] = {}
    for record in storage.log.records:
        assert record.partition == PARTITION
        assert published.setdefault(record.key, record.value) == record.value
    assert {json.loads(v)["offset"]: json.loads(v)["verdict"] for v in published.values()} == {
        o: verdict for o, (verdict, _) in now.items()
    }
    denied = {f"u{o % 9}" for o in VALID if now[o][0] == "denied"}
    assert {(c.kind, c.party) for c in all_cases(storage.tables)} == {("account", u) for u in denied}
    tail = IndexTail(storage.tables, "purchase")
    assert tail.verdicts(PARTITION, np.arange(END)).tolist() == [
        -1 if o in INVALID else int(now[o][0] == "denied") for o in range(END)
    ]
    count = sum(verdict == "denied" for verdict, _ in now.values())
    assert tail.totals(PARTITION, END) == (len(VALID) - count, count)
    assert PartitionIndex(storage.tables, "purchase", PARTITION).applied == OffsetSet([(0, END)])


def moments(folder: Path) -> Iterator[tuple[int, str]]:
    """Before and after every write of the first run (after one is before the next), and within one of several rows."""
    storage = Storage(folder)
    run(storage.writer(), first_run())
    check(storage, folder, {})
    yield 0, "before"
    for at, rows in enumerate(storage.writes):
        if rows > 1:
            yield at, "within"
        yield at, "after"


def refusal(offset: int, *, lift: bool = False, committed: int = 40) -> Refusal:
    return Refusal(head=chunk(offset, offset + 1, 0, committed=committed, parked=(31,)).head, offset=offset, lift=lift)


def answer(storage: Storage, offset: int) -> bytes | None:
    return storage.tables.get("purchase.answers", key(PARTITION, offset, "warehouse"))
