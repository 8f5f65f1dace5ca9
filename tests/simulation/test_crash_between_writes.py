"""The process dies at any of its writes, starts again, and ends with what the oracle computes."""

from random import Random

import pytest

from paystorm.clock import SECOND
from paystorm.stores import lists
from paystorm.testing import Shape, Watcher, Workload, World, Write, WriteFault, balance, check
from paystorm.testing.faulty import When
from paystorm.testing.workload import BAD_VALUES, FAILS_FOR

OPTIONS = {"chunkRecords": 8, "flushMs": 0, "flushRecords": 1, "snapshotRows": 2}
SHAPE = Shape(counts=2)
MOST = 200


def _world() -> World:
    """A dozen records: hits, late ones, a bad one, one that is parked, and a party that a person has listed."""
    world = World(11)
    workload = Workload(world, Random(3), bad=0.0, replays=0.0, days=1)
    workload.send(9)
    world.send(0, BAD_VALUES[1])
    data = f'{{"event_time":"2025-12-31T10:00:00Z","payer":"u1","message":"{FAILS_FOR}20"}}'
    world.send(0, f'{{"ApplicationRef":"a","data":{data}}}'.encode())
    workload.send(4)
    act = lists.add_entry(world.tables, now=world.clock.now(), by="ann", kind="account", party="u2", reason="test")
    world.act(act)
    Watcher(world, workload.parties)
    return world


def _finish(world: World) -> list[str]:
    process = world.start(SHAPE, OPTIONS)
    process.run()
    process.skip(70)  # past the retry
    process.wait(12)
    process.run()
    assert not process.dead
    return [*check(world), *balance(world)]


def _writes() -> int:
    world = _world()
    assert _finish(world) == []
    return world.faults.writes


def test_the_run_is_small_and_has_everything_in_it() -> None:
    world = _world()
    assert _finish(world) == []
    assert 50 <= world.faults.writes <= MOST, "smaller tells less, larger takes too long"
    assert world.history[1:], "no hit was made"
    told = {value.split(b'"verdict":"')[1].split(b'"')[0] for _, value in world.log.keyed("pay-verdicts")}
    assert told == {b"accepted", b"denied", b"caught_late", b"dead_lettered"}
    assert world.clock.now() > 1_767_225_600 * SECOND


@pytest.mark.parametrize("when", ["before", "after", "half"])
def test_a_crash_at_any_write_changes_nothing(when: When) -> None:
    broken = []
    for k in range(1, _writes() + 1):
        world = _world()
        crashed: list[Write] = []

        def plan(write: Write, k: int = k, crashed: list[Write] = crashed) -> WriteFault | None:
            if write.number != k or (when == "half" and write.rows < 2):
                return None
            crashed.append(write)
            return WriteFault(when, "crash")

        world.faults.plan = plan
        process = world.start(SHAPE, OPTIONS)
        if process.run():
            process.skip(70)
            process.wait(12)
        if not crashed:
            continue
        assert process.dead
        world.faults.plan = None
        found = _finish(world)
        if found:
            broken.append(f"{crashed[0]}: {found[:3]}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("what", ["error", "kill"])
def test_a_lost_reply_or_the_death_of_a_component_at_any_write_changes_nothing(what: str) -> None:
    broken = []
    for k in range(1, _writes() + 1, 3):
        world = _world()
        world.faults.plan = lambda write, k=k: WriteFault("after", what) if write.number == k else None  # type: ignore
        found = _finish(world)
        if found:
            broken.append(f"write {k}: {found[:3]} {world.faults.log}")
    assert not broken, "\n".join(broken)
