"""The four topologies as Storm gets them, and their components as Storm runs them: processes that speak multilang."""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from streamparse import Topology
from streamparse.util import get_topology_from_file

from bolts.blacklist_lookup import DECISION
from paystorm.chunk import EventChunk, LetterChunk, RecordChunk, load
from paystorm.local.multilang import MultilangChild, settles
from paystorm.log.base import OutRecord
from paystorm.resources import Resources, open_embedded
from paystorm.source import Source
from paystorm.stores.checkpoints import load_checkpoints
from paystorm.stores.hits import load_hits
from paystorm.stores.letters import letter_at

ROOT = Path(__file__).parents[2]
NAMES = {"browser": "browser", "customer_service": "customer-service", "purchase": "purchase", "refund": "refund"}
"""The source of each file."""
CHUNKS = ["partition", "chunk"]
COMPONENTS = {
    "spout": "spouts.kafka.KafkaSpout",
    "validation": "bolts.validation.ValidationBolt",
    "lookup": "bolts.blacklist_lookup.BlacklistLookupBolt",
    "warehouse": "bolts.warehouse.WarehouseBolt",
    "counts": "bolts.window_count.WindowCountBolt",
    "dead_letters": "bolts.dead_letters.DeadLettersBolt",
}
STREAMS = {
    "spout": {"default": False, "refusals": False},
    "validation": {"default": False, "invalid": False},
    "lookup": {"default": False, "shards": False},
    "warehouse": {},
    "counts": {},
    "dead_letters": {},
}
"""Whether each stream is direct."""
GROUPINGS: dict[str, dict[tuple[str, str], tuple[str, Any]]] = {
    "spout": {},
    "validation": {("spout", "default"): ("shuffle", None)},
    "lookup": {("validation", "default"): ("shuffle", None)},
    "warehouse": {("lookup", "default"): ("fields", ["partition"]), ("spout", "refusals"): ("fields", ["partition"])},
    "counts": {("lookup", "shards"): ("fields", ["route"]), ("spout", "refusals"): ("all", None)},
    "dead_letters": {("validation", "invalid"): ("fields", ["partition"])},
}


def topology_of(name: str) -> type[Topology]:
    """The class of a file of `topologies`, loaded as sparse does, without a trace in this process."""
    path, modules = list(sys.path), set(sys.modules)
    try:
        return get_topology_from_file(str(ROOT / "topologies" / f"{name}.py"))
    finally:
        sys.path[:] = path
        if name not in modules:
            sys.modules.pop(name, None)


def commons(topology: type[Topology]) -> dict[str, Any]:
    thrift = topology.thrift_topology
    return {name: component.common for name, component in {**thrift.spouts, **thrift.bolts}.items()}


def grouping(of: Any) -> tuple[str, Any]:
    """The one kind of a Thrift grouping that is set, with its fields."""
    kinds = ("fields", "shuffle", "all", "none", "direct", "custom_object", "custom_serialized", "local_or_shuffle")
    (kind,) = [kind for kind in kinds if getattr(of, kind) is not None]
    return kind, of.fields if kind == "fields" else None


@pytest.mark.parametrize("name", NAMES)
def test_a_topology_builds_its_thrift_structure(name: str) -> None:
    topology = topology_of(name)
    thrift = topology.thrift_topology
    assert list(thrift.spouts) == ["spout"]
    assert set(thrift.bolts) == COMPONENTS.keys() - {"spout"}
    shells = {"spout": thrift.spouts["spout"].spout_object.shell}
    shells |= {bolt: spec.bolt_object.shell for bolt, spec in thrift.bolts.items()}
    assert {component: shell.script for component, shell in shells.items()} == COMPONENTS
    assert {shell.execution_command for shell in shells.values()} == {"streamparse_run"}
    for component, common in commons(topology).items():
        assert {stream: info.direct for stream, info in common.streams.items()} == STREAMS[component], component
        fields = {stream: info.output_fields for stream, info in common.streams.items()}
        assert fields == {stream: ["route", "chunk"] if stream == "shards" else CHUNKS for stream in fields}, component
        inputs = {(of.componentId, of.streamId): grouping(how) for of, how in (common.inputs or {}).items()}
        assert inputs == GROUPINGS[component], component
        assert common.parallelism_hint == 1
        assert json.loads(common.json_conf) == {}, "nothing of one component's own hides the topology's"


@pytest.mark.parametrize("name", NAMES)
def test_a_topologys_configuration_holds_its_source_and_ticks_as_json(name: str) -> None:
    config = topology_of(name).config
    assert config.keys() == {"paystorm.source", "topology.tick.tuple.freq.secs"}
    assert config["topology.tick.tuple.freq.secs"] == 1
    source = Source.from_dict(json.loads(json.dumps(config))["paystorm.source"])
    assert (source.name, source.topic) == (NAMES[name], NAMES[name])
    assert source.enforces == (name in ("purchase", "refund"))
    assert source.rules
    assert source.to_dict() == config["paystorm.source"]


def test_there_is_no_other_topology_and_each_has_its_requirements() -> None:
    assert {path.stem for path in (ROOT / "topologies").glob("*.py")} == NAMES.keys()
    assert {path.stem for path in (ROOT / "virtualenvs").glob("*.txt")} == NAMES.keys()


TASKS = {str(n): component for n, component in enumerate(COMPONENTS, 1)}
TASK_OF = {component: int(n) for n, component in TASKS.items()}


class Running:
    """The components of the purchase topology, each a process of its own over one data folder."""

    def __init__(self, folder: Path, children: dict[str, MultilangChild]) -> None:
        self.children = children
        config = topology_of("purchase").config
        conf = json.loads(json.dumps({**config, "paystorm.data": str(folder / "data"), "publishAccepted": False}))
        fields = {c: dict.fromkeys(streams, CHUNKS) for c, streams in STREAMS.items()}
        for component, child in children.items():
            inputs: dict[str, Any] = {}
            for source, stream in GROUPINGS[component]:
                inputs.setdefault(source, {})[stream] = fields[source][stream]
            context = {
                "taskid": TASK_OF[component],
                "componentid": component,
                "task->component": TASKS,
                "source->stream->fields": inputs,
            }
            child.handshake(conf, context)

    def process(self, component: str, emitted: dict[str, Any], source: str) -> list[dict[str, Any]]:
        """Give a bolt what another component sent; ticks come until it is acked. Gives what the bolt sent."""
        child = self.children[component]
        stream = emitted.get("stream") or "default"
        tuple_id = child.send_tuple(emitted["tuple"], component=source, stream=stream, task=TASK_OF[source])
        messages: list[dict[str, Any]] = []
        for _ in range(100):
            tick = child.tick()
            messages += child.read_until(lambda message, tick=tick: settles(message, tick))
            ends = [message["command"] for message in messages if settles(message, tuple_id)]
            if ends:
                assert ends == ["ack"]
                emits = [message for message in messages if message["command"] == "emit"]
                assert all(message["anchors"] == [tuple_id] for message in emits)
                return emits
            time.sleep(0.02)
        raise AssertionError(f"{component} has not acked\n{child.stderr}")

    def ask_spout(self) -> dict[str, Any]:
        """The next tuple of the spout."""
        for _ in range(100):
            for message in self.children["spout"].command("next"):
                if message["command"] == "emit":
                    return message
            time.sleep(0.02)
        raise AssertionError(f"the spout sends nothing\n{self.children['spout'].stderr}")


@pytest.fixture
def data(tmp_path: Path) -> Resources:
    return open_embedded(tmp_path / "data")


def purchase(second: int, **data: Any) -> OutRecord:
    event = {"event_time": f"2026-01-01T00:00:{second:02}Z", "from_party": "u1", "to_party": "u2", **data}
    return OutRecord(json.dumps({"ApplicationRef": "shop", "data": event}).encode(), None, 1)


def test_a_chunk_goes_through_the_processes_of_a_topology_as_text(tmp_path: Path, data: Resources) -> None:
    data.log.create_topic("purchase", 2)
    data.log.append("purchase", [purchase(n, amount=1, currency="EUR") for n in range(40)] + [OutRecord(b"{", None, 1)])
    with contextlib.ExitStack() as stack:
        children = {
            name: stack.enter_context(MultilangChild(script, folder=ROOT / "src", pid_dir=tmp_path, timeout=30))
            for name, script in COMPONENTS.items()
        }
        run = Running(tmp_path, children)
        assert [m["command"] for m in children["spout"].command("activate")] == ["sync"]

        sent = run.ask_spout()
        assert (sent["tuple"][0], sent.get("stream") or "default") == (1, "default")
        assert isinstance(sent["tuple"][1], str)
        records = load(RecordChunk, sent["tuple"][1])
        assert (records.head.first, records.head.after, len(records.batch())) == (0, 41, 41)

        valid, invalid = run.process("validation", sent, "spout")
        assert (valid.get("stream") or "default", invalid["stream"]) == ("default", "invalid")
        assert load(EventChunk, valid["tuple"][1]).events["log_offset"].to_list() == list(range(40))
        assert [letter.offset for letter in load(LetterChunk, invalid["tuple"][1]).letters] == [40]

        decided, touches = run.process("lookup", valid, "validation")
        assert touches["stream"] == "shards"
        assert "task" not in touches, "Storm 2.8 takes no task id from a component that speaks JSON"
        events = load(EventChunk, decided["tuple"][1]).events
        assert set(DECISION) <= set(events.columns)
        assert events["verdict"].to_list() == ["accepted"] * 40
        assert sorted(load(EventChunk, touches["tuple"][1]).events["party"].to_list()) == ["u1"] * 40 + ["u2"] * 40

        assert run.process("dead_letters", invalid, "validation") == []
        assert run.process("warehouse", decided, "lookup") == []
        assert run.process("counts", touches, "lookup") == []
        children["spout"].command("ack", sent["id"])
        children["spout"].command("deactivate")

    assert {p: c.committed for (_, p), c in load_checkpoints(data.tables, "purchase").items()} == {0: 0, 1: 41}
    standing = {(hit.rule, hit.party, hit.offset) for hit in load_hits(data.tables, "purchase")}
    assert standing == {("account_per_day", "u1", 30), ("account_per_day", "u2", 30)}
    letter = letter_at(data.tables, "purchase", 1, 40)
    assert letter is not None
    assert (letter.code, letter.value) == ("not_json", b"{")
    data.close()
