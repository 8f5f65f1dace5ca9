"""Small files of past hours become few: merged into a new folder that takes the place of the old (decision 0009).

The hour's row (`paystorm.stores.hours`) names the folder in force; putting it is the swap. What comes before may be
thrown away, what comes after is done by the next pass where this one dies. Files that are not merged are brought along.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
import polars as pl

from paystorm.clock import SECOND, Clock
from paystorm.errors import TablesError
from paystorm.offsets import OffsetSet, Range
from paystorm.stores.hours import Hour, Hours, MergedFile
from paystorm.stores.index import pack, published_through, rows_from
from paystorm.tables.base import Tables
from paystorm.warehouse.base import EventFile, row_of
from paystorm.warehouse.folders import LOOKS, EventFolders

HOUR = 3600 * SECOND


@dataclass(frozen=True, slots=True)
class MergeSettings:
    """When an hour is merged, and into what."""

    files: int = 8
    """An hour with more small files than this is merged."""
    settle: float = 600.0
    """Seconds after its end in which an hour is left alone: files of it are still on their way."""
    grace: float = 3600.0
    """Seconds for which the old folder is kept: longer than any query, export or verification may read it."""
    lease: float = 900.0
    """Seconds without a sign of life after which a merge counts as dead, and another may begin."""
    small_rows: int = 100_000
    """A file with more rows is left as it is."""
    most: int = 300_000
    """Files that are merged at a time, at most: they are all known in memory. The next pass merges the others."""
    rows: int = 500_000
    memory: int = 256 * 1024 * 1024
    """Rows of a merged file, and bytes of its events in memory, about."""


@dataclass(slots=True)
class Merged:
    """What a pass did to a source."""

    source: str
    hours: int = 0
    files: int = 0
    """Files that were merged, and into how many."""
    into: int = 0
    rows: int = 0
    removed: int = 0
    """Old folders that were removed."""
    notes: list[str] = field(default_factory=list)
    """Hours that were passed over though they are due, and why."""


class LostError(Exception):
    """The hour is not merged by us now: another merge has it, or a file is not as the index says."""


@dataclass(frozen=True, slots=True)
class _Small:
    """A small file whose index row is published."""

    file: EventFile
    partition: int
    n: int
    stored: bytes
    """The offsets of its events, as the row has them."""


class Merger:
    """Merges the hours of sources. Any number may be at work: an hour is merged by one of them, or by none."""

    def __init__(
        self, tables: Tables, warehouse: EventFolders, clock: Clock, settings: MergeSettings | None = None
    ) -> None:
        self._tables = tables
        self._hours = Hours(tables)
        self._warehouse = warehouse
        self._clock = clock
        self._settings = settings or MergeSettings()

    def run(self, source: str) -> Merged:
        """One pass over a source: first what an earlier one left undone. Raises TablesError; then run it again."""
        done = Merged(source)
        ended = self._clock.now() - round(self._settings.settle * SECOND) - HOUR
        for hour in self._due(source):
            if hour_start(hour) > ended:
                continue
            try:
                done.removed += self._finish(source, hour)
                self._merge(source, hour, done)
            except LostError as lost:
                done.notes.append(f"{source} {hour}: {lost}")
        return done

    def _due(self, source: str) -> list[str]:
        """Hours with many files, or with something left to finish."""
        known = self._hours.all(source)
        open_ = {
            name
            for name, hour in known.items()
            if not hour.pruned and (hour.left or hour.merging or hour.shown != hour.folder)
        }
        for folder in self._warehouse.folders(source):
            if sum(1 for _ in folder.iterdir()) > self._settings.files:
                open_.add(f"{folder.parent.name.removeprefix('dt=')}T{folder.name.removeprefix('hr=')}")
        return sorted(open_)

    # The merge of an hour.

    def _merge(self, source: str, hour: str, done: Merged) -> None:
        was = self._hours.get(source, hour)
        if was.pruned:
            raise LostError("it was pruned meanwhile")
        if self._alive(was):
            raise LostError("another merge is at work on it")
        small = self._small(source, hour, was.folder)
        if len(small) <= self._settings.files:
            return
        number = was.last + 1
        begun = msgspec.structs.replace(was, merging=number, last=number, since=self._clock.now(), late=0)
        if not self._hours.replace(source, hour, was, begun):
            raise LostError("another merge has just begun")
        try:
            files = self._write(source, hour, number, small)
            self._swap(source, hour, number, files)
        except (LostError, TablesError) as error:
            if self._give_up(source, hour, number):
                raise LostError("another merge has taken it over") from error  # and our folder away, be it so
            raise
        done.hours += 1
        done.files += len(small)
        done.into += len(files)
        done.rows += sum(file.rows for file in files)
        self._finish(source, hour)

    def _alive(self, hour: Hour) -> bool:
        return bool(hour.merging) and self._clock.now() - hour.since < self._settings.lease * SECOND

    def _small(self, source: str, hour: str, number: int) -> list[_Small]:
        """The small files of a folder whose rows are published, in the order of the index."""
        by_partition: dict[int, dict[int, str]] = {}
        for name in self._warehouse.names(source, hour, number):
            place = row_of(name)
            if place is not None:
                by_partition.setdefault(place[0], {})[place[1]] = name
        found = []
        for partition, names in sorted(by_partition.items()):
            last = min(max(names), published_through(self._tables, source, partition))
            for row in rows_from(self._tables, source, partition, min(names)):
                if row.n > last:
                    break
                if len(row.files) != 1 or row.files[0].name != names.get(row.n) or row.files[0].hour != hour:
                    continue
                if row.files[0].rows <= self._settings.small_rows:
                    found.append(_Small(row.files[0].of(source), partition, row.n, row.stored))
                if len(found) == self._settings.most:
                    return found
        return found

    def _write(self, source: str, hour: str, number: int, small: Sequence[_Small]) -> list[MergedFile]:
        """Write the merged files into the new folder."""
        files: list[MergedFile] = []
        for frame, members in self._gathered(source, hour, number, small):
            name = f"merged-{number:06d}-{len(files):04d}"
            file = EventFile(source, hour, name)
            self._warehouse.write_into(file, number, frame)
            if not self._warehouse.read_from(file, number).equals(frame):
                raise TablesError(f"warehouse: merged file {name} of {source} {hour} does not read back as written")
            files.append(MergedFile(name=name, rows=len(frame), of=_ranges(members)))
            self._renew(source, hour, number)
        return files

    def _gathered(
        self, source: str, hour: str, number: int, small: Sequence[_Small]
    ) -> Iterator[tuple[pl.DataFrame, list[_Small]]]:
        """The events of the small files, gathered to the size of merged ones; those of other columns apart."""
        gathered: dict[tuple[tuple[str, str], ...], _Group] = {}
        for member in small:
            frame = self._read(member)
            columns = tuple((name, repr(kind)) for name, kind in frame.schema.items())
            group = gathered.setdefault(columns, _Group())
            group.add(member, frame)
            if group.rows >= self._settings.rows or group.bytes >= self._settings.memory:
                yield gathered.pop(columns).whole()
        for group in gathered.values():
            yield group.whole()

    def _read(self, member: _Small) -> pl.DataFrame:
        """The events of a small file, which must be those of its index row."""
        frame = self._warehouse.read(member.file)
        here = (frame["log_partition"] == member.partition).all()
        if not here or pack(frame["log_offset"].cast(pl.Int64).to_numpy()) != member.stored:
            raise LostError(f"file {member.file.name} does not hold the events of its index row: see paystorm verify")
        return frame

    def _renew(self, source: str, hour: str, number: int) -> None:
        """Give a sign of life. Raises LostError where another merge has taken over."""
        self._change(source, hour, number, lambda now: msgspec.structs.replace(now, since=self._clock.now()))

    def _swap(self, source: str, hour: str, number: int, files: Sequence[MergedFile]) -> None:
        """Make the new folder the one in force, with all that was placed in the old one meanwhile."""

        def swapped(now: Hour) -> Hour:
            after = msgspec.structs.replace(
                now,
                folder=number,
                merged=(*now.merged, *files),
                merging=0,
                late=0,
                left=(*now.left, now.folder),
                swapped_at=self._clock.now(),
            )
            # Listed after the row was read: whoever places a file behind this changes the row, and the put fails
            names = self._warehouse.names(source, hour, now.folder)
            rest = [name for name in names if (row := row_of(name)) is None or not after.merged_with(*row)]
            self._warehouse.bring(source, hour, rest, now.folder, number)
            return after

        self._change(source, hour, number, swapped)

    def _change(self, source: str, hour: str, number: int, change: Callable[[Hour], Hour]) -> None:
        """Change the row of an hour that this merge has. Raises LostError where another has taken over."""
        for _ in range(LOOKS):
            now = self._hours.get(source, hour)
            if now.merging != number:
                raise LostError("another merge has taken it over")
            if self._hours.replace(source, hour, now, change(now)):
                return
        raise LostError(f"files of it were placed {LOOKS} times meanwhile")

    def _give_up(self, source: str, hour: str, number: int) -> bool:
        """Undo what was prepared, as far as it can be: a later pass does the rest. Whether another has taken over."""
        lost = False
        with suppress(TablesError):
            try:
                self._change(source, hour, number, lambda now: msgspec.structs.replace(now, merging=0, late=0))
            except LostError:
                lost = True
            now = self._hours.get(source, hour)
            if number in (now.folder, now.merging, *now.left):
                return False
            self._warehouse.remove_folder(source, hour, number)
        return lost

    # What comes after the swap, and what merges that died have left.

    def _finish(self, source: str, hour: str) -> int:
        """Show the folder in force to the query engine, remove those that nobody reads; how many."""
        there = self._warehouse.numbers(source, hour)  # before the row: one of a merge that begins now is not in it
        was = self._hours.get(source, hour)
        if was.pruned:
            return 0
        if was.shown != was.folder:
            self._warehouse.show(source, hour, was.folder)
            was = self._replace(source, hour, was, msgspec.structs.replace(was, shown=was.folder))
        over = self._clock.now() - was.swapped_at >= self._settings.grace * SECOND
        if was.merging and not self._alive(was):
            # It may wake: only when it has lost the hour may its folder go
            was = self._replace(source, hour, was, msgspec.structs.replace(was, merging=0, late=0))
        strays = [number for number in there if number not in (was.folder, was.merging, *was.left)]
        gone = [*was.left, *strays] if over else strays
        if not gone:
            return 0
        self._warehouse.show(source, hour, was.folder)  # again: an older word may have come after ours
        for number in gone:
            names = self._warehouse.names(source, hour, number)
            flushed = [name for name in names if (row := row_of(name)) is not None and not was.merged_with(*row)]
            # Placed here by somebody who died before he saw that the folder is no longer in force
            self._warehouse.place([EventFile(source, hour, name) for name in flushed])
            self._warehouse.remove_folder(source, hour, number)
        if over and was.left:
            now = self._hours.get(source, hour)
            rest = tuple(number for number in now.left if number not in gone)
            self._replace(source, hour, now, msgspec.structs.replace(now, left=rest))
        return len(gone)

    def _replace(self, source: str, hour: str, was: Hour, now: Hour) -> Hour:
        if not self._hours.replace(source, hour, was, now):
            raise LostError("it was changed meanwhile; the next pass goes on")
        return now


class _Group:
    """Small files of the same columns, on their way into one."""

    def __init__(self) -> None:
        self.rows = self.bytes = 0
        self._frames: list[pl.DataFrame] = []
        self._members: list[_Small] = []

    def add(self, member: _Small, frame: pl.DataFrame) -> None:
        self.rows += len(frame)
        self.bytes += int(frame.estimated_size())
        self._frames.append(frame)
        self._members.append(member)

    def whole(self) -> tuple[pl.DataFrame, list[_Small]]:
        return pl.concat(self._frames, rechunk=True), self._members


def _ranges(members: Sequence[_Small]) -> tuple[tuple[int, tuple[Range, ...]], ...]:
    """Which index rows of which partitions the files are of."""
    rows: dict[int, OffsetSet] = {}
    for member in members:
        rows.setdefault(member.partition, OffsetSet()).add(member.n, member.n + 1)
    return tuple((partition, tuple(held.ranges())) for partition, held in sorted(rows.items()))


def hour_start(hour: str) -> int:
    """When an hour (`YYYY-MM-DDTHH`, UTC) begins, µs since 1970-01-01 UTC."""
    return int(datetime.strptime(f"{hour}+0000", "%Y-%m-%dT%H%z").timestamp()) * SECOND
