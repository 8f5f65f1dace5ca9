"""What the Kafka drivers share: security by options and secrets, addresses, names and sizes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paystorm.connections import Connections
from paystorm.errors import ConfigError, LogError
from paystorm.log.kafka_common import (
    PASSWORD,
    PLAINTEXT,
    USER,
    KafkaSecurity,
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


def test_the_first_record_over_the_limit_is_named() -> None:
    check_sizes("t", [1, 10, 10], 10)
    with pytest.raises(LogError, match="topic t: record 2 of 3 has 11 bytes, brokers take at most 10"):
        check_sizes("t", [1, 11, 12], 10)


def test_columns_are_taken_apart_as_they_were_put_together() -> None:
    values = [b"", b"a\nb", b"\n", b"xyz", b""]
    lengths = np.array([len(v) for v in values])
    assert split_values(b"".join(v + b"\n" for v in values), lengths) == values
