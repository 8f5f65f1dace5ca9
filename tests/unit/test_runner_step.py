"""Tuple trees, ticks, time-outs and deaths, run step by step under a seed."""

# mypy: disable-error-code="misc"
# (streamparse publishes no types, so its base classes are Any)

import logging
import random
from typing import Any

import pytest
from runner_world import Buffered, Chain, Diamonds, Failing, Late, Numbers, Pass, Sink, component, driver_of
from streamparse import BatchingBolt, Topology

from paystorm.clock import ManualClock
from paystorm.local.faults import Delay, Delivery, Drop, Duplicate, FailTree, Fault, Kill, MakeZombie
from paystorm.local.step import Step, StepDriver


@pytest.mark.parametrize("seed", range(10))
def test_a_tree_of_diamonds_is_acked_once_when_all_of_it_is_acked(seed: int) -> None:
    driver = driver_of(Diamonds, seed)
    spout = component(driver, "numbers")
    assert driver.run_until(lambda: len(spout.acked) == 10, seconds=10)
    assert driver.quiet()
    assert sorted(spout.acked) == list(range(1, 11))
    assert spout.failed == []
    # 2 ways through the first diamond, 1 + 2 through the second.
    assert sorted(component(driver, "sink").seen) == sorted(list(range(1, 11)) * 6)
    stats = driver.engine.stats()
    assert (stats["middle"].emitted, stats["middle"].transferred, stats["middle"].acked) == (20, 60, 20)
    assert stats["numbers"].pending == 0


def test_a_tree_is_not_acked_while_a_part_of_it_is_open() -> None:
    driver = driver_of(Late, count=1)
    driver.run_until(lambda: False, seconds=29)
    assert component(driver, "numbers").acked == []
    assert [str(tree) for tree in driver.engine.open_trees()] == ["numbers task 1 tuple 1: 1 open for 29.0 s"]


def test_a_fail_reaches_the_spout_once_and_the_others_are_acked() -> None:
    driver = driver_of(Failing)
    spout = component(driver, "numbers")
    driver.run_until(lambda: len(spout.acked) + len(spout.failed) == 10, seconds=10)
    assert spout.failed == [4]
    assert sorted(spout.acked) == [1, 2, 3, 5, 6, 7, 8, 9, 10]


def test_a_tree_that_is_not_complete_in_time_fails() -> None:
    driver = driver_of(Late, count=3)
    spout = component(driver, "numbers")
    assert driver.run_until(lambda: len(spout.failed) == 3, seconds=31)
    assert 30 <= driver.clock.monotonic() < 30.1
    assert driver.engine.stats()["numbers"].pending == 0


def test_a_late_ack_after_the_timeout_is_ignored() -> None:
    driver = driver_of(Late, count=3)
    spout = component(driver, "numbers")
    driver.run_until(lambda: False, seconds=50)
    assert component(driver, "sink").held == []
    assert (spout.acked, sorted(spout.failed)) == ([], [1, 2, 3])


def test_max_spout_pending_is_kept() -> None:
    highest = 0

    def watch(step: Step) -> None:
        nonlocal highest
        highest = max(highest, len(driver.engine.acker), component(driver, "numbers").sent - len(spout.acked))

    driver = StepDriver(Buffered, {"topology.max.spout.pending": 3}, ManualClock(), random.Random(1), on_step=watch)
    driver.start()
    spout = component(driver, "numbers")
    assert driver.run_until(lambda: len(spout.acked) == 10, seconds=60)
    assert highest == 3


def test_acks_given_at_a_tick_complete_trees_of_many_tuples_before() -> None:
    driver = driver_of(Buffered)
    spout, sink = component(driver, "numbers"), component(driver, "sink")
    driver.run_until(lambda: False, seconds=0.4)
    assert (spout.acked, len(sink.buffer)) == ([], 10)
    driver.run_until(lambda: len(spout.acked) == 10, seconds=0.2)
    assert sorted(spout.acked) == list(range(1, 11))


def test_ticks_come_at_the_components_own_frequency() -> None:
    driver = driver_of(Buffered, topology__tick__tuple__freq__secs=60)
    driver.run_until(lambda: False, seconds=10.2)
    assert component(driver, "sink").ticks == 20


def test_a_bolt_that_raises_is_replaced_and_its_tuple_failed(caplog: pytest.LogCaptureFixture) -> None:
    driver = driver_of(Chain, raises_on=4)
    spout, first = component(driver, "numbers"), component(driver, "sink")
    with caplog.at_level(logging.ERROR):
        assert driver.run_until(lambda: len(spout.acked) == 9, seconds=10)
    assert spout.failed == [4]
    assert component(driver, "sink") is not first
    stats = driver.engine.stats()["sink"]
    assert (stats.restarts, stats.errors) == (1, 1)
    assert "ValueError: cannot take 4" in stats.last_errors[0].text
    assert len(caplog.records) == 1


def test_an_instance_that_cannot_be_initialized_is_tried_again() -> None:
    attempts = []

    class Slow(Sink):
        def initialize(self, conf: Any, context: Any) -> None:
            attempts.append(context["taskid"])
            if len(attempts) < 3:
                raise OSError("not up yet")
            super().initialize(conf, context)

    class SlowTopology(Topology):
        numbers = Numbers.spec()
        sink = Slow.spec(inputs=[numbers])

    driver = driver_of(SlowTopology)
    spout = component(driver, "numbers")
    assert driver.run_until(lambda: len(spout.acked) == 10, seconds=5)
    assert attempts == [2, 2, 2]
    assert driver.engine.stats()["sink"].restarts == 2


def test_a_second_ack_of_a_tuple_ends_the_bolt_as_it_ends_storms_worker() -> None:
    class Twice(Sink):
        def process(self, tup: Any) -> None:
            self.ack(tup)

    class TwiceTopology(Topology):
        numbers = Numbers.spec()
        sink = Twice.spec(inputs=[numbers])

    driver = driver_of(TwiceTopology, count=1)
    driver.run()
    assert "already acked/failed" in driver.engine.stats()["sink"].last_errors[0].text


def test_unanchored_tuples_and_tuples_without_id_are_not_tracked() -> None:
    class Loose(Numbers):
        def next_tuple(self) -> None:
            if self.sent < self.count:
                self.sent += 1
                self.emit([self.sent], tup_id=self.sent if self.sent % 2 else None)

    class Unanchored(Pass):
        auto_anchor = False

    class LooseTopology(Topology):
        numbers = Loose.spec()
        middle = Unanchored.spec(inputs=[numbers])
        sink = Sink.spec(inputs=[middle])

    driver = driver_of(LooseTopology, faults=lambda d: Drop() if d.component == "sink" else None)
    spout = component(driver, "numbers")
    driver.run_until(lambda: False, seconds=31)
    assert (sorted(spout.acked), spout.failed) == ([1, 3, 5, 7, 9], [])


def test_a_batching_bolt_of_pystorm_works_unchanged() -> None:
    class Batches(BatchingBolt):
        outputs = ("n",)
        config = {"topology.tick.tuple.freq.secs": 1}  # noqa: RUF012

        def process_batch(self, key: Any, tups: Any) -> None:
            self.emit([len(tups)])

    class BatchTopology(Topology):
        numbers = Numbers.spec()
        batch = Batches.spec(inputs=[numbers])
        sink = Sink.spec(inputs=[batch])

    driver = driver_of(BatchTopology)
    spout = component(driver, "numbers")
    assert driver.run_until(lambda: len(spout.acked) == 10, seconds=5)
    assert component(driver, "sink").seen == [10]


def test_values_are_passed_by_reference() -> None:
    thing = object()

    class Things(Numbers):
        def next_tuple(self) -> None:
            if self.sent < 1:
                self.sent = 1
                self.emit([thing], tup_id=1)

    class ThingTopology(Topology):
        numbers = Things.spec()
        sink = Late.sink.component_cls.spec(inputs=[numbers])

    driver = driver_of(ThingTopology)
    driver.run()
    assert component(driver, "sink").held[0].values.n is thing


@pytest.mark.parametrize("topology", [Diamonds, Failing, Buffered])
def test_the_same_seed_gives_the_same_run(topology: Any) -> None:
    def trace(seed: int) -> list[Step]:
        steps: list[Step] = []
        driver = driver_of(topology, seed, on_step=steps.append)
        driver.run_until(lambda: False, seconds=2, max_steps=2000)
        return steps

    assert trace(7) == trace(7)
    assert trace(7) != trace(8)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("topology", [Diamonds, Buffered])
def test_whatever_happens_each_tuple_of_the_spout_is_acked_or_failed_once(topology: Any, seed: int) -> None:
    chance, calm = random.Random(seed), False
    faults: list[Fault] = [
        Drop(),
        Delay(3),
        Duplicate(2),
        FailTree(),
        Kill(),
        Kill(silenced=True),
        MakeZombie(4),
        MakeZombie(40),
    ]

    def plan(delivery: Delivery) -> Fault | None:
        spare = calm or (delivery.component == "numbers" and delivery.message.kind not in ("ack", "fail"))
        fault = chance.choice(faults) if chance.random() < 0.1 and not spare else None
        # A spout that dies forgets its tuples; that has a test of its own.
        return None if delivery.component == "numbers" and isinstance(fault, Kill | MakeZombie) else fault

    slow: dict[str, Any] = {"topology.sleep.spout.wait.strategy.time.ms": 100}
    driver = driver_of(topology, seed, faults=plan, count=30, topology__max__spout__pending=5, **slow)
    spout = component(driver, "numbers")
    assert driver.run_until(lambda: len(spout.acked) + len(spout.failed) == 30, seconds=1000)
    calm = True
    driver.run_until(lambda: False, seconds=100)
    assert sorted(spout.acked + spout.failed) == list(range(1, 31))
    assert driver.engine.stats()["numbers"].pending == 0
    assert driver.zombies == []


def test_stop_drains_deactivates_and_closes() -> None:
    driver = driver_of(Chain)
    spout, sink = component(driver, "numbers"), component(driver, "sink")
    for _ in range(10):
        driver.step()
    report = driver.stop(5)
    assert report.drained
    assert report.remaining == ()
    assert spout.calls == ["activate", "deactivate"]
    assert len(spout.acked) == spout.sent < 10
    assert sink.closed


def test_a_component_that_exits_while_it_is_closed_ends_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def exits(self: Numbers) -> None:
        raise SystemExit("killed in its close")

    monkeypatch.setattr(Numbers, "close", exits, raising=False)
    driver = driver_of(Chain)
    sink = component(driver, "sink")
    assert driver.stop(5).drained
    assert sink.closed
    assert "killed in its close" in driver.engine.stats()["numbers"].last_errors[-1].text


def test_stop_says_what_remains() -> None:
    driver = driver_of(Late, count=2)
    driver.run()
    report = driver.stop(5)
    assert not report.drained
    assert [tree.message_id for tree in report.remaining] == [1, 2]


def test_logs_reach_the_engines_logger_once_with_component_and_task(caplog: pytest.LogCaptureFixture) -> None:
    handlers = len(logging.getLogger().handlers)
    with caplog.at_level(logging.DEBUG):
        driver = driver_of(Chain, count=1)
        driver.run()
    assert len(logging.getLogger().handlers) == handlers
    records = [record for record in caplog.records if "seen" in record.getMessage()]
    assert [record.getMessage() for record in records] == ["sink task 3: seen 1"]
    assert (records[0].component, records[0].task) == ("sink", 3)  # type: ignore[attr-defined]
    assert not [record for record in caplog.records if "StormHandler" in record.getMessage()]
