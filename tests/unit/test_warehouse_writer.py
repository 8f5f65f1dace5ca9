"""Each event in the warehouse exactly once, whatever is repeated, cut elsewhere, or broken off in the middle."""

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from bolts.warehouse import WarehouseBolt
from paystorm.chunk import EventChunk, Head, Refusal
from paystorm.clock import ManualClock
from paystorm.log.base import OutRecord
from paystorm.offsets import OffsetSet
from paystorm.resources import HANDED_OVER, Resources
from paystorm.source import Field, Party, Source
from paystorm.stores.cases import all_cases
from paystorm.stores.index import PartitionIndex, SupersededError, rows_from
from paystorm.stores.index_tail import IndexTail
from paystorm.stores.retry import Parked, put_parked
from paystorm.storm import topology_config
from paystorm.tables.keys import key
from paystorm.tables.memory import MemoryTables
from paystorm.verdicts import VerdictLog
from paystorm.warehouse.local import LocalWarehouse
from paystorm.warehouse.writer import FIRST_COLUMNS, PartitionWriter

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


def test_a_crash_at_any_write_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    count = 0
    for at, when in moments(tmp_path / "whole"):
        folder = tmp_path / f"{at}-{when}"
        storage = Storage(folder)
        with pytest.raises(CrashError):
            run(storage.writer(at, when, crash), first_run())
        before = stored(storage)
        run(storage.writer(), replay())
        check(storage, folder, before)
        count += 1
    assert count > 30


def test_a_crash_while_recovering_from_a_crash_does_no_harm_either(tmp_path: Path) -> None:
    for at in (9, 10, 12):  # a file is staged, its row is put, its verdicts are published
        for again in range(10):
            folder = tmp_path / f"{at}-{again}"
            storage = Storage(folder)
            with pytest.raises(CrashError):
                run(storage.writer(at, "after", crash), first_run())
            before = stored(storage)
            with pytest.raises(CrashError):
                run(storage.writer(again, "after", crash), replay(50))
            assert before.items() <= stored(storage).items()
            before = stored(storage)
            run(storage.writer(), replay())
            check(storage, folder, before)


def test_an_owner_that_sleeps_at_any_write_and_wakes_later_does_no_harm(tmp_path: Path) -> None:
    lost = 0
    for at, when in moments(tmp_path / "whole"):
        folder = tmp_path / f"{at}-{when}"
        storage = Storage(folder)
        before: dict[int, tuple[str, int]] = {}

        def meanwhile(storage: Storage = storage, before: dict[int, tuple[str, int]] = before) -> None:
            before.update(stored(storage))
            run(storage.writer(), replay())
            before.update(stored(storage))

        sleeper = storage.writer(at, when, meanwhile)
        try:
            run(sleeper, first_run())
        except SupersededError:
            lost += 1
        check(storage, folder, before)
        before = stored(storage)
        run(storage.writer(), first_run())  # the tuples that it failed come again
        assert stored(storage) == before
    assert lost > 20


def test_an_owner_that_sleeps_while_another_one_only_takes_over_does_no_harm(tmp_path: Path) -> None:
    for at, when in moments(tmp_path / "whole"):
        folder = tmp_path / f"{at}-{when}"
        storage = Storage(folder)
        newer: list[PartitionWriter] = []

        def meanwhile(storage: Storage = storage, newer: list[PartitionWriter] = newer) -> None:
            newer.append(storage.writer())
            newer[0].flush()

        with contextlib.suppress(SupersededError):
            run(storage.writer(at, when, meanwhile), first_run())
        before = stored(storage)
        run(newer[0], replay())
        check(storage, folder, before)


def test_two_owners_in_turns_never_store_an_event_twice(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    owners = [storage.writer(), storage.writer()]
    for turn, chunks in enumerate([*first_run(), *replay(), *first_run()] * 2):
        try:
            run(owners[turn % 2], [chunks])
        except SupersededError:
            owners[turn % 2] = storage.writer()
            run(owners[turn % 2], [chunks])
    check(storage, tmp_path, {})


def test_a_chunk_that_is_known_already_costs_no_write(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    writer = storage.writer()
    run(writer, first_run())
    before = storage.writes.copy()
    run(writer, replay())
    assert storage.writes == before


def test_what_is_stored_can_be_queried(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    run(storage.writer(), first_run())
    sql = "SELECT count(*), count(DISTINCT log_offset), min(dt), count_if(verdict = 'denied') FROM purchase"
    denied = sum(verdict == "denied" for verdict, _ in stored(storage).values())
    assert storage.warehouse.query(sql)[1] == [(len(VALID), len(VALID), "2026-01-01", denied)]


def test_columns_stand_in_the_files_as_declared_however_they_came(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    came = chunk(0, 10, 1)
    turned = came.events.select(pl.lit(7).alias("score"), *reversed(came.events.columns))
    run(storage.writer(), [[EventChunk(came.head, turned)]])
    (file,) = tmp_path.glob("purchase/dt=*/hr=*/*.parquet")
    assert pl.read_parquet_schema(file).names() == [*FIRST_COLUMNS, "account", "score", "data"]


def test_a_chunk_without_rows_adds_its_range_and_no_file(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    run(storage.writer(), [[chunk(7, 8, 1)]])
    (_, row) = rows_from(storage.tables, "purchase", PARTITION, 0)
    assert (row.ranges, row.files, row.accepted, row.denied) == (((7, 8),), (), 0, 0)
    assert storage.log.records == []


def test_accepted_verdicts_are_published_only_where_asked_for(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    run(storage.writer(publish_accepted=False), [[chunk(0, 10, 1)]])
    assert {json.loads(r.value)["verdict"] for r in storage.log.records} == {"denied"}


def test_the_floor_is_folded_but_for_parked_offsets(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    run(storage.writer(), [[chunk(40, 45, 1, committed=40, parked=(12, 31))]])
    applied = PartitionIndex(storage.tables, "purchase", PARTITION).applied
    assert applied == OffsetSet([(0, 12), (13, 31), (32, 45)])
    run(storage.writer(), [[chunk(12, 13, 2, committed=40, parked=(12, 31))]])
    assert 12 in PartitionIndex(storage.tables, "purchase", PARTITION).applied


def test_rows_outside_of_what_a_chunk_covers_are_a_bug_that_is_named(tmp_path: Path) -> None:
    wrong = EventChunk(chunk(0, 5, 1).head, chunk(0, 6, 1).events)
    with pytest.raises(ValueError, match="rows from 0 to 5"):
        Storage(tmp_path).writer().gather(wrong)


def refusal(offset: int, *, lift: bool = False, committed: int = 40) -> Refusal:
    return Refusal(head=chunk(offset, offset + 1, 0, committed=committed, parked=(31,)).head, offset=offset, lift=lift)


def answer(storage: Storage, offset: int) -> bytes | None:
    return storage.tables.get("purchase.answers", key(PARTITION, offset, "warehouse"))


def test_a_refused_offset_is_never_stored_until_the_refusal_is_lifted(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    writer = storage.writer()
    run(writer, [[chunk(25, 40, 1, left_out=(31,))]])
    for _ in range(2):  # the question may come twice, and the answer stays
        writer.refuse(refusal(31))
        assert answer(storage, 31) == b"refused"
        writer = storage.writer()
    run(writer, [[chunk(31, 32, 2)]])
    assert 31 not in stored(storage)
    assert IndexTail(storage.tables, "purchase").verdicts(PARTITION, np.array([31])).tolist() == [-1]
    writer.refuse(refusal(31, lift=True))
    assert answer(storage, 31) == b"lifted"
    run(storage.writer(), [[chunk(31, 32, 3, committed=40, parked=(31,))]])
    assert 31 in stored(storage)


def test_an_offset_that_is_stored_is_held(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    writer = storage.writer()
    writer.gather(chunk(31, 32, 1))  # only gathered yet
    writer.refuse(refusal(31))
    assert answer(storage, 31) == b"held"
    assert 31 in stored(storage)
    writer.refuse(refusal(31, lift=True))
    assert 31 in PartitionIndex(storage.tables, "purchase", PARTITION).applied


def test_an_owner_that_wakes_answers_nothing(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    sleeper = storage.writer()
    sleeper.refuse(refusal(31))
    newer = storage.writer()
    newer.refuse(refusal(31, lift=True))
    with pytest.raises(SupersededError):
        sleeper.refuse(refusal(31))
    assert answer(storage, 31) == b"lifted"


def test_an_answer_that_was_on_its_way_covers_no_later_one(tmp_path: Path) -> None:
    idle = Storage(tmp_path / "idle")
    idle.writer().flush()
    taken_over = len(idle.writes)  # then come the refusal's row, and the answer
    for at in range(taken_over + 2):
        storage = Storage(tmp_path / str(at))

        def meanwhile(storage: Storage = storage) -> None:
            newer = storage.writer()
            newer.refuse(refusal(31))
            newer.refuse(refusal(31, lift=True))

        sleeper = storage.writer(at, "before", meanwhile)
        if at <= taken_over:
            with pytest.raises(SupersededError):
                sleeper.refuse(refusal(31))
        else:
            sleeper.refuse(refusal(31))
        assert answer(storage, 31) == b"lifted"


@pytest.fixture
def bolt(tmp_path: Path) -> WarehouseBolt:
    storage = Storage(tmp_path / "warehouse")
    made = WarehouseBolt(input_stream=io.BytesIO(), output_stream=io.BytesIO(), rdb_signal=None)
    made.component_name = "warehouse"
    made.logger = logging.getLogger("test")
    made.storage = storage
    made.outcome = []
    made.ack = lambda tup: made.outcome.append(("ack", tup.id))
    made.fail = lambda tup: made.outcome.append(("fail", tup.id))
    resources = Resources(
        clock=storage.clock, log=storage.log, tables=storage.tables, warehouse=storage.warehouse, random=Random(1)
    )  # type: ignore[arg-type]
    conf = {**topology_config(SOURCE), HANDED_OVER: resources, "flushRecords": 12, "flushMs": 100}
    made.initialize(conf, {"task->component": {}})
    return made


def tup(name: str, chunk: EventChunk | Refusal, stream: str = "default") -> Any:
    return SimpleNamespace(id=name, values=[PARTITION, chunk], stream=stream)


def test_the_bolt_acknowledges_only_what_is_written(bolt: WarehouseBolt) -> None:
    bolt.process(tup("a", chunk(0, 7, 1)))
    assert bolt.outcome == []
    bolt.process(tup("b", chunk(7, 15, 1)))
    assert bolt.outcome == [("ack", "a"), ("ack", "b")]
    assert sorted(stored(bolt.storage)) == [o for o in VALID if o < 15]


def test_the_bolt_writes_what_has_waited_long_enough_at_a_tick(bolt: WarehouseBolt) -> None:
    bolt.process(tup("a", chunk(0, 7, 1)))
    bolt.clock.advance(0.05)
    bolt.process_tick(tup("tick", chunk(0, 0, 1)))
    assert bolt.outcome == [("ack", "tick")]
    bolt.clock.advance(0.06)
    bolt.process_tick(tup("tick", chunk(0, 0, 1)))
    assert bolt.outcome[1:] == [("ack", "a"), ("ack", "tick")]


def test_the_bolt_fails_every_tuple_once_when_a_write_fails_and_begins_anew(
    bolt: WarehouseBolt, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bolt.storage.log, "append", lambda *_: crash())
        bolt.process(tup("a", chunk(0, 7, 1)))
        bolt.process(tup("b", chunk(7, 20, 1)))
    assert bolt.outcome == [("fail", "a"), ("fail", "b")]
    bolt.process(tup("c", chunk(0, 20, 2)))
    assert bolt.outcome[2:] == [("ack", "c")]
    assert len(bolt.storage.log.records) == len([o for o in VALID if o < 20])


def test_the_bolt_of_another_task_fails_its_tuples_when_it_is_not_the_owner_any_more(bolt: WarehouseBolt) -> None:
    bolt.process(tup("a", chunk(0, 15, 1)))
    run(bolt.storage.writer(), [[chunk(15, 20, 2)]])
    bolt.process(tup("b", chunk(15, 40, 1)))
    bolt.process(tup("c", chunk(15, 40, 3)))
    assert bolt.outcome == [("ack", "a"), ("fail", "b"), ("ack", "c")]
    assert sorted(stored(bolt.storage)) == [o for o in VALID if o < 40]


def asked_for(bolt: WarehouseBolt, offset: int) -> None:
    row = Parked(
        partition=PARTITION,
        offset=offset,
        error="",
        attempts=1,
        first_failed=0,
        last_failed=0,
        epoch=0,
        state="giving_up",
    )
    put_parked(bolt.storage.tables, "purchase", row)


def test_the_bolt_answers_a_refusal_at_once_behind_what_it_holds(bolt: WarehouseBolt) -> None:
    asked_for(bolt, 31)
    bolt.process(tup("a", chunk(31, 32, 1)))
    bolt.process(tup("r", refusal(31), "refusals"))
    assert bolt.outcome == [("ack", "a"), ("ack", "r")]
    assert answer(bolt.storage, 31) == b"held"


def test_the_bolt_leaves_a_question_that_nobody_asks_any_more_unanswered(bolt: WarehouseBolt) -> None:
    bolt.process(tup("r", refusal(31), "refusals"))
    assert bolt.outcome == [("ack", "r")]
    assert answer(bolt.storage, 31) is None


def test_the_bolt_fails_a_tuple_that_it_cannot_read_and_nothing_else(bolt: WarehouseBolt) -> None:
    bolt.process(tup("a", chunk(0, 7, 1)))
    bolt.process(SimpleNamespace(id="x", values=[PARTITION, "?"], stream="default"))
    assert bolt.outcome == [("fail", "x")]
    bolt.process(tup("b", chunk(7, 20, 1)))
    assert bolt.outcome == [("fail", "x"), ("ack", "a"), ("ack", "b")]
