"""Merging: many files become few, every event stands exactly once at every moment, whoever dies or sleeps when."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest

from paystorm.chunk import EventChunk, Head
from paystorm.clock import SECOND, ManualClock
from paystorm.errors import TablesError
from paystorm.source import Field, Party, Source
from paystorm.stores.hours import Hours
from paystorm.stores.index import PartitionIndex, index_table, rows_from, snapshot_table
from paystorm.tables.memory import MemoryTables
from paystorm.verdicts import VerdictLog
from paystorm.verify.stored import StoredEvents, files_and_hours, files_in_place
from paystorm.warehouse.base import EventFile, flushed_name, row_of
from paystorm.warehouse.local import LocalWarehouse
from paystorm.warehouse.merging import Merged, Merger, MergeSettings, hour_start
from paystorm.warehouse.reading import stored_events
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


class NoLog:
    """A log that takes verdicts and keeps none."""

    def partitions(self, topic: str) -> int:
        return 8

    def create_topic(self, topic: str, partitions: int) -> None:
        pass

    def append(self, topic: str, records: list[Any]) -> list[tuple[int, int]]:
        return [(0, 0)] * len(records)


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


def test_the_merged_files_hold_the_rows_that_the_small_ones_held(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    fill(storage)
    before = storage.visible()
    assert len(before) == 48
    done = storage.merge()
    # The last row of each partition is not known to be published; events with a shop are of other columns
    assert (done.hours, done.files, done.into, done.rows, done.notes) == (1, 14, 3, 42, [])
    names = hour_files(storage)
    assert [n for n in names if row_of(n) is None] == [f"merged-000001-{i:04d}" for i in range(3)]
    assert len(names) == 3 + 2
    assert storage.visible() == before
    assert storage.differences() == []
    assert storage.merge() == Merged("purchase")
    offsets = sorted((r[0], r[1]) for f in stored_events(storage.tables, storage.warehouse, "purchase")
                     for r in f.select("log_partition", "log_offset").iter_rows())  # fmt: skip
    assert offsets == [(p, o) for p in (0, 1) for o in range(24)]


def test_a_query_sees_merged_hours_like_others(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    fill(storage)
    storage.writer(0).flush()
    storage.merge()
    assert storage.warehouse.query(
        "SELECT dt, hr, shop, count(*), count(DISTINCT event_id) FROM purchase GROUP BY ALL ORDER BY 3"
    )[1] == [("2026-01-01", "00", "m1", 12, 12), ("2026-01-01", "00", None, 36, 36)]


def test_old_files_stay_readable_for_the_grace_period_and_are_then_removed(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    fill(storage)
    old = list(files_in_place(storage.warehouse, "purchase"))
    expected = {file: storage.warehouse.read(file) for file in old}
    storage.merge()
    assert all(storage.warehouse.read(file).equals(expected[file]) for file in old)
    storage.clock.advance(SETTINGS.grace - 1)
    assert storage.merge().removed == 0
    storage.clock.advance(1)
    assert storage.merge().removed == 1
    assert not (tmp_path / "purchase/dt=2026-01-01").exists()
    gone = [file for file in old if file.name not in hour_files(storage)]
    assert len(gone) == 14
    with pytest.raises(TablesError, match="was merged meanwhile; run the command again"):
        storage.warehouse.read(gone[0])
    assert len(storage.visible()) == 48
    assert storage.merge() == Merged("purchase")


def test_where_an_hours_files_stand_is_asked_once_and_again_when_they_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path)
    fill(storage, partitions=1)
    warehouse, asked = storage.warehouse, [0]
    real = warehouse.hour

    def counted(source: str, hour: str) -> Any:
        asked[0] += 1
        return real(source, hour)

    monkeypatch.setattr(warehouse, "hour", counted)
    before = pl.concat(stored_events(storage.tables, warehouse, "purchase"), how="diagonal")
    assert (len(before), asked[0]) == (24, 1)
    storage.merge()
    storage.clock.advance(2 * 86_400)
    storage.merge()
    after = pl.concat(stored_events(storage.tables, warehouse, "purchase"), how="diagonal")
    assert sorted(after["log_offset"]) == sorted(before["log_offset"])
    assert asked[0] == 2


def test_hours_that_have_just_ended_or_have_few_files_are_left_alone(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    fill(storage)
    assert storage.merge(MergeSettings(files=14)).hours == 0
    storage.clock.jump(-3600 + 599)
    assert storage.merge().hours == 0
    storage.clock.advance(1)
    assert storage.merge().hours == 1


def test_large_files_are_brought_along_as_they_are(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    fill(storage, rows=2)
    writer = storage.writer(3, at=hour_start(HOUR))
    for i in range(2):
        writer.gather(chunk(3, i * 50, i * 50 + 50))
        writer.flush()
    storage.merge(MergeSettings(files=3, small_rows=49))
    assert sum(name.startswith("00003-") for name in hour_files(storage)) == 2
    assert storage.differences() == []


def test_files_of_a_merged_hour_go_to_its_new_folder_and_are_merged_in_their_turn(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    fill(storage)
    storage.merge()
    late = storage.writer(2, at=hour_start(HOUR))
    for i in range(6):
        late.gather(chunk(2, i * 5, i * 5 + 5))
        late.flush()
    assert len(storage.visible()) == 48 + 30
    before = storage.visible()
    done = storage.merge()
    assert (done.hours, done.files, done.rows) == (1, 5, 25)
    assert storage.visible() == before
    assert storage.differences() == []
    storage.clock.advance(SETTINGS.grace)
    assert storage.merge().removed == 2
    assert storage.visible() == before
    assert [p.name for p in sorted((tmp_path / "purchase").iterdir())] == [".staging", "merged-000002"]


@pytest.mark.parametrize("act", [die, die_half_written])
def test_a_merge_that_dies_at_any_write_is_finished_by_the_next(tmp_path: Path, act: Callable[..., None]) -> None:
    whole = filled(tmp_path / "whole")
    count = moments(whole.merge)
    assert count > 20
    for at in range(count):
        storage = filled(tmp_path / str(at))
        before = storage.visible()
        with pytest.raises(DiedError), writes_watched(at, act):
            storage.merge()
        assert storage.visible() == before, at
        assert storage.differences() == [], at
        storage.clock.advance(SETTINGS.lease)
        storage.merge()
        assert storage.visible() == before, at
        assert storage.differences() == [], at
        storage.clock.advance(SETTINGS.grace)
        storage.merge()
        assert storage.visible() == before, at
        assert len(hour_files(storage)) == 5, at
        assert len(storage.warehouse.numbers("purchase", HOUR)) == 1, at


def test_a_removal_that_dies_at_any_write_is_finished_by_the_next(tmp_path: Path) -> None:
    def merged(folder: Path) -> Storage:
        storage = filled(folder)
        storage.merge()
        storage.clock.advance(SETTINGS.grace)
        return storage

    whole = merged(tmp_path / "whole")
    for at in range(moments(whole.merge)):
        storage = merged(tmp_path / str(at))
        before = storage.visible()
        with pytest.raises(DiedError), writes_watched(at, die):
            storage.merge()
        assert storage.visible() == before
        storage.merge()
        assert storage.visible() == before
        assert storage.differences() == []
        assert storage.warehouse.numbers("purchase", HOUR) == [1]


def test_of_two_merges_at_once_one_is_refused_or_loses(tmp_path: Path) -> None:
    """The second comes at any write of the first: while it lives, and once it seems dead."""
    whole = filled(tmp_path / "whole")
    count = moments(whole.merge)
    refused = lost = 0
    for at in range(count):
        for sleeps in (0.0, SETTINGS.lease):
            storage = filled(tmp_path / f"{at}-{sleeps}")
            before = storage.visible()
            other: list[Merged] = []

            def meanwhile(what: str, target: Any, storage: Storage = storage, sleeps: float = sleeps,
                          other: list[Merged] = other) -> None:  # fmt: skip
                storage.clock.advance(sleeps)
                other.append(storage.merge())

            with writes_watched(at, meanwhile):
                mine = storage.merge()
            assert mine.hours + other[0].hours == 1, (at, sleeps)
            refused += any("another merge is at work" in note for note in other[0].notes)
            lost += any("another merge" in note for note in mine.notes)
            assert storage.visible() == before, (at, sleeps)
            assert storage.differences() == [], (at, sleeps)
            storage.clock.advance(2 * SETTINGS.grace)
            storage.merge()
            assert storage.visible() == before, (at, sleeps)
            assert len(storage.warehouse.numbers("purchase", HOUR)) == 1, (at, sleeps)
    assert refused > 10
    assert lost > 10


def test_a_file_placed_at_any_moment_of_a_merge_is_seen_from_then_on(tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole")
    for at in range(moments(whole.merge)):
        storage = filled(tmp_path / str(at))
        seen: list[Any] = []

        def meanwhile(what: str, target: Any, storage: Storage = storage, seen: list[Any] = seen) -> None:
            writer = storage.writer(2, at=hour_start(HOUR))
            writer.gather(chunk(2, 0, 5))
            writer.flush()
            seen.extend(storage.visible())

        with writes_watched(at, meanwhile):
            storage.merge()
        assert len(seen) == 53, at
        assert storage.visible() == seen, at
        storage.clock.advance(SETTINGS.grace)
        storage.merge()
        assert storage.visible() == seen, at
        assert storage.differences() == [], at


def test_a_writer_that_sleeps_at_any_write_while_its_hour_is_merged_and_cleared_does_no_harm(tmp_path: Path) -> None:
    def late(storage: Storage) -> None:
        writer = storage.writer(2, at=hour_start(HOUR))
        for i in range(2):
            writer.gather(chunk(2, i * 5, i * 5 + 5))
            writer.flush()

    whole = filled(tmp_path / "whole")
    count = moments(lambda: late(whole))
    for at in range(count):
        for clear in (False, True):
            storage = filled(tmp_path / f"{at}-{clear}")

            def meanwhile(what: str, target: Any, storage: Storage = storage, clear: bool = clear) -> None:
                storage.merge()
                if clear:
                    storage.clock.advance(SETTINGS.grace)
                    storage.merge()

            with writes_watched(at, meanwhile):
                try:
                    late(storage)
                except TablesError:  # its folder was removed under its hands: the tuples come again
                    assert clear
            late(storage)
            storage.clock.advance(SETTINGS.grace)
            storage.merge()
            assert len(storage.visible()) == 58, (at, clear)
            assert len(set(storage.visible())) == 58, (at, clear)
            assert storage.differences() == [], (at, clear)


def test_a_writer_that_dies_at_any_write_of_a_merged_hour_is_finished_by_the_next(tmp_path: Path) -> None:
    def late(storage: Storage) -> None:
        writer = storage.writer(2, at=hour_start(HOUR))
        writer.gather(chunk(2, 0, 5))
        writer.flush()

    def merge_begun(storage: Storage) -> None:
        """A merge that dies just before its swap."""
        with contextlib.suppress(DiedError), writes_watched(swap, die):
            storage.merge()

    whole = filled(tmp_path / "whole")
    with writes_watched() as seen:
        whole.merge()
    swap = max(i for i, name in enumerate(seen) if name == "replace") - 1
    begun = filled(tmp_path / "begun")
    merge_begun(begun)
    assert Hours(begun.tables).get("purchase", HOUR).merging == 1
    for at in range(moments(lambda: late(begun))):
        storage = filled(tmp_path / str(at))
        merge_begun(storage)
        with pytest.raises(DiedError), writes_watched(at, die):
            late(storage)
        storage.clock.advance(SETTINGS.lease)
        storage.merge()
        late(storage)
        assert len(storage.visible()) == len(set(storage.visible())) == 53, at
        storage.clock.advance(SETTINGS.grace)
        storage.merge()
        assert len(storage.visible()) == len(set(storage.visible())) == 53, at
        assert storage.differences() == [], at


def test_a_file_placed_in_a_folder_that_was_replaced_just_then_outlives_that_folder(tmp_path: Path) -> None:
    """Its owner decides on the folder, sleeps through the swap, places the file and dies before he looks again."""
    storage = Storage(tmp_path)
    fill(storage)

    class Sleeper(LocalWarehouse):
        def _bring_one(self, file: EventFile, target: Path, number: int) -> None:
            assert storage.merge().hours == 1
            super()._bring_one(file, target, number)
            raise DiedError

    writer = storage.writer(2, at=hour_start(HOUR), warehouse=Sleeper(tmp_path, Hours(storage.tables)))
    writer.gather(chunk(2, 0, 5))
    with pytest.raises(DiedError):
        writer.flush()
    assert len(storage.visible()) == 48
    storage.clock.advance(SETTINGS.grace)
    assert storage.merge().removed == 1
    storage.writer(2, at=hour_start(HOUR)).flush()
    assert len(storage.visible()) == 53
    assert storage.differences() == []


def test_who_places_a_file_again_that_was_merged_meanwhile_does_not_double_it(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    fill(storage)
    files = list(files_in_place(storage.warehouse, "purchase"))
    before = storage.visible()
    storage.merge()
    storage.warehouse.place(files)
    assert storage.visible() == before


def test_a_file_that_is_not_as_the_index_says_stops_the_merge_of_its_hour_with_a_word(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    fill(storage)
    row = next(r for r in rows_from(storage.tables, "purchase", 0, 0) if r.files)
    path = storage.warehouse.path(row.files[0].of("purchase"), 0)
    pl.read_parquet(path, hive_partitioning=False).head(2).write_parquet(path)
    before = storage.visible()
    done = storage.merge()
    assert done.hours == 0
    assert "does not hold the events of its index row: see paystorm verify" in done.notes[0]
    assert storage.visible() == before
    assert storage.warehouse.numbers("purchase", HOUR) == [0]


def test_a_full_disk_stops_a_merge_in_one_line_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path)
    fill(storage)
    before = storage.visible()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TablesError, match=r"cannot write: No space.*free some space"):
            storage.merge()
    assert storage.visible() == before
    assert storage.merge().hours == 1
    assert storage.visible() == before
    assert storage.differences() == []


def test_verify_tells_of_a_merged_file_that_is_gone_or_has_lost_rows(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    fill(storage)
    storage.merge()
    file = EventFile("purchase", HOUR, "merged-000001-0000")
    path = storage.warehouse.path(file, 1)
    frame = pl.read_parquet(path, hive_partitioning=False)
    frame.head(len(frame) - 1).write_parquet(path)
    assert any(d.table == "index" and "stored" in d.key for d in storage.differences())
    path.unlink()
    assert [(d.table, d.key) for d in storage.differences()] == [("files", (HOUR, file.name))]
    old = next(f for f in storage.warehouse.names("purchase", HOUR, 0) if row_of(f) == (0, 2))
    os.link(storage.warehouse.path(EventFile("purchase", HOUR, old), 0),
            storage.warehouse.path(EventFile("purchase", HOUR, old), 1))  # fmt: skip
    assert any("in a merged file too" in str(d) for d in storage.differences())


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    storage = Storage(tmp_path)
    fill(storage)
    before = storage.visible()
    monkeypatch.setattr(os, "link", none)
    assert storage.merge().hours == 1
    assert storage.visible() == before
    assert storage.differences() == []


def test_a_day_of_a_thousand_records_a_second_leaves_under_500_files(tmp_path: Path) -> None:
    """Compressed in time: 2 hours of 8 partitions, a flush every two minutes: what is left depends on events."""
    storage = Storage(tmp_path)
    per_flush, flushes, partitions, hours = 120, 30, 8, 2
    writers = [storage.writer(partition) for partition in range(partitions)]
    for i in range(hours * flushes):
        for partition, writer in enumerate(writers):
            writer.gather(chunk(partition, i * per_flush, (i + 1) * per_flush))
            writer.flush()
        storage.clock.advance(3600 / flushes)
    storage.clock.advance(3600)
    before = storage.visible()
    assert len(before) == hours * flushes * partitions * per_flush
    # Merged files as large in proportion: 500,000 of the 3.6 million events of an hour
    done = storage.merge(MergeSettings(rows=flushes * partitions * per_flush * 500_000 // 3_600_000))
    assert (done.hours, done.files) == (hours, hours * flushes * partitions - partitions)
    assert storage.visible() == before
    assert storage.differences() == []
    assert len(files_in_place(storage.warehouse, "purchase")) / hours * 24 < 500


def test_names_of_files_tell_their_index_row() -> None:
    assert row_of(flushed_name(3, 17, 255)) == (3, 17)
    assert row_of(flushed_name(123_456, 12_345_678_901, 2**64 - 1)) == (123_456, 12_345_678_901)
    assert row_of("merged-000001-0000") is None
    assert row_of("00000-a") is None


def test_the_published_rows_are_those_that_an_owner_would_not_publish_again(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    fill(storage)
    index = PartitionIndex(storage.tables, "purchase", 0)
    assert [row.n for row in index.unpublished] == [8]
