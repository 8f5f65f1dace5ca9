"""Tables in SQLite files, for one machine without HBase: a file for each source, and one for what is shared.

SQLite has one writer for a file. Every write is a transaction begun with the write lock (BEGIN IMMEDIATE), so the order
of a feed's numbers is the order in which its items became visible: a cursor can pass over none.
"""

import contextlib
import os
import re
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from paystorm.durable import make_folder
from paystorm.errors import DataFolderError, TablesError
from paystorm.tables.memory import check_name, from_cursor, to_cursor

FORMAT = 1
"""The `user_version` of the files that this code writes."""

_ROWS = "CREATE TABLE {} (key BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL)"
# A table with row ids, not WITHOUT ROWID: values may be megabytes, and would stand in the tree of keys itself.
_FEED = "CREATE TABLE {} (id INTEGER PRIMARY KEY AUTOINCREMENT, item BLOB NOT NULL)"

_SCAN_ROWS, _SCAN_BYTES = 1000, 4 << 20  # a block of a scan ends at whichever comes first
_KEYS_AT_ONCE = 500  # in one SELECT; the oldest SQLite allows 999 parameters
_OPEN_TRIES = 50

_WAYS_OUT = {
    sqlite3.SQLITE_FULL: "the disk is full: free space, then try again",
    sqlite3.SQLITE_BUSY: "locked by another process for too long: end the one that hangs, then try again",
    sqlite3.SQLITE_LOCKED: "locked by another thread for too long: try again",
    sqlite3.SQLITE_READONLY: "not writable: give this user the right to write the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: check that the folder exists and is writable",
    sqlite3.SQLITE_IOERR: "cannot be read or written: check the disk and its free space, then try again",
    sqlite3.SQLITE_CORRUPT: "damaged: restore it from a copy",
    sqlite3.SQLITE_NOTADB: "not an SQLite file: move it away or restore it from a copy",
}

_T = TypeVar("_T")


class _Connection(sqlite3.Connection):
    """A connection of one thread to one file, which knows the tables that are there (none is ever dropped)."""

    path: Path
    known: set[str]


class _Mine(threading.local):
    """The connections of a thread, by file."""

    def __init__(self) -> None:
        self.connections: dict[str, _Connection] = {}
        self.grouped: list[_Connection] | None = None
        """Within `together`: the connections with a transaction of the group."""


class SqliteTables:
    """A `Tables` in a folder of SQLite files. Usable from several threads and beside other processes; not after a fork.

    SQLite's notes of its locks go over to the child, which then takes for locked what is not, and loses rows.
    """

    def __init__(self, folder: Path, busy_timeout: float = 30.0) -> None:
        """`busy_timeout`: seconds to wait for another writer. Raises DataFolderError where there can be no folder."""
        self._folder = folder
        self._busy_timeout = busy_timeout
        self._pid = os.getpid()
        self._mine = _Mine()
        self._all: weakref.WeakSet[_Connection] = weakref.WeakSet()
        try:
            make_folder(folder)
        except OSError as e:
            raise DataFolderError(f"tables folder {folder}: {e.strerror}: choose a folder that can be written") from e

    # Files and connections

    def _connection(self, name: str) -> _Connection:
        """This thread's connection to the file that holds a table or feed."""
        if self._pid != os.getpid():
            raise TablesError(f"tables folder {self._folder}: opened before a fork: open it in the child, not before")
        source, dot, _ = check_name(name).partition(".")
        source = source if dot else "shared"
        held = self._mine.connections
        if source not in held:
            held[source] = self._open(self._folder / f"{source}.sqlite")
        return held[source]

    def _open(self, path: Path) -> _Connection:
        with self._errors(path):
            connection = sqlite3.connect(
                path,
                timeout=self._busy_timeout / _OPEN_TRIES,
                isolation_level=None,
                check_same_thread=False,  # close() closes those of other threads
                factory=_Connection,
            )
            for left in reversed(range(_OPEN_TRIES)):
                try:
                    self._prepare(connection, path)
                    break
                except sqlite3.OperationalError as e:
                    # Changing a new file to WAL does not always wait for others that do the same.
                    if not left or _code(e) != sqlite3.SQLITE_BUSY:
                        connection.close()
                        raise
                    time.sleep(self._busy_timeout / _OPEN_TRIES / 10)
            self._all.add(connection)
            return connection

    def _prepare(self, connection: _Connection, path: Path) -> None:
        connection.path = path
        connection.known = set()
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > FORMAT:
            connection.close()
            raise DataFolderError(
                f"{path}: written in format {version}, this paystorm reads up to {FORMAT}: use a newer paystorm"
            )
        connection.execute("PRAGMA journal_mode=WAL").fetchone()
        connection.execute("PRAGMA synchronous=FULL")
        if version < FORMAT:
            connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute(f"PRAGMA busy_timeout={round(self._busy_timeout * 1000)}")

    @contextlib.contextmanager
    def _errors(self, path: Path) -> Iterator[None]:
        """Turn what SQLite says into one line for people."""
        try:
            yield
        except sqlite3.Error as e:
            way_out = _WAYS_OUT.get(_code(e), f"{e}: mend it, then try again")
            raise TablesError(f"{path}: {way_out}") from e

    def _read(self, name: str, kind: str, read: Callable[[_Connection, str], _T], absent: _T) -> _T:
        """What `read` gives, or `absent` where the table has not been made yet."""
        connection = self._connection(name)
        with self._errors(connection.path):
            table = f"{kind} {_folded(name)}"
            return read(connection, f'"{table}"') if _exists(connection, table) else absent

    def _write(self, name: str, kind: str, write: Callable[[_Connection, str], _T]) -> _T:
        """What `write` gives, in a transaction of its own, durable on return."""
        connection = self._connection(name)
        table = f"{kind} {_folded(name)}"
        with self._errors(connection.path):
            grouped = self._mine.grouped
            if not connection.in_transaction:
                connection.execute("BEGIN IMMEDIATE")
                if grouped is not None:
                    grouped.append(connection)
            try:
                made = not _exists(connection, table)
                if made:
                    connection.execute((_ROWS if kind == "rows" else _FEED).format(f'"{table}"'))
                result = write(connection, f'"{table}"')
                if grouped is None:
                    connection.execute("COMMIT")
            except BaseException:
                connection.known.discard(table)
                if connection.in_transaction:  # SQLite itself rolls back after some errors
                    connection.execute("ROLLBACK")
                raise
            connection.known.add(table)
            return result

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """As `Tables.together`: one transaction for each file written, ended in the order in which they were begun."""
        if self._mine.grouped is not None:
            yield
            return
        grouped: list[_Connection] = []
        self._mine.grouped = grouped
        try:
            yield
            for connection in grouped:
                with self._errors(connection.path):
                    if connection.in_transaction:
                        connection.execute("COMMIT")
        finally:
            self._mine.grouped = None
            for connection in grouped:
                if connection.in_transaction:
                    # What this transaction made is gone with it.
                    connection.known.clear()
                    connection.execute("ROLLBACK")

    # Rows

    def get(self, table: str, key: bytes) -> bytes | None:
        """As `Tables.get`."""
        return self.get_many(table, [key])[0]

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `Tables.get_many`."""

        def read(connection: _Connection, quoted: str) -> list[bytes | None]:
            found: dict[bytes, bytes] = {}
            for i in range(0, len(keys), _KEYS_AT_ONCE):
                some = keys[i : i + _KEYS_AT_ONCE]
                marks = ",".join("?" * len(some))
                found.update(connection.execute(f"SELECT key, value FROM {quoted} WHERE key IN ({marks})", some))
            return [found.get(key) for key in keys]

        return self._read(table, "rows", read, [None] * len(keys))

    def scan(
        self,
        table: str,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        """As `Tables.scan`. Read in blocks: no transaction is open between two rows."""
        check_name(table)
        return self._scan(table, start, stop, limit, reverse)

    def _scan(
        self, table: str, start: bytes, stop: bytes | None, limit: int | None, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        left = limit
        more = True
        while more and (left is None or left > 0):
            wanted = _SCAN_ROWS if left is None else min(left, _SCAN_ROWS)
            block, more = self._block(table, start, stop, wanted, reverse)
            yield from block
            left = None if left is None else left - len(block)
            if block and reverse:
                stop = block[-1][0]
            elif block:
                start = block[-1][0] + b"\x00"

    def _block(
        self, table: str, start: bytes, stop: bytes | None, wanted: int, reverse: bool
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Some rows, and whether there may be more."""
        bound = "" if stop is None else " AND key < ?"
        order = "DESC" if reverse else "ASC"

        def read(connection: _Connection, quoted: str) -> tuple[list[tuple[bytes, bytes]], bool]:
            sql = f"SELECT key, value FROM {quoted} WHERE key >= ?{bound} ORDER BY key {order} LIMIT ?"
            rows: list[tuple[bytes, bytes]] = []
            size = 0
            cursor = connection.execute(sql, (start, wanted) if stop is None else (start, stop, wanted))
            try:
                for key, value in cursor:
                    rows.append((key, value))
                    size += len(value)
                    if size >= _SCAN_BYTES:
                        return rows, True
            finally:
                cursor.close()  # ends the read transaction
            return rows, len(rows) == wanted

        nothing: tuple[list[tuple[bytes, bytes]], bool] = ([], False)
        return self._read(table, "rows", read, nothing)

    def put(self, table: str, rows: Sequence[tuple[bytes, bytes]], *, version: int = 0) -> None:
        """As `Tables.put`; all rows in one transaction."""
        if not rows:
            return

        def write(connection: _Connection, quoted: str) -> None:
            connection.executemany(
                f"INSERT INTO {quoted} (key, value, version) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE"
                " SET value = excluded.value, version = excluded.version WHERE excluded.version >= version",
                ((key, value, version) for key, value in rows),
            )

        self._write(table, "rows", write)

    def put_if_absent(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        """As `Tables.put_if_absent`; all rows in one transaction; they have version 0."""
        if not rows:
            return []

        def write(connection: _Connection, quoted: str) -> list[bool]:
            sql = f"INSERT INTO {quoted} (key, value, version) VALUES (?, ?, 0) ON CONFLICT (key) DO NOTHING"
            return [connection.execute(sql, row).rowcount == 1 for row in rows]

        return self._write(table, "rows", write)

    def replace(self, table: str, key: bytes, expected: bytes, value: bytes) -> bool:
        """As `Tables.replace`; the row keeps its version."""

        def write(connection: _Connection, quoted: str) -> bool:
            sql = f"UPDATE {quoted} SET value = ? WHERE key = ? AND value = ?"
            return connection.execute(sql, (value, key, expected)).rowcount == 1

        return self._write(table, "rows", write)

    def delete(self, table: str, keys: Sequence[bytes]) -> None:
        """As `Tables.delete`; all rows in one transaction; the versions go with them."""
        if not keys:
            return

        def write(connection: _Connection, quoted: str) -> None:
            connection.executemany(f"DELETE FROM {quoted} WHERE key = ?", ((key,) for key in keys))

        self._write(table, "rows", write)

    def delete_if(self, table: str, key: bytes, expected: bytes) -> bool:
        """As `Tables.delete_if`; the version goes with the row."""

        def write(connection: _Connection, quoted: str) -> bool:
            sql = f"DELETE FROM {quoted} WHERE key = ? AND value = ?"
            return connection.execute(sql, (key, expected)).rowcount == 1

        return self._write(table, "rows", write)

    # Feeds

    def feed_append(self, feed: str, items: Sequence[bytes]) -> None:
        """As `Tables.feed_append`; all items in one transaction."""
        if not items:
            return

        def write(connection: _Connection, quoted: str) -> None:
            connection.executemany(f"INSERT INTO {quoted} (item) VALUES (?)", ((item,) for item in items))

        self._write(feed, "feed", write)

    def feed_read(self, feed: str, cursor: bytes, *, limit: int = 10_000) -> tuple[list[bytes], bytes]:
        """As `Tables.feed_read`; no item comes twice."""
        after = from_cursor(feed, cursor)

        def read(connection: _Connection, quoted: str) -> tuple[list[bytes], bytes]:
            sql = f"SELECT id, item FROM {quoted} WHERE id > ? ORDER BY id LIMIT ?"
            rows = connection.execute(sql, (after, limit)).fetchall()
            return [item for _, item in rows], to_cursor(rows[-1][0] if rows else after)

        nothing: tuple[list[bytes], bytes] = ([], to_cursor(after))
        return self._read(feed, "feed", read, nothing)

    def feed_end(self, feed: str) -> bytes:
        """As `Tables.feed_end`."""

        def read(connection: _Connection, quoted: str) -> bytes:
            return to_cursor(connection.execute(f"SELECT max(id) FROM {quoted}").fetchone()[0] or 0)

        return self._read(feed, "feed", read, to_cursor(0))

    def close(self) -> None:
        """Close the connections of all threads. Later calls open new ones; no other thread may be in a call now."""
        if self._pid == os.getpid():  # a child of ours must neither use nor close them
            for connection in list(self._all):
                connection.close()
            self._mine = _Mine()


def _code(error: sqlite3.Error) -> int:
    """The primary code: extended ones have more in the upper bytes."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _folded(name: str) -> str:
    """The name such that SQLite, which takes A and a for the same in names of tables, tells all apart."""
    return re.sub("[A-Z]", lambda letter: f"^{letter[0].lower()}", name)


def _exists(connection: _Connection, table: str) -> bool:
    if table not in connection.known:
        found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
        if found:
            connection.known.add(table)
        return found is not None
    return True
