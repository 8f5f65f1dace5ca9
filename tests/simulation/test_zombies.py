"""A task that was replaced and wakes with its old memory does no harm."""

from random import Random

import pytest

from paystorm.local.faults import Delivery, Fault, MakeZombie
from paystorm.testing import Shape, Watcher, Workload, World, balance, check
from paystorm.testing.draw import random_options, random_shape
from paystorm.testing.faulty import When, Write, WriteFault
from paystorm.testing.invariants import BrokenInvariantError

COMPONENTS = ("spout", "validation", "naming", "lookup", "warehouse", "counts", "dead_letters")


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_that_was_replaced_and_wakes_does_no_harm(component: str) -> None:
    for seed in (1, 2, 3):
        world, random = World(seed, partitions=2), Random(seed)
        workload = Workload(world, random, failing=0.03)
        Watcher(world, workload.parties)
        workload.send(60)
        made = 0

        def zombies(delivery: Delivery, random: Random = random) -> Fault | None:
            nonlocal made
            if delivery.component != component or made >= 4 or (made and random.random() > 0.3):
                return None
            made += 1
            return MakeZombie(random.choice((0.5, 4.0, 40.0)), rounds=5)

        options = {**random_options(random), "chunkRecords": 5}
        process = world.start(Shape(counts=2, warehouse=2), options, faults=zombies)
        process.run()
        assert made or component == "dead_letters", seed
        assert not [*check(world), *balance(world)], seed


@pytest.mark.parametrize("when", ["before", "half", "after"])
@pytest.mark.parametrize("table", ["pay.index", "pay.journal", "pay.hits", "pay.retry", "pay.offsets", "pay.letters"])
def test_a_component_stopped_in_a_write_goes_on_behind_its_replacement_and_does_no_harm(table: str, when: When) -> None:
    for seed in (1, 2):
        world, random = World(seed, partitions=2), Random(seed)
        workload = Workload(world, random, failing=0.05)
        watcher = Watcher(world, workload.parties)
        workload.send(60)
        stopped: list[Write] = []

        def stop(write: Write, stopped: list[Write] = stopped) -> WriteFault | None:
            if write.name != table or len(stopped) >= 2:
                return None
            stopped.append(write)
            return WriteFault(when, "stop", 40.0)  # longer than tuples live: all is done again meanwhile

        world.faults.plan = stop
        process = world.start(Shape(counts=2, warehouse=2), {"chunkRecords": 5})
        process.run()
        assert stopped, seed
        assert world.faults.woken_writes or when == "after" or table == "pay.hits", seed  # hits: its group is done then
        assert watcher.checked
        assert not [*check(world), *balance(world)], seed


def test_a_put_that_covers_what_a_replacement_wrote_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(1)
    put = world.tables.put
    monkeypatch.setattr(world.tables, "put_if_absent", lambda table, rows: put(table, rows) or [True] * len(rows))
    Watcher(world, {})
    Workload(world, Random(1)).send(30)
    stopped: list[Write] = []

    def stop(write: Write) -> WriteFault | None:
        if write.name != "pay.index" or stopped:
            return None
        stopped.append(write)
        return WriteFault("before", "stop", 40.0)

    world.faults.plan = stop
    with pytest.raises(BrokenInvariantError, match="follows"):
        world.start(Shape(), {"chunkRecords": 5}).run()


@pytest.mark.parametrize("seed", range(6))
def test_a_whole_process_that_was_replaced_and_goes_on_does_no_harm(seed: int) -> None:
    """Two processes of one source run side by side for a while, neither knowing of the other."""
    world, random = World(seed, partitions=2), Random(seed)
    workload = Workload(world, random, failing=0.02)
    Watcher(world, workload.parties)
    workload.send(60)
    old = world.start(random_shape(random), random_options(random))
    old.wait(random.choice((0.3, 1.2, 4.0)))
    workload.send(30)
    new = world.start(random_shape(random), random_options(random))
    for _ in range(400):
        random.choice((old, new)).step()
    workload.send(20)
    new.wait(5)
    for _ in range(200):
        random.choice((old, new)).step()
    old.kill()
    new.run()
    assert not [*check(world), *balance(world)], seed
