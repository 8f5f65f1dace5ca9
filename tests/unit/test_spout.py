"""The spout as an engine drives it: which partitions, whose turn, how much, holding, stopping."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from paystorm.chunk import RecordChunk, Refusal, load
from paystorm.clock import SECOND, ManualClock
from paystorm.errors import TablesError
from paystorm.local.components import Host, Message
from paystorm.log.base import OutRecord
from paystorm.log.embedded import EmbeddedLog
from paystorm.resources import HANDED_OVER, Resources
from paystorm.rules import Rule
from paystorm.source import Field, Party, Source
from paystorm.stores.checkpoints import load_checkpoints
from paystorm.stores.control import Hold, lift_hold, load_held, load_problems, put_hold
from paystorm.stores.journal import read_shard
from paystorm.stores.letters import letter_at
from paystorm.stores.lists import registered_sources
from paystorm.stores.retry import all_parked, park, put_answer
from paystorm.stores.versions import load_firsts, load_versions
from paystorm.storm import topology_config
from paystorm.tables.memory import MemoryTables
from paystorm.warehouse.base import Warehouse
from spouts.kafka import KafkaSpout

SOURCE = Source(
    name="s",
    topic="t",
    enforces=True,
    fields=(Field(name="event_time", type="time", required=True), Field(name="payer", type="id")),
    parties=(Party(field="payer", role="sender", kind="account"),),
    rules=(Rule(name="per_day", kind="account", limit=3),),
)


class Tree:
    """As much of a tuple tree as a spout's message needs."""

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id


class Cluster:
    """Spout tasks of one component over the same log and tables."""

    def __init__(self, folder: Path, partitions: int = 1, tasks: int = 1, **options: Any) -> None:
        self.clock = ManualClock(1_767_225_600 * SECOND)
        self.log = EmbeddedLog(folder, self.clock)
        self.tables = MemoryTables()
        self.options = {"chunkRecords": 10, **options}
        self.tasks = tasks
        self.errors: list[str] = []
        self.emitted: list[tuple[str, str | None, Any]] = []
        """(tuple id, stream, chunk) of tuples that are neither acked nor failed."""
        if partitions:
            self.log.create_topic("t", partitions)

    def start(self, index: int = 0, source: Source = SOURCE, **options: Any) -> KafkaSpout:
        resources = Resources(self.clock, self.log, self.tables, cast(Warehouse, None))
        conf = {**topology_config(source), HANDED_OVER: resources, **self.options, **options}
        # Task ids are numbers that sort as such; 9 and 10 do not sort as text.
        names = {str(9 + i): "spout" for i in range(self.tasks)} | {"1": "other"}
        context = {"taskid": 9 + index, "componentid": "spout", "task->component": names}
        host = Host(KafkaSpout, "spout", 9 + index, self, logging.getLogger("test"))
        assert host.start(conf, context)
        spout = host.component
        assert isinstance(spout, KafkaSpout)
        spout.host = host
        return spout

    def write(self, partition: int, n: int) -> None:
        self.log.append("t", [OutRecord(b'{"ApplicationRef":"a","data":{}}', None, partition) for _ in range(n)])

    def next(self, spout: KafkaSpout) -> Any:
        """The chunk that the spout emits when it is asked once, or None."""
        before = len(self.emitted)
        spout.host.run(Message("next"))
        assert len(self.emitted) - before <= 1
        return self.emitted[-1][2] if len(self.emitted) > before else None

    def settle(self, spout: KafkaSpout, kind: str = "ack") -> None:
        """Ack (or fail) all tuples that are out."""
        out, self.emitted = self.emitted, []
        for tuple_id, _, _ in out:
            spout.host.run(Message(kind, tree=cast(Any, Tree(tuple_id))))

    def run(self, spout: KafkaSpout) -> int:
        """Ask and ack until there is nothing more; says how many records there were."""
        records = 0
        while (chunk := self.next(spout)) is not None:
            records += len(chunk.batch())
            self.settle(spout)
        return records

    def committed(self) -> dict[int, int]:
        return {p: c.committed for (_, p), c in load_checkpoints(self.tables, "s").items()}

    # components.Commands

    def emit(self, host: Host, message: Mapping[str, Any]) -> list[int]:
        self.emitted.append((message["id"], message.get("stream"), message["tuple"][1]))
        return [1]

    def ack(self, host: Host, trees: Any, received: float) -> None: ...

    def fail(self, host: Host, trees: Any) -> None: ...

    def error(self, host: Host, text: str) -> None:
        self.errors.append(text)

    def monotonic(self) -> float:
        return self.clock.monotonic()


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_a_task_reads_the_partitions_that_leave_its_index_as_remainder(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, partitions=5, tasks=2)
    for p in range(5):
        cluster.write(p, 1)
    for index, own in ((0, {0, 2, 4}), (1, {1, 3})):
        spout = cluster.start(index)
        cluster.run(spout)
        assert set(spout.readers) == own
        assert spout.progress().committed == dict.fromkeys(own, 1)
        assert spout.idle()
    assert cluster.committed() == dict.fromkeys(range(5), 1)


def test_partitions_take_turns(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, partitions=3)
    for p in range(3):
        cluster.write(p, 20)
    spout = cluster.start()
    assert [cluster.next(spout).head.partition for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    assert cluster.next(spout) is None
    assert not spout.idle()
    cluster.settle(spout)
    assert cluster.next(spout) is None
    assert spout.idle()


def test_records_and_bytes_in_flight_are_bounded(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, partitions=2, maxPendingRecords=35)
    cluster.write(0, 100)
    cluster.write(1, 100)
    spout = cluster.start()
    assert [len(cluster.next(spout).batch()) for _ in range(3)] == [10, 10, 10]
    assert cluster.next(spout) is None
    assert spout.progress().in_flight == 30
    cluster.settle(spout)
    assert cluster.next(spout) is not None
    small = cluster.start(maxPendingBytes=100)
    chunk = cluster.next(small)
    assert len(chunk.values) <= 100
    assert cluster.next(small) is None


def test_a_partition_that_keeps_failing_leaves_room_for_the_others(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, partitions=2, maxPendingRecords=40)
    cluster.write(0, 1000)
    spout = cluster.start()
    cluster.next(spout)
    cluster.next(spout)
    bad = cluster.emitted.pop(0)[0]
    spout.host.run(Message("fail", tree=cast(Any, Tree(bad))))
    assert cluster.next(spout) is None
    cluster.write(1, 20)
    assert cluster.next(spout).head.partition == 1
    assert cluster.next(spout).head.partition == 1


def test_under_storm_a_chunk_is_text(cluster: Cluster) -> None:
    cluster.write(0, 3)
    spout = cluster.start()
    spout.here.in_process = False
    text = cluster.next(spout)
    assert isinstance(text, str)
    assert load(RecordChunk, text).batch().offsets.tolist() == [0, 1, 2]


def test_a_first_start_makes_version_0_and_registers_the_source(cluster: Cluster) -> None:
    cluster.write(0, 5)
    spout = cluster.start(shards=4)
    cluster.run(spout)
    (version,) = load_versions(cluster.tables, "s")
    assert (version.number, version.shards, version.partitions) == (0, 4, 1)
    assert load_firsts(cluster.tables, "s") == {(0, 0): 0}
    assert registered_sources(cluster.tables) == ["s"]
    cluster.run(cluster.start(shards=7))
    assert len(load_versions(cluster.tables, "s")) == 1


def test_other_rules_make_a_version_from_the_end_of_each_partition_on(cluster: Cluster) -> None:
    cluster.write(0, 5)
    cluster.next(cluster.start())
    other = cluster.start(0, SOURCE, **{"rules.s.per_day.limit": 9, "shards": 99})
    chunk = cluster.next(other)
    assert (chunk.head.first, chunk.head.epoch, chunk.head.generation) == (0, 0, 1)
    cluster.write(0, 1)
    chunk = cluster.next(other)
    assert (chunk.head.first, chunk.head.epoch, chunk.head.generation) == (5, 1, 1)
    assert load_firsts(cluster.tables, "s") == {(0, 0): 0, (1, 0): 5}
    assert [v.shards for v in load_versions(cluster.tables, "s")] == [8, 8]
    assert read_shard(cluster.tables, "s", 3)[0].generation == 1


def test_a_validity_setting_that_changes_makes_a_version_too(cluster: Cluster) -> None:
    cluster.next(cluster.start())
    cluster.next(cluster.start(maxAhead=1))
    assert len(load_versions(cluster.tables, "s")) == 2


def test_the_second_task_to_find_a_version_fences_too_before_its_first_offsets(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, partitions=2, tasks=2)
    for index in (0, 1):
        cluster.next(cluster.start(index))
    cluster.next(cluster.start(0, maxAhead=1))
    # As if the first task had died right behind the version's row.
    cluster.tables.delete("s.journal", [k for k, _ in cluster.tables.scan("s.journal")])
    cluster.write(1, 3)
    cluster.next(cluster.start(1, maxAhead=1))
    assert load_firsts(cluster.tables, "s")[1, 1] == 3
    assert read_shard(cluster.tables, "s", 0)[0].generation == 1


def test_first_offsets_are_put_behind_the_fence(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.next(cluster.start())

    def fenced(*args: Any) -> None:
        assert len(load_versions(cluster.tables, "s")) == 2
        assert (1, 0) not in load_firsts(cluster.tables, "s")
        cluster.write(0, 7)  # the older version may still read these

    monkeypatch.setattr("spouts.kafka.fence_shards", fenced)
    cluster.next(cluster.start(maxAhead=1))
    assert load_firsts(cluster.tables, "s")[1, 0] == 7


def test_partitions_that_are_added_are_read_from_0_under_the_newest_version(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, partitions=1)
    cluster.next(cluster.start())
    spout = cluster.start(maxAhead=1)
    cluster.next(spout)
    grown = EmbeddedLog(tmp_path / "grown", cluster.clock)
    grown.create_topic("t", 2)
    cluster.log.partitions = grown.partitions  # type: ignore[method-assign]
    cluster.log._partition = grown._partition  # type: ignore[method-assign]
    grown.append("t", [OutRecord(b"{}", None, 1) for _ in range(4)])
    cluster.clock.advance(5)
    chunk = cluster.next(spout)
    assert (chunk.head.partition, chunk.head.first, chunk.head.epoch) == (1, 0, 1)


def test_a_task_of_an_older_version_stops_and_says_so(cluster: Cluster) -> None:
    old = cluster.start()
    cluster.next(old)
    cluster.next(cluster.start(maxAhead=1))
    cluster.write(0, 5)
    cluster.clock.advance(5)
    assert cluster.next(old) is None
    assert old.problem is not None
    assert "version 1 of the source has started" in old.problem
    assert load_problems(cluster.tables, "s") == {0: old.problem}
    assert not old.idle()


def test_a_topic_that_is_missing_is_said_in_one_line_and_looked_for_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, partitions=0)
    spout = cluster.start()
    assert cluster.next(spout) is None
    assert spout.problem is not None
    assert "topic t: there is none" in spout.problem
    assert "\n" not in spout.problem
    cluster.log.create_topic("t", 1)
    cluster.write(0, 1)
    assert cluster.next(spout) is None
    cluster.clock.advance(1)
    assert cluster.next(spout) is not None
    assert spout.problem is None
    assert load_problems(cluster.tables, "s") == {}
    assert cluster.errors == []


def test_a_topic_made_anew_stops_the_source(cluster: Cluster) -> None:
    cluster.write(0, 5)
    cluster.run(cluster.start())
    cluster.log.delete_topic("t")
    cluster.log.create_topic("t", 1)
    cluster.write(0, 9)
    spout = cluster.start()
    for _ in range(3):
        assert cluster.next(spout) is None
        cluster.clock.advance(60)
    assert spout.problem is not None
    assert "5 offsets of the former one are gone" in spout.problem


def test_another_topic_for_the_same_source_is_refused(cluster: Cluster) -> None:
    cluster.write(0, 5)
    cluster.run(cluster.start())
    cluster.log.create_topic("u", 1)
    moved = Source.from_dict({**SOURCE.to_dict(), "topic": "u"})
    spout = cluster.start(source=moved)
    assert cluster.next(spout) is None
    assert spout.problem is not None
    assert "it has read topic t so far" in spout.problem


def test_tables_that_do_not_answer_are_asked_again_after_a_while(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.write(0, 5)
    spout = cluster.start()
    calls: list[int] = []

    def unreachable(*args: Any, **named: Any) -> Any:
        calls.append(1)
        raise TablesError("the tables do not answer")

    with monkeypatch.context() as patch:
        for method in ("get", "scan", "put", "put_if_absent", "replace"):
            patch.setattr(cluster.tables, method, unreachable)
        for _ in range(10):
            assert cluster.next(spout) is None
        tried = len(calls)
        assert tried <= 2
        cluster.clock.advance(1)
        cluster.next(spout)
        assert len(calls) > tried
    cluster.clock.advance(10)
    assert cluster.run(spout) == 5
    assert cluster.committed() == {0: 5}


def test_while_one_partition_has_an_error_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(tmp_path, partitions=2)
    spout = cluster.start()
    cluster.next(spout)
    cluster.write(0, 5)
    cluster.write(1, 5)
    monkeypatch.setattr(spout.readers[0], "next_new", lambda *a: 1 / 0)
    assert cluster.run(spout) == 5
    monkeypatch.undo()
    cluster.clock.advance(1)
    assert cluster.run(spout) == 5


def test_an_emit_that_fails_is_a_failed_tuple(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.write(0, 5)
    spout = cluster.start()
    with monkeypatch.context() as patch:
        patch.setattr(spout.here, "wire", lambda chunk: 1 / 0)
        assert cluster.next(spout) is None
    cluster.clock.advance(1)
    assert len(cluster.next(spout).batch()) == 5


def test_failed_ranges_come_before_new_ones_and_due_retries_before_both(cluster: Cluster) -> None:
    cluster.write(0, 30)
    spout = cluster.start()
    chunk = cluster.next(spout)
    park(cluster.tables, "s", chunk.head, {4: "bad"}, cluster.clock.now())
    cluster.settle(spout)
    cluster.next(spout)
    cluster.settle(spout, "fail")
    cluster.clock.advance(1)
    heads = [cluster.next(spout).head for _ in range(3)]
    assert [(h.first, h.after, h.attempt) for h in heads] == [(4, 5, 1), (10, 20, 0), (20, 30, 0)]


def test_giving_up_asks_the_sinks_on_the_stream_of_refusals(cluster: Cluster) -> None:
    cluster.write(0, 10)
    spout = cluster.start()
    chunk = cluster.next(spout)
    park(cluster.tables, "s", chunk.head, {4: "bad"}, cluster.clock.now())
    cluster.settle(spout)
    assert cluster.next(spout) is None
    assert spout.parked_count == 1
    cluster.clock.advance(1)
    park(cluster.tables, "s", cluster.next(spout).head, {4: "worse"}, cluster.clock.now())
    cluster.settle(spout)
    question = cluster.next(spout)
    assert isinstance(question, Refusal)
    assert (question.offset, question.lift, question.head.parked) == (4, False, (4,))
    assert cluster.emitted[0][1] == "refusals"
    put_answer(cluster.tables, "s", 0, 4, "warehouse", held=False)
    cluster.settle(spout)
    assert cluster.next(spout) is None
    letter = letter_at(cluster.tables, "s", 0, 4)
    assert letter is not None
    assert letter.last_error == "worse"
    assert spout.idle()


def test_it_holds_when_asked_once_nothing_is_in_flight_and_goes_on_after(cluster: Cluster) -> None:
    cluster.write(0, 20)
    spout = cluster.start()
    cluster.next(spout)
    put_hold(cluster.tables, "s", Hold(by="verify", until=cluster.clock.now() + 60 * SECOND))
    cluster.clock.advance(0.1)
    assert cluster.next(spout) is None
    assert load_held(cluster.tables, "s") == {}
    cluster.settle(spout, "fail")
    cluster.clock.advance(1)
    assert cluster.next(spout).head.first == 0  # what was sent before is sent again, or it would never end
    cluster.settle(spout)
    assert cluster.next(spout) is None
    assert load_held(cluster.tables, "s")[0].committed == {0: 10}
    lift_hold(cluster.tables, "s")
    cluster.clock.advance(0.1)
    assert cluster.next(spout).head.first == 10
    assert load_held(cluster.tables, "s") == {}


def test_no_retry_begins_while_it_holds_but_one_that_failed_is_settled(cluster: Cluster) -> None:
    cluster.write(0, 10)
    spout = cluster.start()
    chunk = cluster.next(spout)
    park(cluster.tables, "s", chunk.head, {4: "bad", 5: "bad"}, cluster.clock.now())
    cluster.settle(spout)
    cluster.next(spout)
    cluster.clock.advance(1)
    assert cluster.next(spout).head.first == 4
    put_hold(cluster.tables, "s", Hold(by="verify", until=cluster.clock.now() + 60 * SECOND))
    cluster.settle(spout, "fail")
    cluster.clock.advance(1)
    assert cluster.next(spout).head.first == 4
    assert cluster.next(spout) is None
    assert load_held(cluster.tables, "s") == {}
    cluster.settle(spout)
    assert cluster.next(spout) is None
    assert load_held(cluster.tables, "s")[0].committed == {0: 10}
    assert [p.offset for p in all_parked(cluster.tables, "s")] == [5]


def test_a_hold_whose_maker_died_ends_by_itself(cluster: Cluster) -> None:
    cluster.write(0, 10)
    put_hold(cluster.tables, "s", Hold(by="verify", until=cluster.clock.now() + 2 * SECOND))
    spout = cluster.start()
    assert cluster.next(spout) is None
    assert load_held(cluster.tables, "s")[0].committed == {0: 0}
    cluster.clock.advance(2)
    assert cluster.next(spout) is not None
    assert load_held(cluster.tables, "s") == {}


def test_a_task_without_partitions_holds_too(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, partitions=1, tasks=2)
    put_hold(cluster.tables, "s", Hold(by="verify", until=cluster.clock.now() + 2 * SECOND))
    spout = cluster.start(1)
    assert cluster.next(spout) is None
    assert load_held(cluster.tables, "s")[1].committed == {}
    assert spout.idle()


def test_what_is_complete_is_committed_when_it_is_deactivated_and_after(cluster: Cluster) -> None:
    cluster.write(0, 30)
    spout = cluster.start()
    for _ in range(3):
        cluster.next(spout)
    ids = [tuple_id for tuple_id, _, _ in cluster.emitted]
    spout.host.run(Message("ack", tree=cast(Any, Tree(ids[0]))))
    spout.host.run(Message("deactivate"))
    assert cluster.committed() == {0: 10}
    spout.host.run(Message("ack", tree=cast(Any, Tree(ids[1]))))
    assert cluster.committed() == {0: 20}
    spout.host.run(Message("activate"))
    spout.host.run(Message("ack", tree=cast(Any, Tree(ids[2]))))
    spout.host.close()
    assert cluster.committed() == {0: 30}


def test_acks_of_unknown_tuples_are_passed_over(cluster: Cluster) -> None:
    spout = cluster.start()
    cluster.next(spout)
    for tuple_id in ("0:0:5:77", "9:0:5:1", "nonsense", ""):
        spout.host.run(Message("ack", tree=cast(Any, Tree(tuple_id))))
        spout.host.run(Message("fail", tree=cast(Any, Tree(tuple_id))))
    assert cluster.errors == []
    assert spout.idle()
