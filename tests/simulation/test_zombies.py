"""A task that was replaced and wakes with its old memory does no harm."""

from random import Random

import pytest

from paystorm.local.faults import Delivery, Fault, MakeZombie
from paystorm.testing import Shape, Watcher, Workload, World, balance, check
from paystorm.testing.draw import random_options, random_shape

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
