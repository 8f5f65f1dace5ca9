"""Sets of offsets as sorted disjoint ranges: what a sink has applied, what a chunk covers."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

Range = tuple[int, int]
"""[first, next): the offsets first ≤ o < next."""


class OffsetSet:
    """Offsets as the fewest sorted, disjoint, half-open ranges. Size: the number of ranges, not of offsets."""

    __slots__ = ("_firsts", "_nexts")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts: list[int] = []
        self._nexts: list[int] = []
        for first, after in ranges:
            self.add(first, after)

    def add(self, first: int, after: int) -> None:
        """Add [first, after)."""
        if first >= after:
            return
        lo = bisect_left(self._nexts, first)
        hi = bisect_right(self._firsts, after)
        if lo < hi:
            first = min(first, self._firsts[lo])
            after = max(after, self._nexts[hi - 1])
        self._firsts[lo:hi] = [first]
        self._nexts[lo:hi] = [after]

    def remove(self, first: int, after: int) -> None:
        """Take [first, after) out."""
        if first >= after:
            return
        lo = bisect_right(self._nexts, first)
        hi = bisect_left(self._firsts, after)
        if lo >= hi:
            return
        left, right = self._firsts[lo], self._nexts[hi - 1]
        self._firsts[lo:hi] = ([left] if left < first else []) + ([after] if after < right else [])
        self._nexts[lo:hi] = ([first] if left < first else []) + ([right] if after < right else [])

    def update(self, other: "OffsetSet") -> None:
        """Add all of another set."""
        for first, after in other.ranges():
            self.add(first, after)

    def fold(self, committed: int, left_out: Iterable[int]) -> None:
        """Add all below `committed` except `left_out`: below it all is complete or parked (SEMANTICS.md §6)."""
        kept = [o for o in left_out if o < committed and o not in self]
        self.add(0, committed)
        for offset in kept:
            self.remove(offset, offset + 1)

    def __contains__(self, offset: int) -> bool:
        i = bisect_right(self._firsts, offset) - 1
        return i >= 0 and offset < self._nexts[i]

    def touches(self, first: int, after: int) -> bool:
        """Whether any offset of [first, after) is in the set."""
        i = bisect_right(self._nexts, first)
        return i < len(self._firsts) and self._firsts[i] < after

    def covers(self, first: int, after: int) -> bool:
        """Whether every offset of [first, after) is in the set."""
        if first >= after:
            return True
        i = bisect_right(self._firsts, first) - 1
        return i >= 0 and after <= self._nexts[i]

    def mask(self, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """For each offset whether it is in the set; shape (n,)."""
        if not self._firsts:
            return np.zeros(len(offsets), dtype=np.bool_)
        firsts = np.asarray(self._firsts, dtype=np.int64)
        nexts = np.asarray(self._nexts, dtype=np.int64)
        i = np.searchsorted(firsts, offsets, side="right") - 1
        return (i >= 0) & (offsets < nexts[np.maximum(i, 0)])

    def ranges(self) -> list[Range]:
        """The ranges in ascending order."""
        return list(zip(self._firsts, self._nexts, strict=True))

    def copy(self) -> "OffsetSet":
        """A set of its own with the same offsets."""
        out = OffsetSet()
        out._firsts, out._nexts = self._firsts.copy(), self._nexts.copy()
        return out

    def __iter__(self) -> Iterator[Range]:
        return iter(self.ranges())

    def __len__(self) -> int:
        """How many offsets."""
        return sum(self._nexts) - sum(self._firsts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OffsetSet) and self.ranges() == other.ranges()

    __hash__ = None  # type: ignore[assignment]  # a set that changes is no key

    def __repr__(self) -> str:
        return f"OffsetSet({self.ranges()})"
