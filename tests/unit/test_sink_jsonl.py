"""The example of a sink passes the contract of sinks; and the contract fails sinks that break it."""

import json
from pathlib import Path
from typing import Any

import pytest
from examples.sinks import jsonl as example
from examples.sinks.jsonl import JsonlBolt

from paystorm.chunk import EventChunk
from paystorm.sink import REFUSALS, by_partition
from paystorm.storm import ChunkBolt
from paystorm.testing import Kit, SinkContract, WriteFault
from paystorm.testing.sink_contract import NotShownError, records, topology_with

Place = tuple[int, int]


class Jsonl(SinkContract):
    """How the files of the example are read."""

    __test__ = False
    sink = JsonlBolt

    def options(self, folder: Path) -> dict[str, Any]:
        return {"jsonl.folder": str(folder)}

    def read(self, folder: Path) -> list[Place]:
        lines = [line for path in sorted(folder.glob("pay/*.jsonl")) for line in path.read_text().splitlines()]
        return [(row["log_partition"], row["log_offset"]) for row in map(json.loads, lines)]


class TestJsonl(Jsonl):
    __test__ = True


class AppendingBolt(ChunkBolt):
    """A sink as one writes it at first: it appends what comes, and knows nothing of repetition."""

    def handle(self, tup: Any) -> None:
        if tup.stream != REFUSALS:
            chunk = self.chunk(EventChunk, tup)
            with Path(self.option("file")).open("a") as file:
                for offset in chunk.events["log_offset"]:
                    file.write(f"{chunk.head.partition} {offset}\n")
        self.done(tup)


class HastyBolt(ChunkBolt):
    """Acknowledges at once, and writes with the next tick."""

    def prepare(self) -> None:
        self.held: list[Place] = []

    def handle(self, tup: Any) -> None:
        if tup.stream != REFUSALS:
            chunk = self.chunk(EventChunk, tup)
            self.held += [(chunk.head.partition, offset) for offset in chunk.events["log_offset"]]
        self.done(tup)

    def process_tick(self, tup: Any) -> None:
        with Path(self.option("file")).open("a") as file:
            file.writelines(f"{partition} {offset}\n" for partition, offset in self.held)
        self.held = []
        self.ack(tup)


class DeafBolt(JsonlBolt):
    """Acknowledges the spout's questions and answers none."""

    def handle(self, tup: Any) -> None:
        if tup.stream == REFUSALS:
            self.done(tup)
        else:
            super().handle(tup)


class Lines(SinkContract):
    """How the file of a sink above is read."""

    __test__ = False

    def __init__(self, sink: Any) -> None:
        self.sink = sink  # type: ignore[misc]

    def options(self, folder: Path) -> dict[str, Any]:
        return {"file": str(folder / "lines")}

    def read(self, folder: Path) -> list[Place]:
        if not (folder / "lines").exists():
            return []
        return [(int(p), int(o)) for p, o in (line.split() for line in (folder / "lines").read_text().splitlines())]


def test_the_contract_fails_a_sink_that_writes_again_what_comes_again(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Lines(AppendingBolt).test_a_crash_at_any_write_loses_and_repeats_nothing(tmp_path, "before")


def test_the_contract_fails_a_sink_that_acknowledges_before_it_writes(tmp_path: Path) -> None:
    with pytest.raises(NotShownError, match="is committed, and the sink does not show it"):
        Lines(HastyBolt).test_every_event_is_shown_once_however_it_is_cut(tmp_path, 7, {"flushMs": 0})


def test_the_contract_fails_a_sink_that_does_not_answer_before_a_record_is_given_up(tmp_path: Path) -> None:
    jsonl = Jsonl()
    jsonl.sink = DeafBolt  # type: ignore[misc]
    with pytest.raises(AssertionError):
        jsonl.test_a_record_that_the_sink_shows_is_never_given_up(tmp_path)


def test_amounts_and_times_are_text_and_data_is_as_it_was_sent(tmp_path: Path) -> None:
    data = {"event_time": "2025-12-31T10:00:00Z", "payer": "u1", "amount": "1.10", "currency": "EUR", "x": "🎉"}
    with Kit(topology_with(JsonlBolt), options={"jsonl.folder": str(tmp_path)}) as kit:
        kit.feed([data])
        kit.run_until_idle()
    (file,) = (tmp_path / "pay").glob("*.jsonl")
    row = json.loads(file.read_text())
    assert (row["log_topic"], row["log_partition"], row["log_offset"]) == ("pay", 0, 0)
    assert (row["amount"].rstrip("0"), row["event_time"]) == ("1.1", "2025-12-31T10:00:00.000000Z")
    assert row["verdict"] == "accepted"
    assert json.loads(row["data"]) == data


def test_what_a_crash_left_aside_is_thrown_away(tmp_path: Path) -> None:
    with Kit(topology_with(JsonlBolt), options={"jsonl.folder": str(tmp_path), "flushMs": 0}) as kit:
        kit.feed(records(0, 5))
        kit.spoil_if(lambda write: WriteFault("after", "crash") if write.what == "sink.stage" else None)
        kit.run_until_idle()
        assert not kit.alive
        assert list((tmp_path / "pay").glob(".*.staged"))
        kit.spoil_if(None)
        kit.restart()
        kit.verify()
    assert not list((tmp_path / "pay").glob(".*"))


def test_a_sink_without_its_option_says_which(tmp_path: Path) -> None:
    with Kit(topology_with(JsonlBolt)) as kit:
        kit.feed(records(0, 1))
        kit.advance(5)
        assert "option jsonl.folder must be str, got None" in "\n".join(kit.errors)


def test_it_is_one_line_in_a_topology(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "topologies" / "purchase.py").read_text()
    (line,) = [x.strip() for x in (example.__doc__ or "").splitlines() if ".spec(" in x]
    text = text.rstrip() + f"\n    {line.replace('/var/spool/events', str(tmp_path))}\n"
    namespace = {"JsonlBolt": JsonlBolt, "by_partition": by_partition, "__name__": "one_line"}
    exec(compile(text, "one_line.py", "exec"), namespace)
    with Kit(namespace["Purchase"]) as kit:
        kit.feed([{"event_time": "2025-12-31T10:00:00Z", "from_party": "u1", "to_party": "u2"}])
        kit.verify()
    assert len(list((tmp_path / "purchase").glob("*.jsonl"))) == 1
