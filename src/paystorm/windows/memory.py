"""The figures that a counting task holds in memory, and how they come from the tables and go back."""

import numpy as np
import polars as pl

from paystorm.stores.journal import Row, Slot, get_cells
from paystorm.stores.pruned import counts_floor, gone_before, is_frozen
from paystorm.tables.base import Tables
from paystorm.windows import frames
from paystorm.windows.book import RuleBook
from paystorm.windows.cells import Cell, Values
from paystorm.windows.interner import Interner
from paystorm.windows.tally import Place

IDLE_FLUSHES = 64
"""Flushes after which an empty cell, or a clean one of an interval that is over, is let go."""


class Memory:
    """Cells by place, with the interners that give their codes a meaning. Forgotten as a whole."""

    def __init__(
        self, source: str, book: RuleBook, tables: Tables, shards: list[int], shard_count: int, *, bounded: bool = False
    ) -> None:
        """`bounded`: counts have a retention, so that those of old intervals may be pruned (decision 0012)."""
        self.source = source
        self.book = book
        self.cells: dict[Place, Cell] = {}
        self.interners = {kind: Interner(kind, shard_count) for kind in book.source.kinds()}
        self.values = Interner("", shard_count)
        self._tables = tables
        self._shards = shards
        self._bounded = bounded
        self._floor: int | None = None
        self.flushes = 0

    def load(self, places: list[Place]) -> None:
        """Read cells back that are not in memory, all shards of each, by one look-up for all."""
        wanted = [(shard, label, start) for label, start in places for shard in self._shards]
        stored = get_cells(self._tables, self.source, wanted)
        if self._bounded:
            # Behind the cells: one that is gone was removed after the floor had been raised above it
            self._floor = counts_floor(self._tables, self.source)
        for i, (label, start) in enumerate(places):
            cell = Cell(self.book.measures[label], start, used=self.flushes)
            self.cells[label, start] = cell
            for data in stored[i * len(self._shards) : (i + 1) * len(self._shards)]:
                if data is not None:
                    for slot, figures, pairs in frames.cell_slots(data):
                        self._lay(cell, slot, figures, pairs)

    def frozen(self, place: Place) -> bool:
        """Whether an interval is not counted any more, because counts of its age may be gone."""
        label, start = place
        return self._floor is not None and is_frozen(self.book.measures[label].interval, start, self._floor)

    def _gone(self, cell: Cell) -> bool:
        """Whether the stored figures of a cell may be gone: what a journal still says of it is not the whole."""
        return self._floor is not None and cell.start < gone_before(cell.counted.interval, self._floor)

    def lay_rows(self, rows: list[tuple[int, Row]]) -> None:
        """Lay journal rows (shard, row) over the cells, reading those back that they touch."""
        places = {
            (slot.measure, slot.start) for _, row in rows for slot in row.slots if slot.measure in self.book.measures
        }
        self.load(sorted(place for place in places if place not in self.cells))
        for shard, row in rows:
            for slot, figures, pairs in frames.row_slots(row):
                cell = self.cells.get((slot.measure, slot.start))
                if cell is not None and not self._gone(cell):
                    self._lay(cell, slot, figures, pairs)
                    cell.dirty.add(shard)

    def _lay(self, cell: Cell, slot: Slot, figures: pl.DataFrame | None, pairs: pl.DataFrame | None) -> None:
        interner = self.interners[cell.counted.measure.kind]
        part = cell.part(slot.epoch, slot.currency)
        if figures is not None and len(figures):
            codes = interner.codes(figures["party"])
            part.put(*frames.sorted_by_code(codes, frames.values_of(figures, cell.counted.what == "sum")))
        if pairs is not None and len(pairs):
            owners = interner.codes(pairs["party"]).astype(np.uint64)
            seen = self.values.codes(pairs["value"]).astype(np.uint64)
            cell.add_pairs(slot.epoch, np.unique((owners << np.uint64(32)) | seen))

    def stored(self, shard: int) -> list[tuple[str, int, bytes]]:
        """The dirty cells of a shard, whole, as they are stored: (measure, start, figures)."""
        return [
            (label, start, self._store(cell, shard))
            for (label, start), cell in self.cells.items()
            if shard in cell.dirty
        ]

    def _store(self, cell: Cell, shard: int) -> bytes:
        interner = self.interners[cell.counted.measure.kind]
        slots: list[tuple[Slot, pl.Series, Values | pl.Series]] = []
        for (epoch, currency), part in cell.parts.items():
            slot = Slot(cell.counted.label, cell.start, epoch, currency)
            if cell.counted.what == "distinct":
                owners = (part.pairs >> np.uint64(32)).astype(np.uint32)
                mine = interner.shards[owners] == shard
                seen = (part.pairs[mine] & np.uint64(0xFFFFFFFF)).astype(np.uint32)
                slots.append((slot, interner.names(owners[mine]), self.values.names(seen)))
            else:
                mine = interner.shards[part.codes] == shard
                slots.append((slot, interner.names(part.codes[mine]), part.values[mine]))
        return frames.stored_cell(slots)

    def folded(self, shard: int) -> None:
        """The shard's dirty cells have been stored."""
        for cell in self.cells.values():
            cell.dirty.discard(shard)

    def nbytes(self) -> int:
        """Memory of figures and of interned ids, about."""
        ids = sum(interner.size for interner in (*self.interners.values(), self.values))
        return sum(cell.nbytes() for cell in self.cells.values()) + 100 * ids

    def let_go(self, ended_before: int | None, bound: int) -> bool:
        """Let clean cells go: empty or ended ones that have been idle, and the least recently used past the bound.

        `ended_before`: seconds; intervals that ended at or before it are over for memory. Says whether memory is within
        the bound now.
        """
        for place, cell in list(self.cells.items()):
            idle = self.flushes - cell.used
            ended = ended_before is not None and cell.counted.interval.following(cell.start) <= ended_before
            if not cell.dirty and ((ended and idle > 0) or (not cell.parts and idle > IDLE_FLUSHES)):
                del self.cells[place]
        size = self.nbytes()
        if size <= bound:
            return True
        for place, cell in sorted(self.cells.items(), key=lambda item: item[1].used):
            if size <= bound:
                break
            if not cell.dirty:
                size -= cell.nbytes()
                del self.cells[place]
        return size <= bound
