"""Figures in memory: by measure, interval, epoch and currency, as sorted arrays of party codes and values."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from paystorm.windows import wide
from paystorm.windows.book import Counted
from paystorm.windows.interner import Codes

Values = npt.NDArray[np.int64]
"""Counts and distincts: shape (n,); sums: shape (n, 3), limbs."""
Pairs = npt.NDArray[np.uint64]
"""Of a distinct: party code × 2^32 + value code, sorted."""
Mask = npt.NDArray[np.bool_]


def _no_values(counted: Counted, n: int) -> Values:
    return np.zeros((n, 3) if counted.what == "sum" else n, dtype=np.int64)


def _whole(values: Values) -> npt.NDArray[Any]:
    """The figures as one item each: rows of limbs are copied six times as fast whole as limb by limb."""
    return values if values.ndim == 1 else np.ascontiguousarray(values).view(f"V{8 * values.shape[1]}").reshape(-1)


class Part:
    """The figures of one epoch and currency. A party that was seen stands in it, be its figure 0."""

    __slots__ = ("_asked", "codes", "pairs", "values")

    def __init__(self, counted: Counted) -> None:
        self.codes: Codes = np.zeros(0, dtype=np.uint32)
        self.values: Values = _no_values(counted, 0)
        self.pairs: Pairs = np.zeros(0, dtype=np.uint64)
        self._asked: tuple[Codes, npt.NDArray[np.intp], Mask] | None = None
        """The parties looked for last, and where they stand: a flush asks for the same ones several times."""

    def _places(self, codes: Codes) -> tuple[npt.NDArray[np.intp], Mask]:
        """Where each party stands or would stand, and whether it does."""
        if self._asked is not None and self._asked[0] is codes:
            return self._asked[1:]
        at = np.searchsorted(self.codes, codes)
        if len(self.codes) == 0:
            found = np.zeros(len(codes), dtype=np.bool_)
        else:
            found = np.asarray(self.codes.take(at, mode="clip") == codes)
        self._asked = (codes, at, found)
        return at, found

    def forget_asked(self) -> None:
        """Let go of what is only of use within a flush."""
        self._asked = None

    def has(self, codes: Codes) -> Mask:
        """Which of the parties stand in this part."""
        return self._places(codes)[1]

    def get(self, codes: Codes) -> Values:
        """The figure of each party, 0 where it does not stand here."""
        at, found = self._places(codes)
        if len(self.codes) == 0:
            return np.zeros((len(codes), *self.values.shape[1:]), dtype=np.int64)
        out: Values = self.values.take(at, axis=0, mode="clip")
        if not found.all():
            out[~found] = 0
        return out

    def put(self, codes: Codes, values: Values) -> None:
        """Set the figures of parties (codes sorted, each once)."""
        at, found = self._places(codes)
        if found.all():
            self.values[at] = values
            return
        fresh = ~found
        at = at + np.cumsum(fresh) - fresh  # each stands behind the new ones that were put before it
        size = len(self.codes) + np.count_nonzero(fresh)
        old = np.ones(size, dtype=np.bool_)
        old[at[fresh]] = False
        before, self.codes = self.codes, np.empty(size, dtype=np.uint32)
        self.codes[old], self.codes[at] = before, codes
        figures, self.values = self.values, np.empty((size, *self.values.shape[1:]), dtype=np.int64)
        _whole(self.values)[old] = _whole(figures)
        _whole(self.values)[at] = _whole(values)
        self._asked = (codes, at, np.ones(len(codes), dtype=np.bool_))

    def nbytes(self) -> int:
        """Memory of the arrays."""
        return int(self.codes.nbytes + self.values.nbytes + self.pairs.nbytes)


@dataclass(slots=True)
class Cell:
    """All figures of a measure in one interval: its parts by (epoch, currency)."""

    counted: Counted
    start: int
    """Of the interval, seconds since 1970-01-01 UTC."""
    dirty: set[int] = field(default_factory=set)
    """The shards whose figures here are newer than their snapshot."""
    used: int = 0
    """When it was last touched, in flushes of this task."""
    parts: dict[tuple[int, str], Part] = field(default_factory=dict)

    def part(self, epoch: int, currency: str) -> Part:
        """The part, made where absent."""
        found = self.parts.get((epoch, currency))
        if found is None:
            found = self.parts[epoch, currency] = Part(self.counted)
        return found

    def figures(self, codes: Codes, first: int, last: int, currency: str) -> Values:
        """The figures of parties over epochs first..last: sums saturated, distincts capped."""
        parts = [p for (epoch, c), p in self.parts.items() if c == currency and first <= epoch <= last]
        if len(parts) == 1:
            return parts[0].get(codes)
        if self.counted.what == "distinct":
            return self._distinct(codes, parts)
        total = _no_values(self.counted, len(codes))
        for part in parts:
            total += part.get(codes)
            if self.counted.what == "sum":
                total = wide.carried(total)
        return total

    def _distinct(self, codes: Codes, parts: list[Part]) -> Values:
        """Distinct values over several epochs: of the union, since a value may stand in more than one."""
        total = _no_values(self.counted, len(codes))
        if parts:
            union = np.unique(np.concatenate([p.pairs for p in parts]))
            owners, counts = np.unique((union >> np.uint64(32)).astype(np.uint32), return_counts=True)
            at = np.minimum(np.searchsorted(owners, codes), max(len(owners) - 1, 0))
            if len(owners):
                found = owners[at] == codes
                total[found] = np.minimum(counts[at[found]], self.counted.cap)
        return total

    def seen(self, codes: Codes, first: int, last: int, currency: str) -> Mask:
        """Which of the parties stand in a part of epochs first..last."""
        out = np.zeros(len(codes), dtype=np.bool_)
        for (epoch, c), part in self.parts.items():
            if c == currency and first <= epoch <= last:
                out |= part.has(codes)
        return out

    def add(self, epoch: int, currency: str, codes: Codes, deltas: Values) -> Values:
        """Add to the figures of parties (codes sorted, each once); gives the new figures of this part."""
        part = self.part(epoch, currency)
        new = part.get(codes) + deltas
        if self.counted.what == "sum":
            new = wide.carried(new)
        part.put(codes, new)
        return new

    def add_pairs(self, epoch: int, pairs: Pairs) -> Pairs:
        """Add values seen by parties (sorted, each once) up to the cap; gives those that are new and were kept."""
        part = self.part(epoch, "")
        at = np.searchsorted(part.pairs, pairs)
        held = (
            part.pairs[np.minimum(at, len(part.pairs) - 1)] == pairs if len(part.pairs) else np.zeros(len(pairs), bool)
        )
        pairs_new: Pairs = pairs[~held]
        if len(pairs_new) == 0:
            return pairs_new
        owners, first, counts = np.unique(
            (pairs_new >> np.uint64(32)).astype(np.uint32), return_index=True, return_counts=True
        )
        room = np.maximum(self.counted.cap - part.get(owners), 0)
        rank = np.arange(len(pairs_new)) - np.repeat(first, counts)
        kept: Pairs = pairs_new[rank < np.repeat(room, counts)]
        part.pairs = np.insert(part.pairs, np.searchsorted(part.pairs, kept), kept)
        part.put(owners, np.minimum(part.get(owners) + counts, self.counted.cap))
        return kept

    def forget_asked(self) -> None:
        """As `Part.forget_asked`, for all parts."""
        for part in self.parts.values():
            part.forget_asked()

    def nbytes(self) -> int:
        """Memory of all parts."""
        return 200 + sum(part.nbytes() for part in self.parts.values())
