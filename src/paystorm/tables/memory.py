"""Tables in memory, for the simulator and for tests: the same contract, nothing durable."""

import bisect
import contextlib
import re
import threading
from collections.abc import Iterator, Sequence

from paystorm.errors import TablesError

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_SCAN_BLOCK = 1000


def check_name(name: str) -> str:
    """The name of a table or feed, or TablesError where it is not allowed."""
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise TablesError(f"table {name!r}: a name is 1 to 200 of A-Z a-z 0-9 . _ -, and does not start with a dot")
    return name


def to_cursor(number: int) -> bytes:
    """The cursor behind item `number` of a feed, counted from 1."""
    return number.to_bytes(8, "big")


def from_cursor(feed: str, cursor: bytes) -> int:
    """The number of a cursor. Raises TablesError where it is not one."""
    if len(cursor) not in (0, 8):
        raise TablesError(f"feed {feed}: not a cursor: {cursor!r}: use b'' or what feed_read and feed_end gave")
    return int.from_bytes(cursor, "big")


class _Rows:
    """The rows of a table, and their keys in order."""

    def __init__(self) -> None:
        self.values: dict[bytes, tuple[bytes, int]] = {}
        self.keys: list[bytes] = []

    def put(self, key: bytes, value: bytes, version: int) -> None:
        if key not in self.values:
            bisect.insort(self.keys, key)
        self.values[key] = (value, version)

    def delete(self, key: bytes) -> None:
        if self.values.pop(key, None) is not None:
            del self.keys[bisect.bisect_left(self.keys, key)]

    def block(self, start: bytes, stop: bytes | None, limit: int, reverse: bool) -> list[tuple[bytes, bytes]]:
        first = bisect.bisect_left(self.keys, start)
        last = len(self.keys) if stop is None else bisect.bisect_left(self.keys, stop)
        if reverse:
            chosen = self.keys[max(first, last - limit) : last][::-1]
        else:
            chosen = self.keys[first : min(last, first + limit)]
        return [(key, self.values[key][0]) for key in chosen]


class MemoryTables:
    """A `Tables` of one process. Usable from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: dict[str, _Rows] = {}
        self._feeds: dict[str, list[bytes]] = {}

    def _rows(self, table: str) -> _Rows:
        return self._tables.setdefault(check_name(table), _Rows())

    def get(self, table: str, key: bytes) -> bytes | None:
        """As `Tables.get`."""
        return self.get_many(table, [key])[0]

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `Tables.get_many`."""
        with self._lock:
            values = self._rows(table).values
            found = [values.get(key) for key in keys]
        return [None if row is None else row[0] for row in found]

    def scan(
        self,
        table: str,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        """As `Tables.scan`."""
        check_name(table)
        return self._scan(table, start, stop, limit, reverse)

    def _scan(
        self, table: str, start: bytes, stop: bytes | None, limit: int | None, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        left = limit
        while left is None or left > 0:
            wanted = _SCAN_BLOCK if left is None else min(left, _SCAN_BLOCK)
            with self._lock:
                block = self._rows(table).block(start, stop, wanted, reverse)
            yield from block
            if len(block) < wanted:
                return
            left = None if left is None else left - len(block)
            if reverse:
                stop = block[-1][0]
            else:
                start = block[-1][0] + b"\x00"

    def together(self) -> contextlib.AbstractContextManager[None]:
        """As `Tables.together`."""
        return contextlib.nullcontext()

    def put(self, table: str, rows: Sequence[tuple[bytes, bytes]], *, version: int = 0) -> None:
        """As `Tables.put`."""
        with self._lock:
            held = self._rows(table)
            for key, value in rows:
                old = held.values.get(key)
                if old is None or version >= old[1]:
                    held.put(key, value, version)

    def put_if_absent(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        """As `Tables.put_if_absent`; the rows have version 0."""
        put = []
        with self._lock:
            held = self._rows(table)
            for key, value in rows:
                put.append(key not in held.values)
                if put[-1]:
                    held.put(key, value, 0)
        return put

    def replace(self, table: str, key: bytes, expected: bytes, value: bytes) -> bool:
        """As `Tables.replace`; the row keeps its version."""
        with self._lock:
            held = self._rows(table)
            old = held.values.get(key)
            if old is None or old[0] != expected:
                return False
            held.put(key, value, old[1])
            return True

    def delete(self, table: str, keys: Sequence[bytes]) -> None:
        """As `Tables.delete`; the version goes with the row."""
        with self._lock:
            held = self._rows(table)
            for key in keys:
                held.delete(key)

    def delete_if(self, table: str, key: bytes, expected: bytes) -> bool:
        """As `Tables.delete_if`; the version goes with the row."""
        with self._lock:
            held = self._rows(table)
            old = held.values.get(key)
            if old is None or old[0] != expected:
                return False
            held.delete(key)
            return True

    def feed_append(self, feed: str, items: Sequence[bytes]) -> None:
        """As `Tables.feed_append`."""
        with self._lock:
            self._feeds.setdefault(check_name(feed), []).extend(items)

    def feed_read(self, feed: str, cursor: bytes, *, limit: int = 10_000) -> tuple[list[bytes], bytes]:
        """As `Tables.feed_read`."""
        first = from_cursor(feed, cursor)
        with self._lock:
            items = self._feeds.get(check_name(feed), [])[first : first + limit]
        return items, to_cursor(first + len(items))

    def feed_end(self, feed: str) -> bytes:
        """As `Tables.feed_end`."""
        with self._lock:
            return to_cursor(len(self._feeds.get(check_name(feed), [])))

    def close(self) -> None:
        """Nothing to release."""
