"""Figures as stored: Arrow frames of (slot, party, values), in journal rows and in cells."""

from collections.abc import Iterable, Iterator

import msgspec
import numpy as np
import polars as pl

from paystorm.chunk import frame_from_bytes, frame_to_bytes
from paystorm.stores.journal import Row, Slot
from paystorm.windows.cells import Values
from paystorm.windows.interner import Codes, Interner
from paystorm.windows.tally import Written

FIGURES = ("v0", "v1", "v2")


class StoredCell(msgspec.Struct, frozen=True):
    """A cell as stored: its slots, and frames as in a journal row."""

    slots: tuple[Slot, ...]
    figures: bytes
    pairs: bytes


def figure_frame(slot: int, names: pl.Series, values: Values) -> pl.DataFrame:
    """The rows of one slot; of counts v1 and v2 are 0."""
    columns = [values[:, i] for i in range(3)] if values.ndim == 2 else [values, None, None]
    return pl.DataFrame(
        {
            "slot": pl.repeat(slot, len(names), dtype=pl.Int32, eager=True),
            "party": names.alias("party"),
            **{
                name: pl.Series(column) if column is not None else pl.repeat(0, len(names), dtype=pl.Int64, eager=True)
                for name, column in zip(FIGURES, columns, strict=True)
            },
        }
    )


def pair_frame(slot: int, parties: pl.Series, values: pl.Series) -> pl.DataFrame:
    """The rows of one slot of a distinct."""
    return pl.DataFrame(
        {
            "slot": pl.repeat(slot, len(parties), dtype=pl.Int32, eager=True),
            "party": parties.alias("party"),
            "value": values.alias("value"),
        }
    )


def packed(frames: list[pl.DataFrame]) -> bytes:
    """The frames as one, as bytes; nothing where there is none."""
    return frame_to_bytes(pl.concat(frames)) if frames else b""


def by_shard(
    written: Iterable[Written], interners: dict[str, Interner], values: Interner
) -> dict[int, tuple[tuple[Slot, ...], bytes, bytes]]:
    """What each shard's journal row holds of a flush's new figures: (slots, figures, pairs)."""
    slots: list[Slot] = []
    figures: dict[int, list[pl.DataFrame]] = {}
    pairs: dict[int, list[pl.DataFrame]] = {}
    for item in written:
        interner = interners[item.kind]
        index = len(slots)
        slots.append(item.slot)
        owners = item.codes if len(item.codes) else (item.pairs >> np.uint64(32)).astype(np.uint32)
        if len(owners) == 0:
            continue
        names = interner.names(owners)
        shards = interner.shards[owners]
        for shard in np.unique(shards).tolist():
            rows = np.flatnonzero(shards == shard)
            if len(item.codes):
                figures.setdefault(shard, []).append(figure_frame(index, names.gather(rows), item.values[rows]))
            else:
                seen = values.names((item.pairs[rows] & np.uint64(0xFFFFFFFF)).astype(np.uint32))
                pairs.setdefault(shard, []).append(pair_frame(index, names.gather(rows), seen))
    return {
        shard: (tuple(slots), packed(figures.get(shard, [])), packed(pairs.get(shard, [])))
        for shard in sorted(figures.keys() | pairs.keys())
    }


def slots_of(
    slots: tuple[Slot, ...], figures: bytes, pairs: bytes
) -> Iterator[tuple[Slot, pl.DataFrame | None, pl.DataFrame | None]]:
    """Each slot with its figures and its pairs, where it has any."""
    counts = frame_from_bytes(figures) if figures else None
    seen = frame_from_bytes(pairs) if pairs else None
    for index, slot in enumerate(slots):
        mine = counts.filter(pl.col("slot") == index) if counts is not None else None
        values = seen.filter(pl.col("slot") == index) if seen is not None else None
        if (mine is not None and len(mine)) or (values is not None and len(values)):
            yield slot, mine, values


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
        return frame.select(FIGURES).to_numpy().astype(np.int64, copy=False)
    return frame["v0"].to_numpy()


def sorted_by_code(codes: Codes, values: Values) -> tuple[Codes, Values]:
    """Both in ascending order of code."""
    order = np.argsort(codes)
    return codes[order], values[order]
