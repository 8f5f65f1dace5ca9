"""Messages of confluent-kafka as columns, and what its errors say to people."""

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, Message

from paystorm.errors import ConfigError, LogError
from paystorm.log.kafka_client import Cluster
from paystorm.log.kafka_common import PLAINTEXT, KafkaSecurity
from paystorm.log.kafka_consumer import PartitionConsumer, _Columns


def _message(offset: int, value: bytes | None, key: bytes | None = None) -> Message:
    return Message(topic="t", partition=0, offset=offset, key=key, value=value, timestamp=(1, 1000 + offset))


def test_messages_become_columns() -> None:
    columns = _Columns(keys=True)
    assert columns.add([_message(3, b"a", b"k"), _message(4, b"bb\n")], 100) == 2
    assert columns.add([_message(9, None)], 100) == 1
    batch = columns.batch("t", 0, 12)
    assert batch.values == b"a\nbb\n\n\n"
    assert batch.all_values() == [b"a", b"bb\n", b""]
    assert batch.offsets.tolist() == [3, 4, 9]
    assert batch.timestamps.tolist() == [1003, 1004, 1009]
    assert batch.keys == (b"k", None, None)
    assert batch.next == 12


def test_that_records_are_gone_where_it_stood_before_is_no_error_where_it_stands_now() -> None:
    consumer = PartitionConsumer(Cluster("a:1", PLAINTEXT, 1.0), "t", 0)
    consumer.position = 13
    gone = KafkaError(KafkaError._AUTO_OFFSET_RESET)
    assert not consumer._reported(Message(topic="t", partition=0, offset=10, error=gone))
    for offset in (13, 20):
        with pytest.raises(LogError):
            consumer._reported(Message(topic="t", partition=0, offset=offset, error=gone))


def test_offsets_with_gaps_are_kept() -> None:
    columns = _Columns(keys=False)
    columns.add([_message(o, b"x") for o in (1, 2, 5, 6)], 100)
    assert columns.batch("t", 0, 7).offsets.tolist() == [1, 2, 5, 6]


def test_no_messages_are_a_batch_without_records() -> None:
    batch = _Columns(keys=False).batch("t", 0, 7)
    assert (len(batch), batch.values, batch.next, batch.keys) == (0, b"", 7, None)


@pytest.mark.parametrize(("most", "fit"), [(0, 1), (9, 1), (10, 1), (19, 1), (20, 2), (29, 2), (30, 3), (1000, 3)])
def test_columns_take_what_fits_but_at_least_one_record(most: int, fit: int) -> None:
    columns = _Columns(keys=False)
    assert columns.add([_message(i, b"x" * 10) for i in range(3)], most) == fit
    assert columns.count == fit


def test_later_messages_are_held_back_where_nothing_more_fits() -> None:
    columns = _Columns(keys=False)
    columns.add([_message(0, b"x" * 10)], 15)
    assert columns.add([_message(1, b"x" * 10)], 15) == 0
    assert columns.last() == 0


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (KafkaError._TRANSPORT, "topic t: Kafka does not answer (why): is Kafka running at a:1?"),
        (KafkaError._MSG_TIMED_OUT, "topic t: Kafka does not answer (why): is Kafka running at a:1?"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "topic t: there is none on Kafka at a:1: create it first"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "topic t: Kafka at a:1 forbids it (why): grant the user access"),
        (KafkaError.INVALID_REPLICATION_FACTOR, "topic t: Kafka at a:1: INVALID_REPLICATION_FACTOR (why)"),
        (
            KafkaError._AUTHENTICATION,
            "Kafka at a:1 refuses us (why): check paystorm.kafka.* and, on this worker, PAYSTORM_KAFKA_USER and "
            "PAYSTORM_KAFKA_PASSWORD",
        ),
    ],
)
def test_errors_name_the_thing_and_the_way_out(code: int, text: str) -> None:
    assert str(Cluster("a:1", PLAINTEXT, 1.0).error(KafkaError(code, "why"), "topic t")) == text


def test_a_refusal_is_told_where_a_call_only_says_that_it_took_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    # A client of its own would find out, now or a moment later, that there is no host a.
    monkeypatch.setattr(Cluster, "admin", SimpleNamespace(poll=lambda seconds: 0))
    cluster = Cluster("a:1", PLAINTEXT, 1.0)
    cluster._complained(KafkaError(KafkaError._SSL, "certificate verify failed"))
    cluster._complained(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert "refuses us (certificate verify failed)" in str(cluster.late("topic t"))


def test_settings_hold_what_security_needs_and_no_more() -> None:
    plain = Cluster("a:1", PLAINTEXT, 2.5).config({"x": 1})
    assert plain["security.protocol"] == "plaintext"
    assert plain["socket.timeout.ms"] == 2500
    assert plain["x"] == 1
    assert not [name for name in plain if name.startswith(("ssl", "sasl"))]
    security = KafkaSecurity("sasl_ssl", "PLAIN", cafile="/ca", user="u", password="p")
    safe = Cluster("a:1", security, 1.0).config({})
    assert (safe["ssl.ca.location"], safe["sasl.mechanisms"]) == ("/ca", "PLAIN")
    assert (safe["sasl.username"], safe["sasl.password"]) == ("u", "p")


def test_addresses_are_checked_at_once() -> None:
    with pytest.raises(ConfigError, match="brokers must be host:port"):
        Cluster("nowhere", PLAINTEXT, 1.0)
