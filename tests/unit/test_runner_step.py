"""Tuple trees, ticks, time-outs, deaths and faults, run step by step under a seed."""

# mypy: disable-error-code="misc"
# (streamparse publishes no types, so its base classes are Any)

import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
from streamparse import BatchingBolt, Bolt, Grouping, Spout, Topology

from paystorm.clock import ManualClock
from paystorm.local.faults import Delay, Delivery, Drop, Duplicate, FailTree, Fault, FaultPlan, Kill, MakeZombie
from paystorm.local.step import Step, StepDriver


class Numbers(Spout):
    """Emits 1 to conf["count"], and notes what becomes of them."""

    outputs = ("n",)

    def initialize(self, conf: Any, context: Any) -> None:
        self.count, self.sent = conf.get("count", 10), 0
        self.acked: list[int] = []
        self.failed: list[int] = []
        self.calls: list[str] = []

    def next_tuple(self) -> None:
        if self.sent < self.count:
            self.sent += 1
            self.emit([self.sent], tup_id=self.sent)

    def ack(self, tup_id: Any) -> None:
        self.acked.append(tup_id)

    def fail(self, tup_id: Any) -> None:
        self.failed.append(tup_id)

    def activate(self) -> None:
        self.calls.append("activate")

    def deactivate(self) -> None:
        self.calls.append("deactivate")


class Pass(Bolt):
    outputs = ("n",)

    def process(self, tup: Any) -> None:
        self.emit([tup.values.n])


class Sink(Bolt):
    outputs = ()

    def initialize(self, conf: Any, context: Any) -> None:
        self.seen: list[int] = []
        self.closed = False
        self.fails_on = conf.get("fails_on")
        self.raises_on = conf.get("raises_on")

    def process(self, tup: Any) -> None:
        if tup.values.n == self.raises_on:
            raise ValueError(f"cannot take {tup.values.n}")
        self.seen.append(tup.values.n)
        self.logger.info("seen %d", tup.values.n)

    def close(self) -> None:
        self.closed = True


class Refusing(Sink):
    auto_ack = False

    def process(self, tup: Any) -> None:
        (self.fail if tup.values.n == self.fails_on else self.ack)(tup)


class Buffering(Bolt):
    """Acks at ticks, all that came since the last."""

    auto_ack = False
    outputs = ()
    config = {"topology.tick.tuple.freq.secs": 0.5}  # noqa: RUF012  streamparse wants a dict

    def initialize(self, conf: Any, context: Any) -> None:
        self.buffer: list[Any] = []
        self.ticks = 0
        self.flushed: list[int] = []

    def process(self, tup: Any) -> None:
        self.buffer.append(tup)

    def process_tick(self, tup: Any) -> None:
        assert (tup.component, tup.stream, tup.task) == ("__system", "__tick", -1)
        self.ticks += 1
        for held in self.buffer:
            self.flushed.append(held.values.n)
            self.ack(held)
        self.buffer.clear()
        self.ack(tup)


class Silent(Bolt):
    """Acks after 40 s only: later than the message timeout."""

    auto_ack = False
    outputs = ()
    config = {"topology.tick.tuple.freq.secs": 40}  # noqa: RUF012

    def initialize(self, conf: Any, context: Any) -> None:
        self.held: list[Any] = []

    def process(self, tup: Any) -> None:
        self.held.append(tup)

    def process_tick(self, tup: Any) -> None:
        for held in self.held:
            self.ack(held)
        self.held.clear()


class Diamonds(Topology):
    """Two diamonds in a row, the second with several tasks."""

    numbers = Numbers.spec()
    left = Pass.spec(inputs=[numbers])
    right = Pass.spec(inputs=[numbers])
    middle = Pass.spec(inputs=[left, right], par=2)
    up = Pass.spec(inputs={middle: Grouping.fields("n")})
    down = Pass.spec(inputs={middle: Grouping.ALL}, par=2)
    sink = Sink.spec(inputs=[up, down])


class Chain(Topology):
    numbers = Numbers.spec()
    middle = Pass.spec(inputs=[numbers])
    sink = Sink.spec(inputs=[middle])


class Failing(Topology):
    numbers = Numbers.spec()
    ok = Sink.spec(inputs=[numbers])
    middle = Pass.spec(inputs=[numbers])
    bad = Refusing.spec(inputs=[middle], config={"fails_on": 4})


class Buffered(Topology):
    numbers = Numbers.spec()
    middle = Pass.spec(inputs=[numbers])
    sink = Buffering.spec(inputs=[middle])


class Late(Topology):
    numbers = Numbers.spec()
    sink = Silent.spec(inputs=[numbers])


def driver_of(
    topology: Any,
    seed: int = 1,
    faults: FaultPlan | None = None,
    on_step: Callable[[Step], None] | None = None,
    **conf: Any,
) -> StepDriver:
    options = {key.replace("__", "."): value for key, value in conf.items()}
    driver = StepDriver(topology, options, ManualClock(), random.Random(seed), faults=faults, on_step=on_step)
    driver.start()
    return driver


def component(driver: StepDriver, name: str) -> Any:
    host = driver.engine.tasks[driver.engine.plan.components[name].tasks[0]].host
    assert host is not None
    return host.component


def once(when: Callable[[Delivery], bool], fault: Fault) -> FaultPlan:
    """A plan that puts one fault on the first delivery for which `when` is true."""
    done = False

    def plan(delivery: Delivery) -> Fault | None:
        nonlocal done
        if done or not when(delivery):
            return None
        done = True
        return fault

    return plan


def tuple_for(name: str, n: int) -> Callable[[Delivery], bool]:
    return lambda d: d.component == name and d.message.kind == "tuple" and d.message.values == (n,)


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
