"""Tables in Apache HBase, through its Thrift 1 server: an HBase table for each table and feed (decision 0008)."""

import contextlib
import ssl
import threading
from collections.abc import Iterator, Sequence

from paystorm.errors import ConfigError
from paystorm.tables import hbase_cells as cells
from paystorm.tables.hbase_calls import ThriftServer
from paystorm.tables.hbase_feeds import HBaseFeeds
from paystorm.tables.hbase_rows import READ_ROWS, HBaseRows, Put


class _Grouped(threading.local):
    """What a thread has put within `together`, and not sent yet."""

    def __init__(self) -> None:
        self.puts: list[Put] | None = None


class HBaseTables:
    """A `Tables` in HBase. Usable from several threads, a connection each, after a fork, and beside other processes."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        prefix: str = "paystorm",
        timeout: float = 30.0,
        tls: bool = False,
        cafile: str | None = None,
    ) -> None:
        """`prefix` begins the names of all HBase tables; `timeout`: seconds that a call waits.

        With `tls` the server speaks Thrift over HTTPS, and its certificate must be good for `host`, signed by `cafile`
        or by whom the system trusts. Thrift 1 knows no users and passwords. Connects on first use. Raises ConfigError
        for settings of no use.
        """
        self._prefix = cells.check_prefix(prefix)
        context = None
        if tls:
            try:
                context = ssl.create_default_context(cafile=cafile)
            except OSError as e:
                raise ConfigError(f"HBase at {host}:{port}: cafile {cafile}: {e}: name a file of certificates") from e
        elif cafile is not None:
            raise ConfigError(f"HBase at {host}:{port}: cafile {cafile} is of use with tls only: switch tls on")
        self._server = ThriftServer(host, port, timeout=timeout, context=context)
        self._rows_made = HBaseRows(self._server)
        self._feeds_made = HBaseFeeds(self._rows_made)
        self._grouped = _Grouped()

    @property
    def _rows(self) -> HBaseRows:
        """The rows, with all that was put before in them."""
        self._send()
        return self._rows_made

    @property
    def _feeds(self) -> HBaseFeeds:
        """The feeds, behind all that was put before."""
        self._send()
        return self._feeds_made

    def _table(self, name: str) -> str:
        return cells.rows_table(self._prefix, name)

    # Rows

    def get(self, table: str, key: bytes) -> bytes | None:
        """As `Tables.get`."""
        return self.get_many(table, [key])[0]

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `Tables.get_many`."""
        found = self._rows.get(self._table(table), list(dict.fromkeys(keys)))
        return [None if (cell := found.get(key)) is None else cell.value for key in keys]

    def scan(
        self,
        table: str,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        """As `Tables.scan`. Read in blocks: no scanner is open between two of them, so none can expire."""
        return self._scan(self._table(table), start, stop, limit, reverse)

    def _scan(
        self, table: str, start: bytes, stop: bytes | None, limit: int | None, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        left = limit
        removed = 0
        more = True
        while more and (left is None or left > 0):
            # Where many removed rows lie between, a small limit must not make many small calls.
            wanted = READ_ROWS if left is None else left + 8 * removed
            block = self._rows.block(table, start, stop, wanted, reverse=reverse)
            rows = block.rows if left is None else block.rows[:left]
            yield from rows
            left = None if left is None else left - len(rows)
            removed, more = block.removed, block.more
            if block.last is not None and reverse:
                stop = block.last
            elif block.last is not None:
                start = block.last + b"\x00"

    def put(self, table: str, rows: Sequence[tuple[bytes, bytes]], *, version: int = 0) -> None:
        """As `Tables.put`, in batches."""
        put = Put(self._table(table), rows, version)
        if self._grouped.puts is not None:
            cells.timestamp(put.table, version)  # raises for one that is none
            self._grouped.puts.append(put)
        elif rows:
            self._rows.put([put])

    def put_if_absent(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        """As `Tables.put_if_absent`."""
        name = self._table(table)
        return self._rows.put_if_absent(name, rows) if rows else []

    def replace(self, table: str, key: bytes, expected: bytes, value: bytes) -> bool:
        """As `Tables.replace`."""
        name = self._table(table)
        cell = cells.one_cell(name, value)
        return self._rows.exists(name) and self._rows.swap(name, key, cells.head(expected), cell)

    def delete(self, table: str, keys: Sequence[bytes]) -> None:
        """As `Tables.delete`, in batches; the versions are kept."""
        name = self._table(table)
        if keys:
            self._rows.remove(name, keys)

    def delete_if(self, table: str, key: bytes, expected: bytes) -> bool:
        """As `Tables.delete_if`; the version is kept."""
        name = self._table(table)
        return self._rows.exists(name) and self._rows.swap(name, key, cells.head(expected), cells.REMOVED)

    # Feeds

    def feed_append(self, feed: str, items: Sequence[bytes]) -> None:
        """As `Tables.feed_append`."""
        table = cells.feed_table(self._prefix, feed)
        if items:
            self._feeds.append(table, items)

    def feed_read(self, feed: str, cursor: bytes, *, limit: int = 10_000) -> tuple[list[bytes], bytes]:
        """As `Tables.feed_read`."""
        return self._feeds.read(cells.feed_table(self._prefix, feed), cursor, limit)

    def feed_end(self, feed: str) -> bytes:
        """As `Tables.feed_end`."""
        return self._feeds.end(cells.feed_table(self._prefix, feed))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """As `Tables.together`: puts wait for the next call that is none, and are sent without waiting for each."""
        if self._grouped.puts is not None:
            yield
            return
        self._grouped.puts = []
        try:
            yield
            self._send()
        finally:
            self._grouped.puts = None

    def _send(self) -> None:
        """Send what waits in this thread."""
        puts = self._grouped.puts
        if puts:
            self._grouped.puts = []
            self._rows_made.put([put for put in puts if put.rows])

    def close(self) -> None:
        """Close the connections of all threads. Later calls open new ones; no other thread may be in a call now."""
        self._server.close()
