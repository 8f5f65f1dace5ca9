"""Parked records wait as the schedule says, are given up where it allows it; an outage uses up no retry."""

import itertools
import json

import pytest

from paystorm.clock import SECOND
from paystorm.stores.letters import all_letters
from paystorm.stores.retry import Parked, all_parked
from paystorm.testing import Process, Shape, World, balance, check
from paystorm.testing.workload import FAILS_FOR, FOREVER

MINUTE, HOUR, DAY = 60, 3600, 86_400


def _record(seconds: int | None = None, payer: str = "u1") -> bytes:
    data = {"event_time": "2025-12-31T10:00:00Z", "payer": payer}
    if seconds is not None:
        data["message"] = f"{FAILS_FOR}{seconds}"
    return json.dumps({"ApplicationRef": "a", "data": data}).encode()


def _attempts(world: World) -> list[int]:
    return [row.attempts for row in all_parked(world.tables, "pay")]


def _tried_at(world: World, process: Process, tries: int) -> list[float]:
    """Seconds between the first failure and each further attempt, as the rows tell them."""
    (row,) = all_parked(world.tables, "pay")
    begun, found = row.first_failed, [0.0]
    for n in range(2, tries + 1):
        process.skip(max(0.0, _due(world, row) - 5))
        process.run(lambda n=n: _attempts(world) == [n], seconds=2 * MINUTE)  # type: ignore[misc]
        (row,) = all_parked(world.tables, "pay")
        found.append((row.last_failed - begun) / SECOND)
    return found


def _due(world: World, row: Parked) -> float:
    """Seconds until the retry of a row by the figures of the contract: 1 s, 60 s, 3600 s, then a day each."""
    delay = min(60 ** (row.attempts - 1), DAY)
    return (row.last_failed - world.clock.now()) / SECOND + delay


def test_a_parked_record_is_tried_after_a_second_a_minute_an_hour_and_each_day() -> None:
    world = World(1)
    world.send(0, _record(FOREVER))
    process = world.start(Shape())
    process.run()
    at = _tried_at(world, process, 6)
    waits = [b - a for a, b in itertools.pairwise(at)]
    for wait, due in zip(waits, (1, MINUTE, HOUR, DAY, DAY), strict=True):
        assert due <= wait <= due + 3
    assert not list(all_letters(world.tables, "pay")), "no later record was completed"
    assert not [*check(world), *balance(world)]


def test_it_is_given_up_once_a_retry_failed_and_five_later_records_are_complete() -> None:
    world = World(2)
    world.send(0, _record(FOREVER))
    for _ in range(4):
        world.send(0, _record())
    process = world.start(Shape(counts=2))
    process.run()
    process.wait(70)
    assert _attempts(world) == [3], "tried after 1 and 60 seconds; four later records are one too few"
    world.send(0, _record())
    process.wait(5)
    process.run()
    (letter,) = all_letters(world.tables, "pay")
    assert (letter.offset, letter.field, letter.code, letter.attempts) == (0, "record", "gave_up", 3)
    assert "cannot be reached" in (letter.last_error or "")
    assert _attempts(world) == []
    assert not [*check(world), *balance(world)]


def test_no_record_is_given_up_before_its_first_retry() -> None:
    world = World(3)
    world.send(0, _record(FOREVER))
    for _ in range(20):
        world.send(0, _record())
    process = world.start(Shape())
    process.run(lambda: _attempts(world) == [1])
    process.wait(0.5)
    assert not list(all_letters(world.tables, "pay"))
    process.wait(10)
    assert [x.attempts for x in all_letters(world.tables, "pay")] == [2]


def test_a_record_that_succeeds_when_tried_again_is_an_event_like_any_other() -> None:
    world = World(4)
    world.send(0, _record(30))
    world.send(0, _record())
    process = world.start(Shape())
    process.run()
    assert len(_attempts(world)) == 1
    process.wait(90)
    process.run()
    assert _attempts(world) == []
    assert not list(all_letters(world.tables, "pay"))
    assert sum(len(frame) for frame in world.warehouse.events("pay")) == 2
    assert not [*check(world), *balance(world)]


@pytest.mark.parametrize("sink", ["warehouse", "journal", "log"])
def test_a_sink_that_is_down_for_two_minutes_costs_no_retry_and_no_record(sink: str) -> None:
    world = World(5, partitions=2)
    down = {
        "warehouse": lambda what, name, write: what.startswith("warehouse."),
        "journal": lambda what, name, write: write and name == "pay.journal",
        "log": lambda what, name, write: write and what == "log.append",
    }[sink]
    for i in range(40):
        world.send(i % 2, _record(payer=f"u{i % 7}"))
    up_again = world.clock.monotonic() + 2 * MINUTE
    world.faults.down = lambda what, name, write: world.clock.monotonic() < up_again and down(what, name, write)
    process = world.start(Shape(counts=2, warehouse=2))
    process.wait(2 * MINUTE)
    assert not list(all_parked(world.tables, "pay"))
    process.run(seconds=120)
    assert not list(all_letters(world.tables, "pay"))
    assert not list(all_parked(world.tables, "pay"))
    assert not [*check(world), *balance(world)]
