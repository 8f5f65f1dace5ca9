"""The index as others read it, while its owner writes: verdicts of events, and counts below an offset."""

from collections import deque
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from paystorm.log.base import Int64Array
from paystorm.offsets import OffsetSet
from paystorm.stores.index import (
    IndexRow,
    Snapshot,
    count_below,
    in_runs,
    index_table,
    load_snapshot,
    rows_from,
    unpack,
)
from paystorm.tables.base import Tables
from paystorm.tables.keys import key, under

KEPT_ROWS = 256
KEPT_RUNS = 100_000
"""Rows, and runs of offsets in them (16 bytes each), that are kept in memory for each partition, at most.

Asked for is what is in flight, and older rows can be read again. With a row for each `flushMs` of 100 they reach back
25 seconds; 240,000 records in flight of which every other one is denied, at random, have 60,000 runs.
"""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that stored something."""

    n: int
    first: int
    last: int
    stored: Int64Array
    denied: Int64Array

    @classmethod
    def of(cls, row: IndexRow) -> "_Row":
        stored = unpack(row.stored)
        return cls(row.n, int(stored[0]), int(stored[-1]) - 1, stored, unpack(row.decided))

    def runs(self) -> int:
        return len(self.stored) // 2 + len(self.denied) // 2

    def fill(self, offsets: Int64Array, out: npt.NDArray[np.int8]) -> None:
        """Set the verdicts of those offsets that are stored in this row."""
        here = in_runs(self.stored, offsets)
        if here.any():
            out[here] = in_runs(self.denied, offsets[here])


@dataclass(slots=True)
class _Partition:
    """What is known of a partition."""

    applied: OffsetSet
    next: int
    """The next row to read."""
    highest: int
    kept: deque[_Row] = field(default_factory=deque)
    kept_runs: int = 0
    kept_from: int = 0
    """Every row from this one up to `next` that stored something is in `kept`."""


class IndexTail:
    """Follows the index of every partition of a source. Holds no more than the newest rows of each.

    Where nothing new is asked for, nothing is read: what a row says never changes.
    """

    def __init__(self, tables: Tables, source: str, *, rows: int = KEPT_ROWS, runs: int = KEPT_RUNS) -> None:
        """`rows`, `runs`: what is kept for each partition, at most (one row is kept however many runs it has)."""
        self._tables = tables
        self._source = source
        self._rows = rows
        self._runs = runs
        self._partitions: dict[int, _Partition] = {}

    def verdicts(self, partition: int, offsets: Int64Array) -> npt.NDArray[np.int8]:
        """For each offset 1: stored as denied, 0: stored as accepted, -1: not stored (yet). Shape (n,).

        Raises TablesError.
        """
        out = np.full(len(offsets), -1, dtype=np.int8)
        if not len(offsets):
            return out
        known = self._partitions.get(partition)
        if known is not None:
            _fill_from(known, offsets, out)
            if (out >= 0).all():
                return out
        known = self._follow(partition)
        _fill_from(known, offsets, out)
        # What is applied and still without a verdict is in an older row, or was dead-lettered or refused
        open_ = np.flatnonzero((out < 0) & (offsets <= known.highest) & known.applied.mask(offsets))
        if len(open_) and known.kept_from > 0:
            out[open_] = self._older(partition, offsets[open_], known.kept_from)
        return out

    def totals(self, partition: int, below: int) -> tuple[int, int]:
        """How many stored events at offsets < below are accepted, and how many denied. Raises TablesError."""
        accepted = denied = 0
        start, stop = under(partition)
        for _, value in self._tables.scan(index_table(self._source), start, stop, reverse=True):
            row = msgspec.msgpack.decode(value, type=IndexRow)
            if row.highest < below:  # so is all before it
                return row.accepted_total + accepted, row.denied_total + denied
            if row.files and row.files[0].first < below:
                of_denied = count_below(unpack(row.decided), below)
                denied += of_denied
                accepted += count_below(unpack(row.stored), below) - of_denied
        return accepted, denied

    def applied(self, partition: int) -> OffsetSet:
        """A copy of the offsets applied by now: stored, invalid, refused, or below the floor. Raises TablesError."""
        return self._follow(partition).applied.copy()

    def _follow(self, partition: int) -> _Partition:
        """Read the rows that are new."""
        known = self._partitions.get(partition)
        if known is None:
            snapshot = load_snapshot(self._tables, self._source, partition)
            known = _begin(snapshot)
            self._partitions[partition] = known
        for row in rows_from(self._tables, self._source, partition, known.next):
            row.apply_to(known.applied)
            known.next, known.highest = row.n + 1, row.highest
            if row.stored:
                entry = _Row.of(row)
                known.kept.append(entry)
                known.kept_runs += entry.runs()
            while len(known.kept) > 1 and (len(known.kept) > self._rows or known.kept_runs > self._runs):
                oldest = known.kept.popleft()
                known.kept_runs -= oldest.runs()
                known.kept_from = oldest.n + 1
        return known

    def _older(self, partition: int, offsets: Int64Array, stop: int) -> npt.NDArray[np.int8]:
        """The verdicts of offsets that stand in rows before `stop`, read from the table."""
        out = np.full(len(offsets), -1, dtype=np.int8)
        first = self._first_reaching(partition, int(offsets.min()), stop)
        for _, value in self._tables.scan(index_table(self._source), key(partition, first), key(partition, stop)):
            row = msgspec.msgpack.decode(value, type=IndexRow)
            if row.stored:
                _Row.of(row).fill(offsets, out)
                if (out >= 0).all():
                    break
        return out

    def _first_reaching(self, partition: int, offset: int, stop: int) -> int:
        """The first row < stop up to which an offset ≥ `offset` is stored; what is stored before it is lower."""
        low, high = 0, stop
        while low < high:
            middle = (low + high) // 2
            value = self._tables.get(index_table(self._source), key(partition, middle))
            if value is None or msgspec.msgpack.decode(value, type=IndexRow).highest < offset:
                low = middle + 1
            else:
                high = middle
        return low


def _begin(snapshot: Snapshot) -> _Partition:
    return _Partition(
        applied=OffsetSet(snapshot.applied),
        next=snapshot.n + 1,
        highest=snapshot.highest,
        kept_from=snapshot.n + 1,
    )


def _fill_from(known: _Partition, offsets: Int64Array, out: npt.NDArray[np.int8]) -> None:
    """Set the verdicts that the kept rows know, newest rows first."""
    low, high = int(offsets.min()), int(offsets.max())
    for row in reversed(known.kept):
        if row.first <= high and low <= row.last:
            row.fill(offsets, out)
            if (out >= 0).all():
                return
