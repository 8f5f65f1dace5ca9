"""What is in flight of a partition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from paystorm.log.base import RecordBatch
from paystorm.reading.pending import Pending, Unit, cut


def batch_of(offsets: list[int], after: int) -> RecordBatch:
    values = [b"v%d" % o * (o % 4) for o in offsets]  # some are empty
    return RecordBatch(
        topic="t",
        partition=0,
        offsets=np.array(offsets, dtype=np.int64),
        timestamps=np.array(offsets, dtype=np.int64) * 2,
        values=b"".join(v + b"\n" for v in values),
        lengths=np.array([len(v) for v in values], dtype=np.int64),
        next=after,
    )


def unit_of(first: int, after: int, offsets: list[int] | None = None, duplicates: tuple[int, ...] = ()) -> Unit:
    batch = batch_of(list(range(first, after)) if offsets is None else offsets, after)
    return Unit(first, after, batch, 0, 0, duplicates)


class PendingMachine(RuleBasedStateMachine):
    """Adds, completes, fails, splits and commits in any order, beside a model that remembers every record."""

    def __init__(self) -> None:
        super().__init__()
        self.pending = Pending(0)
        self.records: dict[int, bool] = {}
        """Of each record ever added whether it is complete."""
        self.committed_records = 0

    def open_units(self) -> list[Unit]:
        return [u for u in self.pending.units if not u.done]

    @rule(gaps=st.lists(st.integers(0, 3), max_size=12), tail=st.integers(1, 3))
    def add(self, gaps: list[int], tail: int) -> None:
        first = at = self.pending.position
        offsets = []
        for gap in gaps:
            offsets.append(at + gap)
            at += gap + 1
        batch = batch_of(offsets, at + tail)
        if offsets:
            self.pending.add(Unit(first, at + tail, batch, 0, 0))
            self.records.update(dict.fromkeys(offsets, False))
        else:
            self.pending.skip(batch, 0)

    @precondition(lambda self: self.open_units())
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        unit = data.draw(st.sampled_from(self.open_units()))
        self.pending.complete(unit)
        self.records.update(dict.fromkeys(unit.batch.offsets.tolist(), True))

    @precondition(lambda self: self.open_units())
    @rule(data=st.data(), into=st.integers(2, 8))
    def split(self, data: st.DataObject, into: int) -> None:
        unit = data.draw(st.sampled_from(self.open_units()))
        whole = dict(zip(unit.batch.offsets.tolist(), unit.batch.all_values(), strict=True))
        parts = self.pending.split(unit, into)
        held = {o: v for p in parts for o, v in zip(p.batch.offsets.tolist(), p.batch.all_values(), strict=True)}
        assert held == whole
        assert len(parts) == min(into, unit.records)
        assert max(p.records for p in parts) - min(p.records for p in parts) <= 1

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        head = self.pending.complete_head()
        n = data.draw(st.integers(0, len(head)))
        self.committed_records += sum(u.records for u in head[:n])
        self.pending.commit(n)

    @invariant()
    def the_offset_is_never_ahead_of_an_incomplete_record(self) -> None:
        incomplete = [o for o, done in self.records.items() if not done]
        for offset in (self.pending.committed, self.pending.frontier()):
            assert all(offset <= o for o in incomplete)

    @invariant()
    def units_cover_all_from_the_committed_offset_without_overlap(self) -> None:
        at = self.pending.committed
        for unit in self.pending.units:
            assert unit.first == at < unit.after
            assert all(unit.first <= o < unit.after for o in unit.batch.offsets.tolist())
            at = unit.after
        assert at == self.pending.position

    @invariant()
    def counts_add_up(self) -> None:
        assert self.committed_records + self.pending.records == len(self.records)
        assert self.pending.size == sum(len(u.batch.values) for u in self.pending.units)
        assert self.pending.open == len(self.open_units())


TestPending = PendingMachine.TestCase


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.data())
def test_a_cut_of_a_batch_has_its_records(gaps: list[int], data: st.DataObject) -> None:
    offsets = np.cumsum(np.array(gaps) + 1).tolist()
    batch = batch_of(offsets, offsets[-1] + 1)
    start = data.draw(st.integers(0, len(offsets)))
    stop = data.draw(st.integers(start, len(offsets)))
    part = cut(batch, start, stop, 99)
    assert part.offsets.tolist() == offsets[start:stop]
    assert part.timestamps.tolist() == batch.timestamps.tolist()[start:stop]
    assert part.all_values() == batch.all_values()[start:stop]
    assert part.values.count(b"\n") == stop - start
    assert part.next == 99


def test_a_range_that_failed_is_split_into_8_units_with_their_duplicates() -> None:
    pending = Pending(0)
    unit = unit_of(0, 100, duplicates=(3, 50))
    pending.add(unit)
    parts = pending.split(unit, 8)
    assert [(p.first, p.after) for p in parts][:2] == [(0, 12), (12, 25)]
    assert len(parts) == 8
    assert parts[-1].after == 100
    assert [p.duplicates for p in parts if p.duplicates] == [(3,), (50,)]


def test_a_failure_is_a_units_own_only_where_others_succeeded_meanwhile() -> None:
    pending = Pending(0)
    bad, good = unit_of(0, 10), [unit_of(10 * i, 10 * i + 10) for i in (1, 2)]
    for unit in (bad, *good):
        pending.add(unit)
    for _ in range(10):
        pending.fail(bad)
    assert (bad.fails, bad.alone) == (10, 0)  # an outage: nothing succeeds
    pending.complete(good[0])
    pending.fail(bad)
    pending.fail(bad)
    assert bad.alone == 1
    pending.complete(good[1])
    pending.fail(bad)
    assert bad.alone == 2


def test_records_done_before_a_unit_was_are_known() -> None:
    pending = Pending(0)
    units = [unit_of(10 * i, 10 * i + 10) for i in range(4)]
    for unit in units:
        pending.add(unit)
    for i in (1, 3, 0, 2):
        pending.complete(units[i])
    assert [pending.done_after(u) for u in units] == [20, 0, 10, 0]


def test_a_long_gap_is_one_unit() -> None:
    pending = Pending(0)
    for after in range(1, 1000):
        pending.skip(batch_of([], after), 0)
    assert len(pending.units) == 1
    assert pending.frontier() == 999
    assert pending.records == 0


def test_what_does_not_follow_or_is_not_complete_is_refused() -> None:
    pending = Pending(5)
    with pytest.raises(ValueError, match="does not follow on offset 5"):
        pending.add(unit_of(6, 8))
    pending.add(unit_of(5, 8))
    with pytest.raises(ValueError, match="not complete"):
        pending.commit(1)
