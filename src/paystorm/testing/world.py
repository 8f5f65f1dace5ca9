"""A world in which a topology runs, dies and starts again: storage that survives, one clock, one source of chance."""

import logging
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import msgspec

from paystorm.clock import ManualClock
from paystorm.errors import PaystormError
from paystorm.lists import Act
from paystorm.local.faults import FaultPlan
from paystorm.local.step import Step, StepDriver
from paystorm.log.base import OutRecord
from paystorm.oracle import Change
from paystorm.resources import HANDED_OVER, Resources
from paystorm.source import Source
from paystorm.stores.hits import Hit
from paystorm.stores.journal import Row
from paystorm.stores.lists import FeedItem as ListItem
from paystorm.stores.lists import HitChange
from paystorm.tables.keys import parts
from paystorm.tables.memory import MemoryTables
from paystorm.testing.faulty import Faults, FaultyLog, FaultyTables, FaultyWarehouse, ProcessCrashedError, Write
from paystorm.testing.log import MemoryLog
from paystorm.testing.topology import SOURCE, Shape, make_topology
from paystorm.testing.warehouse import MemoryWarehouse

MAX_STEPS = 200_000
"""Steps that one wait may take."""
MAX_STORY = 200
"""Steps that are kept for the story of a failed run."""
BASE_OPTIONS: dict[str, Any] = {
    "topology.message.timeout.secs": 30,
    "topology.sleep.spout.wait.strategy.time.ms": 100,
    "chunkRecords": 7,
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
        self.tables = MemoryTables()
        self.log = MemoryLog(self.clock)
        self.warehouse = MemoryWarehouse()
        self.faults = Faults(self.clock)
        self.history: list[Change] = []
        """What really happened to the lists, and when."""
        self.surprises: list[str] = []
        """Exceptions of bolts and spouts that are no failures of storage, and breaches of protocol."""
        self.applied_at: dict[tuple[int, int, int], int] = {}
        """When each shard first applied each record, µs, by shard, partition and offset."""
        self._rows: dict[str, int] = {}
        self._standing: dict[str, bool] = {}
        self.faults.watches.append(self._note_history)
        self.log.create_topic(source.topic, partitions)
        self.logger = logging.getLogger(f"paystorm.simulated.{seed}.{id(self)}")
        self.logger.propagate = False
        self.logger.setLevel(logging.WARNING)
        self.logger.addHandler(_Surprises(self.surprises))
        self.feed_tables = FaultyTables(self.tables, self.faults)

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
        names = ["/".join(map(str, name)) for name in act.hits]
        detail: dict[str, Any] = {
            "list": act.list,
            "entry": act.target or act.id,
            "expires": act.expires_at,
            "hits": names,
        }
        what = "add" if act.act == "allow" else act.act
        self.history.append(Change(act.at, act.kind, act.party, what, detail))

    # Private

    def _note_history(self, write: Write, rows: Any) -> None:
        """A hit is in force from its row on (who loads then sees it), and withdrawn when the feed tells of it."""
        if write.name == f"{self.source.name}.hits":
            for _, value in rows:
                self._note_hit(msgspec.msgpack.decode(value, type=Hit), told=False)
        elif write.name == f"{self.source.name}.journal" and write.what == "tables.put_if_absent":
            for row_key, value in rows:
                shard, ranges = int(parts(row_key)[0]), msgspec.msgpack.decode(value, type=Row).covered
                for partition, first, after in ((p, *r) for p, held in ranges.items() for r in held):
                    for offset in range(first, after):
                        self.applied_at.setdefault((shard, partition, offset), self.clock.now())
        elif write.what == "tables.feed_append" and write.name == "lists":
            for item in rows:
                change = msgspec.msgpack.decode(item, type=ListItem)
                if isinstance(change, HitChange):
                    self._note_hit(change.hit, told=True)

    def _note_hit(self, hit: Hit, *, told: bool) -> None:
        name = "/".join(map(str, hit.name()))
        if hit.row < self._rows.get(name, -1):
            return
        standing = hit.status == "standing"
        if not standing and not told:
            return
        if hit.row == self._rows.get(name) and standing == self._standing.get(name):
            return
        self._rows[name], self._standing[name] = hit.row, standing
        now = self.clock.now()
        detail = {
            "hit": name,
            "rule": hit.rule,
            "action": hit.action,
            "expires_after": hit.expires_after,
            "since": hit.since,
        }
        self.history.append(Change(now, hit.kind, hit.party, "hit" if standing else "withdrawn", detail))


class Process:
    """One run of the topology in a world. Where it crashes it is dead, and the world stays."""

    def __init__(self, world: World, topology: Any, options: dict[str, Any], faults: FaultPlan | None) -> None:
        self.world = world
        self.dead = False
        self.story: list[Step] = []
        self.driver = StepDriver(
            topology,
            {**options, HANDED_OVER: world.resources()},
            world.clock,
            Random(world.random.getrandbits(64)),
            logger=world.logger,
            faults=faults,
            on_step=self._note,
        )
        self._guarded(self.driver.start)

    def _note(self, step: Step) -> None:
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
        if self.dead:
            return False
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
            # Asking whether all is idle costs more than a step.
            if self.dead or (taken % 5 == 0 and done()):
                return not self.dead
            if self.world.clock.monotonic() > end or not self.step():
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
