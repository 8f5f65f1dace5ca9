"""A partition as the spout reads it: what is sent, what becomes of it, what survives a restart."""

import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.unit.partition_world import START, World

from paystorm.chunk import Head, RecordChunk
from paystorm.clock import ManualClock
from paystorm.errors import LogError, OffsetsLostError, TablesError
from paystorm.log.base import OutRecord, RecordBatch
from paystorm.log.embedded import EmbeddedLog
from paystorm.reading.parking import Emission
from paystorm.stores.letters import all_letters
from paystorm.stores.retry import (
    all_parked,
    answers_table,
    replace_parked,
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# Reading and committing.


def test_records_come_in_chunks_that_say_what_they_cover(world: World) -> None:
    world.write(25)
    heads = [world.chunk()[0].head for _ in range(3)]
    assert [(h.first, h.after) for h in heads] == [(0, 10), (10, 20), (20, 25)]
    assert heads[0] == Head(
        source="s", topic="t", partition=0, first=0, after=10, epoch=0, generation=0, committed=0, read_at=START
    )
    assert world.nothing()


def test_the_offset_is_never_ahead_of_a_range_that_is_not_complete(world: World) -> None:
    world.write(30)
    ids = [world.chunk()[1] for _ in range(3)]
    world.reader.acked(ids[1])
    world.reader.acked(ids[2])
    world.clock.advance(1)
    world.reader.tend()
    assert world.committed == 0
    world.reader.acked(ids[0])
    world.reader.tend()
    assert world.committed == 30
    assert world.reader.held.read == 30


def test_checkpoints_are_written_at_most_every_50_ms_while_more_is_under_way(world: World) -> None:
    world.write(30)
    ids = [world.chunk()[1] for _ in range(3)]
    world.reader.acked(ids[0])
    world.reader.tend()
    assert world.committed == 0
    world.clock.advance(0.05)
    world.reader.tend()
    assert world.committed == 10
    world.reader.acked(ids[1])
    world.reader.tend()
    assert world.committed == 10
    world.reader.tend(commit_now=True)
    assert world.committed == 20
    world.reader.acked(ids[2])
    world.reader.tend()  # nothing is under way any more
    assert world.committed == 30


def test_a_chunk_ends_where_another_version_begins(world: World) -> None:
    world.firsts = {0: 0, 1: 4, 3: 17}
    world.start()
    world.write(20)
    heads = [world.chunk()[0].head for _ in range(4)]
    assert [(h.first, h.after, h.epoch) for h in heads] == [(0, 4, 0), (4, 14, 1), (14, 17, 1), (17, 20, 3)]
    assert {h.generation for h in heads} == {3}


class GappyLog(EmbeddedLog):
    """A log that hides odd offsets, as a compacted topic does."""

    def read(
        self, topic: str, partition: int, offset: int, *, max_records: int, max_bytes: int, keys: bool = False
    ) -> RecordBatch | None:
        batch = super().read(topic, partition, offset, max_records=4, max_bytes=max_bytes)
        if batch is None:
            return None
        even = [i for i, o in enumerate(batch.offsets.tolist()) if o % 8 == 0]
        return RecordBatch(
            topic=topic,
            partition=partition,
            offsets=batch.offsets[even],
            timestamps=batch.timestamps[even],
            values=b"".join(batch.value(i) + b"\n" for i in even),
            lengths=batch.lengths[even],
            next=batch.next,
        )


def test_gaps_are_committed_and_counted_as_no_records(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.log = GappyLog(tmp_path, world.clock)
    world.firsts = {0: 0, 1: 11}
    world.start()
    world.write(21)
    world.run(seconds=3)
    assert world.applied == {0, 8, 16}
    assert (world.committed, world.reader.held.read) == (21, 3)
    assert [(h.first, h.after, h.epoch) for h in world.sent] == [(0, 4, 0), (8, 11, 0), (15, 19, 1)]


def test_a_driver_that_gives_records_from_elsewhere_is_caught(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(5)
    wrong = RecordBatch("t", 0, np.array([7]), np.array([0]), b"x\n", np.array([1]), 7)
    monkeypatch.setattr(world.log, "read", lambda *a, **k: wrong)
    with pytest.raises(LogError, match="driver is at fault"):
        world.reader.next_new(10, 100)


# Failures without a name.


def test_what_failed_without_a_name_comes_again_after_1_2_4_8_10_s(world: World) -> None:
    world.write(5)
    first, tuple_id = world.chunk()
    for seconds in (1, 2, 4, 8, 10, 10):
        world.reader.failed(tuple_id)
        world.clock.advance(seconds - 0.01)
        assert world.nothing()
        world.clock.advance(0.01)
        again, tuple_id = world.chunk()
        assert again == first
    assert not list(all_parked(world.tables, "s"))
    world.reader.acked(tuple_id)
    world.reader.tend()
    assert world.committed == 5


def test_an_ack_of_a_tuple_that_timed_out_counts_for_nothing(world: World) -> None:
    world.write(5)
    _, late = world.chunk()
    world.reader.failed(late)
    world.reader.acked(late)
    world.reader.tend()
    assert world.committed == 0
    world.clock.advance(1)
    _, tuple_id = world.chunk()
    assert tuple_id != late


def test_a_range_that_fails_three_times_while_others_succeed_is_split_into_8(world: World) -> None:
    world.write(10)
    _, bad = world.chunk()
    for n in range(3):
        world.write(1)
        world.reader.acked(world.chunk()[1])  # others succeed
        world.reader.failed(bad)
        world.clock.advance(10)
        if n < 2:
            bad = world.chunk()[1]
    parts = [world.chunk()[0].head for _ in range(8)]
    assert [(h.first, h.after) for h in parts] == [(0, 1), (1, 2), (2, 3), (3, 5), (5, 6), (6, 7), (7, 8), (8, 10)]
    assert world.nothing()


def test_in_an_outage_nothing_is_split_or_parked_however_long_it_takes(world: World) -> None:
    world.write(1)
    for _ in range(50):
        _, tuple_id = world.chunk()
        world.reader.failed(tuple_id)
        world.clock.advance(10)
    assert world.reader.pending.open == 1
    assert not list(all_parked(world.tables, "s"))


def test_a_single_record_that_fails_five_times_while_others_succeed_is_parked_by_the_spout(world: World) -> None:
    world.write(1)
    _, bad = world.chunk()
    for n in range(5):
        world.write(1)
        world.reader.acked(world.chunk()[1])
        world.reader.failed(bad)
        world.clock.advance(10)
        if n < 4:
            bad = world.chunk()[1]
    world.reader.tend()
    row = world.row(0)
    assert (row.error, row.attempts, row.state) == ("failed 5 times without a name", 1, "waiting")
    assert row.value == b'{"ApplicationRef":"a","id":"e0"}'
    assert world.committed == 6  # it holds nothing back
    world.clock.advance(1)
    retried, _ = world.chunk()
    assert (retried.head.first, retried.head.after, retried.head.attempt) == (0, 1, 1)


# Restarts and stale tasks.


def test_a_restart_reads_again_from_the_committed_offset(world: World) -> None:
    world.write(20)
    ids = [world.chunk()[1] for _ in range(2)]
    world.reader.acked(ids[0])
    world.reader.tend(commit_now=True)
    world.start()
    assert world.chunk()[0].head.first == 10


def test_a_stale_task_loses_forgets_and_begins_from_the_tables(world: World) -> None:
    world.write(20)
    stale = world.reader
    _, old = world.chunk()
    world.start()
    world.run()
    world.write(5)
    stale.acked(old)
    stale.tend()
    assert "another task has moved partition 0" in world.warnings[0]
    assert world.committed == 20
    assert stale.held.committed == 20
    emission = stale.next_new(10, 1000)
    assert emission is not None
    assert emission.chunk.head.first == 20
    stale.acked(old)


def test_tables_that_fail_in_the_middle_lose_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(10)
    found = world.expect()
    world.deliver(found, {3})
    world.reader.acked(found.tuple_id)
    for method in ("scan", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(world.tables, method, _unreachable_rows)
            with pytest.raises(TablesError):
                world.reader.tend()
    world.run(seconds=2)
    assert world.applied == set(range(10))
    assert world.committed == 10
    assert not list(all_parked(world.tables, "s"))


def _unreachable_rows(*args: object, **named: object) -> bool:
    raise TablesError("the tables do not answer")


def test_a_row_that_another_changes_while_it_is_filled_is_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write(10)
    found = world.expect()
    world.deliver(found, {3})
    world.reader.acked(found.tuple_id)
    real = world.tables.replace
    done: list[bool] = []

    def meddling(table: str, key: bytes, expected: bytes, value: bytes) -> bool:
        if not done and table == "s.retry":
            done.append(True)
            row = world.row(3)
            replace_parked(world.tables, "s", row, msgspec.structs.replace(row, error="changed"))
        return real(table, key, expected, value)

    monkeypatch.setattr(world.tables, "replace", meddling)
    world.reader.tend()
    assert world.row(3).error == "changed"
    assert world.row(3).value is not None


def test_a_topic_made_anew_is_refused_at_start_and_while_it_runs(world: World) -> None:
    world.write(20)
    world.run()
    world.log.delete_topic("t")
    world.log.create_topic("t", 1)
    world.write(30)
    with pytest.raises(OffsetsLostError, match="20 offsets of the former one are gone"):
        world.start()
    world.clock.advance(5)
    with pytest.raises(OffsetsLostError, match="made anew"):
        world.reader.tend()


def test_a_log_that_ends_before_what_was_read_is_refused_while_it_runs(world: World) -> None:
    world.write(20)
    world.run()
    world.log.delete_topic("t")
    world.log.create_topic("t", 1)
    with pytest.raises(OffsetsLostError, match="made anew"):
        world.reader.next_new(10, 1000)


def test_offsets_that_retention_took_are_refused(world: World) -> None:
    world.write(100)
    assert isinstance(world.log, EmbeddedLog)
    start = world.log.drop_before("t", 0, 90)
    assert start > 0
    with pytest.raises(OffsetsLostError, match=f"{start} offsets are gone before they were processed"):
        world.start()


def test_a_source_that_starts_first_on_an_old_topic_begins_where_the_log_does(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path, ManualClock(START), segment_bytes=2000)
    log.create_topic("t", 1)
    log.append("t", [OutRecord(b"x" * 100, None, 0) for _ in range(100)])
    log.append("t", [OutRecord(b"x" * 100, None, 0) for _ in range(100)])
    start = log.drop_before("t", 0, 150)
    world = World(tmp_path)
    world.run()
    assert world.committed == 200
    assert world.reader.held.read == 200 - start


# All of it at once.


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_every_record_has_exactly_one_outcome(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    world = World(tmp_path, chunkRecords=rng.choice([1, 3, 10]), maxOffsetBehind=rng.choice([0, 5, 1000]))
    named = {o for o in range(120) if rng.random() < 0.1}
    poison = {o for o in range(120) if rng.random() < 0.02}
    flying: list[Emission] = []
    late: list[Emission] = []
    for step in range(1500):
        if step < 600 and world.log.end_offset("t", 0) < 120 and rng.random() < 0.2:
            world.write(rng.randint(1, 6))
        if rng.random() < 0.005:
            world.start()
            late += flying
            flying = []
        found = world.next()
        if found is not None:
            flying.append(found)
        else:
            world.clock.advance(rng.choice([0.1, 1, 60]))
        if late and rng.random() < 0.1:
            world.deliver(late.pop(rng.randrange(len(late))), named)
        if flying and rng.random() < 0.7:
            emission = flying.pop(rng.randrange(len(flying)))
            chunk = emission.chunk
            spoilt = isinstance(chunk, RecordChunk) and poison & set(chunk.batch().offsets.tolist())
            if spoilt or rng.random() < 0.05:
                world.reader.failed(emission.tuple_id)
                late.append(emission)
            else:
                world.deliver(emission, named if rng.random() < 0.9 else set())
                world.reader.acked(emission.tuple_id)
        parked_below = {p.offset for p in all_parked(world.tables, "s") if p.offset < world.committed}
        dead = {x.offset for x in all_letters(world.tables, "s")}
        assert set(range(world.committed)) <= world.applied | dead | parked_below
        assert not world.applied & dead
    for emission in flying:
        world.reader.failed(emission.tuple_id)
    world.run(seconds=200)
    world.write(1)
    world.run(seconds=3 * 86_400)
    end = world.log.end_offset("t", 0)
    dead = {x.offset for x in all_letters(world.tables, "s")}
    assert world.applied | dead == set(range(end))
    assert not world.applied & dead
    assert not list(all_parked(world.tables, "s"))
    assert not list(world.tables.scan(answers_table("s")))
    assert (world.committed, world.reader.held.read) == (end, end)
    assert world.reader.caught_up()


def test_a_small_chunk_is_followed_by_a_wait_in_which_records_come_together(tmp_path: Path) -> None:
    world = World(tmp_path, chunkRecords=1000, lingerMs=25)
    world.write(3)
    assert len(world.chunk()[0].batch()) == 3
    world.write(4)
    assert world.nothing()
    world.clock.advance(0.024)
    world.write(5)
    assert world.nothing()
    world.clock.advance(0.002)
    assert len(world.chunk()[0].batch()) == 9


def test_where_there_is_much_to_read_nothing_is_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path, chunkRecords=1000, lingerMs=25)
    world.write(1100)
    assert [len(world.chunk()[0].batch()) for _ in range(2)] == [1000, 100]
    world.write(1)
    assert len(world.chunk()[0].batch()) == 1
