"""A counting shard in memory: what it has applied, and where its journal stands."""

from paystorm.offsets import OffsetSet
from paystorm.stores.journal import Row, ShardState


class Shard:
    """One shard of a task: its journal's head, the offsets applied and refused, and what is not in a snapshot yet."""

    def __init__(self, state: ShardState) -> None:
        self.number = state.shard
        self.term = state.term
        self.n = state.n
        self.generation = state.generation
        self.applied = state.applied_sets()
        self.refused = {(p, o) for p, o in state.refused}
        self.late = state.late
        self.highest = dict(state.highest)
        self.published = state.published
        self.unfolded_bytes = 0
        self.unfolded_rows = 0

    def state(self) -> ShardState:
        """The shard as rows are written from and snapshots made of."""
        return ShardState(
            shard=self.number,
            term=self.term,
            n=self.n,
            generation=self.generation,
            applied={partition: held.ranges() for partition, held in self.applied.items()},
            refused=sorted(self.refused),
            late=self.late,
            highest=self.highest,
            published=self.published,
        )

    def lay(self, row: Row, size: int) -> None:
        """Take in a row that was written; `size` in bytes, about."""
        for partition, ranges in row.covered.items():
            held = self.applied.setdefault(partition, OffsetSet())
            for first, after in ranges:
                held.add(first, after)
        for partition, (committed, parked) in row.floors.items():
            self.applied.setdefault(partition, OffsetSet()).fold(committed, parked)
        self.refused |= set(row.refused)
        self.refused -= set(row.lifted)
        for partition, offset in row.lifted:  # a tuple that came meanwhile may have covered it, but it was cut
            self.applied.setdefault(partition, OffsetSet()).remove(offset, offset + 1)
        self.late += row.late
        for partition, at in row.highest.items():
            self.highest[partition] = max(at, self.highest.get(partition, at))
        self.n = row.n
        self.unfolded_rows += 1
        self.unfolded_bytes += size

    def holds(self, partition: int, offset: int) -> bool:
        """Whether the record's figures are in the shard."""
        held = self.applied.get(partition)
        return held is not None and offset in held and (partition, offset) not in self.refused

    def overlaps(self, partition: int, first: int, after: int) -> bool:
        """Whether some offset of [first, after) was applied or refused."""
        held = self.applied.get(partition)
        if held is not None and held.touches(first, after):
            return True
        return any(p == partition and first <= o < after for p, o in self.refused)

    def cut(self, partition: int) -> OffsetSet:
        """The offsets of a partition that may not be applied any more: applied, or refused."""
        out = self.applied.get(partition, OffsetSet()).copy()
        for p, offset in self.refused:
            if p == partition:
                out.add(offset, offset + 1)
        return out
