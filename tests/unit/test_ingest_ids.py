"""The id store: what it was told it knows, on disk and off, until the hours are over."""

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paystorm.clock import SECOND, ManualClock
from paystorm.errors import DataFolderError
from paystorm.ingest.ids import FANOUT, IdStore
from paystorm.ingest.runs import open_runs

HOURS = 24


def key(number: int) -> bytes:
    return sha256(b"%d" % number).digest()[:16]


def content(number: int) -> bytes:
    return sha256(b"content %d" % number).digest()[:16]


def make(folder: Path, clock: ManualClock, limit: int = 1_000_000, table: int = 50) -> IdStore:
    return IdStore(folder, clock, limit=limit, hours=HOURS, table_records=table)


def add(store: IdStore, clock: ManualClock, numbers: range, partition: int = 0) -> None:
    at = clock.now() // SECOND
    store.add("purchase", partition, [(key(n), content(n), n, at) for n in numbers])
    store.move("purchase", "topic", partition, numbers.stop)


def tidy(store: IdStore) -> None:
    """What housekeeping does, until there is nothing left to do."""
    while store.freeze():
        run = store.write()
        assert run is not None
        store.written(run)
    for run in store.expired():
        store.tidied([run], None)
    while group := store.to_merge():
        store.tidied(group, store.tidy(group))


def offsets(store: IdStore, numbers: range) -> list[int | None]:
    places = store.find([key(n) for n in numbers])
    assert all(p is None or p.content == content(n) for n, p in zip(numbers, places, strict=True))
    return [None if p is None else p.offset for p in places]


def test_an_id_is_found_in_memory_set_aside_and_on_disk(tmp_path: Path) -> None:
    clock = ManualClock()
    store = make(tmp_path, clock)
    add(store, clock, range(60))
    assert offsets(store, range(61)) == [*range(60), None]
    assert store.freeze()
    assert offsets(store, range(61)) == [*range(60), None]
    tidy(store)
    assert offsets(store, range(61)) == [*range(60), None]
    assert len(store) == 60


def test_a_store_that_is_opened_again_knows_what_was_written(tmp_path: Path) -> None:
    clock = ManualClock()
    store = make(tmp_path, clock)
    add(store, clock, range(100))
    tidy(store)
    add(store, clock, range(100, 120))
    again = make(tmp_path, clock)
    assert offsets(again, range(120)) == [*range(100), *[None] * 20]
    held = again.checkpoint("purchase", 0)
    assert held is not None
    assert held.next == 100
    store.close()
    closed = make(tmp_path, clock)
    assert offsets(closed, range(120)) == list(range(120))
    held = closed.checkpoint("purchase", 0)
    assert held is not None
    assert held.next == 120


def test_runs_are_merged_and_nothing_is_lost(tmp_path: Path) -> None:
    clock = ManualClock()
    store = make(tmp_path, clock)
    for i in range(FANOUT * FANOUT + 3):
        add(store, clock, range(i * 50, i * 50 + 50))
        tidy(store)
    count = 50 * (FANOUT * FANOUT + 3)
    assert len(list(tmp_path.glob("*.ids"))) < 2 * FANOUT
    assert offsets(store, range(count + 10)) == [*range(count), *[None] * 10]
    assert offsets(make(tmp_path, clock), range(count)) == list(range(count))


def test_a_merge_that_was_cut_short_leaves_the_old_runs_in_force(tmp_path: Path) -> None:
    clock = ManualClock()
    store = make(tmp_path, clock)
    for i in range(FANOUT):
        add(store, clock, range(i * 50, i * 50 + 50))
        while store.freeze():
            run = store.write()
            assert run is not None
            store.written(run)
    store.tidy(store.to_merge())  # the process ends before the old ones are removed
    (tmp_path / "000000000099-000000000099.new").write_bytes(b"half a run")
    again = make(tmp_path, clock)
    assert len(again) == 50 * FANOUT
    assert offsets(again, range(50 * FANOUT)) == list(range(50 * FANOUT))
    assert len(list(tmp_path.glob("*.ids"))) == 1
    assert not list(tmp_path.glob("*.new"))


def test_ids_are_forgotten_after_their_hours_and_not_before(tmp_path: Path) -> None:
    clock = ManualClock()
    store = make(tmp_path, clock)
    add(store, clock, range(60))
    tidy(store)
    clock.advance((HOURS - 1) * 3600)
    add(store, clock, range(60, 120))
    tidy(store)
    clock.advance(3600)
    assert offsets(store, range(120)) == list(range(120))
    clock.advance(1)
    assert offsets(store, range(120)) == [*[None] * 60, *range(60, 120)]
    tidy(store)
    assert len(store) == 60


def test_an_id_that_came_again_after_its_hours_has_its_new_place(tmp_path: Path) -> None:
    clock = ManualClock()
    store = make(tmp_path, clock)
    for _ in range(FANOUT):
        store.add("purchase", 0, [(key(1), content(1), clock.now() // SECOND, clock.now() // SECOND)])
        store.freeze(force=True)
        tidy(store)
        newest = clock.now() // SECOND
        assert offsets(store, range(1, 2)) == [newest]
        clock.advance((HOURS + 1) * 3600 / 4)
    assert offsets(store, range(1, 2)) == [newest]


def test_a_full_store_has_no_room_until_ids_expire(tmp_path: Path) -> None:
    clock = ManualClock()
    store = make(tmp_path, clock, limit=100)
    add(store, clock, range(100))
    assert store.room() == 0
    tidy(store)
    assert store.room() == 0
    clock.advance(HOURS * 3600 * 1.06)
    tidy(store)
    assert store.room() == 100 - len(store)
    add(store, clock, range(200, 230))
    tidy(store)
    assert store.room() >= 70


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    clock = ManualClock()
    store = make(tmp_path, clock)
    add(store, clock, range(60))
    tidy(store)
    [path] = tmp_path.glob("*.ids")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataFolderError, match="damaged"):
        make(tmp_path, clock)


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.sampled_from(["add", "tidy", "reopen", "close", "hour"]), max_size=40))
def test_the_store_agrees_with_a_dictionary(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    folder = tmp_path_factory.mktemp("ids")
    clock = ManualClock()
    store = make(folder, clock, table=10)
    known: dict[int, int] = {}
    written: dict[int, int] = {}
    count = 0
    for step in steps:
        if step == "add":
            at = clock.now() // SECOND
            add(store, clock, range(count, count + 7))
            known.update(dict.fromkeys(range(count, count + 7), at))
            count += 7
        elif step == "hour":
            clock.advance(5 * 3600)
        elif step == "reopen":  # as after a kill: what was in memory is read from the log again
            store = make(folder, clock, table=10)
            held = store.checkpoint("purchase", 0)
            first = 0 if held is None else held.next
            for n in range(first, count):
                store.add("purchase", 0, [(key(n), content(n), n, known[n])])
            store.move("purchase", "topic", 0, count)
        else:
            tidy(store)
            if step == "close":
                store.close()
                written = dict(known)
                store = make(folder, clock, table=10)
        oldest = clock.now() // SECOND - HOURS * 3600
        expected = [n if known[n] >= oldest else None for n in range(count)]
        assert offsets(store, range(count)) == expected
    assert set(written) <= set(known)


def test_keys_that_begin_alike_are_told_apart_on_disk(tmp_path: Path) -> None:
    """The first half of a key orders a run; the second decides."""
    clock = ManualClock()
    store = make(tmp_path, clock)
    alike = [b"\7" * 8 + bytes([n]) * 8 for n in range(6)]
    at = clock.now() // SECOND
    store.add("purchase", 0, [(k, content(n), n, at) for n, k in enumerate(alike) if n != 3])
    store.close()
    found = make(tmp_path, clock).find([*alike, b"\7" * 7 + b"\x08" + b"\0" * 8, b"\0" * 16])
    assert [None if place is None else place.offset for place in found] == [0, 1, 2, None, 4, 5, None, None]


def test_the_columns_of_a_run_are_aligned_whatever_its_header_says(tmp_path: Path) -> None:
    """numpy copies a whole column that is not, whenever it is searched."""
    for length in range(1, 12):
        clock = ManualClock()
        store = make(tmp_path / str(length), clock)
        at = clock.now() // SECOND
        store.add("t" * length, 0, [(key(n), content(n), n, at) for n in range(3)])
        store.move("t" * length, "topic", 0, 3)
        store.close()
        (run,) = open_runs(tmp_path / str(length))
        assert run.high.flags.aligned
        assert run.low.flags.aligned
        assert run.filter.flags.aligned
