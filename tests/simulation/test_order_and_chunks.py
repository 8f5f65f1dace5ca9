"""Any order, chunking, parallelism and repetition of deliveries gives what the oracle computes."""

from random import Random

import pytest
from tests.simulation.seeds import seeds

from paystorm.local.faults import Delivery, Duplicate, Fault
from paystorm.stores.hits import load_hits
from paystorm.testing import Shape, Workload, World, balance, check
from paystorm.testing.draw import random_options, random_shape
from paystorm.testing.simulate import simulate


@pytest.mark.parametrize("seed", seeds(1, 12))
def test_restarts_with_other_parallelism_and_chunks_change_nothing(seed: int) -> None:
    story = simulate(seed, records=120, writes=0, deliveries=0)
    assert not story.found, str(story)


@pytest.mark.parametrize("seed", seeds(50, 4))
def test_deliveries_that_come_twice_and_late_change_nothing(seed: int) -> None:
    world, random = World(seed, partitions=2), Random(seed)
    Workload(world, random).send(80)

    def twice(delivery: Delivery) -> Fault | None:
        # Ticks that keep coming twice would leave no quiet moment.
        if delivery.message.kind != "tuple" or random.random() > 0.3:
            return None
        return Duplicate(random.choice((0.0, 2.0, 40.0)))

    process = world.start(random_shape(random), random_options(random), faults=twice)
    process.run()
    assert not [*check(world), *balance(world)], seed


def test_the_order_of_the_log_changes_neither_counts_nor_standing_hits() -> None:
    """The same records shuffled over other partitions: the standing hits are the same."""
    found = set()
    for seed in (1, 2, 3):
        sent = World(7)
        Workload(sent, Random(7), bad=0.0, replays=0.0, days=3).send(100)
        values = [value for _, _, _, value in sent.log.records("pay")]
        world = World(seed, partitions=seed)
        Random(seed).shuffle(values)
        for i, value in enumerate(values):
            world.send(i % seed, value)
        world.start(Shape(counts=seed), {"chunkRecords": 3 * seed}).run()
        assert not check(world)
        hits = load_hits(world.tables, "pay")
        found.add(frozenset(h.name() for h in hits if h.status == "standing"))
    assert len(found) == 1
    assert len(next(iter(found))) > 20
