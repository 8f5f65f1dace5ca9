"""The state of a stack's folder, `stack.json`: which processes were started, and which ports were chosen."""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from paystorm.errors import StackError

FORMAT = 1
FILE = "stack.json"
LOCK = "stack.lock"
LOCK_SECONDS = 30.0
_BESIDE = frozenset({LOCK, "warehouse"})
"""What may stand in a folder before the first server: environments keep their warehouse there."""
_STRANGE = frozenset(" \t\n\"'\\,;:*$&<>|")
"""What no path of a stack may hold: one of class paths, lists, URIs and Storm's command lines would break on it."""


class Started(msgspec.Struct, kw_only=True):
    """A server that was started, and not ended in order since."""

    pid: int
    start: int
    """The start time of the process, in clock ticks from the start of the machine."""
    since: int
    """When it was started, µs since 1970-01-01 UTC."""
    log: str
    log_from: int
    """Size of the log before it."""
    ready: bool = False
    version: str = ""
    """Of a server that there are several versions of."""


class State(msgspec.Struct, kw_only=True):
    """What is kept of a stack."""

    format: int = FORMAT
    token: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))
    """Marks the stack's processes."""
    ports: dict[str, dict[str, int]] = {}
    """By server and name."""
    versions: dict[str, str] = {}
    """The newest version of a server that has written its data."""
    servers: dict[str, Started] = {}


def load(folder: Path) -> State:
    """The state of a folder; of a new one an empty one. Raises StackError for a file that is none."""
    path = folder / FILE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return State()
    except OSError as error:
        raise StackError(f"{path}: {error.strerror}: make it readable for this user") from error
    except msgspec.DecodeError as error:
        raise StackError(f"{path}: not readable ({error}): restore it; the data beside it is intact") from error
    if state.format > FORMAT:
        raise StackError(f"{path}: format {state.format}, this paystorm reads up to {FORMAT}: use a newer paystorm")
    return state


def version_key(version: str) -> tuple[int, ...]:
    """What versions are sorted by; the empty one is before all others."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def save(folder: Path, state: State) -> None:
    """Write the state: whoever reads it meanwhile has the old one or the new one."""
    aside = folder / f".{FILE}.{os.getpid()}"
    aside.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")
    aside.replace(folder / FILE)


def prepare_folder(folder: Path) -> None:
    """Make the folder, or check that it is a stack's. Raises StackError."""
    strange = sorted(_STRANGE & set(str(folder)))
    if strange:
        raise StackError(f"stack folder {str(folder)!r}: the servers cannot bear {strange[0]!r} in it: name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(e.name for e in folder.iterdir() if e.name not in _BESIDE and not e.name.startswith(f".{FILE}"))
    except OSError as error:
        raise StackError(f"stack folder {folder}: {error.strerror}: name another with --folder") from error
    if found and not (folder / FILE).exists():  # looked for last: another process may be making all this
        raise StackError(f"stack folder {folder}: it holds {found[0]} and no {FILE}: name a new or empty folder")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While nobody else starts or stops servers of this folder. Raises StackError after LOCK_SECONDS."""
    with (folder / LOCK).open("a+") as file:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    file.seek(0)
                    pid = file.read(32).strip() or "?"
                    raise StackError(
                        f"stack folder {folder}: process {pid} is starting or stopping servers there: try again later"
                    ) from None
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
