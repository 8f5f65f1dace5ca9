"""A world in which a topology runs, dies and starts again: storage that survives, one clock, one source of chance."""

import logging
from collections.abc import Callable, Mapping
from hashlib import sha256
from random import Random
from typing import Any

import msgspec

from paystorm.clock import SECOND, ManualClock
from paystorm.errors import PaystormError
from paystorm.lists import Act
from paystorm.local.components import Host
from paystorm.local.faults import FaultPlan
from paystorm.local.step import Step, StepDriver, Zombie
from paystorm.log.base import OutRecord
from paystorm.oracle import Change
from paystorm.resources import HANDED_OVER, Resources
from paystorm.source import Source
from paystorm.stores.journal import Row
from paystorm.stores.lists import close_breaker, load_breakers
from paystorm.tables.keys import parts
from paystorm.testing.faulty import (
    Faults,
    FaultyTables,
    ProcessCrashedError,
    Write,
)
from paystorm.testing.faulty_media import FaultyLog, FaultyWarehouse
from paystorm.testing.listing import ListWatch
from paystorm.testing.log import MemoryLog
from paystorm.testing.topology import SOURCE, Shape, make_topology
from paystorm.testing.undoable import UndoableTables
from paystorm.testing.warehouse import MemoryWarehouse

MAX_STEPS = 200_000
"""Steps that one wait may take."""
MAX_STORY = 200
"""Steps that are kept for the story of a failed run."""
BASE_OPTIONS: dict[str, Any] = {
    "topology.message.timeout.secs": 30,
    "topology.sleep.spout.wait.strategy.time.ms": 250,
    "chunkRecords": 7,
    "gaugeSeconds": 0,
    "shards": 3,
}


class Stuck(AssertionError):  # noqa: N818  it is read as what the run is
    """The run does not come to what was waited for."""


class World:
    """Everything that outlives a process. One seed, and the calls made, decide all that happens."""

    def __init__(self, seed: int, *, source: Source = SOURCE, partitions: int = 1) -> None:
        self.seed = seed
        self.source = source
        self.random = Random(seed)
        self.clock = ManualClock()
        self.tables = UndoableTables()
        self.log = MemoryLog(self.clock)
        self.warehouse = MemoryWarehouse()
        self.faults = Faults(self.clock)
        self.lists = ListWatch(source.name, self.time)
        self.jumped = 0
        """µs by which the wall clock has been set, in all."""
        self.jumps = 0
        self.surprises: list[str] = []
        """Exceptions of bolts and spouts that are no failures of storage, and breaches of protocol."""
        self.applied_at: dict[tuple[int, int, int], int] = {}
        """When each shard first applied each record, µs, by shard, partition and offset."""
        self.decided_at: dict[tuple[int, int, int], int] = {}
        """When (`time`) a decision was made: by partition, offset and what the wall clock said then."""
        self.decided_twice: set[tuple[int, int, int]] = set()
        """Those made at two moments for which the wall clock, set back, said the same: either may be stored."""
        self.emitted: list[Callable[[Host, Mapping[str, Any]], None]] = []
        """Told of everything that a component emits."""
        self.digest = sha256()
        """Of every step, and of every write with its rows: the same for the same seed and code."""
        self.faults.done += [self._note_applied, self._note_write, self.lists.watch]
        self.log.create_topic(source.topic, partitions)
        self.logger = logging.getLogger(f"paystorm.simulated.{seed}.{id(self)}")
        self.logger.propagate = False
        self.logger.setLevel(logging.WARNING)
        self.logger.addHandler(_Surprises(self.surprises))
        self.feed_tables = FaultyTables(self.tables, self.faults)

    @property
    def history(self) -> list[Change]:
        """What happened to the lists; see `ListWatch.seen`."""
        return self.lists.seen

    def time(self) -> int:
        """µs since 1970-01-01 UTC by a clock that nobody sets; the wall clock is the same until it is set."""
        return self.clock.now() - self.jumped

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self.clock.jump(seconds)
        self.jumped += round(seconds * SECOND)
        self.jumps += 1

    def resources(self) -> Resources:
        """What the components of a process get: storage that fails as the plan has it."""
        return Resources(
            clock=self.clock,
            log=FaultyLog(self.log, self.faults),
            tables=FaultyTables(self.tables, self.faults),
            warehouse=FaultyWarehouse(self.warehouse, self.faults),
            random=Random(self.random.getrandbits(64)),
        )

    def send(self, partition: int, value: bytes) -> int:
        """Append a record to the source's topic; gives its offset."""
        ((_, offset),) = self.log.append(self.source.topic, [OutRecord(value, None, partition)])
        return offset

    def start(
        self,
        shape: Shape | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        topology: Any = None,
        faults: FaultPlan | None = None,
    ) -> "Process":
        """Start the topology in a new process."""
        topology = topology or make_topology(shape or Shape(), self.source)
        return Process(self, topology, {**BASE_OPTIONS, **(options or {})}, faults)

    def act(self, act: Act) -> None:
        """Note an act that a person has just done."""
        self.lists.act(act)

    def close_breaker(self, source: str, rule: str) -> None:
        """A person closes a rule's breaker."""
        close_breaker(self.tables, source=source, rule=rule, now=self.clock.now(), by="ann")
        (row,) = [b for b in load_breakers(self.tables) if b.name() == (source, rule)]
        self.lists.breaker(row)

    # Private

    def _note_applied(self, write: Write, rows: Any, put: list[bool]) -> None:
        if write.name != f"{self.source.name}.journal" or write.what == "tables.delete":
            return
        for (row_key, value), done in zip(rows, put, strict=True):
            if done:
                shard, ranges = int(parts(row_key)[0]), msgspec.msgpack.decode(value, type=Row).covered
                for partition, first, after in ((p, *r) for p, held in ranges.items() for r in held):
                    for offset in range(first, after):
                        self.applied_at.setdefault((shard, partition, offset), self.time())

    def _note_write(self, write: Write, rows: Any, put: list[bool]) -> None:
        del put
        self.digest.update(f"{write} {self.clock.now()}".encode())
        if write.what.startswith("tables."):
            for row in rows:
                for part in row if isinstance(row, tuple) else (row,):
                    self.digest.update(part)
        elif write.what == "log.append":
            for record in rows:
                self.digest.update(record.value)


class Process:
    """One run of the topology in a world. Where it crashes it is dead, and the world stays."""

    def __init__(self, world: World, topology: Any, options: dict[str, Any], faults: FaultPlan | None) -> None:
        self.world = world
        self.dead = False
        self.story: list[Step] = []
        self.driver = _Driver(
            topology,
            {**options, HANDED_OVER: world.resources()},
            world.clock,
            Random(world.random.getrandbits(64)),
            logger=world.logger,
            faults=faults,
            on_step=self._note,
        )
        self.driver.faulty = world.faults
        world.faults.stop = self.driver.replace_running
        self._emit = self.driver.engine.emit
        self.driver.engine.emit = self._watched_emit  # type: ignore[method-assign]  # to be told of it
        self._guarded(self.driver.start)

    def _watched_emit(self, host: Host, message: Mapping[str, Any]) -> list[int] | str:
        for watch in self.world.emitted:
            watch(host, message)
        return self._emit(host, message)

    def _note(self, step: Step) -> None:
        self.world.faults.woken = False
        number, now, kind, component, task, detail = step
        self.world.digest.update(f"{number} {now} {kind} {component} {task} {detail}\n".encode())
        self.story.append(step)
        if len(self.story) > 2 * MAX_STORY:
            del self.story[:MAX_STORY]

    def _guarded(self, do: Callable[[], Any]) -> Any:
        """Do something that the process may die of."""
        if self.dead:
            return None
        try:
            return do()
        except ProcessCrashedError:
            self.dead = True
            return None

    def step(self) -> bool:
        """One step, or time moved on to what is due next; False: dead, or nothing will ever happen."""
        if self._guarded(self.driver.step):
            return True
        return not self.dead and self._go_on()

    def _go_on(self) -> bool:
        """Move time on to what is due next; False: nothing ever will be."""
        due = self.driver.next_due()
        if due is None:
            return False
        self.world.clock.advance(max(due - self.world.clock.monotonic(), 0.0))
        return True

    def spouts(self) -> list[Any]:
        """The spouts that live, or None in the place of one that does not."""
        tasks = [t for t in self.driver.engine.tasks.values() if t.plan.is_spout]
        return [t.host.component if t.host is not None else None for t in tasks]

    def idle(self) -> bool:
        """Nothing is under way, all is committed, no retry is due."""
        return (
            not self.dead
            and self.driver.quiet()
            and not self.driver.zombies
            and all(spout is not None and spout.idle() for spout in self.spouts())
        )

    def run(self, done: Callable[[], bool] | None = None, *, seconds: float = 900.0) -> bool:
        """Go on until `done` (default: idle). False: it died. Raises Stuck where the time or the steps are over."""
        done = done or self.idle
        end = self.world.clock.monotonic() + seconds
        for taken in range(MAX_STEPS):
            # Asking whether all is idle costs more than a step; where nothing else can be done now it is asked always.
            if self.dead or (taken % 5 == 0 and done()):
                return not self.dead
            if self._guarded(self.driver.step):
                continue
            if self.dead or done():
                return not self.dead
            if self.world.clock.monotonic() > end or not self._go_on():
                break
        if self.dead or done():
            return not self.dead
        raise Stuck(f"seed {self.world.seed}: not idle after {seconds} s; {self.describe()}")

    def wait(self, seconds: float) -> bool:
        """Let time pass, doing what falls due; False: it died."""
        end = self.world.clock.monotonic() + seconds
        return self.run(lambda: self.world.clock.monotonic() >= end, seconds=seconds + 60)

    def skip(self, seconds: float) -> None:
        """Move time on without doing what falls due meanwhile: for long waits in which nothing happens."""
        self.world.clock.advance(seconds)

    def stop(self, timeout: float = 120.0) -> None:
        """An orderly shutdown."""
        self._guarded(lambda: self.driver.stop(timeout))
        self.dead = True

    def kill(self) -> None:
        """The whole process is gone; nobody hears of it."""
        self.dead = True

    def describe(self) -> str:
        """What is under way, and the last steps, for people."""
        engine = self.driver.engine
        lines = [f"open: {tree}" for tree in engine.open_trees()]
        lines += [f"{s.progress()} {s.problem}" for s in self.spouts() if s is not None]
        lines += [str(step) for step in self.story[-40:]]
        lines += self.world.faults.log[-40:] + self.world.surprises[-3:]
        return "\n".join(lines)


class _Driver(StepDriver):
    """Says of each write whether it is one of a task that was replaced."""

    faulty: Faults

    def _run_zombie(self, zombie: Zombie) -> str:
        self.faulty.woken = True
        try:
            return super()._run_zombie(zombie)
        finally:
            self.faulty.woken = False


class _Surprises(logging.Handler):
    """Collects what should never be logged, whatever the storage does."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage()
        if error is not None and not isinstance(error, PaystormError):
            trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
            self._found.append(f"{text}\n{trace}")
        elif "broke the protocol" in text or "failed to start" in text or "while that was handled" in text:
            self._found.append(text)
