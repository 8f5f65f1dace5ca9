"""Processes as /proc shows them: told apart by pid and start time, found by a mark in their environment, signalled.

A pid alone names nothing for long: it is used again. What is signalled here is always a process whose start time is the
recorded one and which carries the mark that its starter gave it; children inherit the mark, wherever they end up.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "PAYSTORM_STACK"
"""The environment variable that every process of a stack has: `<token of the folder>/<server>`."""

EXEC_SECONDS = 1.0
_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """A process, whichever comes to have its pid later."""

    pid: int
    start: int
    """Clock ticks from the machine's start to the process's."""

    def is_alive(self) -> bool:
        """It runs (or is stopped by a signal); one that has ended and was not waited for does not."""
        return start_of(self.pid) == self.start

    def is_halted(self) -> bool:
        """It was stopped by a signal and would go on after SIGCONT."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[19]) == self.start and fields[0] == "T"

    def has_mark(self, mark: str) -> bool:
        """Its environment holds this mark. While a process becomes another program, its environment is empty."""
        until = time.monotonic() + EXEC_SECONDS
        while self.is_alive():
            found = _mark_of(self.pid)
            if found is not None or time.monotonic() > until:
                return found == mark
            time.sleep(0.005)
        return False

    def send(self, number: signal.Signals, mark: str) -> bool:
        """Send it a signal, if it is still the process that was meant. True: it was sent."""
        try:
            handle = os.pidfd_open(self.pid)  # from here on the pid cannot come to name another
        except OSError:
            return False
        try:
            if not self.has_mark(mark):
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True


def start_of(pid: int) -> int | None:
    """The start time of a process in clock ticks, None where there is none, or where it has ended."""
    fields = _stat(pid)
    # A killed process whose main thread has ended may have others that still hold its ports.
    return None if fields is None or (fields[0] in "ZX" and int(fields[17]) <= 1) else int(fields[19])


def marked(token: str) -> dict[Process, str]:
    """The living processes whose mark begins with `token/`, and the rest of their marks: the server's name.

    One that is becoming another program at this moment is missing: look twice.
    """
    found = {}
    for pid in _pids():
        mark = _mark_of(pid)
        if mark is not None and mark.startswith(f"{token}/"):
            start = start_of(pid)
            if start is not None:
                found[Process(pid, start)] = mark.removeprefix(f"{token}/")
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where there is none."""
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def command_of(pid: int) -> str:
    """The name of a process's program, as `java`; `?` where it cannot be told."""
    try:
        return (_PROC / str(pid) / "comm").read_text().strip() or "?"
    except OSError:
        return "?"


def holders(inodes: set[int]) -> Iterator[int]:
    """The processes that have one of these sockets open, as far as this user may look."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in _pids():
        with suppress(OSError):
            for handle in os.scandir(_PROC / str(pid) / "fd"):
                with suppress(OSError):
                    if os.readlink(handle.path) in wanted:
                        yield pid
                        break


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir(_PROC) if name.isdigit())


def _mark_of(pid: int) -> str | None:
    """The mark of a process; "" where it has none, None where its environment is empty or cannot be read."""
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:  # gone, or another user's
        return None
    if not environment:
        return None
    prefix = f"{MARK}=".encode()
    return next((v.removeprefix(prefix).decode() for v in environment.split(b"\0") if v.startswith(prefix)), "")


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; the name before it may hold anything, spaces too."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
