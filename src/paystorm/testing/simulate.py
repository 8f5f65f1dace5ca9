"""One seed: a world, a workload and faults drawn from it, run to the end and checked."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from paystorm.local import faults as messages
from paystorm.testing.checking import BrokenInvariantError, Watcher, balance, check, verified
from paystorm.testing.faulty import Plan, Write, WriteFault
from paystorm.testing.topology import Shape
from paystorm.testing.workload import Workload, act_at_random
from paystorm.testing.world import Process, Stuck, World

HOUR = 3600.0


@dataclass(slots=True)
class Story:
    """What a seed did, and what was found."""

    seed: int
    records: int = 0
    writes: int = 0
    starts: int = 0
    inflicted: int = 0
    acts: int = 0
    found: list[str] = field(default_factory=list)
    told: str = ""
    """The end of the run, where something was found."""

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.records} records, {self.writes} writes, {self.starts} starts, "
            f"{self.inflicted} faults, {self.acts} acts\n" + "\n".join(self.found[:20]) + f"\n{self.told}"
        )


def random_shape(random: Random, *, naming: int = 1) -> Shape:
    """Any parallelism."""
    return Shape(
        spout=random.randint(1, 2),
        validation=random.randint(1, 2),
        naming=naming,
        lookup=random.randint(1, 2),
        warehouse=random.randint(1, 2),
        counts=random.randint(1, 4),
    )


def random_options(random: Random) -> dict[str, Any]:
    """Any chunking, flushing, snapshots and memory."""
    return {
        "chunkRecords": random.choice((1, 2, 7, 50, 5000)),
        "flushMs": random.choice((0, 100, 3000)),
        "flushRecords": random.choice((1, 20, 100_000)),
        "snapshotRows": random.choice((1, 3, 512)),
        "allowedLateness": random.choice((0, 86_400)),
        "countsMemoryBytes": random.choice((1024, 20_000, 1 << 28)),
        "maxPendingRecords": random.choice((60, 400_000)),
    }


def random_rules(random: Random) -> dict[str, Any]:
    """Options that make another version of the source."""
    return {
        "rules.pay.per_day.limit": random.choice((3, 4, 6)),
        "rules.pay.growth.factor": random.choice(("1.5", "2")),
        "rules.pay.growth.action": random.choice(("deny", "review")),
        "rules.pay.spent.limit.EUR": random.choice(("60", "100")),
        "rules.pay.payers.limit": random.choice((2, 3)),
        "maxAhead": random.choice((3600, 7200)),
    }


def write_faults(random: Random, share: float, *, crashes: bool = True) -> Plan:
    """A plan that spoils a share of all writes."""

    def plan(write: Write) -> WriteFault | None:
        if random.random() >= share:
            return None
        what = random.choice(("error", "error", "kill", "crash") if crashes else ("error", "kill"))
        stall = random.choice((0.0, 0.0, 0.0, 0.5, 2.0, 40.0))
        return WriteFault(random.choice(("before", "after", "half")), what, stall)  # type: ignore[arg-type]

    return plan


def message_faults(random: Random, share: float) -> Callable[[messages.Delivery], messages.Fault | None]:
    """A plan that spoils a share of all deliveries."""

    def plan(delivery: messages.Delivery) -> messages.Fault | None:
        if random.random() >= share:
            return None
        return random.choice(
            (
                messages.Drop(),
                messages.Delay(random.choice((0.3, 5.0, 45.0))),
                messages.Duplicate(random.choice((0.0, 3.0, 35.0))),
                messages.FailTree(),
                messages.Kill(silenced=random.random() < 0.5),
                messages.MakeZombie(random.choice((0.5, 4.0, 40.0))),
            )
        )

    return plan


def simulate(
    seed: int,
    *,
    records: int | None = None,
    writes: float = 0.02,
    deliveries: float = 0.02,
    failing: float | None = None,
    restarts: int | None = None,
    folder: Path | None = None,
) -> Story:
    """Run a seed to its end.

    `writes`, `deliveries`: shares of them that are spoilt. `folder`: an empty one, to let `paystorm verify` look too.
    """
    random = Random(seed)
    world = World(seed, partitions=random.randint(1, 3))
    failing = random.choice((0.0, 0.03)) if failing is None else failing
    workload = Workload(world, random, failing=failing, days=random.choice((1, 4, 20)))
    watcher = Watcher(world, workload.parties)
    story = Story(seed)
    total = random.randint(50, 250) if records is None else records
    legs = (random.randint(0, 2) if restarts is None else restarts) + 1
    naming = 1 if failing else random.randint(0, 1)
    rules: dict[str, Any] = {}
    process: Process | None = None
    try:
        for leg in range(legs):
            workload.send(total // legs)
            if leg and random.random() < 0.5:
                rules = random_rules(random)
            world.faults.plan = write_faults(random, writes) if writes else None
            options = {**random_options(random), **rules}
            process = _leg(world, random, story, process, options, naming, deliveries)
            for _ in range(random.randint(0, 2)):
                workload.send(random.randint(1, 15))
                if random.random() < 0.7:
                    act_at_random(world, random)
                    story.acts += 1
                process.wait(random.choice((0.2, 1.5, 3.0)))
                if process.dead:
                    process = _leg(world, random, story, process, options, naming, deliveries)
            if random.random() < 0.3:
                process.stop()
        # The end: nothing is spoilt any more.
        world.faults.plan = None
        process = _finish(world, random, story, process, rules, naming)
        story.found += [*check(world), *balance(world)]
        if failing and not story.found:
            # Then the parked records' retries, years on: all that can be done is done or given up.
            process.skip(86_400.0 * 30)
            process.wait(20)
            process.run(seconds=400)
            story.found += [f"after a month: {line}" for line in (*check(world), *balance(world))]
        if folder is not None:
            story.found += [f"verify: {line}" for line in verified(world, folder)]
    except (BrokenInvariantError, Stuck) as error:
        story.found.append(f"{type(error).__name__}: {error}")
    story.records = len(world.log.records(world.source.topic))
    story.writes, story.inflicted = world.faults.writes, len(world.faults.log)
    if not watcher.checked:
        story.found.append("no commit was checked")
    if story.found and process is not None:
        story.told = process.describe()
    return story


def _leg(
    world: World,
    random: Random,
    story: Story,
    before: Process | None,
    options: dict[str, Any],
    naming: int,
    deliveries: float,
) -> Process:
    """Start anew (whatever ran before is gone), and go on for a while, starting again after each crash."""
    if before is not None and not before.dead:
        before.kill()
    while True:
        faults = message_faults(random, deliveries) if deliveries else None
        process = world.start(random_shape(random, naming=naming), options, faults=faults)
        story.starts += 1
        if process.wait(random.choice((0.5, 2.0, 10.0, 40.0))):
            return process


def _finish(
    world: World, random: Random, story: Story, process: Process | None, rules: dict[str, Any], naming: int
) -> Process:
    if process is None or process.dead or random.random() < 0.5:
        if process is not None:
            process.kill()
        process = world.start(random_shape(random, naming=naming), {**random_options(random), **rules})
        story.starts += 1
    else:
        process.driver._faults = None
    process.run(seconds=HOUR)
    return process
