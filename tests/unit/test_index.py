"""The partition's index: one row a flush, put where it is absent; its owner's side and its readers'."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paystorm.errors import TablesError
from paystorm.offsets import OffsetSet
from paystorm.stores.index import PartitionIndex, StoredFile, count_below, in_runs, load_snapshot, pack, unpack
from paystorm.stores.index_tail import IndexTail
from paystorm.tables.keys import key
from paystorm.tables.memory import MemoryTables


class CountingTables(MemoryTables):
    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def get(self, table: str, key: bytes) -> bytes | None:
        self.reads += 1
        return super().get(table, key)

    def scan(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        self.reads += 1
        return super().scan(*args, **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def tables() -> CountingTables:
    return CountingTables()


def opened(tables: MemoryTables, partition: int = 0, snapshot_rows: int = 4) -> PartitionIndex:
    return PartitionIndex(tables, "purchase", partition, snapshot_rows=snapshot_rows)


def store(index: PartitionIndex, first: int, after: int, *, step: int = 1, denied: int = 5, **floor: object) -> bool:
    """A row of every step-th offset of [first, after); those that `denied` divides are denied."""
    offsets = np.arange(first, after, step)
    last = int(offsets[-1])
    file = StoredFile(name=f"f{index.next}", hour="2026-01-01T00", rows=len(offsets), first=first, last=last)
    put = index.append(
        index.row(ranges=[(first, after)], files=[file], stored=offsets, denied=offsets[offsets % denied == 0], **floor)
    )
    if put:
        index.mark_published()
    return put


offset_sets = st.sets(st.integers(0, 300) | st.integers(2**61, 2**61 + 50))


@settings(max_examples=200, deadline=None)
@given(offset_sets, st.lists(st.integers(0, 400), max_size=20), st.integers(0, 2**62))
def test_packed_offsets_are_the_same_set(offsets: set[int], asked: list[int], below: int) -> None:
    ends = unpack(pack(np.array(list(offsets), dtype=np.int64)))
    questions = np.array([*asked, *offsets], dtype=np.int64)
    assert in_runs(ends, questions).tolist() == [o in offsets for o in questions.tolist()]
    assert count_below(ends, below) == sum(o < below for o in offsets)


def test_a_hundred_thousand_scattered_offsets_pack_into_little() -> None:
    assert len(pack(np.arange(0, 200_000, 2))) < 20_000
    assert len(pack(np.arange(100_000))) < 40
    assert pack(np.empty(0, dtype=np.int64)) == b""


def test_a_loaded_index_is_what_its_owner_had(tables: CountingTables) -> None:
    index = opened(tables)
    for n in range(11):
        assert store(index, n * 10, n * 10 + 10, committed=n * 10, parked=(3,))
        again = opened(tables)
        for name in ("applied", "refused", "accepted", "denied", "highest", "next"):
            assert getattr(again, name) == getattr(index, name), name
    assert (index.accepted, index.denied, index.highest) == (88, 22, 109)


def test_of_two_owners_one_wins_and_the_other_is_told(tables: CountingTables) -> None:
    one, other = opened(tables), opened(tables)
    assert store(one, 0, 10)
    assert not store(other, 5, 12)
    again = opened(tables)
    assert again.applied == OffsetSet([(0, 10)])
    assert store(again, 10, 12)


def test_rows_not_marked_published_are_found_again(tables: CountingTables) -> None:
    index = opened(tables)
    for n in range(6):
        store(index, n * 10, n * 10 + 10)
    assert index.append(index.row(ranges=[(60, 61)]))
    assert index.append(index.row(ranges=[(61, 62)]))
    again = opened(tables)
    # the row before is marked by the row after it, so the last one marked may be found too
    assert [row.n for row in again.unpublished] == [6, 7]
    again.mark_published()
    assert again.append(again.row())
    assert [row.n for row in opened(tables).unpublished] == [8]


def test_a_snapshot_of_a_task_that_wakes_covers_no_newer_one(tables: CountingTables) -> None:
    stale = opened(tables, snapshot_rows=1000)
    for n in range(4):
        store(stale, n, n + 1)
    stale._snapshot_rows = 1
    newer = opened(tables)
    for n in range(4, 12):
        store(newer, n, n + 1)
    stale.mark_published()
    assert opened(tables).applied == OffsetSet([(0, 12)])
    assert opened(tables).next == 12


@pytest.mark.parametrize("lost", [2, 3])
def test_a_missing_row_is_an_error_that_names_it(tables: CountingTables, lost: int) -> None:
    index = opened(tables, snapshot_rows=1000)
    for n in range(4):
        store(index, n, n + 1)
    if lost == 3:  # the last one: only a snapshot knows of it
        index._snapshot_rows = 1
        index.mark_published()
        snapshot = msgspec.structs.replace(load_snapshot(tables, "purchase", 0), published=1)
        tables.put("purchase.indexed", [(key(0), msgspec.msgpack.encode(snapshot))], version=3)
    tables.delete("purchase.index", [key(0, lost)])
    with pytest.raises(TablesError, match=f"purchase.index: row {lost} of partition 0 is missing"):
        opened(tables)


def test_a_row_that_a_scan_missed_is_read_by_itself(tables: CountingTables, monkeypatch: pytest.MonkeyPatch) -> None:
    index = opened(tables)
    for n in range(3):
        store(index, n, n + 1)
    scan = MemoryTables.scan
    monkeypatch.setattr(
        CountingTables, "scan", lambda self, *a, **k: (row for row in scan(self, *a, **k) if row[0] != key(0, 1))
    )
    assert opened(tables).next == 3


def test_refused_offsets_count_as_applied_until_lifted_below_the_floor_too(tables: CountingTables) -> None:
    index = opened(tables)
    index.append(index.row(refused=[7], committed=20, parked=(7, 9)))
    assert 7 in index.applied
    assert 9 not in index.applied
    assert 7 in index.refused
    index.append(index.row(lifted=[7], committed=20, parked=(9,)))
    for one in (index, opened(tables)):
        assert 7 not in one.applied
        assert 7 not in one.refused
        assert 8 in one.applied


def test_a_row_out_of_turn_is_a_bug(tables: CountingTables) -> None:
    index = opened(tables)
    row = index.row()
    index.append(row)
    with pytest.raises(ValueError, match="row 0"):
        index.append(row)


def test_the_tail_tells_denied_accepted_and_not_stored(tables: CountingTables) -> None:
    index, tail = opened(tables), IndexTail(tables, "purchase")
    asked = np.array([0, 1, 5, 9, 10, 11])
    assert tail.verdicts(0, asked).tolist() == [-1] * 6
    store(index, 0, 10)
    assert tail.verdicts(0, asked).tolist() == [1, 0, 1, 0, -1, -1]
    store(index, 10, 20, step=2)
    assert tail.verdicts(0, asked).tolist() == [1, 0, 1, 0, 1, -1]
    assert tail.verdicts(1, asked).tolist() == [-1] * 6
    assert tail.verdicts(0, np.empty(0, dtype=np.int64)).tolist() == []
    assert tail.verdicts(0, asked).dtype == np.int8


def test_the_tail_reads_nothing_for_what_it_has_seen(tables: CountingTables) -> None:
    index, tail = opened(tables), IndexTail(tables, "purchase")
    store(index, 0, 10)
    tail.verdicts(0, np.arange(10))
    before = tables.reads
    for _ in range(5):
        assert (tail.verdicts(0, np.arange(10)) >= 0).all()
    assert tables.reads == before


@pytest.mark.parametrize("limit", [{"rows": 3}, {"runs": 2}])
def test_the_tail_forgets_old_rows_and_finds_them_again(tables: CountingTables, limit: dict[str, int]) -> None:
    index, tail = opened(tables, snapshot_rows=10), IndexTail(tables, "purchase", **limit)
    for n in range(50):
        store(index, n * 10, n * 10 + 10)
    store(index, 1000, 1010)
    for n in range(51, 60):  # parked ones that come late
        store(index, n * 10, n * 10 + 10)
    everything = np.arange(1020)
    stored = [o for o in range(1020) if o < 500 or 510 <= o < 600 or 1000 <= o < 1010]
    expected = np.full(1020, -1)
    expected[stored] = [o % 5 == 0 for o in stored]
    for one in (tail, IndexTail(tables, "purchase", **limit)):
        assert one.verdicts(0, everything).tolist() == expected.tolist()
        assert one.verdicts(0, np.array([505, 40, 515])).tolist() == [-1, 1, 1]
        assert len(one._partitions[0].kept) <= 3


def test_the_tail_of_a_snapshot_agrees_with_the_tail_of_all_rows(tables: CountingTables) -> None:
    index, early = opened(tables), IndexTail(tables, "purchase")
    for n in range(30):
        store(index, n * 10, n * 10 + 10, step=3)
        early.verdicts(0, np.array([n]))
    late = IndexTail(tables, "purchase")
    asked = np.arange(310)
    assert early.verdicts(0, asked).tolist() == late.verdicts(0, asked).tolist()
    assert early.applied(0) == late.applied(0) == OffsetSet([(0, 300)])


def test_totals_are_exact_at_every_offset(tables: CountingTables) -> None:
    index, tail = opened(tables), IndexTail(tables, "purchase")
    stored: list[int] = []
    for first, after, step in [(0, 20, 1), (40, 60, 2), (20, 30, 1), (35, 36, 1), (60, 61, 1)]:
        store(index, first, after, step=step)
        stored += range(first, after, step)
        index.append(index.row())
    for below in range(70):
        denied = sum(o < below and o % 5 == 0 for o in stored)
        assert tail.totals(0, below) == (sum(o < below for o in stored) - denied, denied), below
    assert tail.totals(3, 10) == (0, 0)


def test_totals_of_recent_offsets_read_few_rows(tables: CountingTables) -> None:
    index, tail = opened(tables), IndexTail(tables, "purchase")
    for n in range(300):
        store(index, n * 10, n * 10 + 10)
    for n in range(290):  # were they read, this would fail
        tables.delete("purchase.index", [key(0, n)])
    assert tail.totals(0, 2985) == (2985 * 4 // 5, 2985 // 5)
