"""Where log, tables and warehouse are: the `paystorm.*` options of an environment, and the secrets beside them.

The options are part of a topology's configuration, which the Storm UI shows to everybody: users and passwords are not
among them. They come from the environment of the process (`PAYSTORM_KAFKA_USER`, …) or from a file of the worker.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paystorm.errors import ConfigError

PREFIX = "paystorm."
OF_TOPOLOGIES = ("paystorm.source", "paystorm.resources")
"""Keys of the same prefix that no operator sets."""
MAX_SECRETS_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Connection:
    """One option: its default, what it means, and the values that it may have (none: any text or number)."""

    name: str
    default: str | int | bool | None
    doc: str
    values: tuple[str, ...] = ()
    low: int = 0
    high: int = 0


CONNECTIONS: tuple[Connection, ...] = (
    Connection("paystorm.data", None, "folder of the embedded log, tables and warehouse, for those not named below"),
    Connection("paystorm.kafka.brokers", None, "Kafka's brokers, as host:port,host:port; absent: the embedded log"),
    Connection("paystorm.kafka.driver", "confluent", "the client library", ("confluent", "pykafka")),
    Connection("paystorm.kafka.partitions", 4, "partitions of a topic that is made", (), 1, 1024),
    Connection("paystorm.kafka.replication", 1, "replicas of a topic that is made", (), 1, 32),
    Connection(
        "paystorm.kafka.security",
        "plaintext",
        "how brokers are spoken to",
        ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"),
    ),
    Connection("paystorm.kafka.sasl.mechanism", None, "how one logs in", ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")),
    Connection("paystorm.kafka.cafile", None, "PEM file of the authority that signed the brokers' certificates"),
    Connection("paystorm.kafka.certfile", None, "PEM file of this client's certificate"),
    Connection("paystorm.kafka.keyfile", None, "PEM file of this client's key"),
    Connection("paystorm.hbase", None, "HBase's Thrift server, as host:port; absent: embedded tables"),
    Connection("paystorm.hbase.prefix", "paystorm", "what the names of HBase tables begin with"),
    Connection("paystorm.hbase.tls", False, "whether the Thrift server speaks TLS"),
    Connection("paystorm.hbase.cafile", None, "PEM file of the authority that signed its certificate"),
    Connection("paystorm.hive", None, "HiveServer2, as host:port; absent: no Hive, files and DuckDB only"),
    Connection("paystorm.hive.database", "paystorm", "the database of the sources' tables"),
    Connection("paystorm.hive.auth", "NOSASL", "HiveServer2's authentication", ("NOSASL", "NONE", "LDAP", "CUSTOM")),
    Connection("paystorm.hive.tls", False, "whether HiveServer2 speaks TLS"),
    Connection("paystorm.hive.cafile", None, "PEM file of the authority that signed its certificate"),
    Connection("paystorm.warehouse", None, "folder of the event files, seen under this path by workers and Hive"),
    Connection("paystorm.timeout", 30, "seconds that a server may take to answer", (), 1, 600),
    Connection("paystorm.secrets", None, "JSON file of the worker with users and passwords; absent: its environment"),
)
_BY_NAME = {connection.name: connection for connection in CONNECTIONS}


class Connections(Mapping[str, Any]):
    """The connections that a configuration names: checked values by name, defaults where nothing is said."""

    def __init__(self, given: Mapping[str, Any], where: str = "options") -> None:
        self._values: dict[str, Any] = {c.name: c.default for c in CONNECTIONS}
        for name, value in given.items():
            if name in _BY_NAME:
                self._values[name] = _checked(_BY_NAME[name], value, where)
            elif name.startswith(PREFIX) and name not in OF_TOPOLOGIES and not name.startswith("paystorm.local."):
                raise ConfigError(f"{where}.{name}: no such connection; see docs/settings.md")
        if self["paystorm.hive"] and not self["paystorm.warehouse"]:
            raise ConfigError(f"{where}.paystorm.warehouse is missing: the folder that workers and Hive share")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def address(self, name: str, port: int) -> tuple[str, int]:
        """Host and port of a server; `port` where it names none. Raises ConfigError."""
        return address_of(self[name], port, name)


def address_of(text: str, port: int, name: str) -> tuple[str, int]:
    """The host and port of `host:port`, `port` where only a host is named. Raises ConfigError."""
    host, colon, number = text.rpartition(":")
    if not colon:
        return text, port
    if not host or not number.isdigit() or not 0 < int(number) < 65_536:
        raise ConfigError(f"{name} must be host:port, got {text!r}")
    return host, int(number)


def _checked(connection: Connection, value: Any, where: str) -> Any:
    name = f"{where}.{connection.name}"
    if value is None and connection.default is None:
        return None
    if isinstance(connection.default, bool):
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be true or false, got {value!r}")
    elif isinstance(connection.default, int):
        low, high = connection.low, connection.high
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    elif not isinstance(value, str) or not value:
        raise ConfigError(f"{name} must be text, got {value!r}")
    elif connection.values and value not in connection.values:
        raise ConfigError(f"{name} must be one of {', '.join(connection.values)}, got {value!r}")
    return value


def read_secrets(file: str | None) -> Mapping[str, str]:
    """Users and passwords by name (`PAYSTORM_…`): those of the file, or of this process's environment.

    Raises ConfigError for a file that cannot be read, or that others than its owner may read.
    """
    if file is None:
        return {name: value for name, value in os.environ.items() if name.startswith("PAYSTORM_")}
    path = Path(file)
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"paystorm.secrets: {path} may be read by others: chmod 600 {path}")
        with path.open("rb") as opened:
            held = json.loads(opened.read(MAX_SECRETS_BYTES))
    except OSError as error:
        raise ConfigError(f"paystorm.secrets: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"paystorm.secrets: {path} is not JSON") from error
    if not isinstance(held, dict) or not all(isinstance(value, str) for value in held.values()):
        raise ConfigError(f"paystorm.secrets: {path} must hold an object of texts")
    return held
