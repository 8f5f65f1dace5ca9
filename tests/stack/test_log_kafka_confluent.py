"""Kafka through confluent-kafka: what the contract says, on a broker of 3.9 and one of 4.3, and what Kafka adds."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from tests.contract.log_contract import LogContract, read_all, values_of
from tests.stack.deployed import until
from tests.stack.servers import SHUT_OUT_SECONDS, RunningServer

from paystorm.clock import SystemClock
from paystorm.errors import LogError
from paystorm.log import kafka_confluent
from paystorm.log.base import ColumnLog, OutRecord
from paystorm.log.kafka_confluent import KafkaLog
from paystorm.stack.machine import is_free


@pytest.fixture(scope="module")
def log(kafka_server: RunningServer) -> Iterator[KafkaLog]:
    made = KafkaLog(kafka_server.address, SystemClock())
    yield made
    made.close()


@pytest.fixture(scope="module")
def log_on_4(kafka4_server: RunningServer) -> Iterator[KafkaLog]:
    made = KafkaLog(kafka4_server.address, SystemClock())
    yield made
    made.close()


@pytest.fixture
def other(kafka_server: RunningServer) -> Iterator[KafkaLog]:
    """The log as another process would open it."""
    made = KafkaLog(kafka_server.address, SystemClock())
    yield made
    made.close()


@pytest.fixture
def topic(log: KafkaLog) -> str:
    return _topic(log)


def _topic(log: KafkaLog, partitions: int = 1) -> str:
    name = f"k-{uuid.uuid4().hex[:12]}"
    log.create_topic(name, partitions)
    return name


def _configured(server: RunningServer, **config: str) -> str:
    """A topic with settings of its own."""
    name = f"k-{uuid.uuid4().hex[:12]}"
    settings = {key.replace("_", "."): value for key, value in config.items()}
    admin = AdminClient({"bootstrap.servers": server.address})
    admin.create_topics([NewTopic(name, 1, 1, config=settings)])[name].result(30)
    return name


def _producer(server: RunningServer, **settings: Any) -> Producer:
    return Producer({"bootstrap.servers": server.address, "log_level": 0, **settings})


def _transactional(server: RunningServer) -> Producer:
    producer = _producer(server, **{"transactional.id": uuid.uuid4().hex, "linger.ms": 0})
    producer.init_transactions(60)
    return producer


def _in_transaction(producer: Producer, topic: str, end: Callable[[float], Any] | None, *values: bytes) -> None:
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    producer.flush(30)
    if end is not None:
        end(30)


def _ends_at(log: KafkaLog, topic: str, end: int) -> None:
    """Wait for the mark of a transaction: its coordinator answers first, and marks the partition then."""
    until(lambda: log.end_offset(topic, 0) == end, 30, f"the log does not end at offset {end}")


class TestContract(LogContract):
    pass


class TestContractOnKafka4(LogContract):
    @pytest.fixture
    def log(self, log_on_4: KafkaLog) -> KafkaLog:
        return log_on_4

    @pytest.fixture
    def topic(self, log: KafkaLog) -> str:
        return _topic(log)


# Records


def test_columns_with_keys_are_appended_in_order(log: KafkaLog, topic: str) -> None:
    assert isinstance(log, ColumnLog)
    values = [b"%d" % i * (i % 5) for i in range(50_000)]
    keys = [b"k%d" % i for i in range(50_000)]
    lengths = np.array([len(v) for v in values])
    log.append(topic, [OutRecord(b"first")])
    offsets = log.append_keyed(topic, 0, b"".join(v + b"\n" for v in values), lengths, keys)
    assert offsets.tolist() == list(range(1, 1 + len(values)))
    batches = read_all(log, topic, max_records=20_001, keys=True)
    assert [v for b in batches for v in b.all_values()] == [b"first", *values]
    assert [k for b in batches for k in b.keys or ()] == [None, *keys]
    assert log.append_keyed(topic, 0, b"", np.array([], dtype=np.int64), []).tolist() == []


def test_a_record_without_a_value_is_empty(log: KafkaLog, kafka_server: RunningServer, topic: str) -> None:
    producer = _producer(kafka_server)
    for value in (b"a", None, b"", b"b", None):
        producer.produce(topic, value, b"key")
    producer.flush(30)
    (batch,) = read_all(log, topic)
    assert batch.values == b"a\n\n\nb\n\n"
    assert batch.lengths.tolist() == [1, 0, 0, 1, 0]


def test_the_longest_record_that_brokers_take_goes_through(log: KafkaLog, topic: str) -> None:
    value = b"x" * 1_048_000
    log.append(topic, [OutRecord(value), OutRecord(b"y")])
    assert values_of(log, topic) == [value, b"y"]


def test_a_record_over_the_brokers_limit_is_named_and_nothing_is_sent(log: KafkaLog, topic: str) -> None:
    records = [OutRecord(b"a"), OutRecord(b"x" * 2_000_000, b"kk"), OutRecord(b"b")]
    with pytest.raises(
        LogError, match=rf"topic {topic}: record 2 of 3 has 2000002 bytes, brokers take at most 1048588"
    ):
        log.append(topic, records)
    assert log.end_offset(topic, 0) == 0


def test_a_record_at_the_very_limit_is_named(log: KafkaLog, topic: str) -> None:
    with pytest.raises(LogError, match="record 2 of 2 has 1048580 bytes"):
        log.append(topic, [OutRecord(b"a"), OutRecord(b"x" * 1_048_580)])


def test_many_records_go_to_a_topic_with_a_small_limit(log: KafkaLog, kafka_server: RunningServer) -> None:
    topic = _configured(kafka_server, max_message_bytes="2000")
    log.append(topic, [OutRecord(b"x" * 100) for _ in range(5000)])
    assert log.end_offset(topic, 0) == 5000
    with pytest.raises(LogError, match="record 1 of 1 has 2001 bytes"):
        log.append(topic, [OutRecord(b"x" * 2001)])


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_records_are_read(log: KafkaLog, kafka_server: RunningServer, topic: str, codec: str) -> None:
    producer = _producer(kafka_server, **{"compression.type": codec})
    sent = [b"value %d " % i * 20 for i in range(1000)]
    for value in sent:
        producer.produce(topic, value)
    producer.flush(30)
    assert values_of(log, topic) == sent


# Positions


def test_reads_of_single_records_do_not_disturb_a_reader_in_order(log: KafkaLog, topic: str) -> None:
    log.append(topic, [OutRecord(b"%d" % i) for i in range(30_000)])
    offset, seen = 0, []
    for turn in range(15):
        batch = log.read(topic, 0, offset, max_records=2000, max_bytes=1 << 20)
        assert batch is not None
        seen += batch.all_values()
        offset = batch.next
        single = log.read(topic, 0, turn * 7, max_records=1, max_bytes=1)
        assert single is not None
        assert single.all_values() == [b"%d" % (turn * 7)]
    assert seen == [b"%d" % i for i in range(len(seen))]
    mine = [c for c in log._idle if c.topic == topic]
    assert len(mine) <= kafka_confluent.CONSUMERS_EACH


def test_several_partitions_are_read_in_turn(log: KafkaLog) -> None:
    topic = _topic(log, 4)
    log.append(topic, [OutRecord(b"%d" % i, partition=i % 4) for i in range(20_000)])
    offsets, seen = [0] * 4, [[], [], [], []]  # type: ignore[var-annotated]
    while sum(offsets) < 20_000:
        for p in range(4):
            batch = log.read(topic, p, offsets[p], max_records=333, max_bytes=1 << 20)
            if batch is not None:
                seen[p] += batch.all_values()
                offsets[p] = batch.next
    assert seen == [[b"%d" % i for i in range(p, 20_000, 4)] for p in range(4)]


def test_consumers_that_are_not_used_are_closed_beyond_a_number(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_confluent, "MAX_CONSUMERS", 3)
    topic = _topic(log, 6)
    log.append(topic, [OutRecord(b"%d" % p, partition=p) for p in range(6)])
    for _ in range(2):
        for p in range(6):
            assert values_of(log, topic, p) == [b"%d" % p]
    assert len(log._idle) <= 3


def test_offsets_that_retention_has_removed_are_named(log: KafkaLog, kafka_server: RunningServer, topic: str) -> None:
    from confluent_kafka import TopicPartition  # noqa: PLC0415

    log.append(topic, [OutRecord(b"%d" % i) for i in range(10)])
    admin = AdminClient({"bootstrap.servers": kafka_server.address})
    for future in admin.delete_records([TopicPartition(topic, 0, 6)]).values():
        future.result(30)
    assert log.start_offset(topic, 0) == 6
    with pytest.raises(LogError, match=rf"{topic}/0: offset 5 is gone, the log starts at 6"):
        log.read(topic, 0, 5, max_records=1, max_bytes=1)
    assert values_of(log, topic) == [b"6", b"7", b"8", b"9"]


def test_offsets_that_go_while_a_reader_stands_there_are_named(
    log: KafkaLog, kafka_server: RunningServer, topic: str
) -> None:
    from confluent_kafka import TopicPartition  # noqa: PLC0415

    log.append(topic, [OutRecord(b"%d" % i) for i in range(10)])
    batch = log.read(topic, 0, 0, max_records=100, max_bytes=1 << 20)
    assert batch is not None
    assert batch.next == 10
    log.append(topic, [OutRecord(b"%d" % i) for i in range(10, 20)])
    log.close()  # so that nothing has been fetched ahead
    admin = AdminClient({"bootstrap.servers": kafka_server.address})
    for future in admin.delete_records([TopicPartition(topic, 0, 15)]).values():
        future.result(30)
    with pytest.raises(LogError, match="offset 10 is gone, the log starts at 15"):
        log.read(topic, 0, 10, max_records=1, max_bytes=1)


def test_records_of_another_process_are_seen(log: KafkaLog, other: KafkaLog, topic: str) -> None:
    offset = 0
    for i in range(20):
        other.append(topic, [OutRecord(b"%d" % i)])
        time.sleep(kafka_confluent.FRESH)
        batch = log.read(topic, 0, offset, max_records=10, max_bytes=1000)
        assert batch is not None
        assert batch.all_values() == [b"%d" % i]
        offset = batch.next
        assert log.read(topic, 0, offset, max_records=10, max_bytes=1000) is None


def test_looking_for_new_records_seldom_asks_the_broker(
    log: KafkaLog, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [0]
    real = log._ask_bounds

    def counted(topic: str, partition: int) -> tuple[int, int]:
        asked[0] += 1
        return real(topic, partition)

    monkeypatch.setattr(log, "_ask_bounds", counted)
    began, reads = time.monotonic(), 0
    while time.monotonic() - began < 0.5:
        assert log.read(topic, 0, 0, max_records=1, max_bytes=1) is None
        reads += 1
        time.sleep(0.001)
    assert reads > asked[0]
    assert asked[0] <= 0.5 / kafka_confluent.FRESH + 2


# Transactions and gaps


def test_records_of_a_transaction_are_read_and_its_marker_is_a_gap(
    log: KafkaLog, kafka_server: RunningServer, topic: str
) -> None:
    producer = _transactional(kafka_server)
    _in_transaction(producer, topic, producer.commit_transaction, b"a", b"b")
    log.append(topic, [OutRecord(b"c")])
    _in_transaction(producer, topic, producer.commit_transaction, b"d")
    _ends_at(log, topic, 6)
    batches = read_all(log, topic)
    assert [o for b in batches for o in b.offsets.tolist()] == [0, 1, 3, 4]
    assert values_of(log, topic) == [b"a", b"b", b"c", b"d"]
    assert batches[-1].next == 6
    at_the_gap = log.read(topic, 0, 2, max_records=1, max_bytes=1)
    assert at_the_gap is not None
    assert (at_the_gap.offsets.tolist(), at_the_gap.next) == ([3], 4)
    at_the_end = log.read(topic, 0, 5, max_records=1, max_bytes=1)
    assert at_the_end is not None
    assert (len(at_the_end), at_the_end.next, at_the_end.values) == (0, 6, b"")
    assert log.read(topic, 0, 6, max_records=1, max_bytes=1) is None


def test_an_aborted_transaction_is_read_over(log: KafkaLog, kafka_server: RunningServer, topic: str) -> None:
    producer = _transactional(kafka_server)
    _in_transaction(producer, topic, producer.abort_transaction, b"never", b"never")
    _ends_at(log, topic, 3)
    (batch,) = read_all(log, topic)
    assert (len(batch), batch.next) == (0, 3)
    _in_transaction(producer, topic, producer.commit_transaction, b"yes")
    _ends_at(log, topic, 5)
    assert values_of(log, topic) == [b"yes"]


def test_nothing_is_read_past_a_transaction_that_is_open(
    log: KafkaLog, kafka_server: RunningServer, topic: str
) -> None:
    producer = _transactional(kafka_server)
    log.append(topic, [OutRecord(b"a")])
    _in_transaction(producer, topic, None, b"open")
    log.append(topic, [OutRecord(b"b")])
    assert log.end_offset(topic, 0) == 1
    assert values_of(log, topic) == [b"a"]
    producer.commit_transaction(30)
    _ends_at(log, topic, 4)
    assert values_of(log, topic) == [b"a", b"open", b"b"]


# Topics


def test_kafkas_own_topics_are_hidden(log: KafkaLog, kafka_server: RunningServer) -> None:
    _transactional(kafka_server)
    inside = AdminClient({"bootstrap.servers": kafka_server.address}).list_topics(timeout=30).topics
    assert "__transaction_state" in inside
    assert not [name for name in log.topics() if name.startswith("__")]


def test_a_topic_that_another_makes_anew_is_noticed_before_its_records_are_read(
    log: KafkaLog, other: KafkaLog, topic: str
) -> None:
    log.append(topic, [OutRecord(b"old %d" % i) for i in range(10)])
    before = log.topic_id(topic)
    batch = log.read(topic, 0, 0, max_records=100, max_bytes=1 << 20)
    assert batch is not None
    assert batch.next == 10
    other.delete_topic(topic)
    other.create_topic(topic, 1)
    other.append(topic, [OutRecord(b"new %d" % i) for i in range(20)])
    with pytest.raises(LogError, match=f"topic {topic}: was deleted and made anew"):
        _read_until_something(log, topic, 10)
    assert log.topic_id(topic) == other.topic_id(topic) != before
    assert values_of(log, topic) == [b"new %d" % i for i in range(20)]
    log.append(topic, [OutRecord(b"more")])
    assert values_of(other, topic)[-1] == b"more"


def test_every_reader_is_told_once_of_a_topic_that_another_makes_anew(log: KafkaLog, other: KafkaLog) -> None:
    topic = _topic(log, 2)
    log.append(topic, [OutRecord(b"old", None, p) for p in (0, 1) for _ in range(5)])
    assert [values_of(log, topic, p) for p in (0, 1)] == [[b"old"] * 5] * 2
    other.delete_topic(topic)
    other.create_topic(topic, 2)
    other.append(topic, [OutRecord(b"new", None, p) for p in (0, 1) for _ in range(9)])
    for partition in (0, 1):
        with pytest.raises(LogError, match="was deleted and made anew"):
            _read_until_something(log, topic, 5, partition)
        batch = log.read(topic, partition, 5, max_records=100, max_bytes=1 << 20)
        assert batch is not None
        assert batch.all_values() == [b"new"] * 4


def test_a_partition_that_is_there_no_more_is_named_at_once(
    log: KafkaLog, other: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_confluent, "KNOWN", 60.0)
    topic = _topic(log, 3)
    log.append(topic, [OutRecord(b"x", None, 2)])
    other.delete_topic(topic)
    other.create_topic(topic, 1)
    log.append(topic, [OutRecord(b"x", None, 0)])
    log._known[topic] = (3, *log._known[topic][1:])  # as it was known before
    began = time.monotonic()
    with pytest.raises(LogError, match=f"{topic}/2: there is none on Kafka at"):
        log.append(topic, [OutRecord(b"x", None, 2)])
    assert time.monotonic() - began < 5


def _read_until_something(log: KafkaLog, topic: str, offset: int, partition: int = 0) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            batch = log.read(topic, partition, offset, max_records=100, max_bytes=1 << 20)
        except LogError as e:
            if "made anew" in str(e):
                raise
            batch = None
        assert batch is None
        time.sleep(0.05)


def test_a_topic_that_another_deletes_is_named(log: KafkaLog, other: KafkaLog, topic: str) -> None:
    log.append(topic, [OutRecord(b"x")])
    values_of(log, topic)
    other.delete_topic(topic)
    for call in (
        lambda: log.read(topic, 0, 0, max_records=1, max_bytes=1),
        lambda: log.end_offset(topic, 0),
        lambda: log.append(topic, [OutRecord(b"x")]),
        lambda: log.partitions(topic),
    ):
        with pytest.raises(LogError, match=topic):
            call()


def test_what_is_not_there_is_said_so(log: KafkaLog, topic: str) -> None:
    with pytest.raises(LogError, match=r"topic no-such: there is none on Kafka at .*: create it first"):
        log.read("no-such", 0, 0, max_records=1, max_bytes=1)
    with pytest.raises(LogError, match=f"topic {topic}: there is no partition 7, only 0 to 0"):
        log.end_offset(topic, 7)
    with pytest.raises(LogError, match="there is no partition -1, only 0 to 0"):
        log.end_offset(topic, -1)
    with pytest.raises(LogError, match="there is no partition 3, only 0 to 0"):
        log.append(topic, [OutRecord(b"x", partition=3)])


def test_a_partition_added_by_another_is_appended_to(log: KafkaLog, kafka_server: RunningServer, topic: str) -> None:
    from confluent_kafka.admin import NewPartitions  # noqa: PLC0415

    log.append(topic, [OutRecord(b"x")])
    admin = AdminClient({"bootstrap.servers": kafka_server.address})
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(30)
    deadline = time.monotonic() + 30
    while log.partitions(topic) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert log.append(topic, [OutRecord(b"y", partition=2)]) == [(2, 0)]


# Brokers that go away


def test_a_broker_that_is_not_there_is_named_in_time() -> None:
    log = KafkaLog("127.0.0.1:9", SystemClock(), timeout=1.0)
    for call in (
        log.topics,
        lambda: log.partitions("t"),
        lambda: log.topic_id("t"),
        lambda: log.end_offset("t", 0),
        lambda: log.append("t", [OutRecord(b"x")]),
        lambda: log.read("t", 0, 0, max_records=1, max_bytes=1),
        lambda: log.create_topic("t", 1),
        lambda: log.delete_topic("t"),
    ):
        began = time.monotonic()
        with pytest.raises(LogError, match=r"is Kafka running at 127\.0\.0\.1:9\?") as raised:
            call()
        assert "\n" not in str(raised.value)
        assert time.monotonic() - began < 5
    log.close()


def test_a_killed_broker_is_survived_and_nothing_acknowledged_is_lost(kafka4_server: RunningServer) -> None:
    log = KafkaLog(kafka4_server.address, SystemClock(), timeout=3.0)
    topic = _topic(log)
    acknowledged: list[bytes] = []
    failures: list[LogError] = []
    stop = threading.Event()

    def append() -> None:
        i = 0
        while not stop.is_set():
            values = [b"%d:%d" % (i, n) for n in range(20)]
            try:
                log.append(topic, [OutRecord(v) for v in values])
                acknowledged.extend(values)
            except LogError as e:
                failures.append(e)
            i += 1

    thread = threading.Thread(target=append)
    thread.start()
    seen: list[bytes] = []
    offset = 0

    def read_on(seconds: float) -> list[LogError]:
        nonlocal offset
        errors: list[LogError] = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                batch = log.read(topic, 0, offset, max_records=1000, max_bytes=1 << 20)
            except LogError as e:
                errors.append(e)
                continue
            if batch is not None:
                seen.extend(batch.all_values())
                offset = batch.next
            else:
                time.sleep(0.005)
        return errors

    try:
        assert not read_on(2)
        kafka4_server.kill()
        errors = read_on(8)
        assert errors
        assert "is Kafka running at" in str(errors[-1])
        assert failures
        assert "is Kafka running at" in str(failures[-1])
        before = len(acknowledged)
        _wait_until_free(kafka4_server)
        kafka4_server.start()
        deadline = time.monotonic() + 60
        while len(acknowledged) == before and time.monotonic() < deadline:
            read_on(0.5)
        assert len(acknowledged) > before
    finally:
        stop.set()
        thread.join()
        kafka4_server.start()
    deadline = time.monotonic() + 60
    while offset < log.end_offset(topic, 0) and time.monotonic() < deadline:
        read_on(0.2)
    assert set(acknowledged) <= set(seen)
    assert values_of(log, topic) == seen
    assert len(seen) == len(set(seen)), "an idempotent producer appends a record once"
    log.close()


def test_a_broker_that_was_restarted_is_found_again(log_on_4: KafkaLog, kafka4_server: RunningServer) -> None:
    topic = _topic(log_on_4)
    log_on_4.append(topic, [OutRecord(b"a")])
    assert values_of(log_on_4, topic) == [b"a"]
    kafka4_server.kill()
    _wait_until_free(kafka4_server)
    kafka4_server.start()
    log_on_4.append(topic, [OutRecord(b"b")])
    assert values_of(log_on_4, topic) == [b"a", b"b"]


def test_who_asks_while_a_broker_is_away_waits_for_it(kafka4_server: RunningServer) -> None:
    """And what was given up meanwhile is not sent when it is back."""
    patient = KafkaLog(kafka4_server.address, SystemClock(), timeout=60.0)
    hasty = KafkaLog(kafka4_server.address, SystemClock(), timeout=1.0)
    topic = _topic(patient)
    for log in (patient, hasty):
        log.append(topic, [OutRecord(b"a")])
        assert values_of(log, topic)
    calls: list[Callable[[], Any]] = [
        lambda: patient.end_offset(topic, 0),
        lambda: patient.partitions(topic),
        lambda: topic in patient.topics(),
        lambda: patient.append(topic, [OutRecord(b"b")]),
    ]
    kafka4_server.kill()
    with ThreadPoolExecutor(len(calls)) as threads:
        with pytest.raises(LogError, match="is Kafka running at"):
            hasty.append(topic, [OutRecord(b"lost")] * 100)
        asked = [threads.submit(call) for call in calls]
        time.sleep(5)  # some tries
        assert not any(each.done() for each in asked)
        _wait_until_free(kafka4_server)
        kafka4_server.start()
        end, partitions, there, places = [each.result(60) for each in asked]
    assert (end in (2, 3), partitions, there, places) == (True, 1, True, [(0, 2)])
    assert values_of(hasty, topic) == [b"a", b"a", b"b"]
    for log in (patient, hasty):
        log.close()


def test_a_broker_that_its_controller_shuts_out_is_found_again(shut_out_kafka: RunningServer) -> None:
    """Meanwhile brokers tell that there are none, which librdkafka takes for true for minutes."""
    appending = KafkaLog(shut_out_kafka.address, SystemClock())
    reading = KafkaLog(shut_out_kafka.address, SystemClock())
    topic = _topic(appending, 2)
    sent, stop = [0, 0], threading.Event()
    failures: list[LogError] = []

    def append() -> None:
        while not stop.is_set():
            for partition in (0, 1):
                try:
                    appending.append(topic, [OutRecord(b"x", None, partition)] * 10)
                    sent[partition] += 10
                except LogError as e:
                    failures.append(e)
            time.sleep(0.02)

    thread = threading.Thread(target=append)
    thread.start()
    offsets, slowest = [0, 0], 0.0
    deadline = time.monotonic() + 6 * SHUT_OUT_SECONDS  # three times out, three times in
    try:
        while time.monotonic() < deadline:
            for partition in (0, 1):
                began = time.monotonic()
                reading.topic_id(topic)
                reading.end_offset(topic, partition)
                batch = reading.read(topic, partition, offsets[partition], max_records=1000, max_bytes=1 << 20)
                offsets[partition] = batch.next if batch is not None else offsets[partition]
                slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.02)
    finally:
        stop.set()
        thread.join()
    assert not failures
    assert slowest > SHUT_OUT_SECONDS / 2, "nobody was shut out: this test shows nothing"
    assert [reading.end_offset(topic, p) for p in (0, 1)] == sent
    assert min(offsets) > 0
    for log in (appending, reading):
        log.close()


def _wait_until_free(server: RunningServer) -> None:
    """A killed process may hold its port for a moment longer than it is seen."""
    deadline = time.monotonic() + 30
    while not is_free("127.0.0.1", server.port) and time.monotonic() < deadline:
        time.sleep(0.05)
