"""Figures as stored: Arrow frames of (slot, party, values), in journal rows and in cells."""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from paystorm.chunk import frame_from_bytes, frame_to_bytes
from paystorm.rows import rows_of
from paystorm.stores.journal import Row, Slot
from paystorm.windows.cells import Values
from paystorm.windows.interner import Codes, Interner
from paystorm.windows.tally import Written

LIMBS = ("v0", "v1", "v2")
"""A count stands in v0; the others are there where some figure of the frame is a sum."""
Shards = dict[int, tuple[tuple[Slot, ...], bytes, bytes]]


class StoredCell(msgspec.Struct, frozen=True):
    """A cell as stored: its slots, and frames as in a journal row."""

    slots: tuple[Slot, ...]
    figures: bytes
    pairs: bytes


class _Columns:
    """Rows gathered for one frame: slot, party and values, from several slots."""

    def __init__(self) -> None:
        self.slots: list[npt.NDArray[np.int32]] = []
        self.parties: list[pl.Series] = []
        self.values: list[Values] = []
        self.seen: list[pl.Series] = []
        self.shards: list[npt.NDArray[np.uint16]] = []

    def add(self, slot: int, parties: pl.Series, shards: npt.NDArray[np.uint16]) -> None:
        self.slots.append(np.full(len(parties), slot, dtype=np.int32))
        self.parties.append(parties)
        self.shards.append(shards)

    def frame(self) -> pl.DataFrame:
        """All rows as a frame."""
        columns = [pl.Series("slot", np.concatenate(self.slots)), pl.concat(self.parties).alias("party")]
        if self.seen:
            columns.append(pl.concat(self.seen).alias("value"))
        else:
            width = max(v.shape[1] if v.ndim == 2 else 1 for v in self.values)
            for limb in range(width):
                parts = [v[:, limb] if v.ndim == 2 else (v if limb == 0 else np.zeros_like(v)) for v in self.values]
                columns.append(pl.Series(LIMBS[limb], np.concatenate(parts)))
        return pl.DataFrame(columns)

    def by_shard(self) -> dict[int, bytes]:
        """The rows of each shard as a frame's bytes."""
        if not self.slots:
            return {}
        shards = np.concatenate(self.shards)
        order = np.argsort(shards, kind="stable")
        frame = rows_of(self.frame(), order)
        present, firsts = np.unique(shards[order], return_index=True)
        ends = [*firsts[1:].tolist(), len(order)]
        return {
            shard: frame_to_bytes(frame.slice(first, after - first))
            for shard, first, after in zip(present.tolist(), firsts.tolist(), ends, strict=True)
        }


def by_shard(written: Sequence[Written], interners: dict[str, Interner], values: Interner) -> Shards:
    """What each shard's journal row holds of a flush's new figures: (slots, figures, pairs)."""
    slots: list[Slot] = []
    figures, pairs = _Columns(), _Columns()
    named: dict[int, pl.Series] = {}  # measures that differ in their intervals only have the same parties
    for item in written:
        interner = interners[item.kind]
        if len(item.codes):
            if id(item.codes) not in named:
                named[id(item.codes)] = interner.names(item.codes)
            figures.add(len(slots), named[id(item.codes)], interner.shards[item.codes])
            figures.values.append(item.values)
        elif len(item.pairs):
            owners = (item.pairs >> np.uint64(32)).astype(np.uint32)
            pairs.add(len(slots), interner.names(owners), interner.shards[owners])
            pairs.seen.append(values.names((item.pairs & np.uint64(0xFFFFFFFF)).astype(np.uint32)))
        slots.append(item.slot)
    counted, seen = figures.by_shard(), pairs.by_shard()
    return {
        shard: (tuple(slots), counted.get(shard, b""), seen.get(shard, b""))
        for shard in sorted(counted.keys() | seen.keys())
    }


def stored_cell(slots: list[tuple[Slot, pl.Series, Values | pl.Series]]) -> bytes:
    """A shard's part of a cell: each slot with its parties, and their figures or (of a distinct) the values seen."""
    figures, pairs = _Columns(), _Columns()
    for index, (_, parties, what) in enumerate(slots):
        columns = pairs if isinstance(what, pl.Series) else figures
        columns.add(index, parties, np.zeros(len(parties), dtype=np.uint16))
        if isinstance(what, pl.Series):
            pairs.seen.append(what)
        else:
            figures.values.append(what)
    return msgspec.msgpack.encode(
        StoredCell(
            tuple(slot for slot, _, _ in slots),
            frame_to_bytes(figures.frame()) if figures.slots else b"",
            frame_to_bytes(pairs.frame()) if pairs.slots else b"",
        )
    )


def slots_of(
    slots: tuple[Slot, ...], figures: bytes, pairs: bytes
) -> Iterator[tuple[Slot, pl.DataFrame | None, pl.DataFrame | None]]:
    """Each slot with its figures and its pairs, where it has any."""
    counts, seen = _Slotted(figures), _Slotted(pairs)
    for index, slot in enumerate(slots):
        mine, values = counts.of(index), seen.of(index)
        if mine is not None or values is not None:
            yield slot, mine, values


class _Slotted:
    """A stored frame, whose rows are in order of slot."""

    def __init__(self, stored: bytes) -> None:
        self._frame = frame_from_bytes(stored) if stored else None
        slots = np.zeros(0, dtype=np.int32) if self._frame is None else self._frame["slot"].to_numpy()
        present, firsts = np.unique(slots, return_index=True)
        ends = [*firsts[1:].tolist(), len(slots)]
        self._rows = dict(zip(present.tolist(), zip(firsts.tolist(), ends, strict=False), strict=True))
        """By slot, where its rows start and end."""

    def of(self, slot: int) -> pl.DataFrame | None:
        """The rows of a slot, where it has any."""
        rows = self._rows.get(slot)
        return None if self._frame is None or rows is None else self._frame.slice(rows[0], rows[1] - rows[0])


def row_slots(row: Row) -> Iterator[tuple[Slot, pl.DataFrame | None, pl.DataFrame | None]]:
    """`slots_of` a journal row."""
    return slots_of(row.slots, row.figures, row.pairs)


def cell_slots(stored: bytes) -> Iterator[tuple[Slot, pl.DataFrame | None, pl.DataFrame | None]]:
    """`slots_of` a stored cell."""
    cell = msgspec.msgpack.decode(stored, type=StoredCell)
    return slots_of(cell.slots, cell.figures, cell.pairs)


def values_of(frame: pl.DataFrame, wide_sum: bool) -> Values:
    """The figures of a frame as an array: shape (n, 3) for sums, else (n,)."""
    if wide_sum:
        return np.column_stack([frame[limb].to_numpy() for limb in LIMBS])
    return frame["v0"].to_numpy()


def sorted_by_code(codes: Codes, values: Values) -> tuple[Codes, Values]:
    """Both in ascending order of code."""
    order = np.argsort(codes)
    return codes[order], values[order]
