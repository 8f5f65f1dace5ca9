"""The runner with a thread for each task, and the cluster of several topologies."""

# mypy: disable-error-code="misc"
# (streamparse publishes no types, so its base classes are Any)

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from runner_world import Pass
from streamparse import Bolt, Grouping, Spout, Topology

from paystorm.clock import SystemClock
from paystorm.errors import UsageError
from paystorm.local.components import Message
from paystorm.local.runner import LocalCluster
from paystorm.local.threads import BlockingInbox, ThreadDriver

CLOCK = SystemClock()


def eventually(true: Callable[[], bool], seconds: float = 20) -> bool:
    end = CLOCK.monotonic() + seconds
    while not true() and CLOCK.monotonic() < end:
        CLOCK.sleep(0.005)
    return true()


class Numbers(Spout):
    outputs = ("n",)

    def initialize(self, conf: Any, context: Any) -> None:
        self.count, self.sent = conf["count"], 0

    def next_tuple(self) -> None:
        if self.sent < self.count:
            self.sent += 1
            self.emit([self.sent], tup_id=self.sent)


class Sink(Bolt):
    outputs = ()

    def initialize(self, conf: Any, context: Any) -> None:
        self.thread = threading.get_ident()
        self.raises_on = conf.get("raises_on")
        self.closed = conf.get("closed", [])

    def process(self, tup: Any) -> None:
        assert threading.get_ident() == self.thread
        if tup.values.n == self.raises_on:
            raise ValueError("no")

    def close(self) -> None:
        assert threading.get_ident() == self.thread
        self.closed.append(self.task_id)


class Buffering(Sink):
    auto_ack = False
    config = {"topology.tick.tuple.freq.secs": 0.05}  # noqa: RUF012  streamparse wants a dict

    def initialize(self, conf: Any, context: Any) -> None:
        super().initialize(conf, context)
        self.buffer: list[Any] = []

    def process(self, tup: Any) -> None:
        self.buffer.append(tup)

    def process_tick(self, tup: Any) -> None:
        while self.buffer:
            self.ack(self.buffer.pop())


class Never(Bolt):
    outputs = ()
    auto_ack = False

    def process(self, tup: Any) -> None:
        pass


class Chain(Topology):
    numbers = Numbers.spec()
    first = Pass.spec(inputs=[numbers])
    second = Pass.spec(inputs={first: Grouping.fields("n")}, par=2)
    sink = Sink.spec(inputs=[second])


class Buffered(Topology):
    numbers = Numbers.spec()
    first = Pass.spec(inputs=[numbers])
    sink = Buffering.spec(inputs=[first])


class Stuck(Topology):
    numbers = Numbers.spec()
    sink = Never.spec(inputs=[numbers])


def driver_of(topology: Any, **conf: Any) -> ThreadDriver:
    options = {key.replace("__", "."): value for key, value in conf.items()}
    driver = ThreadDriver(topology, options, CLOCK, random.Random(1))
    driver.start()
    return driver


@pytest.mark.parametrize("pending", [None, 20])
def test_ten_thousand_tuples_go_through_a_chain_and_all_are_acked(pending: int | None) -> None:
    driver = driver_of(Chain, count=10_000, topology__max__spout__pending=pending)
    assert eventually(lambda: driver.engine.stats()["numbers"].acked == 10_000)
    assert eventually(driver.quiet)
    stats = driver.engine.stats()
    assert driver.stop(5).drained
    assert [stats[name].acked for name in ("first", "second", "sink")] == [10_000] * 3
    assert stats["numbers"].failed == 0
    assert stats["numbers"].pending == 0


def test_stop_drains_what_a_bolt_has_buffered_and_closes_in_the_tasks_thread() -> None:
    closed: list[int] = []
    driver = driver_of(Buffered, count=10**9, closed=closed, topology__max__spout__pending=50)
    assert eventually(lambda: driver.engine.stats()["sink"].acked > 100)
    report = driver.stop(5)
    assert report.drained
    assert report.stuck == ()
    stats = driver.engine.stats()
    assert stats["numbers"].emitted == stats["numbers"].acked
    assert closed == [3]


def test_stop_says_which_trees_remain_when_its_time_is_over() -> None:
    driver = driver_of(Stuck, count=2)
    assert eventually(lambda: driver.engine.stats()["sink"].pending == 2)
    report = driver.stop(0.1)
    assert not report.drained
    assert [tree.message_id for tree in report.remaining] == [1, 2]
    assert report.stuck == ()


def test_stop_frees_a_task_that_waits_for_room() -> None:
    gate = threading.Event()

    class Blocked(Never):
        def process(self, tup: Any) -> None:
            gate.wait(20)

    class BlockedTopology(Topology):
        numbers = Numbers.spec()
        sink = Blocked.spec(inputs=[numbers])

    driver = driver_of(BlockedTopology, count=100, topology__executor__receive__buffer__size=4)
    # One is being processed, up to four wait (a writer that found no room goes on when half is free), one has no room.
    assert eventually(lambda: driver.engine.stats()["numbers"].emitted >= 5)
    CLOCK.sleep(0.05)
    assert driver.engine.stats()["numbers"].emitted <= 6
    assert driver.engine.stats()["sink"].waiting >= 3
    threading.Timer(0.2, gate.set).start()
    assert driver.stop(0.05).stuck == ()


def test_a_timeout_fails_a_tree() -> None:
    driver = driver_of(Stuck, count=2, topology__message__timeout__secs=0.1)
    assert eventually(lambda: driver.engine.stats()["numbers"].failed == 2)
    driver.stop(0)


def test_a_bolt_that_raises_is_replaced() -> None:
    driver = driver_of(Chain, count=100, raises_on=50, paystorm__local__restart__delay__ms=20)
    assert eventually(lambda: driver.engine.stats()["numbers"].acked == 99)
    stats = driver.engine.stats()
    assert (stats["numbers"].failed, stats["sink"].restarts, stats["sink"].errors) == (1, 1, 1)
    assert driver.stop(5).drained


def test_an_inbox_takes_acks_when_it_is_full_and_tuples_when_there_is_room() -> None:
    inbox = BlockingInbox(2)
    assert inbox.put(Message("tuple"))
    assert inbox.put(Message("tuple"))
    inbox.push(Message("ack"))
    writer = threading.Thread(target=inbox.put, args=(Message("late"),))
    writer.start()
    writer.join(0.05)
    assert writer.is_alive()
    assert [inbox.get(0).kind for _ in range(3)] == ["tuple", "tuple", "ack"]  # type: ignore[union-attr]
    writer.join(5)
    assert inbox.get(0).kind == "late"  # type: ignore[union-attr]
    assert inbox.get(0) is None
    inbox.close()
    assert not inbox.put(Message("tuple"))


def test_a_cluster_runs_several_topologies_and_kills_each_by_its_name() -> None:
    cluster = LocalCluster(CLOCK, random.Random(1))
    ready = threading.Event()
    cluster.submit("one", Chain, {"count": 100})
    cluster.submit("two", Buffered, {"count": 100}, is_idle=ready.is_set)
    with pytest.raises(UsageError, match="one is running already"):
        cluster.submit("one", Chain, {"count": 1})
    assert eventually(lambda: cluster.stats("one")["numbers"].acked == 100 and cluster.idle("one"))
    assert eventually(lambda: cluster.stats("two")["numbers"].acked == 100)
    assert not cluster.idle("two")
    ready.set()
    assert eventually(lambda: cluster.idle("two"))
    assert cluster.kill("one").drained
    assert cluster.names == ("two",)
    with pytest.raises(UsageError, match="one is not running; running: two"):
        cluster.idle("one")
    assert cluster.stop()["two"].drained
