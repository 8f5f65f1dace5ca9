"""Tables in memory whose grouped writes can be taken back, as a database takes back a transaction."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from paystorm.tables.memory import MemoryTables


class UndoableTables(MemoryTables):
    """Tables in memory that can take back writes of a group."""

    def __init__(self) -> None:
        super().__init__()
        self._writes: list[_Undo] | None = None

    def begin(self) -> None:
        """Begin to remember."""
        self._writes = []

    def end(self, gone: Collection[int]) -> set[int]:
        """Forget; the writes with these numbers are taken back. Gives those that were writes to tables."""
        writes, self._writes = self._writes or [], None
        undone = {w.number for w in writes if w.number in gone}
        if not undone:
            return undone
        cells: dict[tuple[str, bytes], tuple[bytes, int] | None] = {}
        feeds: dict[str, list[bytes]] = {}
        for write in writes:
            for name in write.before:
                cells.setdefault(name, write.before[name])
            if write.feed is not None:
                feeds.setdefault(write.feed[0], self._feeds[write.feed[0]][: write.feed[1]])
        for write in writes:
            if write.number not in undone:
                cells.update(write.after)
                if write.feed is not None:
                    feeds[write.feed[0]].extend(write.feed[2])
        for (table, key), cell in cells.items():
            held = self._rows(table)
            held.delete(key)
            if cell is not None:
                held.put(key, *cell)
        self._feeds.update(feeds)
        return undone

    def remembered(self, number: int, table: str, keys: Sequence[bytes], do: Callable[[], Any]) -> Any:
        """Do a write of rows, so that it can be taken back."""
        if self._writes is None:
            return do()
        values = self._rows(table).values
        before = {(table, key): values.get(key) for key in keys}
        result = do()
        self._writes.append(_Undo(number, before, {(table, key): values.get(key) for key in keys}))
        return result

    def remembered_feed(self, number: int, feed: str, items: Sequence[bytes]) -> None:
        """Append to a feed, so that it can be taken back."""
        length = len(self._feeds.get(feed, ()))
        self.feed_append(feed, items)
        if self._writes is not None:
            self._writes.append(_Undo(number, {}, {}, (feed, length, list(items))))


@dataclass(frozen=True, slots=True)
class _Undo:
    number: int
    before: dict[tuple[str, bytes], tuple[bytes, int] | None]
    after: dict[tuple[str, bytes], tuple[bytes, int] | None]
    feed: tuple[str, int, list[bytes]] | None = None
    """Its name, its length before, what was appended."""
