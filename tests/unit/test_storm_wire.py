"""Storm's messages over pipes, and a bolt that does not wait for Storm's ticks."""

import gc
import io
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import pytest
from pystorm.exceptions import StormWentAwayError
from pystorm.serializers.json_serializer import JSONSerializer

from paystorm.garbage import COLLECT_EVERY
from paystorm.storm import ChunkBolt
from paystorm.storm_wire import Wire, in_own_process, wired


class Ends:
    """A task's wire, and Storm's ends of its pipes."""

    def __init__(self) -> None:
        given, self.feed = os.pipe()
        self.said, taken = os.pipe()
        self.files: list[BinaryIO] = [os.fdopen(given, "rb"), os.fdopen(taken, "wb")]
        self.serializer = JSONSerializer(*self.files, threading.RLock(), threading.RLock())
        self.wire = wired(self.serializer)

    def tell(self, *messages: Any) -> None:
        os.write(self.feed, b"".join(json.dumps(m).encode() + b"\nend\n" for m in messages))

    def close(self) -> None:
        for descriptor in (self.feed, self.said):
            os.close(descriptor)
        for file in self.files:
            file.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def test_messages_come_one_by_one_however_they_are_cut(ends: Ends) -> None:
    messages = [{"tuple": ["x" * 300_000, 1]}, [3, 4], {"text": "\nend\n é"}]
    text = b"".join(json.dumps(m).encode() + b"\nend\n" for m in messages)

    def feed() -> None:
        for at in range(0, len(text), 7001):
            os.write(ends.feed, text[at : at + 7001])

    thread = threading.Thread(target=feed)
    thread.start()
    assert [ends.wire.read_message() for _ in messages] == messages
    thread.join()


def test_the_end_of_the_input_is_storm_going_away(ends: Ends) -> None:
    ends.tell({"command": "next"})
    os.close(ends.feed)
    assert ends.wire.read_message() == {"command": "next"}
    with pytest.raises(StormWentAwayError):
        ends.wire.read_message()
    ends.feed = os.dup(ends.said)  # something to close


def test_what_is_said_is_what_pystorm_would_say(ends: Ends) -> None:
    for message in (
        {"command": "emit", "tuple": [0, "chunk"], "anchors": ["1"], "need_task_ids": False},
        {"command": "log", "msg": "a lone surrogate: \ud800"},
    ):
        ends.wire.send_message(message)
        said = os.read(ends.said, 10_000)
        assert said.endswith(b"\nend\n")
        assert json.loads(said[:-5]) == json.loads(ends.serializer.serialize_dict(message)[:-5])


def test_waiting_ends_when_the_time_is_over_or_something_comes(ends: Ends) -> None:
    assert not ends.wire.waits(0.01)
    assert not ends.wire.waits(-1.0)
    ends.tell([1], [2])
    assert ends.wire.waits(10.0)
    assert ends.wire.read_message() == [1]
    assert ends.wire.waits(0.0), "the other one has been read, but not handed out"
    assert ends.wire.read_message() == [2]
    assert not ends.wire.waits(0.0)


def test_streams_that_are_no_files_stay_with_pystorm() -> None:
    anything = object()
    assert wired(anything) is anything


def test_a_task_in_its_own_process_has_pythons_collector_look_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(gc, "freeze", lambda: done.append("freeze"))
    monkeypatch.setattr(gc, "set_threshold", lambda *thresholds: done.append(thresholds))
    anything = object()
    assert in_own_process(anything) is anything
    assert done == ["freeze", COLLECT_EVERY]


class Gathering(ChunkBolt):
    """Flushes what it gathers a moment later."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(io.BytesIO(), io.BytesIO())
        self.serializer = wire
        self.flushed: list[float] = []
        self.due_at: float | None = None

    def due_in(self) -> float | None:
        return None if self.due_at is None else self.due_at - time.monotonic()

    def flush_if_due(self) -> None:
        if self.due_at is not None and time.monotonic() >= self.due_at:
            self.flushed.append(time.monotonic())
            self.due_at = None


class Silent:
    """A meter that keeps nothing."""

    def worked(self, since: float, tuples: int = 1) -> None:
        pass

    def tell_if_due(self) -> None:
        pass


def test_a_bolt_does_what_is_due_without_a_tick(ends: Ends) -> None:
    bolt = Gathering(ends.wire)
    bolt.clock, bolt.meter = time, Silent()  # type: ignore[assignment]
    bolt.due_at = due = time.monotonic() + 0.05
    bolt._run()
    assert len(bolt.flushed) == 1
    assert 0 <= bolt.flushed[0] - due < 5.0, "and no tuple or tick came at all"
