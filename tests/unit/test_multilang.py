"""A component as Storm runs it: a process of its own that speaks multilang JSON."""

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from paystorm.local.multilang import MultilangChild, MultilangError

EXAMPLE = """
    from streamparse import Bolt, Spout

    class Doubling(Bolt):
        outputs = ["n"]

        def initialize(self, conf, context):
            self.factor, self.ticks = conf["factor"], 0

        def process(self, tup):
            if tup.values.n < 0:
                raise ValueError("negative")
            if tup.values.n == 99:
                self.emit([self.emit([0], need_task_ids=True)])
            else:
                self.emit([tup.values.n * self.factor])

        def process_tick(self, tup):
            self.ticks += 1
            self.emit([self.ticks], stream="ticks")

    class Counting(Spout):
        outputs = ["n"]

        def initialize(self, conf, context):
            self.n = 0

        def next_tuple(self):
            self.n += 1
            self.emit([self.n], tup_id=str(self.n))

        def fail(self, tup_id):
            self.emit([-int(tup_id)], tup_id=tup_id)
"""
CONTEXT = {
    "taskid": 2,
    "componentid": "doubling",
    "task->component": {"1": "numbers", "2": "doubling"},
    "source->stream->fields": {"numbers": {"default": ["n"]}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "example.py").write_text(textwrap.dedent(EXAMPLE))
    return tmp_path


@pytest.fixture
def bolt(folder: Path) -> Iterator[MultilangChild]:
    with MultilangChild("example.Doubling", folder=folder, pid_dir=folder) as child:
        assert child.handshake({"factor": 2}, CONTEXT) == child.pid
        yield child


def test_a_tuple_is_processed_anchored_and_acked(bolt: MultilangChild) -> None:
    emit, ack = bolt.process([21], component="numbers")
    assert emit == {"command": "emit", "tuple": [42], "anchors": ["1"], "need_task_ids": False}
    assert ack == {"command": "ack", "id": "1"}


def test_a_tick_reaches_the_bolt(bolt: MultilangChild) -> None:
    tick = bolt.tick()
    emit, ack = bolt.read_until(lambda message: message.get("command") == "ack")
    assert (emit["tuple"], emit["stream"], ack["id"]) == ([1], "ticks", tick)


def test_a_heartbeat_is_answered_with_sync(bolt: MultilangChild) -> None:
    assert bolt.heartbeat() == [{"command": "sync"}]


def test_task_ids_are_given_to_the_bolt_that_asks(bolt: MultilangChild) -> None:
    bolt.send_tuple([99], component="numbers")
    bolt.read_until(lambda message: message.get("tuple") == [0])
    bolt.send_task_ids([3, 4])
    assert bolt.read_until(lambda message: message.get("command") == "emit")[-1]["tuple"] == [[3, 4]]


def test_a_bolt_that_raises_reports_fails_its_tuple_and_ends(bolt: MultilangChild) -> None:
    messages = bolt.process([-1], component="numbers")
    assert [message["command"] for message in messages] == ["error", "sync", "fail"]
    assert "ValueError: negative" in messages[0]["msg"]
    assert bolt.wait() == 1
    with pytest.raises(MultilangError, match="closed its output"):
        bolt.read()


def test_a_spout_answers_each_command_with_sync(folder: Path) -> None:
    with MultilangChild("example.Counting", folder=folder, pid_dir=folder) as spout:
        spout.handshake({}, {"taskid": 1, "componentid": "numbers", "task->component": {"1": "numbers"}})
        assert [m["command"] for m in spout.command("activate")] == ["sync"]
        assert spout.command("next")[0]["tuple"] == [1]
        assert [m["command"] for m in spout.command("ack", "1")] == ["sync"]
        assert spout.command("fail", "1")[0]["tuple"] == [-1]


def test_silence_is_an_error_after_the_timeout(bolt: MultilangChild) -> None:
    bolt.read_until(lambda message: message.get("command") == "log")
    with pytest.raises(MultilangError, match=r"no message within 0.1 s"):
        bolt.read(timeout=0.1)


def test_the_child_is_gone_after_close(folder: Path) -> None:
    with MultilangChild("example.Doubling", folder=folder, pid_dir=folder) as child:
        pid = child.handshake({"factor": 2}, CONTEXT)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_that_cannot_start_says_why(folder: Path) -> None:
    with (
        MultilangChild("example.Missing", folder=folder, pid_dir=folder) as child,
        pytest.raises(MultilangError, match="Missing"),
    ):
        child.handshake({}, CONTEXT)
