"""What Storm's supervisors have started: workers and their Python children, found by what they run."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paystorm.errors import StackError
from paystorm.stack import Stack, Supervisor
from paystorm.stack import state as stack_state
from paystorm.stack.process import Process, marked

WORKER = "org.apache.storm.daemon.worker.Worker"
LOG_WRITER = "org.apache.storm.LogWriter"
"""The worker's parent, which has the worker's command among its arguments."""
CHILD = "streamparse_run"


@dataclass(frozen=True, slots=True)
class Running:
    """A process that a supervisor has started."""

    process: Process
    supervisor: str
    mark: str
    command: tuple[str, ...]

    @property
    def component(self) -> str | None:
        """The class that a Python child runs, such as `bolts.warehouse.WarehouseBolt`; None for what is none."""
        is_child = any(part.endswith(CHILD) for part in self.command[:2])
        return self.command[-1].split()[-1] if is_child else None  # Storm gives all arguments as one

    def works_for(self, topology: str) -> bool:
        """It is a worker (not its log writer) of the topology; `topology`: Storm's id of it."""
        return WORKER in self.command and topology in self.command and LOG_WRITER not in self.command

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal. False: it has ended meanwhile."""
        return self.process.send(number, self.mark)


def started(stack: Stack, supervisor: str | None = None) -> list[Running]:
    """What the supervisors of a stack (or one of them) have started, and they themselves, by pid."""
    token = stack_state.load(stack.folder).token
    found = [
        Running(process, name, f"{token}/{name}", _command(process.pid))
        for process, name in marked(token).items()
        if name in stack.servers and stack.servers[name].kind == Supervisor.kind and supervisor in (None, name)
    ]
    return sorted(found, key=lambda running: running.process.pid)


def workers_of(stack: Stack, topology: str) -> list[Running]:
    """The workers of a topology. Raises StackError where there is none."""
    found = [running for running in started(stack) if running.works_for(topology)]
    if not found:
        raise StackError(f"topology {topology} has no worker on this machine: wait until Storm has started it")
    return found


def children_of(stack: Stack, topology: str) -> list[Running]:
    """The Python children of a topology's workers, spouts and bolts, by what they run. StackError: there is none."""
    pids = {worker.process.pid for worker in workers_of(stack, topology)}
    found = [r for r in started(stack) if r.component is not None and _parent(r.process.pid) in pids]
    if not found:
        raise StackError(f"topology {topology} has no Python process yet: wait until Storm has started it")
    return sorted(found, key=lambda running: (running.component or "", running.process.pid))


def family(stack: Stack, supervisor: str) -> Iterator[Running]:
    """A supervisor and all that it has started: children first, then workers, at last the supervisor itself."""
    own = stack.pid(supervisor)
    found = started(stack, supervisor)
    yield from (r for r in found if r.component is not None)
    yield from (r for r in found if r.component is None and r.process.pid != own)
    yield from (r for r in found if r.process.pid == own)


def _command(pid: int) -> tuple[str, ...]:
    try:
        text = (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except OSError:  # it has ended
        return ()
    return tuple(part.decode(errors="replace") for part in text.split(b"\0")[:-1])


def _parent(pid: int) -> int | None:
    try:
        text = (Path("/proc") / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[1])
