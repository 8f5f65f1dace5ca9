"""The journal of a shard: terms and seals (decision 0002), snapshots, and what is left after a crash anywhere."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from paystorm.errors import TablesError
from paystorm.stores.journal import (
    LOAD_TRIES,
    Row,
    ShardState,
    Slot,
    append,
    append_each,
    fence_shards,
    get_cells,
    left_unpublished,
    put_snapshot,
    read_shard,
    scan_cells,
    take_over,
)
from paystorm.tables.keys import key, parts
from paystorm.tables.memory import MemoryTables
from paystorm.windows.shard import Shard

SHARD = 1
Figures = dict[int, dict[str, int]]
"""By start of interval and party."""


class CrashError(BaseException):
    """The process is gone."""


class Fragile(MemoryTables):
    """Tables whose process dies before the write of some row: every write is atomic for each row and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        """Rows that are still written before the crash; None: it does not come."""

    def _one_by_one(self, rows: Sequence[Any], write: Callable[[Any], None]) -> None:
        for row in rows:
            if self.left == 0:
                raise CrashError
            if self.left is not None:
                self.left -= 1
            write(row)

    def put(self, table: str, rows: Sequence[tuple[bytes, bytes]], *, version: int = 0) -> None:
        self._one_by_one(rows, lambda row: MemoryTables.put(self, table, [row], version=version))

    def delete(self, table: str, keys: Sequence[bytes]) -> None:
        self._one_by_one(keys, lambda row: MemoryTables.delete(self, table, [row]))


def journal_of(tables: MemoryTables, shard: int = SHARD) -> list[tuple[int, Row]]:
    """Every row that there is, seals too, with its term."""
    return [
        (int(parts(row_key)[1]), msgspec.msgpack.decode(value, type=Row))
        for row_key, value in tables.scan("s.journal")
        if parts(row_key)[0] == shard
    ]


def lay(figures: Figures, row: Row) -> None:
    for slot in row.slots:
        figures.setdefault(slot.start, {}).update(msgspec.json.decode(row.figures, type=dict[str, int]))


def figures_of(tables: MemoryTables, rows: list[Row]) -> Figures:
    """The figures that a task would load: the stored cells with the rows behind the head over them."""
    figures: Figures = {}
    for shard, label, start, stored in scan_cells(tables, "s"):
        if shard == SHARD:
            assert label == "m"
            figures[start] = msgspec.json.decode(stored, type=dict[str, int])
    for row in rows:
        lay(figures, row)
    return figures


class Writer:
    """As much of a counting task as the journal sees: it counts in memory, and writes the new values."""

    def __init__(self, tables: MemoryTables, generation: int = 0) -> None:
        self.tables = tables
        self.generation = generation
        self.state, rows = take_over(tables, "s", SHARD, generation, 0)
        self.figures = figures_of(tables, rows)
        self.dirty = {slot.start for row in rows for slot in row.slots}

    def row(self, start: int, party: str, **more: Any) -> Row:
        new = self.figures.get(start, {}).get(party, 0) + 1
        return Row(
            n=self.state.n + 1,
            generation=self.generation,
            at=0,
            slots=(Slot("m", start, 0, ""),),
            figures=msgspec.json.encode({party: new}),
            published=self.state.published,
            **more,
        )

    def write(self, row: Row) -> bool:
        (put,) = append(self.tables, "s", self.state, [row])
        if put:
            self.state.lay(row)
            lay(self.figures, row)
            self.dirty |= {slot.start for slot in row.slots}
        return put

    def count(self, start: int = 0, party: str = "x", **more: Any) -> bool:
        return self.write(self.row(start, party, **more))

    def publish(self) -> None:
        self.state.published = self.state.n

    def snapshot(self) -> None:
        cells = [("m", start, msgspec.json.encode(self.figures[start])) for start in sorted(self.dirty)]
        put_snapshot(self.tables, "s", self.state, cells)
        self.dirty = set()


@pytest.fixture
def tables() -> Fragile:
    return Fragile()


def plain(state: ShardState) -> dict[str, Any]:
    """A state without what only says where the journal stands."""
    held = msgspec.structs.asdict(state)
    for name in ("term", "n", "published", "generation"):
        del held[name]
    return held


ranges = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)).map(lambda r: (r[0], r[0] + r[1])), max_size=2)
offsets = st.tuples(st.integers(0, 1), st.integers(0, 12))
changes = st.fixed_dictionaries(
    {},
    optional={
        "covered": st.dictionaries(st.integers(0, 1), ranges, max_size=2),
        "floors": st.dictionaries(
            st.integers(0, 1), st.tuples(st.integers(0, 8), st.lists(st.integers(0, 12), max_size=2).map(tuple))
        ),
        "refused": st.lists(offsets, max_size=2).map(tuple),
        "lifted": st.lists(offsets, max_size=2).map(tuple),
        "late": st.integers(0, 3),
        "highest": st.dictionaries(st.integers(0, 1), st.integers(-5, 5)),
    },
)


class JournalMachine(RuleBasedStateMachine):
    """Tasks that take a shard from each other, sleep, wake, snapshot and crash; beside it what must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = Fragile()
        self.generation = 0
        self.writers: list[Writer] = []
        self.owner: Writer | None = None
        """The only one whose next row may be put."""
        self.model: Figures = {}
        self.state = ShardState(shard=SHARD)
        self.written: dict[int, Row] = {}
        self.published: set[int] = set()

    @rule()
    def a_task_takes_the_shard(self) -> None:
        self.owner = Writer(self.tables, self.generation)
        assert self.owner.figures == self.model
        self.writers.append(self.owner)

    @precondition(lambda self: self.generation > 0)
    @rule(data=st.data())
    def a_task_of_an_older_version_does_not_take_it(self, data: st.DataObject) -> None:
        rows = journal_of(self.tables)
        older = data.draw(st.integers(0, self.generation - 1))
        state, _ = take_over(self.tables, "s", SHARD, older, 0)
        assert state.generation == self.generation
        assert journal_of(self.tables) == rows

    @rule()
    def a_version_of_the_source_fences_the_shards(self) -> None:
        self.generation += 1
        fence_shards(self.tables, "s", 3, self.generation, 0)
        self.owner = None

    @precondition(lambda self: self.writers)
    @rule(
        data=st.data(), start=st.integers(0, 2), party=st.sampled_from("xy"), more=changes, reply_is_lost=st.booleans()
    )
    def a_task_counts(
        self, data: st.DataObject, start: int, party: str, more: dict[str, Any], reply_is_lost: bool
    ) -> None:
        writer = data.draw(st.sampled_from(self.writers))
        row = writer.row(start, party, **more)
        put = writer.write(row)
        assert put == (writer is self.owner), "a replaced task loses, and nobody else does"
        if put:
            self.written[row.n] = row
            self.state.lay(row)
            lay(self.model, row)
        if not put or reply_is_lost:
            self.drop(writer)

    @precondition(lambda self: self.writers)
    @rule(data=st.data())
    def a_task_publishes_what_its_rows_cause(self, data: st.DataObject) -> None:
        writer = data.draw(st.sampled_from(self.writers))
        writer.publish()
        self.published |= {n for n in self.written if n <= writer.state.published}

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), crash_after=st.none() | st.integers(0, 8))
    def a_task_writes_a_snapshot_of_its_memory(self, data: st.DataObject, crash_after: int | None) -> None:
        writer = data.draw(st.sampled_from(self.writers))
        self.tables.left = crash_after
        try:
            writer.snapshot()
        except CrashError:
            self.drop(writer)
        self.tables.left = None

    def drop(self, writer: Writer) -> None:
        self.writers.remove(writer)
        if writer is self.owner:
            self.owner = None

    @invariant()
    def a_task_that_loaded_now_would_know_everything(self) -> None:
        state, rows = read_shard(self.tables, "s", SHARD)
        assert plain(state) == plain(self.state)
        assert state.generation == self.generation
        assert figures_of(self.tables, rows) == self.model

    @invariant()
    def a_row_whose_effects_are_not_published_is_there(self) -> None:
        state, rows = read_shard(self.tables, "s", SHARD)
        found = [*left_unpublished(self.tables, "s", SHARD, state.published), *rows]
        assert all(row in found for n, row in self.written.items() if n not in self.published)

    @invariant()
    def rows_are_numbered_without_repeats_over_the_terms(self) -> None:
        rows = journal_of(self.tables)
        numbers = [row.n for _, row in rows]
        assert numbers == sorted(set(numbers))
        seals = [term for term, row in rows if row.seal]
        assert seals == list(range(len(seals))), "each term but the present one has its seal, for ever"


JournalMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestJournalMachine = JournalMachine.TestCase


def test_an_old_writer_that_wakes_after_its_rows_were_folded_and_deleted_loses(tables: Fragile) -> None:
    old = Writer(tables)
    assert old.count()
    asleep = old.row(0, "x")
    new = Writer(tables)
    for _ in range(3):
        assert new.count()
    new.publish()
    new.snapshot()
    assert [row.n for _, row in journal_of(tables) if not row.seal] == []
    assert not old.write(asleep)
    assert not old.count(start=7)
    state, rows = read_shard(tables, "s", SHARD)
    assert figures_of(tables, rows) == {0: {"x": 4}}
    assert state.n == new.state.n
    assert new.count()


def test_an_old_writers_snapshot_covers_nothing_newer(tables: Fragile) -> None:
    old = Writer(tables)
    old.count()
    old.count(start=1)
    new = Writer(tables)
    new.count()
    new.publish()
    new.snapshot()
    stored, head = list(scan_cells(tables, "s")), tables.get("s.shards", key(SHARD))
    old.figures[0]["x"] = 99
    old.snapshot()
    assert list(scan_cells(tables, "s")) == stored
    assert tables.get("s.shards", key(SHARD)) == head


def test_seals_stay_and_every_load_puts_one(tables: Fragile) -> None:
    for n in range(3):
        writer = Writer(tables)
        assert writer.state.term == n + 1
        writer.count()
        writer.publish()
        writer.snapshot()
    assert [(term, row.n, row.seal) for term, row in journal_of(tables)] == [(0, 0, True), (1, 2, True), (2, 4, True)]


def test_rows_whose_effects_are_not_published_outlive_the_snapshot(tables: Fragile) -> None:
    writer = Writer(tables)
    writer.count()
    writer.publish()
    for _ in range(2):
        writer.count()
    writer.snapshot()
    assert [row.n for row in left_unpublished(tables, "s", SHARD, 1)] == [2, 3]
    assert left_unpublished(tables, "s", SHARD, 3) == []
    state, rows = read_shard(tables, "s", SHARD)
    assert (state.n, state.published, rows) == (3, 1, [])
    again = Writer(tables)
    again.publish()
    again.snapshot()
    assert [row.seal for _, row in journal_of(tables)] == [True, True]


def crowded() -> tuple[Fragile, Writer]:
    """A writer with several cells, and rows of several terms that a snapshot deletes."""
    tables = Fragile()
    for n in range(3):
        writer = Writer(tables)
        for start in range(3):
            writer.count(start=start, party=f"{n}", covered={0: [(3 * n + start, 3 * n + start + 1)]})
    writer.publish()
    writer.count(start=1, party="unpublished", covered={0: [(20, 21)]})
    return tables, writer


def test_a_crash_between_any_two_writes_of_a_snapshot_loses_nothing() -> None:
    whole, writer = crowded()
    writer.snapshot()
    writes = 0
    while True:
        tables, writer = crowded()
        tables.left = writes
        try:
            writer.snapshot()
        except CrashError:
            pass
        else:
            break
        tables.left = None
        state, rows = read_shard(tables, "s", SHARD)
        assert plain(state) == plain(writer.state)
        assert figures_of(tables, rows) == writer.figures
        assert 12 in {row.n for row in [*left_unpublished(tables, "s", SHARD, state.published), *rows]}
        following = Writer(tables)
        assert following.figures == writer.figures
        assert not writer.count()
        assert following.count(party="next")
        following.publish()
        following.snapshot()
        assert all(row.seal for _, row in journal_of(tables)), "what the crash left over goes with the next snapshot"
        writes += 1
    assert writes == 3 + 1 + 9, "cells, head, rows"
    assert [row.n for _, row in journal_of(whole) if not row.seal] == [12]


def test_a_snapshot_of_a_shard_leaves_the_others_alone(tables: Fragile) -> None:
    writer = Writer(tables)
    states = [ShardState(shard=shard) for shard in (SHARD - 1, SHARD + 1, -1, 1 << 40)]
    assert append_each(tables, "s", [(state, Row(n=0, generation=0, at=0)) for state in states]) == [True] * 4
    assert append_each(tables, "s", [(state, Row(n=0, generation=5, at=0)) for state in states]) == [False] * 4
    writer.count()
    writer.publish()
    writer.snapshot()
    assert [len(journal_of(tables, state.shard)) for state in states] == [1] * 4
    assert get_cells(tables, "s", [(SHARD, "m", 0), (SHARD + 1, "m", 0)]) == [b'{"x":1}', None]


def test_fencing_makes_every_older_task_lose_its_next_write_in_all_shards(tables: Fragile) -> None:
    states = [take_over(tables, "s", shard, 0, 0)[0] for shard in range(4)]
    fence_shards(tables, "s", 4, 1, 99)
    assert append_each(tables, "s", [(s, Row(n=s.n + 1, generation=0, at=0)) for s in states]) == [False] * 4
    for shard in range(4):
        term, seal = journal_of(tables, shard)[-1]
        assert (term, seal.seal, seal.generation, seal.at) == (1, True, 1, 99)
        assert read_shard(tables, "s", shard)[0].generation == 1
    rows = [journal_of(tables, shard) for shard in range(4)]
    fence_shards(tables, "s", 4, 1, 100)
    fence_shards(tables, "s", 4, 0, 100)
    assert [journal_of(tables, shard) for shard in range(4)] == rows, "once is enough"


def test_fencing_reaches_shards_that_nobody_has_written(tables: Fragile) -> None:
    fence_shards(tables, "s", 2, 3, 0)
    assert [read_shard(tables, "s", shard)[0].generation for shard in range(3)] == [3, 3, 0]


class Contested(MemoryTables):
    """Tables in which another task takes the shard just before each of the first writes."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def put_if_absent(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        if self.times:
            self.times, times = 0, self.times - 1
            take_over(self, "s", SHARD, 0, 0)
            self.times = times
        return super().put_if_absent(table, rows)


def test_of_two_that_load_at_once_the_later_seals_the_other() -> None:
    tables = Contested(3)
    writer = Writer(tables)
    assert writer.state.term == 4
    assert writer.count()


def test_a_shard_that_is_always_taken_is_given_up_with_a_word() -> None:
    with pytest.raises(TablesError, match="shard 1 is being taken over by several tasks again and again"):
        Writer(Contested(LOAD_TRIES))


class Busy(MemoryTables):
    """Tables whose shard has an owner at work: what it does comes before the next scan of the journal, or put."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, Callable[[], None]] = {}

    def _owner_first(self, what: str) -> None:
        work = self.before.pop(what, None)
        if work is not None:
            work()

    def scan(self, table: str, *args: Any, **named: Any) -> Iterator[tuple[bytes, bytes]]:
        self._owner_first(f"scan {table}")
        return super().scan(table, *args, **named)

    def put_if_absent(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        self._owner_first(f"put {table}")
        return super().put_if_absent(table, rows)


@pytest.mark.parametrize("before", ["scan s.journal", "put s.journal"])
def test_who_takes_a_shard_while_its_owner_makes_a_snapshot_fences_it_and_misses_nothing(before: str) -> None:
    """The rows that it has not read yet go, or the row that its seal is for has been there and gone."""
    tables = Busy()
    owner = Writer(tables)
    owner.count()
    owner.publish()
    owner.snapshot()
    owner.count(covered={0: [(5, 6)]})

    def work() -> None:
        owner.count(covered={0: [(6, 7)]})
        owner.publish()
        owner.snapshot()

    tables.before[before] = work
    other = Writer(tables)
    assert not tables.before
    assert other.state.applied == {0: [(5, 7)]}
    assert other.figures == {0: {"x": 3}}
    assert not owner.count()
    assert other.count()
    assert Writer(tables).figures == {0: {"x": 4}}


def test_a_journal_that_does_not_follow_on_its_snapshot_is_said_so(tables: Fragile) -> None:
    writer = Writer(tables)
    for _ in range(3):
        writer.count()
    tables.delete("s.journal", [key(SHARD, writer.state.term, 2)])
    with pytest.raises(TablesError, match="shard 1 has no journal that follows on its snapshot of row -1"):
        read_shard(tables, "s", SHARD)


@given(st.lists(changes, max_size=8))
def test_a_shard_in_memory_takes_rows_in_as_its_stored_state_does(rows: list[dict[str, Any]]) -> None:
    stored, shard = ShardState(shard=SHARD), Shard(ShardState(shard=SHARD))
    for n, more in enumerate(rows):
        row = Row(n=n, generation=0, at=0, **more)
        stored.lay(row)
        shard.lay(row, 1)
        assert shard.state() == stored
        read = msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=ShardState)
        assert read == stored


@given(changes, st.integers(0, 1), st.integers(0, 12))
def test_a_record_that_was_refused_and_lifted_is_not_applied(more: dict[str, Any], partition: int, offset: int) -> None:
    state = ShardState(shard=SHARD)
    state.lay(Row(n=0, generation=0, at=0, **more))
    state.lay(Row(n=1, generation=0, at=0, refused=((partition, offset),)))
    assert (partition, offset) in state.refused
    state.lay(Row(n=2, generation=0, at=0, lifted=((partition, offset),)))
    assert (partition, offset) not in {tuple(r) for r in state.refused}
    assert offset not in state.applied_sets()[partition]
