"""How rows stand in HBase: names, keys, timestamps and cells. Pure; the reasons are in decision 0008.

Every row has one column, `c:v`. Its cell starts with a byte for what it is: a value, the mark of a removed row, or the
head of a value in pieces (`c:0`, `c:1`, …). Its timestamp is the version, moved far into the future:

- `put` writes at VERSION_0 + version, so that HBase itself keeps the highest and, of equal ones, the last.
- A conditional put over a cell stands at that cell's timestamp, or now where it is later: so it keeps the version.
- A row put where it was absent stands at the server's time, which is below every version.
"""

import hashlib
import re
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from paystorm.errors import ConfigError, TablesError
from paystorm.tables.base import MAX_VERSION
from paystorm.tables.memory import check_name

VERSION_0 = 1 << 62
"""The timestamp of version 0; the server's own, in ms, are far below."""
FAMILY = b"c"
HEAD = b"c:v"
REMOVED = b"\x00"
"""The cell of a removed row."""
_WHOLE, _PIECES = b"\x01", b"\x02"
_SIZE = struct.Struct(">Q")
_DIGEST_BYTES = 16

MAX_CELL = 10_000_000
"""Bytes of a value in one cell: HBase takes 10 MiB with the key (`hbase.client.keyvalue.maxsize`) unless set higher."""
PIECE = 4 << 20
MAX_VALUE = 64 << 20
"""Bytes of a value in pieces: they are put in one call, which the Thrift server holds in memory."""
MAX_KEY = 32_000
"""Bytes of a key: HBase takes 32,767 with ours."""

_ROW = b"k"  # before each key: HBase has no empty ones
_BEHIND = b"l"
_PREFIX = re.compile(r"[A-Za-z0-9]{1,30}")


class Cell(NamedTuple):
    """What stands in a row."""

    value: bytes | None
    """None: the row was removed."""
    timestamp: int
    size: int
    """Bytes in all, what is in pieces included."""


def check_prefix(prefix: str) -> str:
    """The prefix of all names, or ConfigError where it is not allowed."""
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError(f"HBase table prefix {prefix!r}: it is 1 to 30 of A-Z a-z 0-9; choose another")
    return prefix


def rows_table(prefix: str, name: str) -> str:
    """The HBase table of a table. Raises TablesError for a name that is not allowed."""
    return f"{prefix}_{check_name(name)}"


def feed_table(prefix: str, name: str) -> str:
    """The HBase table of a feed; never that of a table, as prefixes have no hyphen."""
    return f"{prefix}-feed_{check_name(name)}"


def row_key(table: str, key: bytes) -> bytes:
    """The key in HBase. Raises TablesError for one that is too long."""
    if len(key) > MAX_KEY:
        raise TablesError(f"table {table}: a key of {len(key)} bytes: at most {MAX_KEY}; shorten it")
    return _ROW + key


def key_of(row: bytes) -> bytes:
    """The key of a row of HBase."""
    return row[len(_ROW) :]


def span(start: bytes, stop: bytes | None, *, reverse: bool) -> tuple[bytes, bytes]:
    """(first, last) for a scan in HBase: the first is in it, the last is not.

    In reverse it may give `stop` itself and some rows below `start`: HBase takes the upper end in and leaves the lower
    out, and there is no key right before another. Whoever scans drops those.
    """
    if not reverse:
        return _ROW + start, _BEHIND if stop is None else _ROW + stop
    upper = _BEHIND if stop is None else _ROW + stop
    lower = _ROW + start
    if lower.endswith(b"\x00"):
        return upper, lower[:-1]
    return upper, lower[:-1] + bytes([lower[-1] - 1]) + b"\xff" * 8


def timestamp(table: str, version: int) -> int:
    """The timestamp of a version. Raises TablesError where it is not one."""
    if not 0 <= version <= MAX_VERSION:
        raise TablesError(f"table {table}: version {version}: it must be 0 to {MAX_VERSION}")
    return VERSION_0 + version


def head(value: bytes) -> bytes:
    """The cell `c:v` of a value: equal for equal values and for no others."""
    if len(value) <= MAX_CELL:
        return _WHOLE + value
    digest = hashlib.blake2b(value, digest_size=_DIGEST_BYTES).digest()
    return _PIECES + _SIZE.pack(len(value)) + digest


def one_cell(table: str, value: bytes) -> bytes:
    """The cell of a value that is put on a condition. Raises TablesError where it does not fit in one."""
    if len(value) > MAX_CELL:
        raise TablesError(
            f"table {table}: a value of {len(value)} bytes: HBase puts at most {MAX_CELL} on a condition; "
            "write less at once (flushRecords)"
        )
    return head(value)


def cells(table: str, value: bytes) -> list[tuple[bytes, bytes]]:
    """All cells (column, bytes) of a value. Raises TablesError where it is too large."""
    if len(value) > MAX_VALUE:
        raise TablesError(
            f"table {table}: a value of {len(value)} bytes: at most {MAX_VALUE}; spread the source over more shards"
        )
    out = [(HEAD, head(value))]
    if len(value) > MAX_CELL:
        out += [(_piece(i), value[at : at + PIECE]) for i, at in enumerate(range(0, len(value), PIECE))]
    return out


def cell_of(table: str, row: bytes, columns: Mapping[bytes, Any]) -> Cell | None:
    """What stands in a row of HBase: column → something with `value` and `timestamp`. None: nothing.

    Raises TablesError where it was not written by paystorm or does not fit together.
    """
    if HEAD not in columns:
        return None
    stamp, cell = columns[HEAD].timestamp, columns[HEAD].value
    size = len(row) + sum(len(c.value) for c in columns.values())
    mark = cell[:1]
    if mark == _WHOLE:
        return Cell(cell[1:], stamp, size)
    if cell == REMOVED:
        return Cell(None, stamp, size)
    if mark == _PIECES:
        (length,) = _SIZE.unpack_from(cell, 1)
        pieces = [columns.get(_piece(i)) for i in range(-(-length // PIECE))]
        value = b"".join(piece.value for piece in pieces if piece is not None)
        if head(value) == cell:
            return Cell(value, stamp, size)
    raise TablesError(f"table {table}: row {key_of(row)!r} is damaged, or not paystorm's: restore it from a backup")


def _piece(number: int) -> bytes:
    return b"c:%d" % number
