"""A partition as the spout reads it: what is sent, what becomes of it, what survives a restart."""

import json
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest

from paystorm.chunk import Head, RecordChunk, Refusal
from paystorm.clock import SECOND, ManualClock
from paystorm.errors import LogError, OffsetsLostError, TablesError
from paystorm.log.base import Log, OutRecord, RecordBatch
from paystorm.log.embedded import EmbeddedLog
from paystorm.reading.epochs import Epochs
from paystorm.reading.parked_rows import Surroundings
from paystorm.reading.parking import Emission
from paystorm.reading.partition_reader import PartitionReader
from paystorm.settings import Settings
from paystorm.source import Field, Source
from paystorm.stores.checkpoints import load_checkpoint
from paystorm.stores.letters import all_letters, bury, letter_at
from paystorm.stores.retry import (
    Parked,
    all_parked,
    answers_table,
    load_parked,
    park,
    put_answer,
    replace_parked,
    still_asked,
)
from paystorm.tables.memory import MemoryTables
from paystorm.validity import ValiditySettings
from paystorm.verdicts import VerdictLog, verdict_topic

SOURCE = Source(
    name="s", topic="t", enforces=False, fields=(Field(name="event_time", type="time", required=True),), parties=()
)
START = 1_767_225_600 * SECOND


class World:
    """Log, tables and clock of a source with one partition, its reader, and sinks that do as a test says."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.clock = ManualClock(START)
        self.log: Log = EmbeddedLog(folder, self.clock, segment_bytes=2000)
        self.log.create_topic("t", 1)
        self.tables = MemoryTables()
        self.settings = Settings({"chunkRecords": 10, **options})
        self.firsts = {0: 0}
        self.warnings: list[str] = []
        self.applied: set[int] = set()
        self.refused: set[int] = set()
        self.sent: list[Head] = []
        self.reader = self.start()

    def start(self) -> PartitionReader:
        """A spout task that starts; the one before is forgotten."""
        here = Surroundings(
            source=SOURCE,
            settings=self.settings,
            clock=self.clock,
            log=self.log,
            tables=self.tables,
            verdicts=VerdictLog(self.log, "s", "t"),
            generation=max(self.firsts),
            validity={n: ValiditySettings() for n in self.firsts},
            warn=self.warnings.append,
        )
        self.reader = PartitionReader(here, 0, Epochs(self.firsts))
        self.reader.load()
        return self.reader

    def write(self, n: int) -> None:
        end = self.log.end_offset("t", 0)
        for first in range(end, end + n, 30):  # a segment of the log ends between appends
            offsets = range(first, min(first + 30, end + n))
            self.log.append("t", [OutRecord(b'{"ApplicationRef":"a","id":"e%d"}' % o, None, 0) for o in offsets])

    def next(self, *, new: bool = True) -> Emission | None:
        self.reader.tend()
        found = self.reader.next_retry() or self.reader.next_again() or self.reader.next_question()
        if found is None and new:
            found = self.reader.next_new(self.settings["chunkRecords"], 10**6)
        if found is not None:
            self.sent.append(found.chunk.head)
        return found

    def expect(self) -> Emission:
        found = self.next()
        assert found is not None
        return found

    def nothing(self) -> bool:
        return self.next() is None

    def chunk(self) -> tuple[RecordChunk, str]:
        found = self.expect()
        assert isinstance(found.chunk, RecordChunk)
        return found.chunk, found.tuple_id

    def deliver(self, emission: Emission, bad: set[int] | None = None) -> None:
        """What bolts and sinks do before they ack: name the bad records, apply the others, answer questions."""
        chunk = emission.chunk
        if isinstance(chunk, Refusal):
            if chunk.lift:
                self.refused.discard(chunk.offset)
            elif still_asked(self.tables, "s", 0, chunk.offset):
                held = chunk.offset in self.applied
                if not held:
                    self.refused.add(chunk.offset)
                put_answer(self.tables, "s", 0, chunk.offset, "warehouse", held=held)
                put_answer(self.tables, "s", 0, chunk.offset, 3, held=False)
            return
        offsets = set(chunk.batch().offsets.tolist())
        failures = {o: f"bad {o}" for o in offsets & (bad or set())}
        if failures:
            park(self.tables, "s", chunk.head, failures, self.clock.now())
        self.applied |= offsets - set(failures) - self.refused

    def run(self, bad: set[int] | None = None, *, seconds: float = 0) -> None:
        """Deliver and ack all there is, for so long."""
        end = self.clock.monotonic() + seconds
        step = max(0.5, seconds / 500)
        while True:
            found = self.next()
            if found is not None:
                self.deliver(found, bad)
                self.reader.acked(found.tuple_id)
            elif self.clock.monotonic() >= end:
                self.reader.tend()
                return
            else:
                self.clock.advance(step)

    def run_to_question(self, bad: set[int]) -> Emission:
        """Deliver and ack all there is, up to the first question to the sinks."""
        while True:
            found = self.next()
            if found is None:
                self.clock.advance(0.5)
            elif isinstance(found.chunk, Refusal):
                return found
            else:
                self.deliver(found, bad)
                self.reader.acked(found.tuple_id)

    @property
    def committed(self) -> int:
        held = load_checkpoint(self.tables, "s", "t", 0)
        assert held is not None
        return held.committed

    def row(self, offset: int) -> Parked:
        row = load_parked(self.tables, "s", 0, offset)
        assert row is not None
        return row


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


# Parked records.


def test_a_parked_record_is_retried_alone_after_1_60_3600_and_86400_s(world: World) -> None:
    world.write(10)
    world.run({9})  # the last one: no later record completes, so it is not given up
    assert (world.committed, world.reader.held.read) == (10, 10)
    for n, seconds in enumerate((1, 60, 3600, 86_400, 86_400), start=1):
        world.clock.advance(seconds - 0.1)
        assert world.nothing()
        world.clock.advance(0.1)
        found = world.expect()
        head = found.chunk.head
        assert (head.first, head.after, head.attempt, head.parked) == (9, 10, n, (9,))
        world.deliver(found, {9})
        world.reader.acked(found.tuple_id)
    world.reader.tend()
    assert world.row(9).attempts == 6
    assert 9 not in world.applied


def test_a_retry_that_succeeds_ends_it(world: World) -> None:
    world.write(10)
    world.run({3})
    assert world.reader.parked.offsets() == (3,)
    world.run(seconds=2)
    assert world.applied == set(range(10))
    assert not list(all_parked(world.tables, "s"))
    assert world.reader.caught_up()


def test_chunks_name_the_records_parked_below_the_committed_offset(world: World) -> None:
    world.write(10)
    world.run({3, 4})
    world.write(1)
    head = world.chunk()[0].head
    assert (head.committed, head.parked) == (10, (3, 4))


def test_the_raw_bytes_are_kept_before_the_offset_passes(world: World) -> None:
    world.write(10)
    found = world.expect()
    world.deliver(found, {3})
    assert world.row(3).value is None
    world.reader.acked(found.tuple_id)
    world.reader.tend()
    row = world.row(3)
    assert row.value == b'{"ApplicationRef":"a","id":"e3"}'
    assert row.timestamp == START // 1000


def test_a_parked_record_survives_the_logs_retention(world: World) -> None:
    world.write(100)
    world.run({3})
    assert isinstance(world.log, EmbeddedLog)
    assert world.log.drop_before("t", 0, 90) > 3
    world.start()
    world.run(seconds=2)
    assert world.applied == set(range(100))


def test_a_retry_that_fails_without_a_name_uses_no_attempt_up(world: World) -> None:
    world.write(10)
    world.run({3})
    world.clock.advance(1)
    _, tuple_id = world.chunk()
    world.reader.failed(tuple_id)
    assert not world.reader.settled()
    world.clock.advance(1)
    again, tuple_id = world.chunk()
    assert again.head.attempt == 1
    world.reader.acked(tuple_id)
    world.reader.tend()
    assert world.reader.settled()
    assert not list(all_parked(world.tables, "s"))


def test_a_bolts_tuple_that_comes_twice_or_late_counts_once(world: World) -> None:
    world.write(10)
    found = world.expect()
    world.deliver(found, {3})
    before = world.row(3)
    world.clock.advance(5)
    world.deliver(found, {3})
    assert world.row(3) == before
    world.reader.acked(found.tuple_id)
    world.reader.tend()
    retried = world.expect()
    world.deliver(retried, {3})
    world.deliver(retried, {3})
    assert world.row(3).attempts == 2
    world.reader.acked(retried.tuple_id)
    world.run(seconds=100)  # retry 2 succeeds, or it is given up; either way the row is gone
    assert not list(all_parked(world.tables, "s"))
    world.deliver(retried, {3})
    assert not list(all_parked(world.tables, "s"))


def test_a_record_parked_by_a_tuple_that_came_late_is_found_and_tried(world: World) -> None:
    world.write(10)
    late = world.expect()
    world.reader.failed(late.tuple_id)
    world.run(seconds=2)
    assert world.committed == 10
    world.deliver(late, {3})
    world.run(seconds=15)
    assert not list(all_parked(world.tables, "s"))


def test_a_record_parked_late_that_is_dead_lettered_already_is_not_tried(world: World) -> None:
    world.write(10)
    late = world.expect()
    world.reader.failed(late.tuple_id)
    world.run(seconds=2)
    bury(
        world.tables, "s", VerdictLog(world.log, "s", "t"), partition=0, offset=3, timestamp=0, value=b"",
        event_id=None, application=None, attempts=2, last_error="x", now=0,
    )  # fmt: skip
    world.deliver(late, {3})
    sent = len(world.sent)
    world.run(seconds=15)
    assert not list(all_parked(world.tables, "s"))
    assert len(world.sent) == sent


# Giving up.


def test_given_up_once_5_later_records_are_complete(world: World) -> None:
    world.write(10)
    bad = {6}
    world.run(bad, seconds=5)  # retry 1 failed; 3 later records are complete
    assert world.row(6).state == "waiting"
    world.write(1)
    world.run(bad)
    assert world.row(6).state == "waiting"
    world.write(1)
    world.run(bad)  # at once, not at the next retry
    letter = letter_at(world.tables, "s", 0, 6)
    assert letter is not None
    assert (letter.code, letter.attempts, letter.last_error) == ("gave_up", 2, "bad 6")
    assert (letter.value, letter.event_id, letter.application) == (b'{"ApplicationRef":"a","id":"e6"}', "e6", "a")
    assert not list(all_parked(world.tables, "s"))
    assert not list(world.tables.scan(answers_table("s")))
    assert world.refused == {6}
    verdicts = world.log.read(verdict_topic("s"), 0, 0, max_records=10, max_bytes=10_000)
    assert verdicts is not None
    assert len(verdicts) == 1
    assert world.applied == set(range(12)) - {6}
    assert world.reader.caught_up()


def test_a_later_record_that_is_parked_itself_is_not_complete(world: World) -> None:
    world.write(10)
    world.run({3, 5, 6}, seconds=5)
    assert [p.offset for p in all_parked(world.tables, "s")] == [3, 5, 6]
    world.write(1)
    world.run({3, 5, 6})
    assert [p.offset for p in all_parked(world.tables, "s")] == [5, 6]


def test_records_complete_before_it_first_failed_do_not_count(world: World) -> None:
    world.write(20)
    first, second = world.expect(), world.expect()
    world.deliver(second)
    world.reader.acked(second.tuple_id)
    world.deliver(first, {9})
    world.reader.acked(first.tuple_id)
    world.run({9}, seconds=30)
    assert world.row(9).attempts == 2
    world.write(5)
    world.run({9})
    assert letter_at(world.tables, "s", 0, 9) is not None


def test_what_a_sink_holds_is_never_given_up_but_retried(world: World) -> None:
    world.write(10)
    world.applied.add(3)  # an attempt before had reached a sink
    world.run({3}, seconds=5)
    row = world.row(3)
    assert (row.state, row.refused) == ("held", False)
    assert world.refused == set()
    assert not list(world.tables.scan(answers_table("s")))
    assert world.reader.parked.held == (3,)
    world.run({3}, seconds=4000)
    assert world.row(3).attempts == 4
    assert not list(all_letters(world.tables, "s"))
    world.run(seconds=86_400)
    assert not list(all_parked(world.tables, "s"))


def test_a_question_that_comes_after_its_refusal_was_lifted_is_not_heeded(world: World) -> None:
    world.write(10)
    late = world.run_to_question({3})
    world.applied.add(3)
    world.reader.failed(late.tuple_id)
    world.run({3}, seconds=1)
    world.applied.discard(3)
    world.deliver(late)
    assert world.refused == set()


def test_without_any_answer_it_is_asked_again(world: World) -> None:
    world.write(10)
    question = world.run_to_question({3})
    world.reader.acked(question.tuple_id)
    world.reader.tend()
    assert "no sink answered" in world.warnings[0]
    assert world.nothing()
    world.clock.advance(1)
    assert isinstance(world.expect().chunk, Refusal)
    assert letter_at(world.tables, "s", 0, 3) is None


def test_a_restart_at_any_point_of_giving_up_goes_on_from_there(tmp_path: Path) -> None:
    for held in (False, True):
        for stop in range(14):
            world = World(tmp_path / f"{held}{stop}")
            world.write(10)
            if held:
                world.applied.add(3)
            world.run({3})
            world.clock.advance(1)
            for step in range(stop):
                # One call at a time: the task may die after each.
                if step % 2 == 0:
                    found = world.next()
                else:
                    world.reader.tend()
                    continue
                if found is not None:
                    world.deliver(found, {3})
                    if step % 4 == 0:
                        world.reader.acked(found.tuple_id)
                    else:
                        world.start()
            world.start()
            world.run({3}, seconds=5)
            if held:
                assert world.row(3).state == "held"
                assert world.refused == set()
            else:
                assert letter_at(world.tables, "s", 0, 3) is not None
                assert not list(all_parked(world.tables, "s"))
            assert world.applied == (set(range(10)) if held else set(range(10)) - {3})


def test_a_restart_between_letter_and_row_finishes_and_publishes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(10)
    monkeypatch.setattr(world.tables, "delete_if", _unreachable)
    with pytest.raises(TablesError):
        world.run({3}, seconds=5)
    assert letter_at(world.tables, "s", 0, 3) is not None
    monkeypatch.undo()
    assert world.row(3).state == "giving_up"
    world.start()
    assert not list(all_parked(world.tables, "s"))
    assert world.log.end_offset(verdict_topic("s"), 0) == 2  # the same one twice


def _unreachable(*args: object) -> bool:
    raise TablesError("the tables do not answer")


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


# Replays.


def replay_of(offset: int) -> OutRecord:
    named = {"topic": "t", "partition": 0, "offset": offset}
    return OutRecord(json.dumps({"ApplicationRef": "a", "data": {}, "replay_of": named}).encode(), None, 0)


def test_of_several_replays_of_one_record_the_lowest_counts_however_often_it_is_read(world: World) -> None:
    world.write(3)
    world.log.append("t", [replay_of(1), replay_of(2), replay_of(1)])
    chunk, _ = world.chunk()
    assert chunk.duplicates == (5,)
    world.log.append("t", [replay_of(1)])
    assert world.chunk()[0].duplicates == (6,)
    world.start()
    assert world.chunk()[0].duplicates == (5, 6)


def test_a_retry_of_a_replay_that_came_too_late_still_says_so(world: World) -> None:
    world.write(1)
    world.log.append("t", [replay_of(0), replay_of(0)])
    world.run({2})
    world.clock.advance(1)
    assert world.chunk()[0].duplicates == (2,)


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
