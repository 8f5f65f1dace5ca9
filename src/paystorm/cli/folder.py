"""The embedded data folder: its mark with a format version, and the locks by which a source is run once only."""

import errno
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path

from paystorm import __version__
from paystorm.durable import make_folder
from paystorm.errors import DataFolderError

FORMAT = 1
"""The version of the data folder that this code writes, and the highest that it reads."""
MARK = "paystorm.json"
LOCKS = "locks"
_PARTS = frozenset({"log", "tables", "warehouse", LOCKS, "logs"})
"""What stands in a data folder; a folder with anything else and no mark is somebody else's."""


def prepare_folder(folder: Path) -> None:
    """Make the data folder, or check that it is one that this paystorm can use.

    Raises DataFolderError for a folder of a newer version, one of somebody else's, or one that cannot be written.
    """
    mark = folder / MARK
    try:
        if mark.exists():
            _check(mark)
            return
        if folder.exists():
            strange = sorted(entry.name for entry in folder.iterdir() if entry.name not in _PARTS)
            if strange:
                raise DataFolderError(
                    f"data folder {folder}: it holds {strange[0]} and no {MARK}: name a new or empty folder with --data"
                )
        make_folder(folder)
        text = json.dumps({"format": FORMAT, "paystorm": __version__}) + "\n"
        # Renamed into place, so that no other command ever reads half a mark.
        aside = folder / f".{MARK}.{os.getpid()}"
        aside.write_text(text)
        aside.replace(mark)
    except OSError as error:
        raise folder_error(folder, error) from error


def folder_error(folder: Path, error: OSError) -> DataFolderError:
    """An OSError as one line with a way out."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        way_out = "free some space; what is there is intact"
    elif isinstance(error, NotADirectoryError | FileExistsError):
        way_out = "name a folder with --data, not a file"
    else:
        way_out = "make it accessible to this user, or name another with --data"
    return DataFolderError(f"data folder {folder}: {error.strerror}: {way_out}")


def _check(mark: Path) -> None:
    folder = mark.parent
    try:
        found = json.loads(mark.read_text())
        version = found["format"]
        if not isinstance(version, int):
            raise TypeError(f"format {version!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise DataFolderError(
            f"{mark}: not readable ({error}): restore the file; the data beside it is intact"
        ) from None
    if version > FORMAT:
        raise DataFolderError(
            f"data folder {folder}: written in format {version}, this paystorm reads up to {FORMAT}: use a newer "
            "paystorm; nothing has been changed"
        )


@dataclass(slots=True)
class SourceLock:
    """That this process runs a source. Given up with `release`, or when the process ends, however it ends."""

    source: str
    _fd: int

    def release(self) -> None:
        """Let others run the source."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def lock_source(folder: Path, source: str) -> SourceLock:
    """Take the lock of a source. Raises DataFolderError where another process runs it."""
    path = folder / LOCKS / f"{source}.lock"
    try:
        path.parent.mkdir(exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise folder_error(folder, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = _pid_in(fd)
        os.close(fd)
        raise DataFolderError(
            f"source {source} is run by process {pid} already, in data folder {folder}: stop that one, or name other "
            "sources"
        ) from None
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except OSError as error:
        os.close(fd)
        raise folder_error(folder, error) from error
    return SourceLock(source, fd)


def running_pid(folder: Path, source: str) -> int | None:
    """The process that runs a source, or None."""
    try:
        fd = os.open(folder / LOCKS / f"{source}.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid_in(fd)
    finally:
        os.close(fd)
    return None


def _pid_in(fd: int) -> int:
    """The process id that the lock's holder wrote; 0 where it has not come to that yet."""
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0
