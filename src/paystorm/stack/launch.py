"""Starting and ending many servers at once, in one thread: each starts when what it needs is ready."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from paystorm.errors import StackError
from paystorm.stack.process import MARK, Process, start_of
from paystorm.stack.server import Server, Site
from paystorm.stack.state import Started

STOP_SECONDS = 40.0
"""After a SIGTERM; then SIGKILL."""
GONE_SECONDS = 10.0
"""After a SIGKILL."""
LOOK = 0.1
TELL = 10.0
"""Seconds between two words about what is waited for."""
LAST_LINES = 15

Tell = Callable[[str], None]


class Launch:
    """Servers on their way to being ready."""

    def __init__(self, servers: Mapping[str, Server], sites: Mapping[str, Site], tell: Tell, limit: float) -> None:
        self._servers = servers
        self._sites = sites
        self._tell = tell
        self._limit = limit

    def run(
        self,
        to_start: Mapping[str, Callable[[], Started]],
        starting: Mapping[str, Started],
        ready: Callable[[str], None],
    ) -> None:
        """Start the first and wait for both. `ready` hears of each that is. Raises StackError for one that fails."""
        waiting, begun = dict(starting), {name: time.monotonic() for name in starting}
        ahead = dict(to_start)
        told = time.monotonic()
        while ahead or waiting:
            pending = {self._servers[name].kind for name in (*ahead, *waiting)}
            for name in [n for n in ahead if not pending.intersection(self._servers[n].requires)]:
                waiting[name], begun[name] = ahead.pop(name)(), time.monotonic()
            for name, started in list(waiting.items()):
                seconds = time.monotonic() - begun[name]
                alive = Process(started.pid, started.start).is_alive()
                if self.is_ready(name, started):
                    ready(name)
                    del waiting[name]
                    self._tell(f"{name}: ready after {seconds:.1f} s")
                elif not alive:
                    raise self._failed(name, started, f"ended after {seconds:.0f} s, before it was ready")
                elif seconds > self._limit:
                    raise self._failed(name, started, f"not ready after {self._limit:.0f} s")
            if waiting and time.monotonic() - told > TELL:
                told = time.monotonic()
                self._tell(", ".join(f"{n}: starting, {told - begun[n]:.0f} s" for n in waiting))
            if waiting:
                time.sleep(LOOK)

    def is_ready(self, name: str, started: Started) -> bool:
        """Whether a server that was started serves by now."""
        if not Process(started.pid, started.start).is_alive():
            return False
        return self._servers[name].is_ready(self._sites[name], text_from(Path(started.log), started.log_from))

    def _failed(self, name: str, started: Started, how: str) -> StackError:
        log = Path(started.log)
        said = text_from(log, started.log_from).splitlines() + text_from(out_of(log), 0).splitlines()
        for line in said[-LAST_LINES:]:
            self._tell(f"{name} | {line[:500]}")
        return StackError(f"{name}: {how}: its log says why: {log}")


def start_process(server: Server, site: Site, mark: str) -> subprocess.Popen[bytes]:
    """Start a server's process, in a session of its own, so that no Ctrl-C of this terminal reaches it."""
    server.prepare(site)
    site.log.parent.mkdir(parents=True, exist_ok=True)
    command = [*server.prefix, *server.command(site)]
    environment = {**os.environ, **server.environment(site), MARK: mark}
    with out_of(site.log).open("wb") as out:
        try:
            return subprocess.Popen(
                command,
                cwd=site.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise StackError(f"{server.name}: {command[0]} cannot be run: {error.strerror}") from error


def started_now(process: subprocess.Popen[bytes], log: Path, log_from: int, version: str) -> Started:
    """What is kept of a process that has just been started."""
    start = start_of(process.pid)
    since = time.time_ns() // 1000
    return Started(pid=process.pid, start=start or 0, since=since, log=str(log), log_from=log_from, version=version)


def asked(command: Sequence[str], mark: str, log: Path, process: Process, seconds: float) -> Iterator[None]:
    """Run the command that ends a server in order, until it has ended, or `seconds` are over. Gone on with as below."""
    process.send(signal.SIGCONT, mark)
    until = time.monotonic() + seconds
    environment = {**os.environ, MARK: mark}
    with out_of(log).open("ab") as out:
        try:
            child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        except OSError:  # then SIGTERM has to do
            return
    while process.is_alive() and not child.poll() and time.monotonic() < until:
        yield
    if child.poll() is None:
        child.terminate()
    child.wait()


def ending(name: str, mark: str, find: Callable[[], list[Process]], seconds: float) -> Iterator[None]:
    """End processes: SIGTERM, and SIGKILL after `seconds`. To be gone on with until it ends, with pauses.

    `find`: those that still live. Raises StackError where some outlive a SIGKILL.
    """
    began = time.monotonic()
    asked: set[Process] = set()
    empty = 0
    while empty < 2:  # one that was not seen the first time may be seen the second
        found = find()
        empty = 0 if found else empty + 1
        waited = time.monotonic() - began
        if found and waited > seconds + GONE_SECONDS:
            raise StackError(f"{name}: process {found[0].pid} does not end, not by SIGKILL either")
        for process in found:
            if waited > seconds:
                process.send(signal.SIGKILL, mark)
            elif process not in asked:
                asked.add(process)
                process.send(signal.SIGTERM, mark)
                process.send(signal.SIGCONT, mark)  # one that was stopped hears nothing
        yield


def finish(
    endings: Mapping[str, Iterator[None]], requires: Callable[[str, str], bool], done: Callable[[str], None]
) -> None:
    """Go on with these until all have ended, each when no other one that `requires` it is left."""
    left = dict(endings)
    while left:
        for name in [n for n in left if not any(requires(other, n) for other in left if other != n)]:
            if next(left[name], left) is left:
                done(name)
                del left[name]
        if left:
            time.sleep(LOOK)


def text_from(path: Path, offset: int) -> str:
    """A log from a byte on; all of it where it has been begun anew since. Empty where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(offset if offset <= size else 0)
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def out_of(log: Path) -> Path:
    """What a server prints, where it does not log: of Java mostly why it cannot run."""
    return log.with_suffix(".out")
