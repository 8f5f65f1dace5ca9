"""The faults: what each does to which real process, and how it is undone."""

import errno
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import ClassVar

from paystorm.chaos.processes import Running, children_of, family, workers_of
from paystorm.errors import ClusterError, StackError
from paystorm.nimbus import NimbusClient
from paystorm.stack import Stack

MIB = 1024 * 1024
SMALL_DISK = 1024 * MIB
"""A larger disk is not filled."""
FILLER = ".chaos-filler"
PLACED_SECONDS = 240.0
"""Nimbus has so long to place the tasks of a halted supervisor elsewhere."""
LOOK_EVERY = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """What faults are done to."""

    stack: Stack
    nimbus: NimbusClient
    topology: str
    """The name under which the topology was submitted."""
    warehouse: Path

    def topology_id(self) -> str:
        """Storm's id of the topology. Raises ClusterError where it does not run."""
        there = self.nimbus.topologies()
        if self.topology not in there:
            raise ClusterError(f"topology {self.topology} does not run: sparse submit -n {self.topology}")
        return there[self.topology].id


@dataclass
class Fault(ABC):
    """A fault, done once. `undo` is always called after `strike`, also where that failed half-way."""

    name: ClassVar[str]
    doc: ClassVar[str]
    waits: ClassVar[bool] = False
    """`undo` itself waits for the right moment; else it is called after the time that the plan says."""

    target: Target
    random: Random

    @abstractmethod
    def strike(self) -> str:
        """Do it; says to what. Raises StackError, ClusterError where it cannot be done."""

    def undo(self, moved: Callable[[float], bool]) -> None:  # noqa: B027  most put themselves right
        """Put right what does not put itself right. `moved`: whether anything was committed since a monotonic time."""

    @classmethod
    def missing(cls, target: Target) -> str | None:
        """Why it cannot be done here; None: it can."""
        return None


class KillChild(Fault):
    """Storm notices a Python process that is gone by its broken pipe, and starts the worker anew."""

    name = "child"
    doc = "kill -9 of the Python process of a bolt or spout"

    def strike(self) -> str:
        """Any of them, each with the same chance."""
        chosen = self.random.choice(children_of(self.target.stack, self.target.topology_id()))
        _kill(chosen)
        return str(chosen.component)


class KillWorker(Fault):
    """The supervisor starts a worker anew whose process is gone."""

    name = "worker"
    doc = "kill -9 of a worker (JVM)"

    def strike(self) -> str:
        """Its Python processes see the end of their input, and end."""
        chosen = self.random.choice(workers_of(self.target.stack, self.target.topology_id()))
        _kill(chosen)
        return f"worker of {chosen.supervisor}"


@dataclass
class KillServer(Fault):
    """A server, which is then started again."""

    def strike(self) -> str:
        """The server's own process."""
        self.target.stack.kill(self.server(), signal.SIGKILL)
        return self.server()

    def server(self) -> str:
        """Its name in the stack."""
        return self.name

    def undo(self, moved: Callable[[float], bool]) -> None:
        """Start it again, and wait until it is ready: on a busy machine twice as long as the launcher does."""
        try:
            self.target.stack.up([self.server()])
        except StackError:
            self.target.stack.up([self.server()])


@dataclass
class KillSupervisor(KillServer):
    """Workers go on without it, and it finds them when it is back."""

    name = "supervisor"
    doc = "kill -9 of the supervisor that runs the topology's worker"

    _server: str = ""

    def server(self) -> str:
        """The one with a worker of the topology."""
        self._server = self._server or _host(self.target, self.random)
        return self._server


class KillNimbus(KillServer):
    """What runs goes on without it."""

    name = "nimbus"
    doc = "kill -9 of Nimbus"


class KillKafka(KillServer):
    """Spout, verdicts and sender wait for it."""

    name = "kafka"
    doc = "kill -9 of the Kafka broker"


class KillHBase(KillServer):
    """Master and region server are one process here; the Thrift server finds it again by itself."""

    name = "hbase"
    doc = "kill -9 of the HBase master (and region server)"


class KillThrift(KillServer):
    """The tables' clients connect anew."""

    name = "hbase-thrift"
    doc = "kill -9 of HBase's Thrift server"


class KillHive(KillServer):
    """The warehouse adds partitions to Hive when a new hour begins, and when it starts."""

    name = "hive"
    doc = "kill -9 of HiveServer2"


@dataclass
class HaltSupervisor(Fault):
    """A host that hangs: Storm replaces its workers, and then it goes on where it stood."""

    name = "halted"
    doc = "SIGSTOP of a supervisor with its workers and their Python processes until others do their work; then SIGCONT"
    waits = True

    _halted: list[Running] = field(default_factory=list)
    _ports: frozenset[int] = frozenset()

    @classmethod
    def missing(cls, target: Target) -> str | None:
        """Somebody else must take the work."""
        running = [s for s in target.stack.status() if target.stack.servers[s.server].kind == "supervisor" and s.pid]
        return None if len(running) > 1 else "it needs a second supervisor: config.json: stack.supervisors = 2"

    def strike(self) -> str:
        """The supervisor first, so that it starts nothing for what is halted after it."""
        host = _host(self.target, self.random)
        ports = self.target.stack.ports(host)
        self._ports = frozenset(port for name, port in ports.items() if name.startswith("worker-"))
        for running in reversed(list(family(self.target.stack, host))):
            self._halted.append(running)
            running.send(signal.SIGSTOP)
        return f"{host} with {len(self._halted) - 1} processes"

    def undo(self, moved: Callable[[float], bool]) -> None:
        """Once the new workers have committed something, wake the old: children, workers, at last the supervisor.

        Raises StackError where nobody took the work in time; they are woken then too.
        """
        try:
            _wait(self._placed_elsewhere, PLACED_SECONDS, "Nimbus did not place its tasks elsewhere")
            placed = time.monotonic()
            _wait(lambda: moved(placed), PLACED_SECONDS, "those who took its tasks over committed nothing")
        finally:
            for running in self._halted:
                _wake(running)

    def _placed_elsewhere(self) -> bool:
        with suppress(ClusterError):
            places = self.target.nimbus.places(self.target.topology)
            return bool(places) and not any(port in self._ports for _, port in places)
        return False


@dataclass
class FillDisk(Fault):
    """Files cannot be written, so nothing is acknowledged."""

    name = "disk"
    doc = "a full disk under the warehouse"

    @classmethod
    def missing(cls, target: Target) -> str | None:
        """The machine's own disk is not filled: it must be a small one of the warehouse's own."""
        way_out = f"mount -t tmpfs -o size=256m none {target.warehouse}"
        if not os.path.ismount(target.warehouse):
            return f"the warehouse has no disk of its own: {way_out}"
        found = os.statvfs(target.warehouse)
        if found.f_blocks * found.f_frsize > SMALL_DISK:
            return f"the warehouse's disk is larger than {SMALL_DISK // MIB} MiB: {way_out}"
        return None

    def strike(self) -> str:
        """Write until nothing more goes in."""
        block, size = bytes(MIB), 0
        with (self.target.warehouse / FILLER).open("wb", buffering=0) as file:
            while block:
                try:
                    size += file.write(block)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    block = block[: len(block) // 2]
        return f"{size / MIB:.0f} MiB filled"

    def undo(self, moved: Callable[[float], bool]) -> None:
        """Make room."""
        (self.target.warehouse / FILLER).unlink(missing_ok=True)


FAULTS: Mapping[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        KillChild,
        KillWorker,
        KillSupervisor,
        KillNimbus,
        KillKafka,
        KillHBase,
        KillThrift,
        KillHive,
        HaltSupervisor,
        FillDisk,
    )
}
"""All faults by name."""


def _host(target: Target, random: Random) -> str:
    """The supervisor that runs a worker of the topology."""
    return random.choice(workers_of(target.stack, target.topology_id())).supervisor


def _kill(running: Running) -> None:
    if not running.send(signal.SIGKILL):
        raise StackError(f"process {running.process.pid} has ended by itself before it was killed")


def _wake(running: Running) -> None:
    running.send(signal.SIGCONT)


def _wait(done: Callable[[], bool], seconds: float, otherwise: str) -> None:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise StackError(f"{otherwise} within {seconds:g} s")
        time.sleep(LOOK_EVERY)
