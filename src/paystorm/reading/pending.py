"""What is in flight of one partition: ranges in order of offset, and how far all of them are complete. Pure."""

from bisect import bisect_left
from dataclasses import dataclass

from paystorm.log.base import RecordBatch


@dataclass(slots=True, eq=False)
class Unit:
    """A range [first, after) that is sent as one chunk. The records stay in memory until the range is committed."""

    first: int
    after: int
    batch: RecordBatch
    epoch: int
    read_at: int
    """µs since 1970-01-01 UTC."""
    duplicates: tuple[int, ...] = ()
    fails: int = 0
    alone: int = 0
    """Failures since each of which, and the one before, another unit succeeded: its own, not those of an outage."""
    others: int = 0
    """The successes of the partition when it last failed, or was made."""
    done: bool = False
    turn: int = 0
    """The number of its completion: units complete in any order."""

    @property
    def records(self) -> int:
        """How many records."""
        return len(self.batch)

    @property
    def size(self) -> int:
        """Bytes of its records."""
        return len(self.batch.values)


class Pending:
    """The units of a partition from its committed offset on. Each begins where the one before ends."""

    def __init__(self, committed: int) -> None:
        self.committed = committed
        self.units: list[Unit] = []
        self.records = 0
        """Records of all units, the completed ones that cannot be committed yet included."""
        self.size = 0
        """Bytes of all units."""
        self.open = 0
        """Units that are not complete."""
        self._successes = 0
        self._turns = 0

    @property
    def position(self) -> int:
        """The offset to read on from."""
        return self.units[-1].after if self.units else self.committed

    def add(self, unit: Unit) -> None:
        """Add a unit behind all others. Raises ValueError where it leaves a gap or overlaps."""
        if unit.first != self.position or unit.after <= unit.first:
            raise ValueError(f"a unit [{unit.first}, {unit.after}) does not follow on offset {self.position}")
        unit.others = self._successes
        self.units.append(unit)
        self.records += unit.records
        self.size += unit.size
        self.open += 1

    def skip(self, batch: RecordBatch, epoch: int) -> None:
        """Note a gap in the offsets, read over: a batch without records. There is nothing to send for it."""
        if self.units and not self.units[-1].records and batch.next > self.position:
            self.units[-1].after = batch.next  # however long the gap, it is one unit
            return
        gap = Unit(self.position, batch.next, batch, epoch, 0)
        self.add(gap)
        self._close(gap)

    def complete(self, unit: Unit) -> None:
        """The unit's tuple tree is complete."""
        if not unit.done:
            self._close(unit)
            self._successes += 1

    def give_over(self, unit: Unit) -> None:
        """The unit is no longer in flight because its record has been parked: that is no success."""
        if not unit.done:
            self._close(unit)

    def fail(self, unit: Unit) -> None:
        """The unit's tuple failed or timed out, and nobody said why."""
        unit.fails += 1
        if self._successes > unit.others:
            unit.alone += 1
            unit.others = self._successes

    def split(self, unit: Unit, into: int) -> list[Unit]:
        """Put up to `into` units of about as many records each in the place of one that failed; returns them."""
        n = min(into, unit.records)
        cuts = [unit.records * k // n for k in range(n + 1)]
        edges = [unit.first, *(int(unit.batch.offsets[i]) for i in cuts[1:-1]), unit.after]
        parts: list[Unit] = []
        for k in range(n):
            first, after = edges[k], edges[k + 1]
            part = cut(unit.batch, cuts[k], cuts[k + 1], after)
            duplicates = tuple(o for o in unit.duplicates if first <= o < after)
            parts.append(Unit(first, after, part, unit.epoch, unit.read_at, duplicates, others=self._successes))
        i = self._index(unit)
        self.units[i : i + 1] = parts
        self.open += n - 1
        return parts

    def complete_head(self) -> list[Unit]:
        """The units before the first that is not complete."""
        for i, unit in enumerate(self.units):
            if not unit.done:
                return self.units[:i]
        return self.units[:]

    def frontier(self) -> int:
        """The first offset of the first unit that is not complete: the committed offset may move up to it."""
        head = self.complete_head()
        return head[-1].after if head else self.committed

    def done_after(self, unit: Unit) -> int:
        """Records behind a complete unit that had been completed before it was."""
        return sum(u.records for u in self.units[self._index(unit) + 1 :] if u.done and u.turn < unit.turn)

    def commit(self, units: int) -> None:
        """Forget the first `units` units, which are complete: the committed offset is behind them."""
        gone = self.units[:units]
        if not all(unit.done for unit in gone):
            raise ValueError(f"offset {self.committed}: a unit is committed that is not complete")
        if gone:
            self.committed = gone[-1].after
        self.records -= sum(unit.records for unit in gone)
        self.size -= sum(unit.size for unit in gone)
        del self.units[:units]

    def _close(self, unit: Unit) -> None:
        unit.done = True
        self._turns += 1
        unit.turn = self._turns
        self.open -= 1

    def _index(self, unit: Unit) -> int:
        i = bisect_left(self.units, unit.first, key=lambda u: u.first)
        if i == len(self.units) or self.units[i] is not unit:
            raise ValueError(f"the unit [{unit.first}, {unit.after}) is not pending")
        return i


def cut(batch: RecordBatch, start: int, stop: int, after: int) -> RecordBatch:
    """The records [start, stop) of a batch; `after` is the offset to read on from."""
    lengths = batch.lengths[start:stop]
    begin = int(batch.lengths[:start].sum()) + start
    end = begin + int(lengths.sum()) + len(lengths)
    return RecordBatch(
        topic=batch.topic,
        partition=batch.partition,
        offsets=batch.offsets[start:stop],
        timestamps=batch.timestamps[start:stop],
        values=batch.values[begin:end],
        lengths=lengths,
        next=after,
    )
