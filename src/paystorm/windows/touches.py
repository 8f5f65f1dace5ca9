"""The touches of a flush as arrays: one row for each event and party, in the order in which they are applied."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from paystorm.rows import rows_of
from paystorm.windows import wide
from paystorm.windows.book import Counted, RuleBook
from paystorm.windows.cells import Pairs, Values
from paystorm.windows.interner import Codes, Interner

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Delta:
    """What a flush adds to one part of an interval's figures: parties (sorted, each once) and their increments.

    Of a distinct, `pairs` are the values seen (party code × 2^32 + value code, sorted, each once), `deltas` is empty.
    """

    epoch: int
    currency: str
    codes: Codes
    deltas: Values
    pairs: Pairs


class KindTouches:
    """The touches of one kind of party; row order is the order of application."""

    def __init__(self, frame: pl.DataFrame, interner: Interner, values: Interner) -> None:
        self.frame = frame
        self.codes = interner.codes(frame["party"])
        self.seconds: Int64Array = frame["event_time"].to_numpy().astype(np.int64) // 1_000_000
        self.roles: npt.NDArray[np.uint8] = frame["roles"].to_numpy()
        self.epochs: npt.NDArray[np.int32] = frame["epoch"].to_numpy()
        self.offsets: Int64Array = frame["log_offset"].to_numpy()
        self.arrivals: npt.NDArray[np.int32] = frame["arrival"].to_numpy()
        self._values = values
        self._limbs: dict[str, Values] = {}
        self._counted: dict[str, npt.NDArray[np.bool_]] = {}
        self._present: dict[str, npt.NDArray[np.bool_]] = {}
        self._value_codes: dict[str, Codes] = {}
        self._known_parts: dict[tuple[Any, ...], list[tuple[int, str, npt.NDArray[np.intp]]]] = {}
        self._known_deltas: dict[tuple[str, str | None, int], Delta] = {}
        """By what is counted, field, and the id of the rows, which `_known_parts` keeps."""

    def __len__(self) -> int:
        return len(self.codes)

    def counted(self, counted: Counted, currency: str | None) -> npt.NDArray[np.bool_]:
        """The rows that a measure counts: of its role and epochs, with its field (and of a sum, a currency)."""
        if counted.label in self._counted:
            return self._counted[counted.label]
        mask = np.zeros(len(self), dtype=np.bool_)
        for epoch in counted.epochs:
            mask |= self.epochs == epoch
        if counted.role_bit:
            mask &= (self.roles & counted.role_bit) != 0
        fields = [counted.field, currency if counted.what == "sum" else None]
        for field in fields:
            if field is not None and self.frame[field].null_count():
                mask &= self._is_present(field)
        self._counted[counted.label] = mask
        return mask

    def _is_present(self, field: str) -> npt.NDArray[np.bool_]:
        if field not in self._present:
            self._present[field] = self.frame[field].is_not_null().to_numpy()
        return self._present[field]

    def amounts(self, field: str) -> Values:
        """The limbs of an amount in every row (0 where absent); shape (n, 3)."""
        if field not in self._limbs:
            self._limbs[field] = wide.from_decimals(_filled(self.frame[field], 0))
        return self._limbs[field]

    def value_codes(self, field: str) -> Codes:
        """The codes of a distinct's values, or of currencies, in every row (of the empty text where absent)."""
        if field not in self._value_codes:
            self._value_codes[field] = self._values.codes(_filled(self.frame[field], ""))
        return self._value_codes[field]

    def deltas(self, counted: Counted, currency: str | None) -> dict[int, list[Delta]]:
        """What the touches add to a measure, by start of interval."""
        out: dict[int, list[Delta]] = {}
        for epoch, name, rows in self._parts(counted, currency):
            starts = counted.interval.starts(self.seconds[rows])
            distinct = _distinct(starts)
            for start in distinct:
                # All in one interval, as it mostly is: the same for measures that differ in their intervals only.
                known = (counted.what, counted.field, id(rows)) if len(distinct) == 1 else None
                delta = self._known_deltas.get(known) if known is not None else None
                if delta is None:
                    delta = self._delta(counted, epoch, name, rows if known else rows[starts == start])
                    if known is not None:
                        self._known_deltas[known] = delta
                out.setdefault(start, []).append(delta)
        return out

    def _parts(self, counted: Counted, currency: str | None) -> list[tuple[int, str, npt.NDArray[np.intp]]]:
        """The rows that a measure counts, by epoch and currency (the empty text, but for sums)."""
        sums = counted.what == "sum" and currency is not None
        known = counted.role_bit, counted.field, counted.epochs, sums
        if known in self._known_parts:
            return self._known_parts[known]
        parts = self._known_parts[known] = []
        rows = np.flatnonzero(self.counted(counted, currency))
        if len(rows) == 0:
            return parts
        names: list[tuple[str, int]] = [("", 0)]
        currencies = np.zeros(len(rows), dtype=np.uint32)
        if sums and currency is not None:
            currencies = self.value_codes(currency)[rows]
            codes = np.flatnonzero(np.bincount(currencies)).astype(np.uint32)
            names = sorted(zip(self._values.names(codes).to_list(), codes.tolist(), strict=True))
        epochs = self.epochs[rows]
        for epoch in _distinct(epochs):
            for name, code in names:
                mask = (epochs == epoch) & (currencies == code)
                if mask.all():
                    parts.append((epoch, name, rows))
                elif mask.any():
                    parts.append((epoch, name, rows[mask]))
        return parts

    def _delta(self, counted: Counted, epoch: int, currency: str, rows: npt.NDArray[np.intp]) -> Delta:
        codes = self.codes[rows]
        if counted.what == "distinct":
            assert counted.field is not None
            pairs = np.unique((codes.astype(np.uint64) << np.uint64(32)) | self.value_codes(counted.field)[rows])
            owners = np.unique((pairs >> np.uint64(32)).astype(np.uint32))
            return Delta(epoch, currency, owners, np.zeros(0, dtype=np.int64), pairs)
        none = np.zeros(0, dtype=np.uint64)
        if counted.what == "count":
            return Delta(epoch, currency, *_counted(codes), none)
        assert counted.field is not None
        order = np.argsort(codes, kind="stable")
        ordered = codes[order]
        firsts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        sums = np.add.reduceat(self.amounts(counted.field).take(rows[order], axis=0), firsts, axis=0)
        return Delta(epoch, currency, ordered[firsts], wide.carried(sums), none)


def _counted(codes: Codes) -> tuple[Codes, Values]:
    """The distinct codes, ascending, and how often each occurs."""
    if int(codes.max()) > 8 * len(codes):
        distinct, counts = np.unique(codes, return_counts=True)
        return distinct, counts.astype(np.int64)
    # Few codes do not occur: a place for each costs less than to sort.
    every = np.bincount(codes)
    found = np.flatnonzero(every)
    return found.astype(np.uint32), every[found]


def _filled(column: pl.Series, value: int | str) -> pl.Series:
    return column.fill_null(value) if column.null_count() else column


def _distinct(values: npt.NDArray[np.int64] | npt.NDArray[np.int32]) -> list[int]:
    """The distinct values; the common case of one value costs no sort."""
    if values.min() == values.max():
        return [int(values[0])]
    return [int(v) for v in np.unique(values)]


def gather(
    frames: list[pl.DataFrame], book: RuleBook, interners: dict[str, Interner], values: Interner
) -> dict[str, KindTouches]:
    """The touches of a flush by kind of party, of the kinds that some rule counts.

    Each frame is a chunk's touches (`paystorm.touches`) with the columns `epoch` (Int32) and `arrival` (Int32) added.
    """
    frame = frames[0]
    for more in frames[1:]:
        frame = frame.vstack(more)
    kinds = book.source.kinds()
    counted = book.kinds()
    kind_of = frame["kind"].to_numpy()
    present = np.unique(kind_of).tolist()
    out: dict[str, KindTouches] = {}
    for index in present:
        kind = kinds[index]
        if kind in counted:
            rows = frame if len(present) == 1 else rows_of(frame, np.flatnonzero(kind_of == index))
            out[kind] = KindTouches(rows, interners[kind], values)
    return out
