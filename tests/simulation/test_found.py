"""What the simulator has found, each as small as it can be told."""

import json
from random import Random
from typing import Any

import polars as pl

from paystorm.local.faults import Delivery, FailTree, Fault
from paystorm.offsets import OffsetSet
from paystorm.stores.journal import Row, ShardState, append, left_unpublished, put_snapshot, read_shard, take_over
from paystorm.tables.memory import MemoryTables
from paystorm.testing import Process, Shape, Workload, World, Write, WriteFault, balance, check
from paystorm.testing.checking import half_done
from paystorm.windows.effects import load_caught_late
from paystorm.windows.shard import Shard


def _ends_well(world: World, process: Process) -> None:
    process.run()
    assert not [*check(world), *balance(world)]


def _world(seed: int, records: int = 60) -> World:
    world = World(seed, partitions=2)
    Workload(world, Random(seed), bad=0.0, replays=0.0, days=2).send(records)
    return world


def test_a_snapshot_keeps_the_unpublished_rows_of_earlier_terms() -> None:
    tables = MemoryTables()
    state, _ = take_over(tables, "s", 0, 0, at=1)
    row = Row(n=state.n + 1, generation=0, at=2, late=7)
    assert append(tables, "s", state, [row]) == [True]
    state, _ = take_over(tables, "s", 0, 0, at=3)
    state.published = 0
    put_snapshot(tables, "s", state, [])
    assert [r.late for r in left_unpublished(tables, "s", 0, published=0)] == [7]
    state.published = state.n
    put_snapshot(tables, "s", state, [])
    assert left_unpublished(tables, "s", 0, published=0) == []
    assert read_shard(tables, "s", 0)[1] == []


def test_caught_late_events_survive_a_crash_behind_a_snapshot() -> None:
    """The process dies when it is about to publish them, and the row that notes them is in a snapshot."""
    world = _world(3)
    options = {"chunkRecords": 20, "snapshotRows": 1, "flushMs": 0}
    world.faults.plan = lambda w: WriteFault("before", "crash") if w.name == "pay.caught_late" else None
    first = world.start(Shape(), options)
    assert not first.run()
    world.faults.plan = None
    _ends_well(world, world.start(Shape(counts=2), options))
    assert list(load_caught_late(world.tables, "pay"))


def test_caught_late_events_are_published_where_counts_do_not_fit_in_memory() -> None:
    world = _world(4)
    _ends_well(world, world.start(Shape(counts=2), {"countsMemoryBytes": 1024, "chunkRecords": 20}))
    assert list(load_caught_late(world.tables, "pay"))


def test_a_range_that_was_applied_before_the_shards_were_loaded_is_acknowledged() -> None:
    """The journal has everything, the committed offsets have nothing: no new row is written for the replay."""
    world = _world(5)
    world.faults.down = lambda what, name, write: write and name == "pay.offsets" and world.clock.monotonic() < 20
    first = world.start(Shape(), {"chunkRecords": 10})
    first.wait(10)
    first.kill()
    world.faults.down = lambda what, name, write: False
    _ends_well(world, world.start(Shape(counts=2), {"chunkRecords": 7}))


def test_a_partition_does_not_wait_for_notes_about_another_that_may_not_be_read_yet() -> None:
    world = _world(6, 80)
    options = {"chunkRecords": 40, "maxPendingRecords": 400}
    until = world.clock.monotonic() + 5
    world.faults.down = lambda what, name, write: what.startswith("warehouse.") and world.clock.monotonic() < until
    first = world.start(Shape(), options)
    first.wait(3)
    first.kill()
    world.clock.advance(5)
    _ends_well(world, world.start(Shape(), {**options, "maxPendingRecords": 40}))


def test_a_flush_that_fails_fails_each_tuple_once() -> None:
    """Twice is a breach of Storm's protocol, for which it kills the worker."""
    world = _world(7)
    failed: list[Write] = []

    def plan(write: Write) -> WriteFault | None:
        if write.name == "pay.journal" and len(failed) < 6:
            failed.append(write)
            return WriteFault("before", "error")
        return None

    world.faults.plan = plan
    _ends_well(world, world.start(Shape(), {"flushMs": 0, "flushRecords": 1, "chunkRecords": 10}))
    assert len(failed) == 6


def test_the_withdrawal_of_a_review_does_not_take_a_party_off_the_noted_ones() -> None:
    """A growth (review) that ends leaves the limit's hit in force: what slips past the look-up is still caught late."""
    world = World(8)

    def send(day: int, times: int) -> None:
        for _ in range(times):
            data = {"event_time": f"2025-12-{day}T10:00:00Z", "payer": "p"}
            world.send(0, json.dumps({"ApplicationRef": "a", "data": data}).encode())

    process = world.start(Shape(), {"chunkRecords": 1, "refreshMs": 60_000, "refreshBoundMs": 600_000})
    for day, times in ((29, 2), (30, 5), (29, 2), (30, 3)):
        send(day, times)
        process.run()
    caught = len(list(load_caught_late(world.tables, "pay")))
    stored = pl.concat(world.warehouse.events("pay"))
    assert caught == len(stored.filter(pl.col("verdict") == "accepted")) - 7


def test_an_offset_that_is_refused_is_not_held_and_is_free_again_once_lifted() -> None:
    """A tuple of the record that comes late, while it is refused, covers it in the journal without counting it."""
    rows: list[dict[str, Any]] = [
        {"refused": ((0, 5),)},
        {"covered": {0: [(0, 10)]}},
        {"lifted": ((0, 5),)},
    ]
    state = ShardState(shard=0)
    shard = Shard(state)
    for n, what in enumerate(rows):
        row = Row(n=n, generation=0, at=n, **what)
        state.lay(row)
        shard.lay(row, 0)
        assert not shard.holds(0, 5)
        assert OffsetSet(state.applied.get(0, [])) == shard.applied.get(0, OffsetSet()), n
    assert shard.applied[0].ranges() == [(0, 5), (6, 10)]
    assert not shard.overlaps(0, 5, 6)


def test_a_range_whose_parked_records_cannot_be_looked_up_just_then_is_sent_later() -> None:
    """It is pending: where the look-up failed between taking it and sending it, nobody ever sent it."""
    world = _world(9)
    failing: list[int] = []

    def fails(number: int, what: str, name: str) -> bool:
        spoilt = bool(trees) and what == "tables.scan" and name == "pay.retry" and len(failing) < 3
        failing.extend([number] * spoilt)
        return spoilt

    trees: list[str] = []

    def plan(delivery: Delivery) -> Fault | None:
        if delivery.component != "validation" or delivery.message.kind != "tuple" or trees:
            return None
        trees.append("failed")
        return FailTree()

    world.faults.read_plan = fails
    _ends_well(world, world.start(Shape(), {"chunkRecords": 10}, faults=plan))
    assert len(failing) == 3


def test_a_record_that_fails_when_it_comes_again_is_half_done_until_its_retry_is() -> None:
    """It was stored, not counted; the clock is set back, and the operator's bolt does not let it through any more."""
    world = World(8)
    record = {"event_time": "2025-12-31T10:00:00Z", "payer": "u1", "amount": "7", "currency": "EUR"}
    world.send(0, json.dumps({"ApplicationRef": "shop", "data": {**record, "message": "fails for 30"}}).encode())
    world.clock.advance(40)
    world.faults.down = lambda what, name, write: write and name == "pay.journal"
    options = {"retryInitialDelayMs": 1000, "retryDelayMaxMs": 1000}
    first = world.start(Shape(), options)
    first.wait(10)
    first.kill()
    world.faults.down = lambda what, name, write: False
    world.jump(-30)
    second = world.start(Shape(), options)
    second.wait(5)
    assert half_done(world)
    second.wait(40)
    assert not half_done(world)
    _ends_well(world, second)
    assert len(world.warehouse.events("pay")[0]) == 1
