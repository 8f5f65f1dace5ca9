"""Kafka through pykafka, on a broker of 3.9: what the contract says, and what it refuses to read."""

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from pykafka.utils import compression
from tests.contract.log_contract import LogContract, read_all, values_of
from tests.stack.servers import RunningServer

from paystorm.clock import SystemClock
from paystorm.errors import ConfigError, LogError
from paystorm.log import kafka_pykafka
from paystorm.log.base import ColumnLog, OutRecord
from paystorm.log.kafka_common import KafkaSecurity
from paystorm.log.kafka_confluent import KafkaLog
from paystorm.log.kafka_pykafka import PyKafkaLog


@pytest.fixture(scope="module")
def log(kafka_server: RunningServer) -> Iterator[PyKafkaLog]:
    made = PyKafkaLog(kafka_server.address, SystemClock())
    yield made
    made.close()


@pytest.fixture
def topic(log: PyKafkaLog) -> str:
    name = f"p-{uuid.uuid4().hex[:12]}"
    log.create_topic(name, 1)
    return name


def _sent(server: RunningServer, topic: str, values: list[bytes], **settings: Any) -> None:
    producer = Producer({"bootstrap.servers": server.address, "log_level": 0, "linger.ms": 50, **settings})
    for value in values:
        producer.produce(topic, value, b"key")
    producer.flush(30)


def _transactional(server: RunningServer) -> Producer:
    settings = {"bootstrap.servers": server.address, "transactional.id": uuid.uuid4().hex, "log_level": 0}
    producer = Producer(settings)
    producer.init_transactions(60)
    producer.begin_transaction()
    return producer


def _configured(server: RunningServer, **config: str) -> str:
    name = f"p-{uuid.uuid4().hex[:12]}"
    settings = {key.replace("_", "."): value for key, value in config.items()}
    admin = AdminClient({"bootstrap.servers": server.address})
    admin.create_topics([NewTopic(name, 1, 1, config=settings)])[name].result(30)
    return name


class TestContract(LogContract):
    tells_topic_ids = False


def test_it_has_no_topic_ids(log: PyKafkaLog, topic: str) -> None:
    assert log.topic_id(topic) is None
    with pytest.raises(LogError, match=r"topic no-such: there is none on Kafka at .*: create it first"):
        log.topic_id("no-such")


def test_columns_with_keys_are_appended_in_order(log: PyKafkaLog, topic: str) -> None:
    assert isinstance(log, ColumnLog)
    values = [b"%d" % i * (i % 5) for i in range(20_000)]
    keys = [b"k%d" % i for i in range(20_000)]
    lengths = np.array([len(v) for v in values])
    log.append(topic, [OutRecord(b"first")])
    offsets = log.append_keyed(topic, 0, b"".join(v + b"\n" for v in values), lengths, keys)
    assert offsets.tolist() == list(range(1, 1 + len(values)))
    batches = read_all(log, topic, keys=True)
    assert [v for b in batches for v in b.all_values()] == [b"first", *values]
    assert [k for b in batches for k in b.keys or ()] == [None, *keys]


def test_both_drivers_read_what_the_other_wrote_alike(log: PyKafkaLog, kafka_server: RunningServer, topic: str) -> None:
    other = KafkaLog(kafka_server.address, SystemClock())
    records = [OutRecord(b"%d" % i, b"k%d" % i if i % 3 else None) for i in range(100)]
    log.append(topic, records)
    other.append(topic, records)
    mine, theirs = (read_all(each, topic, keys=True) for each in (log, other))
    for name in ("offsets", "timestamps"):
        assert np.concatenate([getattr(b, name) for b in mine]).tolist() == (
            np.concatenate([getattr(b, name) for b in theirs]).tolist()
        )
    assert [k for b in mine for k in b.keys or ()] == [k for b in theirs for k in b.keys or ()]
    assert values_of(log, topic) == values_of(other, topic) == [r.value for r in records] * 2
    other.close()


def test_a_record_longer_than_a_fetch_is_read(log: PyKafkaLog, topic: str) -> None:
    long = b"x" * (3 * kafka_pykafka.FETCH_BYTES)
    log.append(topic, [OutRecord(b"a"), OutRecord(long), OutRecord(b"b")])
    assert values_of(log, topic) == [b"a", long, b"b"]


def test_a_record_over_the_brokers_limit_is_named(log: PyKafkaLog, topic: str) -> None:
    with pytest.raises(LogError, match=rf"topic {topic}: record 2 of 3 has 2000002 bytes, more than brokers take"):
        log.append(topic, [OutRecord(b"a"), OutRecord(b"x" * 2_000_000, b"kk"), OutRecord(b"b")])


def test_many_records_go_to_a_topic_with_a_small_limit(log: PyKafkaLog, kafka_server: RunningServer) -> None:
    topic = _configured(kafka_server, max_message_bytes="2000")
    records = [OutRecord(b"%03d" % i * 30) for i in range(500)]
    assert log.append(topic, records) == [(0, i) for i in range(500)]
    assert values_of(log, topic) == [r.value for r in records]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4"])
@pytest.mark.parametrize("stamped_by", ["CreateTime", "LogAppendTime"])
def test_compressed_records_are_read_or_the_missing_library_is_named(
    log: PyKafkaLog, kafka_server: RunningServer, codec: str, stamped_by: str
) -> None:
    topic = _configured(kafka_server, message_timestamp_type=stamped_by)
    sent = [b"value %d " % i * 20 for i in range(3000)]
    before = time.time() * 1000
    _sent(kafka_server, topic, sent, **{"compression.type": codec})
    if codec != "gzip" and getattr(compression, codec) is None:
        with pytest.raises(LogError, match=f"compressed with {codec}, which pykafka needs .* for: pip install"):
            values_of(log, topic)
        return
    batches = read_all(log, topic)
    assert [v for b in batches for v in b.all_values()] == sent
    assert np.concatenate([b.offsets for b in batches]).tolist() == list(range(3000))
    stamps = np.concatenate([b.timestamps for b in batches])
    assert before - 1000 < stamps.min() <= stamps.max() < time.time() * 1000 + 1000


def test_a_batch_that_grows_when_it_is_turned_into_the_old_form_is_read_to_its_end(
    log: PyKafkaLog, kafka_server: RunningServer, topic: str
) -> None:
    sent = [b"%d" % (i % 7) for i in range(40_000)]
    _sent(kafka_server, topic, sent, **{"batch.size": 1_000_000, "linger.ms": 500, "compression.type": "gzip"})
    batches = read_all(log, topic)
    assert [v for b in batches for v in b.all_values()] == sent
    assert np.concatenate([b.offsets for b in batches]).tolist() == list(range(40_000))


def test_a_topic_that_brokers_do_not_convert_is_refused_by_name(log: PyKafkaLog, kafka_server: RunningServer) -> None:
    topic = _configured(kafka_server, message_downconversion_enable="false")
    log.append(topic, [OutRecord(b"a")])
    with pytest.raises(LogError, match=r"old form that pykafka reads: set message\.downconversion\.enable, or use"):
        values_of(log, topic)


def test_records_that_the_broker_stamped_are_read(log: PyKafkaLog, kafka_server: RunningServer) -> None:
    topic = _configured(kafka_server, message_timestamp_type="LogAppendTime")
    log.append(topic, [OutRecord(b"a"), OutRecord(b"b")])
    assert values_of(log, topic) == [b"a", b"b"]


def test_a_record_without_a_value_is_empty(log: PyKafkaLog, kafka_server: RunningServer, topic: str) -> None:
    _sent(kafka_server, topic, [b"a", None, b"b"])  # type: ignore[list-item]
    assert values_of(log, topic) == [b"a", b"", b"b"]


def test_records_compressed_with_zstd_are_refused_by_name(
    log: PyKafkaLog, kafka_server: RunningServer, topic: str
) -> None:
    log.append(topic, [OutRecord(b"plain")])
    _sent(kafka_server, topic, [b"x" * 100] * 10, **{"compression.type": "zstd"})
    with pytest.raises(LogError, match=rf"{topic}/0: offset \d+ is compressed with zstd.*use the driver confluent"):
        values_of(log, topic)


def test_a_topic_that_brokers_compress_with_zstd_is_refused_by_name(
    log: PyKafkaLog, kafka_server: RunningServer
) -> None:
    topic = _configured(kafka_server, compression_type="zstd")
    log.append(topic, [OutRecord(b"plain")])
    with pytest.raises(LogError, match=rf"{topic}/0: the topic is compressed with zstd.*use the driver confluent"):
        values_of(log, topic)


@pytest.mark.parametrize("end", ["commit_transaction", "abort_transaction", None])
def test_records_of_a_transaction_are_refused_by_name(
    log: PyKafkaLog, kafka_server: RunningServer, topic: str, end: str | None
) -> None:
    log.append(topic, [OutRecord(b"plain")])
    producer = _transactional(kafka_server)
    producer.produce(topic, b"x")
    producer.flush(30)
    if end is not None:
        getattr(producer, end)(30)
    for offset in (0, 1):
        with pytest.raises(LogError, match=rf"{topic}/0: offset \d was written in a transaction.*driver confluent"):
            log.read(topic, 0, offset, max_records=10, max_bytes=1000)
    if end is not None:
        _wait_for_end(log, topic, 3)
        with pytest.raises(LogError, match="offset 2 was written in a transaction"):
            log.read(topic, 0, 2, max_records=10, max_bytes=1000)
    else:
        producer.abort_transaction(30)


def _wait_for_end(log: PyKafkaLog, topic: str, end: int) -> None:
    """The marker of a transaction is written soon after it was ended."""
    deadline = time.monotonic() + 30
    while log.end_offset(topic, 0) < end and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_transaction_in_the_middle_of_a_fetch_is_refused(
    log: PyKafkaLog, kafka_server: RunningServer, topic: str
) -> None:
    log.append(topic, [OutRecord(b"%d" % i) for i in range(500)])
    producer = _transactional(kafka_server)
    producer.produce(topic, b"aborted")
    producer.flush(30)
    producer.abort_transaction(30)
    log.append(topic, [OutRecord(b"%d" % i) for i in range(500)])
    with pytest.raises(LogError, match="was written in a transaction"):
        values_of(log, topic)


def test_compacted_gaps_are_read_over(log: PyKafkaLog, kafka_server: RunningServer) -> None:
    topic = _configured(
        kafka_server,
        cleanup_policy="compact",
        min_cleanable_dirty_ratio="0.001",
        segment_ms="100",
        max_compaction_lag_ms="100",
    )
    log.append(topic, [OutRecord(b"%d" % i, b"same") for i in range(50)])
    deadline = time.monotonic() + 60
    while len(values_of(log, topic)) > 10 and time.monotonic() < deadline:
        time.sleep(0.5)
        log.append(topic, [OutRecord(b"more", b"same")])
    batches = read_all(log, topic)
    offsets = [o for b in batches for o in b.offsets.tolist()]
    if len(offsets) > 10:
        pytest.skip("the broker has not compacted the topic within a minute")
    assert offsets[0] > 0 or offsets[1] > 1
    assert batches[-1].next == log.end_offset(topic, 0)


def test_kafka_4_is_refused_by_name(kafka4_server: RunningServer) -> None:
    log = PyKafkaLog(kafka4_server.address, SystemClock())
    for call in (
        log.topics,
        lambda: log.partitions("t"),
        lambda: log.append("t", [OutRecord(b"x")]),
        lambda: log.read("t", 0, 0, max_records=1, max_bytes=1),
        lambda: log.end_offset("t", 0),
        lambda: log.create_topic("t", 1),
    ):
        with pytest.raises(LogError, match=r"is Kafka 4 or newer, which pykafka does not speak to: use the driver"):
            call()
    log.close()


def test_a_broker_that_is_not_there_is_named_in_time() -> None:
    log = PyKafkaLog("127.0.0.1:9", SystemClock(), timeout=1.0)
    for call in (
        log.topics,
        lambda: log.partitions("t"),
        lambda: log.append("t", [OutRecord(b"x")]),
        lambda: log.read("t", 0, 0, max_records=1, max_bytes=1),
    ):
        began = time.monotonic()
        with pytest.raises(LogError, match=r"is Kafka running at 127\.0\.0\.1:9\?") as raised:
            call()
        assert "\n" not in str(raised.value)
        assert time.monotonic() - began < 3


def test_a_broker_that_says_nothing_is_named_in_time() -> None:
    import socket  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as silent:
        log = PyKafkaLog(f"127.0.0.1:{silent.getsockname()[1]}", SystemClock(), timeout=0.5)
        with pytest.raises(LogError, match=r"within 0\.5 s: is Kafka running at"):
            log.topics()


def test_a_killed_broker_is_found_again(log: PyKafkaLog, kafka_server: RunningServer, topic: str) -> None:
    log.append(topic, [OutRecord(b"a"), OutRecord(b"b")])
    first = log.read(topic, 0, 0, max_records=1, max_bytes=1)
    assert first is not None
    kafka_server.kill()
    with pytest.raises(LogError, match="is Kafka running at"):
        log.append(topic, [OutRecord(b"lost")])
    with pytest.raises(LogError, match="is Kafka running at"):
        log.end_offset(topic, 0)
    _wait_until_free(kafka_server)
    kafka_server.start()
    log.append(topic, [OutRecord(b"c")])
    assert values_of(log, topic) == [b"a", b"b", b"c"]


def _wait_until_free(server: RunningServer) -> None:
    """A killed process may hold its port for a moment longer than it is seen."""
    from paystorm.stack.machine import is_free  # noqa: PLC0415

    deadline = time.monotonic() + 30
    while not is_free("127.0.0.1", server.port) and time.monotonic() < deadline:
        time.sleep(0.05)


def test_security_that_pykafka_does_not_have_is_refused() -> None:
    for protocol in ("ssl", "sasl_plaintext", "sasl_ssl"):
        with pytest.raises(ConfigError, match=f"paystorm.kafka.security is {protocol}.*use the driver confluent"):
            PyKafkaLog("127.0.0.1:9", SystemClock(), security=KafkaSecurity(protocol))


def test_the_driver_is_not_loaded_by_the_other() -> None:
    code = "import sys, paystorm.log.kafka_confluent; print('pykafka' in sys.modules, 'kazoo' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False False\n"
