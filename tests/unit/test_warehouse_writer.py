"""Each event in the warehouse exactly once, whatever is repeated, cut elsewhere, or broken off in the middle."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from writer_world import (
    INVALID,
    PARTITION,
    VALID,
    CrashError,
    Storage,
    answer,
    check,
    chunk,
    crash,
    first_run,
    moments,
    refusal,
    replay,
    run,
    stored,
)

from paystorm.chunk import EventChunk
from paystorm.offsets import OffsetSet
from paystorm.stores.index import PartitionIndex, SupersededError, rows_from
from paystorm.stores.index_tail import IndexTail
from paystorm.warehouse.writer import FIRST_COLUMNS, PartitionWriter


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


def test_a_row_that_stands_though_it_is_said_not_to_keeps_its_file(tmp_path: Path) -> None:
    """As servers may say that failed and went on by themselves."""
    storage = Storage(tmp_path)
    writer = storage.writer()
    run(writer, first_run()[:2])
    tables = storage.tables
    put = tables.put_if_absent

    def put_and_deny(table: str, rows: Any) -> list[bool]:
        return [False for _ in put(table, rows)]

    writer.gather(chunk(25, 40, 4, committed=20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "put_if_absent", put_and_deny)
        with pytest.raises(SupersededError):
            writer.flush()
    writer = storage.writer()
    writer.gather(chunk(25, 40, 4, committed=20))
    writer.flush()
    assert set(range(25, 40)) - INVALID <= set(stored(storage))
