"""What went with its retention (decision 0012), as far as `verify` must know: those rows are not looked for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from paystorm.clock import SECOND
from paystorm.intervals import Interval
from paystorm.log.base import Int64Array
from paystorm.oracle import Stored
from paystorm.oracle.model import Key
from paystorm.rules import Rule
from paystorm.stores.index import IndexRow, unpack
from paystorm.stores.pruned import is_frozen

_NONE: Int64Array = np.empty(0, dtype=np.int64)


class PrunedEvents:
    """The stored events whose files went: the index still says which they were, and what was decided."""

    def __init__(self, rows: Mapping[int, list[IndexRow]]) -> None:
        """`rows`: by partition, the index rows whose files went."""
        self._offsets = {p: _sorted([row.stored for row in mine]) for p, mine in rows.items()}
        self._denied = {p: _sorted([row.decided for row in mine]) for p, mine in rows.items()}

    def __len__(self) -> int:
        return sum(len(offsets) for offsets in self._offsets.values())

    def __contains__(self, key: Key) -> bool:
        return _holds(self.offsets(key[0]), key[1])

    def offsets(self, partition: int) -> Int64Array:
        """Of one partition, ascending."""
        return self._offsets.get(partition, _NONE)

    def below(self, partition: int, offset: int) -> Int64Array:
        """Those below an offset, ascending."""
        held = self.offsets(partition)
        return held[: np.searchsorted(held, offset)]

    def totals(self, partition: int) -> tuple[int, int]:
        """How many were accepted, and how many denied."""
        denied = len(self._denied.get(partition, _NONE))
        return len(self.offsets(partition)) - denied, denied

    def stored(self, key: Key) -> Stored | None:
        """What was decided of one (when is gone with it: 0); None where it is none of them."""
        if key not in self:
            return None
        return Stored("denied" if _holds(self._denied[key[0]], key[1]) else "accepted", 0)

    def mask(self, partitions: Int64Array, offsets: Int64Array) -> npt.NDArray[np.bool_]:
        """For each (partition, offset) whether it is one of them."""
        out = np.zeros(len(offsets), dtype=np.bool_)
        for partition, held in self._offsets.items():
            here = partitions == partition
            out[here] = np.isin(offsets[here], held)
        return out


@dataclass(frozen=True, slots=True)
class Horizon:
    """From when on counts and hits can be computed anew, and are held in full."""

    floor: int | None = None
    """Intervals that ended at or before it are not counted any more, s; None: all are."""
    newest_gone: int | None = None
    """The newest event time of events that neither log nor warehouse holds, µs; None: there are none."""

    def sees(self, rule: Rule, start: int) -> bool:
        """Whether all is known of a rule's interval that begins at `start`, s; of growth, of the one before too."""
        interval = Interval.parse(rule.interval)
        return self._whole(interval, start) and (not rule.is_growth or self._whole(interval, interval.previous(start)))

    def _whole(self, interval: Interval, start: int) -> bool:
        frozen = self.floor is not None and is_frozen(interval, start, self.floor)
        return not frozen and (self.newest_gone is None or start * SECOND > self.newest_gone)


def notes(floor: int | None, until: str | None, newest_gone: int | None, pruned: int, gone: int) -> Iterator[str]:
    """What is to be said of a verification beside what went. until: the hour up to which events went."""
    if pruned:
        yield f"{pruned:,} events stored before {until} went with their retention: what is left was compared"
    if gone:
        yield f"{gone:,} records are in neither log nor warehouse any more"
    if newest_gone is not None:
        yield f"counts and hits were compared in intervals that begin after {_text(newest_gone)}"
    if floor is not None:
        until_then = _text(floor * SECOND)
        yield f"counts of intervals that ended before {until_then} are not kept: they and their hits were not compared"


def _text(at: int) -> str:
    return f"{(datetime(1970, 1, 1) + timedelta(microseconds=at)).isoformat()}Z"


def _sorted(packed: list[bytes]) -> Int64Array:
    parts = [_NONE]
    for one in packed:
        ends = unpack(one).tolist()
        parts += [np.arange(first, after, dtype=np.int64) for first, after in zip(ends[0::2], ends[1::2], strict=True)]
    return np.sort(np.concatenate(parts))


def _holds(offsets: Int64Array, offset: int) -> bool:
    i = int(np.searchsorted(offsets, offset))
    return i < len(offsets) and int(offsets[i]) == offset
