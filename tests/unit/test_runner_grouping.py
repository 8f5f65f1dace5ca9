"""Which tasks a tuple goes to."""

# mypy: disable-error-code="misc"
# (streamparse publishes no types, so its base classes are Any)

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamparse import Bolt, Grouping, JavaBolt, Spout, Stream, Topology

from paystorm.clock import ManualClock
from paystorm.errors import ConfigError
from paystorm.local.grouping import make_grouper, stable_hash
from paystorm.local.plan import StreamPlan, Subscription
from paystorm.local.step import StepDriver

TASKS = (3, 4, 5)


def grouper(kind: str, *fields: str) -> Any:
    return make_grouper(
        Subscription("s", "default", kind, fields), StreamPlan(("k", "v"), False), TASKS, random.Random(1)
    )


@pytest.mark.parametrize("kind", ["shuffle", "local_or_shuffle"])
def test_shuffle_gives_every_task_the_same_number(kind: str) -> None:
    choose = grouper(kind)
    assert Counter(choose(("a", 1))[0] for _ in range(300)) == dict.fromkeys(TASKS, 100)


def test_none_grouping_reaches_every_task() -> None:
    choose = grouper("none")
    assert {choose(("a", 1))[0] for _ in range(100)} == set(TASKS)


def test_all_grouping_sends_to_every_task() -> None:
    assert tuple(grouper("all")(("a", 1))) == TASKS


def test_global_grouping_sends_to_the_lowest_task() -> None:
    assert tuple(grouper("fields")(("a", 1))) == (3,)


@given(st.text(), st.integers(), st.integers())
def test_fields_grouping_depends_on_the_fields_alone(key: str, one: int, other: int) -> None:
    choose = grouper("fields", "k")
    assert choose((key, one)) == choose((key, other))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # As Java's hashCode has it: "hello".hashCode(), Integer, Long, Double, Boolean, List.of(1, 2).
        ("hello", 99162322),
        ("", 0),
        (-1, -1),
        (2**40, 256),
        (1.5, 1073217536),
        (True, 1231),
        (None, 0),
        ([1, 2], 994),
        (b"\xff", 30),
    ],
)
def test_stable_hash_is_that_of_java(value: Any, expected: int) -> None:
    assert stable_hash(value) == expected


def test_stable_hash_refuses_what_json_cannot_carry() -> None:
    with pytest.raises(TypeError, match="object"):
        stable_hash(object())


class Sender(Spout):
    outputs = (Stream(fields=["to"], name="direct", direct=True), Stream(fields=["n"], name="spread"))

    def initialize(self, conf: Any, context: Any) -> None:
        self.todo = 6
        self.replies: list[Any] = []
        self.targets = sorted(int(t) for t, name in context["task->component"].items() if name == "sink")

    def next_tuple(self) -> None:
        if self.todo:
            self.todo -= 1
            target = self.targets[self.todo % 2]
            self.replies.append((target, self.emit([target], stream="direct", direct_task=target, need_task_ids=True)))
            self.replies.append((None, self.emit([self.todo], stream="spread", need_task_ids=True)))


class Sink(Bolt):
    outputs = ()

    def initialize(self, conf: Any, context: Any) -> None:
        self.seen: list[Any] = []

    def process(self, tup: Any) -> None:
        self.seen.append((tup.stream, tup.values))


class DirectTopology(Topology):
    sender = Sender.spec()
    sink = Sink.spec(inputs={sender["direct"]: Grouping.DIRECT, sender["spread"]: Grouping.SHUFFLE}, par={"two": 2})


def test_direct_emits_go_to_the_task_that_was_named_and_task_ids_are_replied() -> None:
    driver = StepDriver(DirectTopology, {}, ManualClock(), random.Random(1), env="two")
    driver.start()
    driver.run()
    assert driver.engine.plan.components["sender"].tasks == (1,)
    assert driver.engine.plan.components["sink"].tasks == (2, 3)
    for task in (2, 3):
        seen = driver.engine.tasks[task].host.component.seen  # type: ignore[union-attr]
        assert [tuple(values) for stream, values in seen if stream == "direct"] == [(task,)] * 3
    replies = driver.engine.tasks[1].host.component.replies  # type: ignore[union-attr]
    assert all(ids == [target] for target, ids in replies if target)
    assert {tuple(ids) for target, ids in replies if not target} == {(2,), (3,)}


def test_context_is_that_of_storms_handshake() -> None:
    driver = StepDriver(DirectTopology, {}, ManualClock(), random.Random(1))
    assert driver.engine.plan.context("sink", 2) == {
        "taskid": 2,
        "componentid": "sink",
        "task->component": {"1": "sender", "2": "sink"},
        "streams": [],
        "stream->outputfields": {},
        "stream->target->grouping": {},
        "source->stream->grouping": {"sender": {"direct": {"type": "DIRECT"}, "spread": {"type": "SHUFFLE"}}},
        "source->stream->fields": {"sender": {"direct": ["to"], "spread": ["n"]}},
    }
    assert driver.engine.plan.context("sender", 1)["stream->target->grouping"] == {
        "direct": {"sink": {"type": "DIRECT"}},
        "spread": {"sink": {"type": "SHUFFLE"}},
    }


def test_a_java_component_is_refused() -> None:
    class JavaTopology(Topology):
        sender = Sender.spec()
        sink = JavaBolt.spec(full_class_name="org.example.Sink", args_list=[], inputs={sender["spread"]: Grouping.ALL})

    with pytest.raises(ConfigError, match="sink: only Python"):
        StepDriver(JavaTopology, {}, ManualClock(), random.Random(1))


def test_a_bad_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"topology.message.timeout.secs must be a number ≥ 0.001, got -1"):
        StepDriver(DirectTopology, {"topology.message.timeout.secs": -1}, ManualClock(), random.Random(1))
