"""The interface of tables: rows of one cell, sorted by key, with conditional and versioned puts.

It is what HBase does well (get, scan, put with a version, checkAndPut) and no more. Every method is atomic for
each row and not over rows; a write is durable on return; every wait has a time-out, after which TablesError is raised.
Tables are made on first use. A name such as `purchase.journal` belongs to the source before the dot; a name without a
dot is shared by all.

A row has a version: that of the last `put`; 0 where `put_if_absent` put it; `replace` keeps it. `delete` and
`delete_if` may forget it or keep it (HBase keeps it), so what is put after a removal stands for certain only at a
version no lower than the row ever had; `put_if_absent` always stands, at version 0 or at the one kept.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

MAX_VERSION: Final = (1 << 61) - 1
"""Of a row; the lowest is 0."""


class Tables(Protocol):
    """Sorted tables of (key, value) rows, both bytes."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of a row, or None."""
        ...

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of several rows, in the order of `keys`."""
        ...

    def scan(
        self,
        table: str,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        """The rows with start ≤ key < stop in order of key (descending with `reverse`).

        Rows put meanwhile may be missing.
        """
        ...

    def put(self, table: str, rows: Sequence[tuple[bytes, bytes]], *, version: int = 0) -> None:
        """Put rows. A row of a higher version is never covered by one of a lower; an equal version covers.

        Versions go from 0 to MAX_VERSION. Of two rows with one key the last is put.
        """
        ...

    def put_if_absent(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        """Put each row only where it is absent (checkAndPut); says for each whether it was put.

        Where this or another conditional write raises TablesError, it may have been done or not; and where servers
        failed and went on by themselves, False may be said of a write that was done: the row is then one's own.
        """
        ...

    def replace(self, table: str, key: bytes, expected: bytes, value: bytes) -> bool:
        """Put the row only where its value is `expected` (checkAndPut), at its version; says whether it was."""
        ...

    def delete(self, table: str, keys: Sequence[bytes]) -> None:
        """Remove rows; those that are absent are passed over."""
        ...

    def delete_if(self, table: str, key: bytes, expected: bytes) -> bool:
        """Remove the row only where its value is `expected` (checkAndDelete); says whether it did."""
        ...

    def feed_append(self, feed: str, items: Sequence[bytes]) -> None:
        """Append items to a feed: a table that many write and many follow."""
        ...

    def feed_read(self, feed: str, cursor: bytes, *, limit: int = 10_000) -> tuple[list[bytes], bytes]:
        """Items appended since `cursor` (b"" is the beginning), and the cursor to go on from.

        Nothing acknowledged is ever missed; an item may come more than once, so followers apply them idempotently.
        """
        ...

    def feed_end(self, feed: str) -> bytes:
        """A cursor past what was acknowledged before this call: that need not be read, all that comes later will be."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """Group this thread's writes: where the block ends without an error, all of them are durable.

        A saving of syncs, and not all or nothing: where it raises, or the process dies within, any of its writes may be
        left and the others not, each row whole. One order is kept. Take the tables of a source and those that are
        shared: where the block wrote to the one first, and was done with it, a conditional write or a feed's item of
        the other is not left without what was written to the one. Reads within see the block's writes.
        """
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...
