"""Merging: many files become few, and every event stands exactly once at every moment."""

import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from merging_world import HOUR, SETTINGS, Storage, chunk, fill, hour_files

from paystorm.errors import TablesError
from paystorm.stores.index import PartitionIndex, rows_from
from paystorm.verify.stored import files_in_place
from paystorm.warehouse.base import EventFile, flushed_name, row_of
from paystorm.warehouse.merging import Merged, MergeSettings, hour_start
from paystorm.warehouse.reading import stored_events


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
