"""Records that a partition parks: tried again alone, asked about, given up once later ones have passed, replayed."""

import json
from pathlib import Path

import pytest
from tests.unit.partition_world import START, World

from paystorm.chunk import Refusal
from paystorm.errors import TablesError
from paystorm.log.base import OutRecord
from paystorm.log.embedded import EmbeddedLog
from paystorm.stores.letters import all_letters, bury, letter_at
from paystorm.stores.retry import (
    all_parked,
    answers_table,
)
from paystorm.verdicts import VerdictLog, verdict_topic


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


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
