"""What the Kafka drivers share: security by options and secrets, addresses, names and sizes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paystorm.clock import ManualClock
from paystorm.connections import Connections
from paystorm.errors import ConfigError, LogError, RecordTooLargeError
from paystorm.log.kafka_common import (
    PASSWORD,
    PLAINTEXT,
    REFUSED_SECONDS,
    USER,
    KafkaSecurity,
    Refused,
    batch_of_one,
    broker_addresses,
    check_new,
    check_sizes,
    is_internal,
    kafka_security,
    split_values,
)

SECRETS = {USER: "paystorm", PASSWORD: "hunter2"}


def _options(**given: Any) -> Connections:
    """Options such as `sasl_mechanism`, checked as those of an environment are."""
    return Connections({f"paystorm.kafka.{name.replace('_', '.')}": value for name, value in given.items()})


def test_without_options_nothing_is_encrypted() -> None:
    assert kafka_security({}, {}) == kafka_security(_options(), SECRETS) == PLAINTEXT


def test_tls_takes_its_files_from_the_options(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("cafile", "certfile", "keyfile")}
    for file in files.values():
        file.write_text("pem")
    given = {name: str(path) for name, path in files.items()}
    assert kafka_security(_options(security="ssl", **given), {}) == KafkaSecurity("ssl", **given)
    assert kafka_security(_options(security="ssl"), {}) == KafkaSecurity("ssl")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_sasl_takes_user_and_password_from_the_secrets(mechanism: str) -> None:
    found = kafka_security(_options(security="sasl_plaintext", sasl_mechanism=mechanism), SECRETS)
    assert found == KafkaSecurity("sasl_plaintext", mechanism, user="paystorm", password="hunter2")
    assert kafka_security(_options(security="sasl_ssl"), SECRETS).mechanism == "SCRAM-SHA-512"


def test_a_password_is_not_shown() -> None:
    assert "hunter2" not in repr(kafka_security(_options(security="sasl_ssl"), SECRETS))


@pytest.mark.parametrize(
    ("options", "secrets", "text"),
    [
        ({"security": "tls"}, {}, "options.paystorm.kafka.security must be one of plaintext, ssl, .*, got 'tls'"),
        ({"security": "sasl_ssl"}, {}, "security is sasl_ssl: PAYSTORM_KAFKA_USER is not set on this worker"),
        ({"security": "sasl_ssl"}, {USER: "u"}, "PAYSTORM_KAFKA_PASSWORD is not set on this worker"),
        ({"security": "sasl_ssl"}, {USER: "u", PASSWORD: ""}, "PAYSTORM_KAFKA_PASSWORD is not set on this worker"),
        (
            {"security": "sasl_ssl", "sasl.mechanism": "GSSAPI"},
            SECRETS,
            r"options.paystorm.kafka.sasl.mechanism must be one of PLAIN, .*, got 'GSSAPI'",
        ),
        ({"sasl.mechanism": "PLAIN"}, SECRETS, "sasl.mechanism: has no use while paystorm.kafka.security is plaintext"),
        ({"cafile": "/no/such"}, {}, "cafile: has no use while paystorm.kafka.security is plaintext: set ssl"),
        ({"security": "ssl", "cafile": "/no/such"}, {}, "cafile: no file '/no/such' on this worker"),
        ({"security": "ssl", "certfile": __file__}, {}, "certfile and paystorm.kafka.keyfile belong together"),
    ],
)
def test_security_that_cannot_be_used_is_named(options: dict[str, Any], secrets: dict[str, str], text: str) -> None:
    given = {f"paystorm.kafka.{name}": value for name, value in options.items()}
    with pytest.raises(ConfigError, match=text) as raised:
        kafka_security(given, secrets)
    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_addresses_are_host_and_port() -> None:
    assert broker_addresses("a:1, b.example.com:9092") == [("a", 1), ("b.example.com", 9092)]
    assert broker_addresses("[::1]:9092") == [("::1", 9092)]


@pytest.mark.parametrize("brokers", ["", "a", "a:", ":1", "a:0", "a:65536", "a:1,", "http://a:1", "a b:1", "a:x"])
def test_addresses_of_another_form_are_refused(brokers: str) -> None:
    with pytest.raises(ConfigError, match="brokers must be host:port, several by commas, got"):
        broker_addresses(brokers)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "~new", "x" * 250, "ä", "a\n"])
def test_a_topic_name_that_is_not_allowed_is_refused(name: str) -> None:
    with pytest.raises(LogError, match="1 to 249"):
        check_new(name, 1)


@pytest.mark.parametrize("partitions", [0, -1, 10_001])
def test_a_number_of_partitions_that_is_not_allowed_is_refused(partitions: int) -> None:
    with pytest.raises(LogError, match=f"partitions must be between 1 and 10000, got {partitions}"):
        check_new("t", partitions)


def test_only_kafkas_own_topics_are_internal() -> None:
    assert is_internal("__consumer_offsets")
    assert not is_internal("_mine")


def test_records_over_the_limit_are_named_with_what_their_batch_adds() -> None:
    keyed = [0, 0, 0]
    check_sizes("t", [1, 32, 32], keyed, 100)
    with pytest.raises(RecordTooLargeError, match="topic t: record 2 of 3 has 33 bytes, brokers take at most 100") as e:
        check_sizes("t", [1, 33, 34], keyed, 100)
    assert e.value.records == (1, 2)


@pytest.mark.parametrize(
    ("size", "keyed", "batch"), [(0, 0, 68), (10, 4, 78), (63, 0, 132), (64, 0, 134), (1_048_512, 0, 1_048_584)]
)
def test_a_batch_of_one_record_is_weighed_as_brokers_do(size: int, keyed: int, batch: int) -> None:
    """Message format 2: a head of 61 bytes, then lengths of 7 bits a byte and a sign."""
    assert batch_of_one(size, keyed) == batch


def test_a_length_that_was_refused_is_refused_before_it_is_sent_for_a_while() -> None:
    clock = ManualClock()
    refused = Refused(clock)
    refused.check("t", [10**9])
    refused.note("t", 1000)
    refused.note("t", 2000)
    refused.check("t", [999])
    refused.check("other", [1000])
    with pytest.raises(RecordTooLargeError, match="record 2 of 3 has 1000 bytes, more than brokers take") as e:
        refused.check("t", [1, 1000, 3000])
    assert e.value.records == (1, 2)
    clock.sleep(REFUSED_SECONDS)
    refused.check("t", [1000])


def test_columns_are_taken_apart_as_they_were_put_together() -> None:
    values = [b"", b"a\nb", b"\n", b"xyz", b""]
    lengths = np.array([len(v) for v in values])
    assert split_values(b"".join(v + b"\n" for v in values), lengths) == values
