"""What the runner's faults do: lost, late and doubled messages, killed and woken tasks."""

from typing import Any

import pytest
from runner_world import Buffered, Chain, Late, component, driver_of, once, tuple_for

from paystorm.local.faults import Delay, Drop, Duplicate, FailTree, Kill, MakeZombie


def test_a_dropped_tuple_times_out_its_tree() -> None:
    driver = driver_of(Chain, faults=once(tuple_for("sink", 3), Drop()))
    spout = component(driver, "numbers")
    driver.run_until(lambda: False, seconds=31)
    assert spout.failed == [3]
    assert len(spout.acked) == 9


def test_a_dropped_ack_reaches_the_spout_as_a_timeout() -> None:
    driver = driver_of(Chain, count=1, faults=once(lambda d: d.message.kind == "ack", Drop()))
    spout = component(driver, "numbers")
    driver.run_until(lambda: False, seconds=31)
    assert (spout.acked, spout.failed) == ([], [1])
    assert driver.engine.stats()["numbers"].pending == 0


def test_a_delayed_tuple_comes_later() -> None:
    driver = driver_of(Chain, count=3, faults=once(tuple_for("sink", 1), Delay(5)))
    spout = component(driver, "numbers")
    driver.run_until(lambda: False, seconds=4)
    assert sorted(spout.acked) == [2, 3]
    driver.run_until(lambda: False, seconds=2)
    assert sorted(spout.acked) == [1, 2, 3]
    assert component(driver, "sink").seen == [2, 3, 1]


def test_a_duplicated_tuple_is_processed_twice_and_acked_once() -> None:
    driver = driver_of(Chain, count=2, faults=once(tuple_for("middle", 1), Duplicate(1)))
    spout = component(driver, "numbers")
    driver.run_until(lambda: False, seconds=3)
    assert sorted(spout.acked) == [1, 2]
    assert sorted(component(driver, "sink").seen) == [1, 1, 2]


def test_a_tree_can_be_failed_while_its_tuple_is_still_processed() -> None:
    driver = driver_of(Chain, count=1, faults=once(tuple_for("middle", 1), FailTree()))
    spout = component(driver, "numbers")
    driver.run()
    assert (spout.acked, spout.failed, component(driver, "sink").seen) == ([], [1], [1])


def test_a_killed_task_loses_what_it_held_and_is_replaced() -> None:
    driver = driver_of(Buffered, faults=once(lambda d: d.message.kind == "tick", Kill()))
    spout, first = component(driver, "numbers"), component(driver, "sink")
    driver.run_until(lambda: False, seconds=31)
    assert sorted(spout.failed) == list(range(1, 11))
    assert component(driver, "sink") is not first


def test_a_silenced_instance_does_its_work_but_its_acks_are_lost() -> None:
    driver = driver_of(Chain, count=1, faults=once(tuple_for("sink", 1), Kill(silenced=True)))
    spout, first = component(driver, "numbers"), component(driver, "sink")
    driver.run_until(lambda: False, seconds=31)
    assert (first.seen, spout.acked, spout.failed) == ([1], [], [1])


def test_a_killed_spout_forgets_its_trees() -> None:
    driver = driver_of(Late, faults=once(lambda d: d.component == "numbers" and d.now > 5, Kill()), count=3)
    driver.run_until(lambda: False, seconds=20)
    second = component(driver, "numbers")
    assert second.sent == 3
    driver.run_until(lambda: False, seconds=30)
    assert (second.acked, sorted(second.failed)) == ([], [1, 2, 3])
    assert second.calls == ["activate"]


def test_a_zombie_wakes_and_does_what_it_was_given() -> None:
    driver = driver_of(Buffered, faults=once(lambda d: d.message.kind == "tick", MakeZombie(10)))
    spout, first = component(driver, "numbers"), component(driver, "sink")
    driver.run_until(lambda: False, seconds=9)
    assert len(driver.zombies) == 1
    assert component(driver, "sink") is not first
    assert (first.flushed, spout.acked) == ([], [])
    driver.run_until(lambda: not driver.zombies, seconds=10)
    assert len(first.flushed) == 10
    assert (len(spout.acked), spout.failed) == (10, [])
    assert first.ticks == 3  # the one that it was given, and two rounds


def test_a_zombie_that_wakes_after_the_timeout_changes_nothing_for_the_spout() -> None:
    driver = driver_of(Buffered, faults=once(lambda d: d.message.kind == "tick", MakeZombie(40)))
    spout, first = component(driver, "numbers"), component(driver, "sink")
    driver.run_until(lambda: False, seconds=50)
    assert len(first.flushed) == 10
    assert (spout.acked, len(spout.failed)) == ([], 10)


def test_what_dies_after_it_stood_still_and_was_replaced_is_not_run_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_of(Buffered, count=2)
    first, ticks = component(driver, "sink"), []

    def stand_still_and_die(tup: Any) -> None:
        ticks.append(tup)
        assert driver.replace_running(3)
        raise SystemExit("killed")

    monkeypatch.setattr(first, "process_tick", stand_still_and_die)
    driver.run_until(lambda: False, seconds=20)
    assert len(ticks) == 1
    assert driver.zombies == []
    assert component(driver, "sink") is not first
