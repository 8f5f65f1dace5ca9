"""Feeds in HBase: row n holds the items of one append, put only where row n is absent (decision 0008).

A writer takes n behind the last row there is, so row n is put only after row n − 1; and a row is never removed. A
writer that was stopped and wakes again finds its row taken: nothing ever comes to stand before a follower's cursor.
"""

import itertools
import struct
import time
from collections.abc import Iterator, Sequence

import msgspec

from paystorm.errors import TablesError
from paystorm.tables import hbase_cells as cells
from paystorm.tables.hbase_calls import PAUSES, LostReplyError
from paystorm.tables.hbase_rows import GROWTH, READ_ROWS, HBaseRows

ROW_ITEMS, ROW_BYTES = 10_000, 1 << 20
"""In one row: whichever comes first, but one item at least."""
FIRST_ROWS = 4
"""Rows that a read asks for first: a follower that is not behind finds none or one."""
TRIES = 1000
"""Of an append, each lost to another's: then something is wrong."""

_NUMBER = struct.Struct(">Q")
_CURSOR = struct.Struct(">QI")  # the row and the place in it of the item to read next
_NO_ITEMS = msgspec.msgpack.encode([])
_ITEMS = msgspec.msgpack.Decoder(list[bytes])


class HBaseFeeds:
    """The feeds of HBase tables. Names of tables are HBase's own."""

    def __init__(self, rows: HBaseRows) -> None:
        self._rows = rows
        self._nexts: dict[str, int] = {}
        """By table the row behind the one that was last put here."""

    def append(self, table: str, items: Sequence[bytes]) -> None:
        """Append items, in one row or several. Where a reply was lost they may stand there twice."""
        packs = [cells.one_cell(table, msgspec.msgpack.encode(pack)) for pack in _packs(items)]
        self._rows.make(table)
        for pack in packs:
            self._append(table, pack)

    def _append(self, table: str, pack: bytes) -> None:
        pauses = iter(PAUSES)
        for _ in range(TRIES):
            n = self._next(table)
            try:
                if self._rows.swap(table, _NUMBER.pack(n), None, pack):
                    self._nexts[table] = n + 1
                    return
            except LostReplyError:
                pause = next(pauses, None)
                if pause is None:
                    raise
                time.sleep(pause)
        raise TablesError(f"table {table}: {TRIES} others were quicker to append; try again")

    def _next(self, table: str) -> int:
        """The number of the row behind the last."""
        guess = self._nexts.pop(table, 0)
        # Wrong where others append too, or where the table is another by now. To see is one call, a scan three.
        if guess:
            found = self._rows.get(table, [_NUMBER.pack(guess - 1), _NUMBER.pack(guess)])
            if found.keys() == {_NUMBER.pack(guess - 1)}:
                return guess
        rows = self._rows.block(table, b"", None, 1, reverse=True).rows
        return _number(rows[0][0]) + 1 if rows else 0

    def read(self, table: str, cursor: bytes, limit: int) -> tuple[list[bytes], bytes]:
        """As `Tables.feed_read`; an item appended once comes once."""
        n, place = _from_cursor(table, cursor)
        items: list[bytes] = []
        for value in self._from(table, n):
            held = _ITEMS.decode(value)
            some = held[place : place + limit - len(items)]
            items += some
            place += len(some)
            if place < len(held):
                break
            n, place = n + 1, 0
            if len(items) >= limit:
                break
        return items, _CURSOR.pack(n, place)

    def _from(self, table: str, n: int) -> Iterator[bytes]:
        """The rows from n on. By their numbers, as there are no gaps: one call, where a scan is three."""
        wanted = FIRST_ROWS
        while True:
            keys = [_NUMBER.pack(i) for i in range(n, n + wanted)]
            found = self._rows.get(table, keys)
            there = [cell for cell in itertools.takewhile(bool, map(found.get, keys)) if cell is not None]
            yield from (cell.value or _NO_ITEMS for cell in there)
            if len(there) < wanted:
                return
            n, wanted = n + wanted, min(wanted * GROWTH, READ_ROWS)

    def end(self, table: str) -> bytes:
        """As `Tables.feed_end`."""
        return _CURSOR.pack(self._next(table), 0)


def _packs(items: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The items of each row."""
    first, size = 0, 0
    for i, item in enumerate(items):
        if i > first and (i - first == ROW_ITEMS or size + len(item) > ROW_BYTES):
            yield items[first:i]
            first, size = i, 0
        size += len(item)
    if first < len(items):
        yield items[first:]


def _number(key: bytes) -> int:
    number: int = _NUMBER.unpack(key)[0]
    return number


def _from_cursor(table: str, cursor: bytes) -> tuple[int, int]:
    if not cursor:
        return 0, 0
    if len(cursor) != _CURSOR.size:
        raise TablesError(f"table {table}: not a cursor: {cursor!r}: use b'' or what feed_read and feed_end gave")
    n, place = _CURSOR.unpack(cursor)
    return n, place
