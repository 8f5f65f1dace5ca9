"""Where the servers are: read from options, refused by name; secrets beside them."""

import json
from pathlib import Path
from typing import Any

import pytest

from paystorm.connections import Connections, address_of, read_secrets
from paystorm.errors import ConfigError
from paystorm.resources import open_resources


def test_what_is_not_named_has_its_default() -> None:
    named = Connections({"paystorm.hbase": "h1:9095", "flushMs": 5})
    assert named.address("paystorm.hbase", 9090) == ("h1", 9095)
    assert (named["paystorm.kafka.driver"], named["paystorm.timeout"], named["paystorm.hive"]) == (
        "confluent",
        30,
        None,
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"paystorm.hbse": "h"}, "options.paystorm.hbse: no such connection"),
        (
            {"paystorm.kafka.driver": "java"},
            "options.paystorm.kafka.driver must be one of confluent, pykafka, got 'java'",
        ),
        ({"paystorm.kafka.partitions": 0}, "paystorm.kafka.partitions must be a whole number from 1 to 1024, got 0"),
        ({"paystorm.kafka.brokers": ""}, "paystorm.kafka.brokers must be text, got ''"),
        ({"paystorm.hbase.tls": "yes"}, "paystorm.hbase.tls must be true or false, got 'yes'"),
        ({"paystorm.hive": "h"}, "options.paystorm.warehouse is missing"),
    ],
)
def test_a_bad_connection_is_refused_by_name(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=r"^options") as refused:
        Connections(options)
    assert told in str(refused.value)


@pytest.mark.parametrize("text", [":9090", "h:", "h:x", "h:0", "h:65536"])
def test_an_address_is_host_and_port(text: str) -> None:
    assert address_of("h", 1, "x") == ("h", 1)
    with pytest.raises(ConfigError, match="x must be host:port"):
        address_of(text, 1, "x")


def test_the_embedded_parts_need_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"no data folder is named for the embedded \w+, nor a server"):
        open_resources(Connections({}))


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYSTORM_KAFKA_USER", "u")
    assert read_secrets(None)["PAYSTORM_KAFKA_USER"] == "u"


def test_secrets_come_from_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"
    file.write_text(json.dumps({"PAYSTORM_KAFKA_USER": "u"}))
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="may be read by others: chmod 600"):
        read_secrets(str(file))
    file.chmod(0o600)
    assert read_secrets(str(file)) == {"PAYSTORM_KAFKA_USER": "u"}
    file.write_text("[]")
    with pytest.raises(ConfigError, match="must hold an object of texts"):
        read_secrets(str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secrets(str(tmp_path / "none"))
