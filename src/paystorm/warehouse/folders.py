"""Event files in Hive's folders: what the local warehouse and Hive have in common.

A file stands in `<folder>/<source>/dt=YYYY-MM-DD/hr=HH/<name>.parquet`; once its hour was merged (decision 0009), in
`<folder>/<source>/merged-<number>/dt=…/hr=…/`. It is written to `<folder>/<source>/.staging/` first, on the same file
system, so that placing it is one rename; neither Hive nor DuckDB's patterns look into folders that start with a dot.
"""

import contextlib
import errno
import io
import itertools
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import polars as pl

from paystorm.errors import PrunedError, TablesError
from paystorm.stores.hours import UNMERGED, Hour, Hours
from paystorm.warehouse.base import Columns, EventFile, row_of

STAGING = ".staging"
MERGED = "merged-"
ZSTD_LEVEL = 1
"""Measured on 133-byte purchase events in 21 columns, CPU-seconds a million and bytes an event: level 1 0.92 and 48,
level 3 1.2 and 51, lz4 0.83 and 99, uncompressed 0.61 and 252."""
GROUP_ROWS = 131_072
"""Rows of a row group, at most: what a query reads and skips at a time."""
LOOKS = 100
"""How often a change of an hour that others change too is tried."""
MAX_HOURS = 10_000
"""Hours of which is remembered where their files stand."""
_HOUR = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d)")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class EventFolders:
    """The files of a `Warehouse`, without its queries. Several processes may stage, place and merge at once."""

    def __init__(self, folder: Path, hours: Hours | None = None) -> None:
        """`hours`: which folder is in force for an hour; without it none is ever merged. The folder may be absent."""
        self.folder = folder.absolute()
        self.hours = hours
        self._known: set[Path] = set()
        self._seen_in: dict[tuple[str, str], int] = {}
        """By source and hour, the number of the folder in which its last file was found."""

    # What a flush does.

    def stage(self, file: EventFile, frame: pl.DataFrame) -> None:
        """As `Warehouse.stage`. Raises TablesError where the disk is full or not writable; nothing is left then."""
        self._write(self._staged(file), frame)

    def place(self, files: Sequence[EventFile]) -> None:
        """As `Warehouse.place`."""
        with self._errors("write"):
            # Synced also where it was in place: whoever renamed it may not have come to it
            for folder in dict.fromkeys(self._place(file) for file in files):
                if folder is not None:
                    _sync(folder)

    def discard_staged(self, source: str, keep: Sequence[str], *, prefix: str = "") -> None:
        """As `Warehouse.discard_staged`, but for files whose names do not start with `prefix`: another task's."""
        kept = set(keep)
        with self._errors("write"):
            for path in _in(self.folder / source / STAGING):
                if path.name.startswith(prefix) and path.suffix == ".parquet" and path.stem not in kept:
                    path.unlink(missing_ok=True)

    def read(self, file: EventFile) -> pl.DataFrame:
        """As `Warehouse.read`. Raises TablesError where there is no such file, also once it was merged and removed.

        PrunedError, where its hour was pruned and the file is gone.
        """
        with self._errors("read"):
            # A file is the same wherever it stands: where an hour's files stand is asked once for a thousand of them.
            seen_in = self._seen_in.get((file.source, file.hour))
            found = self._read_first([] if seen_in is None else [self.path(file, seen_in)])
            if found is not None:
                return found
            hour = self.hour(file.source, file.hour)
            placed = self.path(file, hour.folder)
            found = self._read_first(
                itertools.chain([placed, self._staged(file), placed], self._elsewhere(file, hour.folder))
            )
            if found is not None:
                if len(self._seen_in) >= MAX_HOURS:
                    self._seen_in.clear()
                self._seen_in[file.source, file.hour] = hour.folder
                return found
        if hour.pruned:
            raise PrunedError(
                f"warehouse {self.folder}: {file.source} {file.hour} is over its retention and was pruned; run the "
                "command again"
            )
        if _is_merged(hour, file):
            raise TablesError(
                f"warehouse {self.folder}: file {file.name} of {file.source} {file.hour} was merged meanwhile; "
                "run the command again"
            )
        raise TablesError(
            f"warehouse {self.folder}: no file {file.name} of {file.source} {file.hour}; restore it from a backup"
        )

    def _read_first(self, paths: Iterable[Path]) -> pl.DataFrame | None:
        """What the first file that is there holds."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                return pl.read_parquet(io.BytesIO(path.read_bytes()), hive_partitioning=False)
        return None

    def folders(self, source: str) -> list[Path]:
        """As `Warehouse.folders`: one for each hour, in order of time."""
        with self._errors("read"):
            known = self.hours.all(source) if self.hours else {}
            in_force = {name: hour.folder for name, hour in known.items()}
            days = [day for day in _in(self.folder / source) if day.name.startswith("dt=")]
            found = {_hour_of(path): 0 for day in days for path in _in(day) if path.name.startswith("hr=")} | in_force
            seen = {name: n for name, n in sorted(found.items()) if not known.get(name, UNMERGED).pruned}
            paths = [self.hour_folder(source, name, number) for name, number in seen.items()]
            return [path for path in paths if path.is_dir()]

    def hours_in_sight(self, source: str) -> list[str]:
        """The hours of `folders`, in order."""
        return [_hour_of(folder) for folder in self.folders(source)]

    def sources(self) -> list[str]:
        """The sources that have a folder here, in order."""
        with self._errors("read"):
            return sorted(p.name for p in _in(self.folder) if p.is_dir() and _NAME.fullmatch(p.name))

    # What merging does: folders by number, of which one is in force.

    def hour(self, source: str, hour: str) -> Hour:
        """What is known of an hour now."""
        return self.hours.get(source, hour) if self.hours is not None else UNMERGED

    def hour_folder(self, source: str, hour: str, number: int) -> Path:
        """The folder of that number of an hour."""
        matched = _HOUR.fullmatch(hour)
        if matched is None:
            raise ValueError(f"hour must be YYYY-MM-DDTHH, got {hour!r}")
        above = self.folder / source / f"{MERGED}{number:06d}" if number else self.folder / source
        return above / f"dt={matched[1]}" / f"hr={matched[2]}"

    def numbers(self, source: str, hour: str) -> list[int]:
        """The folders of an hour that there are, by number."""
        with self._errors("read"):
            names = [p.name.removeprefix(MERGED) for p in _in(self.folder / source) if p.name.startswith(MERGED)]
            numbers = [0, *sorted(int(name) for name in names if name.isdigit())]
            return [n for n in numbers if self.hour_folder(source, hour, n).is_dir()]

    def names(self, source: str, hour: str, number: int) -> list[str]:
        """The names of the files in a folder, in order."""
        with self._errors("read"):
            return sorted(p.stem for p in _in(self.hour_folder(source, hour, number)) if p.suffix == ".parquet")

    def read_from(self, file: EventFile, number: int) -> pl.DataFrame:
        """The events of a file in the folder of that number. Raises TablesError."""
        with self._errors("read"):
            return pl.read_parquet(io.BytesIO(self.path(file, number).read_bytes()), hive_partitioning=False)

    def write_into(self, file: EventFile, number: int, frame: pl.DataFrame) -> None:
        """Write a file into a folder that is not in force, and sync it."""
        self._write(self.path(file, number), frame)

    def bring(self, source: str, hour: str, names: Sequence[str], number: int, to: int) -> None:
        """Have files of one folder in another too, synced; those that are there already are passed over."""
        with self._errors("write"):
            self._make(self.hour_folder(source, hour, to))
            for name in names:
                file = EventFile(source, hour, name)
                _link(self.path(file, number), self.path(file, to))
            _sync(self.hour_folder(source, hour, to))

    def remove_folder(self, source: str, hour: str, number: int) -> None:
        """Remove a folder that is not in force, with what is in it."""
        folder = self.hour_folder(source, hour, number)
        with self._errors("write"):
            for path in _in(folder):
                path.unlink(missing_ok=True)
            for empty in (folder, folder.parent, *([folder.parent.parent] if number else [])):
                with contextlib.suppress(FileNotFoundError):
                    try:
                        empty.rmdir()
                    except OSError as error:
                        if error.errno != errno.ENOTEMPTY:
                            raise
                        break
            self._known.clear()

    def show(self, source: str, hour: str, number: int) -> None:
        """Tell the query engine which folder is in force, where it keeps a note of its own. Raises TablesError."""

    def hide(self, source: str, hour: str) -> None:
        """Tell the query engine that an hour was pruned, where it keeps a note of its own. Raises TablesError."""

    def show_all(self, source: str, columns: Columns) -> int:
        """Tell the query engine of all hours that it does not know, where it keeps a note; how many. TablesError."""
        return 0

    def path(self, file: EventFile, number: int) -> Path:
        """Where a file stands in the folder of that number."""
        return self.hour_folder(_checked(file).source, file.hour, number) / f"{file.name}.parquet"

    # Placing.

    def _before(self, file: EventFile, number: int) -> None:
        """Called before a file is placed in a folder, and made to raise where it would not be seen there."""

    def _place(self, file: EventFile) -> Path | None:
        """Have a file in the folder in force; which that is can change while it is being placed.

        None for a file of an hour that was pruned: whoever slept for so long puts nothing back.
        """
        hour = self.hour(file.source, file.hour)
        for _ in range(LOOKS):
            if hour.pruned:
                return None
            target = self.path(file, hour.folder)
            if _is_merged(hour, file):
                return target.parent
            self._before(file, hour.folder)
            if not target.exists():
                self._make(target.parent)
                self._bring_one(file, target, hour.folder)
            # Read again: a merge that began before the rename may have listed the folder without this file
            now = self.hour(file.source, file.hour)
            if now.folder == hour.folder:
                late = msgspec.structs.replace(now, late=now.late + 1)
                if not now.merging or (self.hours and self.hours.replace(file.source, file.hour, now, late)):
                    return target.parent
            hour = now
        raise TablesError(f"warehouse {self.folder}: {file.source} {file.hour} was changed {LOOKS} times meanwhile")

    def _bring_one(self, file: EventFile, target: Path, number: int) -> None:
        try:
            self._staged(file).rename(target)
        except FileNotFoundError:
            for path in self._elsewhere(file, number):  # placed before a swap, by an owner that died of it
                with contextlib.suppress(FileNotFoundError):
                    _link(path, target)
                    return
            if not target.exists():  # or somebody else has just placed it
                raise TablesError(
                    f"warehouse {self.folder}: file {file.name} of {file.source} {file.hour} is neither "
                    "staged nor in place; restore it, its events are in the index"
                ) from None

    def _elsewhere(self, file: EventFile, number: int) -> Iterator[Path]:
        """Where a file may stand in other folders of its hour than this one."""
        for other in self.numbers(file.source, file.hour):
            if other != number:
                yield self.path(file, other)

    def _staged(self, file: EventFile) -> Path:
        return self.folder / _checked(file).source / STAGING / f"{file.name}.parquet"

    def _write(self, path: Path, frame: pl.DataFrame) -> None:
        out = io.BytesIO()
        rows = min(GROUP_ROWS, max(1, len(frame)))
        frame.write_parquet(out, compression="zstd", compression_level=ZSTD_LEVEL, row_group_size=rows)
        with self._errors("write"):
            self._make(path.parent)
            try:
                with path.open("wb") as target:
                    target.write(out.getbuffer())
                    target.flush()
                    os.fsync(target.fileno())
                _sync(path.parent)
            except OSError:
                with contextlib.suppress(OSError):
                    path.unlink()
                raise

    def _make(self, folder: Path) -> None:
        """Make a folder so that it outlives a power cut: its parents are synced too."""
        if folder in self._known and folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        parent = folder
        while parent != self.folder.parent:
            parent = parent.parent
            _sync(parent)
        self._known.add(folder)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """OSError as TablesError in one line with the folder and the way out."""
        try:
            yield
        except OSError as error:
            way_out = "make it accessible to this user"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                way_out = "free some space, nothing is lost meanwhile"
            why = error.strerror or str(error)
            raise TablesError(f"warehouse {self.folder}: cannot {what}: {why}; {way_out}") from error


def _is_merged(hour: Hour, file: EventFile) -> bool:
    """Whether the file is part of a merged one: also who has slept since before the merge must not place it again."""
    row = row_of(file.name)
    return row is not None and hour.merged_with(*row) is not None


def _hour_of(folder: Path) -> str:
    return f"{folder.parent.name.removeprefix('dt=')}T{folder.name.removeprefix('hr=')}"


def _in(folder: Path) -> list[Path]:
    """What stands in a folder; nothing where it is absent."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _link(path: Path, target: Path) -> None:
    """Have the file there too; a copy where the file system has no hard links."""
    try:
        os.link(path, target)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EXDEV):
            raise
        beside = target.with_name(f".{target.stem}.copying")
        shutil.copyfile(path, beside)
        with beside.open("rb") as copied:
            os.fsync(copied.fileno())
        beside.replace(target)


def _checked(file: EventFile) -> EventFile:
    """The file, where its source and name are plain names; a name must not lead out of the folder."""
    for part in (file.source, file.name):
        if not _NAME.fullmatch(part):
            raise ValueError(f"not a name for a source or file of the warehouse: {part!r}")
    return file


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
