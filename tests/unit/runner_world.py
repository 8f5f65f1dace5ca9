"""Small topologies of streamparse components, driven step by step."""

# mypy: disable-error-code="misc"
# (streamparse publishes no types, so its base classes are Any)

import random
from collections.abc import Callable
from typing import Any

from streamparse import Bolt, Grouping, Spout, Topology

from paystorm.clock import ManualClock
from paystorm.local.faults import Delivery, Fault, FaultPlan
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
