"""`paystorm prune` over a real HBase and a real Kafka."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.contract.warehouse_contract import HOUR, Flushes
from tests.stack.hbase_tools import tables_of
from tests.stack.servers import HBaseServers, RunningServer

from paystorm.clock import SECOND, ManualClock, SystemClock
from paystorm.errors import LogError
from paystorm.log.base import OutRecord
from paystorm.log.kafka_confluent import KafkaLog
from paystorm.log.kafka_pykafka import PyKafkaLog
from paystorm.log.renumbered import RenumberedLog
from paystorm.resources import Resources
from paystorm.retention.prune import prune_source
from paystorm.retention.verdicts import prune_verdicts
from paystorm.rules import Rule
from paystorm.source import Field, Party, Source
from paystorm.stores.checkpoints import Checkpoint, begin_checkpoint
from paystorm.stores.hours import Hours
from paystorm.stores.journal import ShardState, put_snapshot, scan_cells
from paystorm.stores.letters import DeadLetter, LetterAct, all_letters, put_acts, store_letters
from paystorm.stores.pruned import counts_floor
from paystorm.stores.versions import Version, add_version
from paystorm.tables.hbase import HBaseTables
from paystorm.testing.log import MemoryLog
from paystorm.verdicts import VerdictLog, verdict_topic
from paystorm.warehouse.local import LocalWarehouse
from paystorm.warehouse.merging import hour_start

DAY = 86_400
RULE = Rule(name="per_day", kind="account", limit=3)
SOURCE = Source(
    name="pay",
    topic="pay",
    enforces=True,
    fields=(Field(name="event_time", type="time", required=True), Field(name="account", type="id")),
    parties=(Party(field="account", role="sender", kind="account"),),
    rules=(RULE,),
)


@pytest.fixture
def tables(hbase_server: HBaseServers) -> Iterator[HBaseTables]:
    with tables_of(hbase_server.host, hbase_server.port) as tables:
        yield tables


def test_events_counts_and_letters_over_their_retention_go_from_hbase(tables: HBaseTables, tmp_path: Path) -> None:
    clock = ManualClock(hour_start(HOUR))
    log = MemoryLog(clock)
    log.create_topic("pay", 1)
    warehouse = LocalWarehouse(tmp_path / "warehouse", Hours(tables))
    flushes = Flushes(warehouse, tables, "pay")  # type: ignore[arg-type]
    flushes.flush(flushes.writer(), 3)
    log.append("pay", [OutRecord(b"{}", None, 0)] * 6)
    begin_checkpoint(tables, "pay", "pay", 0, Checkpoint(topic_id=None, committed=6, read=6))
    validity = {"earliest": 0, "maxAhead": 3600, "maxRecordBytes": 1, "countsRetention": 2 * DAY}
    add_version(tables, "pay", Version(number=0, rules=(RULE,), validity=validity, partitions=1, shards=2, made_at=0))
    label, today = RULE.measured().label(), clock.now() // SECOND // DAY * DAY
    cells = [(label, today - n * DAY, b"figures") for n in range(120)]
    for shard in range(2):
        put_snapshot(tables, "pay", ShardState(shard=shard, n=0), cells)
    letter = DeadLetter(
        partition=0, offset=2, timestamp=clock.now() // 1000, dead_at=clock.now(), field="record", code="json",
        detail="secret", event_id=None, application=None, value=b"secret",
    )  # fmt: skip
    store_letters(tables, "pay", VerdictLog(log, "pay", "pay"), [letter])
    act = LetterAct(partition=0, offset=2, n=0, act="discard", at=clock.now(), by="eve", reason="broken")
    put_acts(tables, "pay", [act])
    clock.advance(10 * DAY)
    resources = Resources(clock=clock, log=log, tables=tables, warehouse=warehouse, random=Random(1))
    options = {"retention.pay.events": DAY, "retention.pay.letters": DAY}
    first = {went.table: went.went for went in prune_source(resources, SOURCE, options, grace=0)}
    assert first == {"events": 1, "letters": 1, "counts": 240}
    assert list((tmp_path / "warehouse").rglob("hr=*/*.parquet")) == []
    assert [(x.value, x.pruned) for x in all_letters(tables, "pay")] == [(b"", True)]
    assert list(scan_cells(tables, "pay")) == []
    assert counts_floor(tables, "pay") == clock.now() // SECOND - 2 * DAY - 3600
    again = {went.table: went.went for went in prune_source(resources, SOURCE, options, grace=0)}
    assert again == {"events": 0, "letters": 0, "counts": 0}


def _topic(log: KafkaLog, source: str) -> str:
    topic = verdict_topic(source)
    log.create_topic(topic, 2)
    log.append(topic, [OutRecord(b"%d" % n, b"k", n % 2) for n in range(20)])
    return topic


def test_verdicts_over_their_retention_go_from_kafka_one_by_one(kafka_server: RunningServer) -> None:
    source = Source(name=f"p{uuid.uuid4().hex[:8]}", topic="t", enforces=False, fields=SOURCE.fields, parties=())
    kafka = KafkaLog(kafka_server.address, SystemClock())
    log = RenumberedLog(kafka, lambda topic: ())
    topic = _topic(kafka, source.name)
    clock = ManualClock(SystemClock().now())
    assert prune_verdicts(log, clock, source, DAY).went == 0
    clock.advance(2 * DAY)
    assert prune_verdicts(log, clock, source, DAY, dry=True).went == 20
    assert prune_verdicts(log, clock, source, DAY).went == 20
    assert [log.start_offset(topic, p) for p in range(2)] == [10, 10]
    assert prune_verdicts(log, clock, source, DAY).went == 0
    log.append(topic, [OutRecord(b"more", None, 0)] * 3)
    assert log.drop_before(topic, 0, 11) == 11
    assert log.drop_before(topic, 0, 5) == 11
    assert log.drop_before(topic, 0, 99) == 13  # never more than there is
    log.append(topic, [OutRecord(b"last", None, 0)])
    batch = log.read(topic, 0, 13, max_records=9, max_bytes=99)
    assert batch is not None
    assert batch.all_values() == [b"last"]
    log.close()


def test_who_stood_where_records_were_removed_reads_on_elsewhere(kafka_server: RunningServer) -> None:
    kafka, other = (KafkaLog(kafka_server.address, SystemClock()) for _ in range(2))
    topic = _topic(kafka, f"p{uuid.uuid4().hex[:8]}")
    for _ in range(2):  # as one that goes on, and one that looks single records up
        assert other.read(topic, 0, 3, max_records=1, max_bytes=0) is not None
    assert other.read(topic, 0, 10, max_records=1, max_bytes=0) is None
    assert kafka.drop_before(topic, 0, 10) == 10
    kafka.append(topic, [OutRecord(b"more", None, 0)] * 5)
    assert kafka.drop_before(topic, 0, 14) == 14
    time.sleep(1.0)  # the fetches of those who stand below have been answered
    for _ in range(3):
        batch = other.read(topic, 0, 14, max_records=1, max_bytes=0)
        assert batch is not None
        assert batch.all_values() == [b"more"]
    with pytest.raises(LogError, match="offset 3 is gone"):
        other.read(topic, 0, 3, max_records=1, max_bytes=0)
    for log in (kafka, other):
        log.close()


def test_by_pykafka_it_says_in_one_line_that_nothing_can_be_removed(kafka_server: RunningServer) -> None:
    source = Source(name=f"p{uuid.uuid4().hex[:8]}", topic="t", enforces=False, fields=SOURCE.fields, parties=())
    kafka = KafkaLog(kafka_server.address, SystemClock())
    _topic(kafka, source.name)
    kafka.close()
    log = RenumberedLog(PyKafkaLog(kafka_server.address, SystemClock()), lambda topic: ())
    clock = ManualClock(SystemClock().now())
    clock.advance(2 * DAY)
    with pytest.raises(LogError, match=r"cannot remove records: set the topic's retention\.ms"):
        prune_verdicts(log, clock, source, DAY)
    log.close()
