"""One seed: a world, and a scenario run in it to the end and checked."""

import gc
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from paystorm.chunk import EventChunk, RecordChunk
from paystorm.local import faults as messages
from paystorm.stores.checkpoints import Checkpoint, checkpoints_table
from paystorm.tables.keys import key
from paystorm.testing.checking import balance, check, half_done, verified
from paystorm.testing.draw import draw, random_shape
from paystorm.testing.faulty import Write, WriteFault
from paystorm.testing.invariants import LATE, BrokenInvariantError, Watcher
from paystorm.testing.reach import Reach
from paystorm.testing.scenario import Act, Jump, Named, Outage, Scenario, Send, Shares, Stage, Start
from paystorm.testing.topology import Shape
from paystorm.testing.workload import Workload, act_at_random
from paystorm.testing.world import Process, Stuck, World

END = 600.0
"""Seconds that what is under way has to finish, once nothing is spoilt any more."""
MONTH = 30 * 86_400.0
SHORT_DELAY = 10.0
"""Seconds: where no delay of a retry is longer, the run waits for the retries of what is parked in the end."""
COLLECT_EVERY = 10
"""Runs between two collections of garbage."""
_runs = 0
RETRIES_WEIGH = 10
"""A message of a retry is spoilt so many times as often as others: there are few of them."""
MAX_STARTS = 60
"""Starts of one run: a scenario in which every process dies of the first write has no end."""


@dataclass(slots=True)
class Story:
    """What a seed did, and what was found."""

    seed: int
    records: int = 0
    chunks: int = 0
    """Different ranges of offsets that the spout sent."""
    writes: int = 0
    starts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """What was inflicted, by kind."""
    acts: int = 0
    reached: frozenset[str] = frozenset()
    digest: str = ""
    """The same for every run of the seed by the same code."""
    found: list[str] = field(default_factory=list)
    """What is not as it must be, the first first."""
    told: list[str] = field(default_factory=list)
    """What was done to the run from outside, in order."""
    end: str = ""
    """The last steps, where something was found."""
    spoilt: Named = field(default_factory=Named)
    """What the shares of the scenario came to."""

    @property
    def inflicted(self) -> int:
        """How many faults there were."""
        return self.faults.total()

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.records} records, {self.chunks} chunks, {self.writes} writes, {self.starts} "
            f"starts, {self.inflicted} faults, {self.acts} acts\n" + "\n".join(self.found[:20]) + f"\n{self.end}"
        )


def simulate(
    seed: int,
    *,
    records: int | None = None,
    writes: float | None = None,
    deliveries: float | None = None,
    folder: Path | None = None,
) -> Story:
    """Run a seed to its end.

    `writes`, `deliveries`: shares of them that are spoilt, in the place of those drawn. `folder`: an empty one, to let
    `paystorm verify` look too.
    """
    scenario = draw(seed, records=records)
    shares = scenario.spoilt
    assert isinstance(shares, Shares)
    if writes is not None:
        shares = replace(shares, writes=writes)
    if deliveries is not None:
        shares = replace(shares, deliveries=deliveries)
    return run(replace(scenario, spoilt=shares), folder=folder)


def run(scenario: Scenario, *, folder: Path | None = None) -> Story:
    """Run a scenario to its end, or to the first broken invariant."""
    global _runs  # noqa: PLW0603  how long ago garbage was collected
    collects = gc.isenabled()
    gc.disable()  # a quarter of the time, for the few cycles of one run
    try:
        return _Run(scenario).go(folder)
    finally:
        _runs += 1
        if collects:
            gc.enable()
            if _runs % COLLECT_EVERY == 0:
                gc.collect()


class _Run:
    """One run of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        seed = scenario.seed
        self.story = Story(seed)
        self.world = World(seed, source=scenario.source, partitions=scenario.partitions)
        self.world.faults.random = Random(f"{seed} groups")
        self.workload = Workload(self.world, Random(0))
        self.watcher = Watcher(self.world, self.workload.parties, scenario.retries)
        self.reach = Reach(self.world)
        self.starts = Random(f"{seed} starts")
        self.process: Process | None = None
        self.options: dict[str, Any] = {}
        self.naming = 1
        self.last_shape: Shape | None = None
        self.spoilt = _Spoilt(scenario, self.world)
        self.checkpoints: dict[int, list[bytes]] = {}
        self.world.faults.done.append(self._note_checkpoint)

    def go(self, folder: Path | None) -> Story:
        story, world = self.story, self.world
        try:
            self._go()
            story.found += [*check(world), *self.watcher.overdue(), *balance(world)]
            if folder is not None and not world.jumps:
                story.found += [f"verify: {line}" for line in verified(world, folder)]
            if self.workload.parties and not self.watcher.checked:
                story.found.append("no commit was checked")
        except (BrokenInvariantError, Stuck) as error:
            story.found.append(f"{type(error).__name__}: {error}")
        except (Exception, SystemExit):
            story.found.append(f"the run ended with an error\n{traceback.format_exc()}")
        story.records = len(world.log.records(world.source.topic))
        story.writes, story.faults = world.faults.writes, world.faults.kinds
        story.chunks, story.reached = self.reach.chunks(), self.reach.reached()
        story.spoilt = self.spoilt.named()
        story.told = world.faults.log
        story.digest = world.digest.hexdigest()
        if story.found and self.process is not None:
            story.end = self.process.describe()
        return story

    def _go(self) -> None:
        for stage in self.scenario.stages:
            self._stage(stage)
        # The end: nothing is spoilt any more.
        self.spoilt.over = True
        if self.process is None or self.process.dead or self.scenario.fresh_end:
            self._start(self._shape(), orderly=False)
        assert self.process is not None
        self.process.run(seconds=END)
        if self.watcher.longest <= SHORT_DELAY and self.watcher.parked():
            # A retry that is not delayed by more than this is done by then, however often it failed.
            self.process.wait(self.watcher.longest + LATE + 5)
            self.process.run(seconds=END)
            self.story.found += self.watcher.overdue()
        if self.scenario.month or half_done(self.world):
            # Then the parked records' retries, years on: all that can be done is done or given up.
            self._tell("", f"{MONTH / 86_400:.0f} days pass")
            self.process.skip(MONTH)
            self.process.wait(60)  # longer than a retry may be late by
            self.process.run(seconds=400)

    def _stage(self, stage: Stage) -> None:
        world = self.world
        if isinstance(stage, Send):
            self.workload.put(stage.records)
            self._tell("", f"{len(stage.records)} records are sent")
            self._wait(stage.seconds)
        elif isinstance(stage, Start):
            self.options = dict(stage.options)
            self.naming = stage.shape.naming
            if not stage.orderly and self.process is not None and not self.process.dead:
                self._tell("killed process", "the process is killed")
            self._start(stage.shape, orderly=stage.orderly)
        elif isinstance(stage, Act):
            done = act_at_random(world, Random(stage.seed))
            self.story.acts += 1
            self.reach.acted(done)
            self._tell("", f"a person: {done}")
        elif isinstance(stage, Jump):
            world.jump(stage.seconds)
            self._tell(f"clock set {'forward' if stage.seconds > 0 else 'back'}", f"the clock: {stage.seconds:+g} s")
        elif isinstance(stage, Outage):
            self._outage(stage)
        else:
            self._rewind(Random(stage.seed))

    def _tell(self, kind: str, text: str) -> None:
        if kind:
            self.world.faults.note(kind, text)
        else:
            self.world.faults.log.append(f"{self.world.clock.monotonic():.3f} s  {text}")

    # Processes

    def _shape(self) -> Shape:
        return Shape(naming=self.naming) if self.scenario.plain else random_shape(self.starts, naming=self.naming)

    def _start(self, shape: Shape, *, orderly: bool) -> None:
        before = self.process
        if before is not None and not before.dead:
            if orderly:
                before.stop()
            before.kill()
        if self.story.starts >= MAX_STARTS:
            raise Stuck(f"seed {self.scenario.seed}: {MAX_STARTS} starts and no end")
        self.story.starts += 1
        self._tell("", f"the topology starts: {shape}")
        if before is not None and shape != self.last_shape:
            self.world.faults.kinds["other parallelism"] += 1
        self.last_shape = shape
        self.process = self.world.start(shape, self.options, faults=self.spoilt.delivery)

    def _wait(self, seconds: float) -> None:
        """Go on for so long, starting again after each crash."""
        until = self.world.clock.monotonic() + seconds
        if self.process is None:
            self._start(self._shape(), orderly=False)
        assert self.process is not None
        while not self.process.wait(max(until - self.world.clock.monotonic(), 0.1)):
            self._start(self._shape(), orderly=False)

    # Faults

    def _outage(self, outage: Outage) -> None:
        world, what = self.world, outage.what
        until = world.clock.monotonic() + outage.seconds
        whole = what in ("tables", "log", "warehouse")

        def down(kind: str, name: str, write: bool) -> bool:
            del write
            if world.clock.monotonic() >= until:
                return False
            return kind.startswith(f"{what}.") if whole else name in (what, f"{world.source.name}.{what}")

        world.faults.down = down
        self._tell(f"{what if whole else 'one table'} down", f"{what} cannot be reached for {outage.seconds:g} s")
        self._wait(min(outage.seconds, 8.0))

    def _note_checkpoint(self, write: Write, rows: Any, put: list[bool]) -> None:
        if write.name == checkpoints_table(self.world.source.name) and put == [True]:
            value = rows[0][1]
            for partition in range(self.scenario.partitions):
                if rows[0][0] == key(self.world.source.topic, partition):
                    self.checkpoints.setdefault(partition, []).append(value)

    def _rewind(self, random: Random) -> None:
        """Kill the process, and set a committed offset back to an earlier one."""
        world, table = self.world, checkpoints_table(self.world.source.name)
        if self.process is not None:
            self.process.kill()
        known = [p for p, held in sorted(self.checkpoints.items()) if len(set(held)) > 1]
        if not known:
            return
        partition = random.choice(known)
        old = random.choice(self.checkpoints[partition][:-1])
        row_key = key(world.source.topic, partition)
        held = world.tables.get(table, row_key)
        assert held is not None
        if not world.tables.replace(table, row_key, held, old):
            raise AssertionError("nobody else writes here")
        committed = msgspec.msgpack.decode(old, type=Checkpoint).committed
        self.watcher.rewound(partition, committed)
        self._tell("older committed offset", f"partition {partition} is found committed up to {committed} only")


class _Spoilt:
    """Decides what is spoilt, by the shares of a scenario or by what it names; remembers what it came to."""

    def __init__(self, scenario: Scenario, world: World) -> None:
        self.over = False
        self._given = scenario.spoilt
        self._world = world
        self._random = {what: Random(f"{scenario.seed} {what}") for what in ("writes", "reads", "deliveries")}
        self._poison = dict(scenario.poison)
        self._writes: dict[int, WriteFault] = {}
        self._reads: set[int] = set()
        self._deliveries: dict[int, messages.Fault] = {}
        self._delivered = 0
        world.faults.plan = self.write
        world.faults.read_plan = self.read

    def named(self) -> Named:
        """What was spoilt."""
        return Named(dict(self._writes), frozenset(self._reads), dict(self._deliveries))

    def write(self, write: Write) -> WriteFault | None:
        """The plan for writes."""
        fault: WriteFault | None = self._drawn(write.number, "writes", _write_fault)
        if fault is not None:
            self._writes[write.number] = fault
        return fault

    def read(self, number: int, what: str, name: str) -> bool:
        """The plan for reads."""
        del what, name
        spoilt = self._drawn(number, "reads", lambda random: True) is not None
        if spoilt:
            self._reads.add(number)
        return spoilt

    def delivery(self, delivery: messages.Delivery) -> messages.Fault | None:
        """The plan for messages."""
        self._delivered += 1
        values = delivery.message.values
        retry = bool(values) and isinstance(values[-1], RecordChunk | EventChunk) and values[-1].head.attempt > 0
        fault: messages.Fault | None = self._drawn(
            self._delivered, "deliveries", _message_fault, RETRIES_WEIGH if retry else 1
        )
        if fault is not None:
            self._deliveries[self._delivered] = fault
            message = delivery.message
            source = f" from {message.source} {message.task}" if message.source else ""
            text = f"{message.kind}{source} for {delivery.component} {delivery.task}: {fault}"
            self._world.faults.note(kind_of(fault), text)
            return fault
        return self._poisoned(delivery)

    def _drawn(self, number: int, what: str, draw: Callable[[Random], Any], weight: int = 1) -> Any:
        if self.over:
            return None
        if isinstance(self._given, Named):
            named = getattr(self._given, what)
            return named.get(number) if isinstance(named, dict) else (number in named or None)
        random = self._random[what]
        return draw(random) if random.random() < weight * getattr(self._given, what) else None

    def _poisoned(self, delivery: messages.Delivery) -> messages.Fault | None:
        if not self._poison or delivery.component != "validation" or delivery.message.kind != "tuple":
            return None
        chunk = delivery.message.values[-1]
        assert isinstance(chunk, RecordChunk)
        head = chunk.head
        for (partition, offset), left in self._poison.items():
            if partition == head.partition and head.first <= offset < head.after and left and not head.attempt:
                self._poison[partition, offset] = left - 1
                self._world.faults.note(
                    "poisoned range", f"the range [{head.first}, {head.after}) of {partition} fails"
                )
                return messages.FailTree()
        return None


def _write_fault(random: Random) -> WriteFault:
    what: Any = random.choice(("error", "error", "kill", "kill", "crash", "crash", "slow", "stop", "stop", "stop"))
    if what == "slow":
        return WriteFault("after", "slow", random.choice((0.05, 0.4, 1.5, 12.0)))
    when: Any = random.choice(("before", "after", "half"))
    if what == "stop":
        return WriteFault(when, what, random.choice((0.5, 4.0, 15.0, 40.0, 80.0)))
    return WriteFault(when, what, random.choice((0.0, 0.0, 0.0, 0.5, 2.0, 40.0)))


def _message_fault(random: Random) -> messages.Fault:
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


def kind_of(fault: messages.Fault) -> str:
    """What a fault of a message is counted as."""
    if isinstance(fault, messages.Kill):
        return "killed behind its writes" if fault.silenced else "killed task"
    names: dict[type, str] = {
        messages.Drop: "lost message",
        messages.Delay: "late message",
        messages.Duplicate: "message twice",
        messages.FailTree: "failed tree",
        messages.MakeZombie: "woken task",
    }
    return names[type(fault)]
