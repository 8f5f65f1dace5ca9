"""How rows stand in HBase: names, keys, bounds of scans, and cells."""

from typing import NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from paystorm.errors import ConfigError, TablesError
from paystorm.tables import hbase_cells as cells
from paystorm.tables.base import MAX_VERSION
from paystorm.tables.hbase_rows import READ_BYTES, READ_ROWS, _Pace

_KEYS = st.lists(st.sampled_from([b"\x00", b"\x01", b"a", b"\xfe", b"\xff"]), max_size=4).map(b"".join)


class Stored(NamedTuple):
    value: bytes
    timestamp: int


def stored(value: bytes, timestamp: int = 7) -> dict[bytes, Stored]:
    return {column: Stored(cell, timestamp) for column, cell in cells.cells("t", value)}


def in_hbase(row: bytes, first: bytes, last: bytes, *, reverse: bool) -> bool:
    """Whether HBase gives a row: its first bound is in the range and its last is not."""
    return last < row <= first if reverse else first <= row < last


@given(_KEYS, _KEYS, st.none() | _KEYS)
def test_a_scan_forward_asks_for_its_range_and_nothing_else(key: bytes, start: bytes, stop: bytes | None) -> None:
    first, last = cells.span(start, stop, reverse=False)
    wanted = start <= key and (stop is None or key < stop)
    assert in_hbase(cells.row_key("t", key), first, last, reverse=False) == wanted


@given(_KEYS, _KEYS, st.none() | _KEYS)
def test_a_scan_in_reverse_asks_for_all_of_its_range(key: bytes, start: bytes, stop: bytes | None) -> None:
    assume(start <= key and (stop is None or key < stop))
    first, last = cells.span(start, stop, reverse=True)
    assert in_hbase(cells.row_key("t", key), first, last, reverse=True)


@given(st.lists(_KEYS))
def test_keys_sort_in_hbase_as_they_do_here(keys: list[bytes]) -> None:
    rows = [cells.row_key("t", key) for key in keys]
    assert [cells.key_of(row) for row in sorted(rows)] == sorted(keys)
    assert all(rows), "HBase has no empty keys"


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_heads_are_equal_where_values_are(one: bytes, other: bytes) -> None:
    assert (cells.head(one) == cells.head(other)) == (one == other)
    assert cells.head(one) != cells.REMOVED
    assert cells.cell_of("t", b"kx", stored(one)) == cells.Cell(one, 7, 2 + len(one) + 1)


def test_a_large_value_is_cut_into_pieces_and_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "MAX_CELL", 10)
    monkeypatch.setattr(cells, "PIECE", 4)
    for length in (11, 12, 13, 100):
        value = bytes(range(length))
        columns = stored(value)
        assert len(columns) == 1 + -(-length // 4)
        cell = cells.cell_of("t", b"k", columns)
        assert cell is not None
        assert cell.value == value
        longer = stored(bytes(length + 8)) | columns  # pieces that a longer value left behind
        cell = cells.cell_of("t", b"k", longer)
        assert cell is not None
        assert cell.value == value
        del columns[b"c:1"]
        with pytest.raises(TablesError, match=r"t: row b'' is damaged"):
            cells.cell_of("t", b"k", columns)


def test_what_paystorm_did_not_write_is_refused() -> None:
    for strange in (b"", b"?", b"\x00\x00"):
        with pytest.raises(TablesError, match="damaged, or not paystorm's"):
            cells.cell_of("t", b"kx", {cells.HEAD: Stored(strange, 1)})
    assert cells.cell_of("t", b"kx", {b"c:1": Stored(b"", 1)}) is None
    assert cells.cell_of("t", b"kx", {cells.HEAD: Stored(cells.REMOVED, 1)}) == cells.Cell(None, 1, 3)


def test_tables_and_feeds_of_all_prefixes_have_names_of_their_own() -> None:
    prefixes, names = ["p", "pfeed", "p1"], ["x", "feed_x", "-feed_x", "_x", "p_x", "a.b"]
    made = [of(prefix, name) for prefix in prefixes for name in names for of in (cells.rows_table, cells.feed_table)]
    assert len(set(made)) == len(made)
    for bad in ("", "a_b", "a-b", "a:b", "a.b", "x" * 31, "ä"):
        with pytest.raises(ConfigError, match="prefix"):
            cells.check_prefix(bad)


def test_limits_are_named() -> None:
    with pytest.raises(TablesError, match="version -1"):
        cells.timestamp("t", -1)
    with pytest.raises(TablesError, match="a key of 32001 bytes"):
        cells.row_key("t", bytes(32_001))
    assert cells.timestamp("t", MAX_VERSION) < (1 << 63) - 1, "HBase's LATEST_TIMESTAMP"


def test_rows_asked_for_follow_their_size() -> None:
    pace = _Pace()
    for _ in range(10):
        pace.learn(100)
    assert pace.rows == READ_ROWS
    pace.learn(READ_BYTES // 2)
    assert pace.rows == 2
    pace.learn(3 * READ_BYTES)
    assert pace.rows == 1
    for _ in range(10):
        pace.learn(0)
    assert 1 < pace.rows < READ_ROWS, "an empty answer says little"
