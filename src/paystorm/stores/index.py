"""The index of a partition: which offsets are stored, in which files, with which verdict. The warehouse's own truth.

Row n of a partition stands in the table `<source>.index` under key(partition, n), put only where it is absent: of two
tasks that believe they own the partition one loses, reloads and fails its tuples (SEMANTICS.md §6). Now and then the
rows so far are folded into a snapshot, in `<source>.indexed` under key(partition), versioned by n.
"""

import zlib
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from paystorm.errors import PaystormError, TablesError
from paystorm.log.base import Int64Array
from paystorm.offsets import OffsetSet, Range
from paystorm.tables.base import Tables
from paystorm.tables.keys import key, parts, under
from paystorm.warehouse.base import EventFile

SNAPSHOT_ROWS = 256
"""Rows between two snapshots: what a start has to read."""


class SupersededError(PaystormError):
    """Another task owns the partition by now: drop what is in memory, fail the tuples, load again."""


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of stored events of one partition."""

    name: str
    hour: str
    """As in `EventFile`."""
    rows: int
    first: int
    last: int
    """The lowest and the highest offset in it."""

    def of(self, source: str) -> EventFile:
        """The file as the warehouse names it."""
        return EventFile(source, self.hour, self.name)


class IndexRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one flush added. A row that adds nothing marks that a task has taken the partition over."""

    n: int
    ranges: tuple[Range, ...] = ()
    """The offsets applied by this row and by none before."""
    committed: int = 0
    parked: tuple[int, ...] = ()
    """The floor: all below `committed` is complete, but for the offsets parked."""
    files: tuple[StoredFile, ...] = ()
    accepted: int = 0
    denied: int = 0
    stored: bytes = b""
    """The offsets of the events in `files`, by `pack`."""
    decided: bytes = b""
    """Those of them that are denied, by `pack`."""
    refused: tuple[int, ...] = ()
    lifted: tuple[int, ...] = ()
    accepted_total: int = 0
    denied_total: int = 0
    highest: int = -1
    """Counts and highest stored offset of this row and all before it."""
    published_through: int = -1
    """Rows up to this one are in place and published."""

    def apply_to(self, applied: OffsetSet) -> None:
        """Add to the set of applied offsets what this row applied: refused offsets too, lifted ones not."""
        for first, after in self.ranges:
            applied.add(first, after)
        for offset in self.refused:
            applied.add(offset, offset + 1)
        applied.fold(self.committed, self.parked)
        for offset in self.lifted:  # after the floor: what was refused is parked, and need not be named so here
            applied.remove(offset, offset + 1)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Rows 0 to n as one."""

    n: int = -1
    applied: tuple[Range, ...] = ()
    refused: tuple[Range, ...] = ()
    accepted: int = 0
    denied: int = 0
    highest: int = -1
    published: int = -1


def index_table(source: str) -> str:
    """The name of the table of index rows."""
    return f"{source}.index"


def snapshot_table(source: str) -> str:
    """The name of the table of snapshots."""
    return f"{source}.indexed"


def pack(offsets: Int64Array) -> bytes:
    """A set of distinct offsets as bytes: runs of consecutive ones, the ends as differences, zlib. b"" for none."""
    if not len(offsets):
        return b""
    ordered = np.sort(offsets)
    breaks = np.flatnonzero(np.diff(ordered) != 1)
    ends = np.empty(2 * (len(breaks) + 1), dtype=np.int64)
    ends[0::2] = ordered[np.concatenate(([0], breaks + 1))]
    ends[1::2] = ordered[np.concatenate((breaks, [len(ordered) - 1]))] + 1
    return zlib.compress(np.diff(ends, prepend=0).astype("<i8").tobytes(), 1)


def unpack(packed: bytes) -> Int64Array:
    """The ends of the runs that `pack` wrote: first, next, first, next, …, ascending."""
    if not packed:
        return np.empty(0, dtype=np.int64)
    return np.cumsum(np.frombuffer(zlib.decompress(packed), dtype="<i8"), dtype=np.int64)


def in_runs(ends: Int64Array, offsets: Int64Array) -> npt.NDArray[np.bool_]:
    """For each offset whether it is in one of the runs of `unpack`."""
    inside: npt.NDArray[np.bool_] = np.searchsorted(ends, offsets, side="right") % 2 == 1
    return inside


def count_below(ends: Int64Array, below: int) -> int:
    """How many offsets < below the runs of `unpack` hold."""
    cut = np.minimum(ends, below)
    return int((cut[1::2] - cut[0::2]).sum())


def rows_from(tables: Tables, source: str, partition: int, n: int) -> Iterator[IndexRow]:
    """Rows n, n + 1, … in order. Raises TablesError where one is missing among others."""
    for row_key, value in tables.scan(index_table(source), key(partition, n), under(partition)[1]):
        while n != parts(row_key)[1]:  # a scan may miss what is put meanwhile; but it was put before this row
            missed = tables.get(index_table(source), key(partition, n))
            if missed is None:
                raise _missing(source, partition, n)
            yield msgspec.msgpack.decode(missed, type=IndexRow)
            n += 1
        yield msgspec.msgpack.decode(value, type=IndexRow)
        n += 1


def _missing(source: str, partition: int, n: int) -> TablesError:
    return TablesError(f"{index_table(source)}: row {n} of partition {partition} is missing; restore it from a backup")


def load_snapshot(tables: Tables, source: str, partition: int) -> Snapshot:
    """The newest snapshot; an empty one where there is none."""
    value = tables.get(snapshot_table(source), key(partition))
    return Snapshot() if value is None else msgspec.msgpack.decode(value, type=Snapshot)


def published_through(tables: Tables, source: str, partition: int) -> int:
    """The newest row that is known to be in place and published, as are all before it; -1: none."""
    start, stop = under(partition)
    published = load_snapshot(tables, source, partition).published
    for _, value in tables.scan(index_table(source), start, stop, limit=1, reverse=True):
        published = max(published, msgspec.msgpack.decode(value, type=IndexRow).published_through)
    return published


class PartitionIndex:
    """The index as its owner keeps it: all that is needed to cut a chunk to what is new, and to add the next row."""

    def __init__(self, tables: Tables, source: str, partition: int, *, snapshot_rows: int = SNAPSHOT_ROWS) -> None:
        """Loads the index. Raises TablesError where a row is missing among others."""
        self.source = source
        self.partition = partition
        self._tables = tables
        self._snapshot_rows = snapshot_rows
        snapshot = load_snapshot(tables, source, partition)
        self.applied = OffsetSet(snapshot.applied)
        self.refused = OffsetSet(snapshot.refused)
        self.accepted, self.denied, self.highest = snapshot.accepted, snapshot.denied, snapshot.highest
        self.published = snapshot.published
        """Rows up to this one are in place and published."""
        self.next = snapshot.n + 1
        """The number of the next row."""
        self.unpublished: list[IndexRow] = []
        self._snapshot = snapshot.n
        seen = snapshot.published
        for row in rows_from(tables, source, partition, min(snapshot.n, snapshot.published) + 1):
            seen = row.n
            if row.n > snapshot.n:
                self._fold(row)
            self.unpublished.append(row)
        if seen < snapshot.n:
            raise _missing(source, partition, seen + 1)
        self._forget_published()

    def row(
        self,
        *,
        ranges: Sequence[Range] = (),
        committed: int = 0,
        parked: Sequence[int] = (),
        files: Sequence[StoredFile] = (),
        stored: Int64Array | None = None,
        denied: Int64Array | None = None,
        refused: Sequence[int] = (),
        lifted: Sequence[int] = (),
    ) -> IndexRow:
        """The next row. `stored`: the offsets of all events in `files`; `denied`: of those that are denied."""
        none = np.empty(0, dtype=np.int64)
        stored = none if stored is None else stored
        denied = none if denied is None else denied
        accepted = len(stored) - len(denied)
        return IndexRow(
            n=self.next,
            ranges=tuple(ranges),
            committed=committed,
            parked=tuple(parked),
            files=tuple(files),
            accepted=accepted,
            denied=len(denied),
            stored=pack(stored),
            decided=pack(denied),
            refused=tuple(refused),
            lifted=tuple(lifted),
            accepted_total=self.accepted + accepted,
            denied_total=self.denied + len(denied),
            highest=max(self.highest, int(stored.max()) if len(stored) else -1),
            published_through=self.published,
        )

    def append(self, row: IndexRow) -> bool:
        """Put the row `row` gave last. False: somebody else was faster, nothing here may be used any more.

        Where it raises, the row may have been put or not: load anew.
        """
        if row.n != self.next:
            raise ValueError(f"{self.source}: index row {row.n} of partition {self.partition}, expected {self.next}")
        (put,) = self._tables.put_if_absent(
            index_table(self.source), [(key(self.partition, row.n), msgspec.msgpack.encode(row))]
        )
        if put:
            self._fold(row)
            self.unpublished.append(row)
        return put

    def stands(self, row: IndexRow) -> bool:
        """Whether the row is in the table though `append` says that it was not put: servers that failed may say so."""
        held = self._tables.get(index_table(self.source), key(self.partition, row.n))
        return held == msgspec.msgpack.encode(row)

    def mark_published(self) -> None:
        """All rows so far are in place and published. Costs a write only where a snapshot is due."""
        self.published = self.next - 1
        self.unpublished.clear()
        if self.next - 1 - self._snapshot < self._snapshot_rows:
            return
        snapshot = Snapshot(
            n=self.next - 1,
            applied=tuple(self.applied.ranges()),
            refused=tuple(self.refused.ranges()),
            accepted=self.accepted,
            denied=self.denied,
            highest=self.highest,
            published=self.published,
        )
        row = (key(self.partition), msgspec.msgpack.encode(snapshot))
        self._tables.put(snapshot_table(self.source), [row], version=snapshot.n)
        self._snapshot = snapshot.n

    def _fold(self, row: IndexRow) -> None:
        row.apply_to(self.applied)
        for offset in row.refused:
            self.refused.add(offset, offset + 1)
        for offset in row.lifted:
            self.refused.remove(offset, offset + 1)
        self.accepted, self.denied, self.highest = row.accepted_total, row.denied_total, row.highest
        self.published = max(self.published, row.published_through)
        self.next = row.n + 1

    def _forget_published(self) -> None:
        self.unpublished = [row for row in self.unpublished if row.n > self.published]
