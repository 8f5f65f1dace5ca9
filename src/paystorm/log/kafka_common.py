"""What the Kafka drivers share: addresses, security, the form in which records are handed over."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paystorm.clock import Clock
from paystorm.errors import ConfigError, LogError, RecordTooLargeError
from paystorm.log.base import Int64Array

USER, PASSWORD = "PAYSTORM_KAFKA_USER", "PAYSTORM_KAFKA_PASSWORD"
"""The secrets' names: among the variables of the environment, or in the file that `paystorm.secrets` names."""
SECRETS = "paystorm.secrets"
SECURITY = "paystorm.kafka.security"
MECHANISM = "paystorm.kafka.sasl.mechanism"
CAFILE, CERTFILE, KEYFILE = "paystorm.kafka.cafile", "paystorm.kafka.certfile", "paystorm.kafka.keyfile"
PROTOCOLS = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
MAX_PARTITIONS = 10_000
MOST_OVERHEAD = 90
"""What a batch of one record has more than its key and value, at most."""
REFUSED_SECONDS = 60.0
"""How long a length that was refused is taken to be refused: the limit may be raised."""
MAX_REFUSED = 1000
NEWER_DRIVER = "use the driver confluent"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:,/\[\]]+):(\d{1,5})")


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """How to speak to the brokers: encryption, and who we are."""

    protocol: str = "plaintext"
    """One of PROTOCOLS."""
    mechanism: str | None = None
    """One of MECHANISMS; None without SASL."""
    cafile: str | None = None
    """Certificates (PEM) of who signed the brokers'; None: those that the system trusts."""
    certfile: str | None = None
    """Our own certificate (PEM), where brokers ask for one, and its key."""
    keyfile: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def tls(self) -> bool:
        """Connections are encrypted."""
        return self.protocol.endswith("ssl")

    @property
    def sasl(self) -> bool:
        """Brokers are told who we are."""
        return self.protocol.startswith("sasl")


PLAINTEXT = KafkaSecurity()


def kafka_security(conf: Mapping[str, Any], secrets: Mapping[str, str], where: str = "options") -> KafkaSecurity:
    """The security that a topology's options name, with the worker's secrets (`paystorm.connections.read_secrets`).

    Raises ConfigError for a value that is not allowed or has no use, for a file or a secret that is missing.
    """
    protocol = _one_of(conf, SECURITY, PROTOCOLS, "plaintext", where)
    known = KafkaSecurity(protocol)
    files = {name: _file(conf, option, where) for name, option in _FILES.items()} if known.tls else {}
    if (files.get("certfile") is None) != (files.get("keyfile") is None):
        raise ConfigError(f"{where}: {CERTFILE} and {KEYFILE} belong together, only one is set")
    for option in () if known.tls else _FILES.values():
        if conf.get(option) is not None:
            raise ConfigError(f"{where}.{option}: has no use while {SECURITY} is {protocol}: set ssl or sasl_ssl")
    if not known.sasl:
        if conf.get(MECHANISM) is not None:
            raise ConfigError(f"{where}.{MECHANISM}: has no use while {SECURITY} is {protocol}: set sasl_ssl")
        return KafkaSecurity(protocol, **files)
    mechanism = _one_of(conf, MECHANISM, MECHANISMS, "SCRAM-SHA-512", where)
    for name in (USER, PASSWORD):
        if not secrets.get(name):
            raise ConfigError(
                f"{where}.{SECURITY} is {protocol}: {name} is not set on this worker; set it, or {SECRETS}"
            )
    return KafkaSecurity(protocol, mechanism, **files, user=secrets[USER], password=secrets[PASSWORD])


_FILES = {"cafile": CAFILE, "certfile": CERTFILE, "keyfile": KEYFILE}


def broker_addresses(brokers: str, where: str = "brokers") -> list[tuple[str, int]]:
    """Host and port of each broker of `host:port,host:port`. Raises ConfigError."""
    found: list[tuple[str, int]] = []
    for part in brokers.split(","):
        fit = _ADDRESS.fullmatch(part.strip())
        if fit is None or not 1 <= int(fit[2]) <= 65535:
            raise ConfigError(f"{where} must be host:port, several by commas, got {brokers!r}")
        found.append((fit[1].strip("[]"), int(fit[2])))
    return found


def check_name(topic: str) -> None:
    """Raise LogError for a name that Kafka does not allow."""
    if not _NAME.fullmatch(topic) or topic in (".", ".."):
        raise LogError(f"topic {topic!r}: a name is 1 to 249 of A-Z a-z 0-9 . _ -, and not . or ..")


def check_new(topic: str, partitions: int) -> None:
    """Raise LogError for a topic that cannot be made."""
    check_name(topic)
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise LogError(f"topic {topic}: partitions must be between 1 and {MAX_PARTITIONS}, got {partitions}")


def is_internal(topic: str) -> bool:
    """The topic is Kafka's own, such as `__consumer_offsets`."""
    return topic.startswith("__")


def check_sizes(topic: str, sizes: Sequence[int], keyed: Sequence[int], limit: int) -> None:
    """Raise RecordTooLargeError where brokers do not take a record even alone in a batch.

    `sizes`: bytes of each record, key and value; `keyed`: of its key, 0 without one; `limit`: `max.message.bytes`.
    """
    if max(sizes) + MOST_OVERHEAD > limit:
        found = [i for i, size in enumerate(sizes) if batch_of_one(size, keyed[i]) > limit]
        if found:
            raise RecordTooLargeError(
                f"topic {topic}: {too_large(found[0], len(sizes), sizes[found[0]], limit)}", found
            )


def batch_of_one(size: int, keyed: int) -> int:
    """Bytes of a record in a batch of its own, which is what brokers hold their limit against (message format 2).

    The batch's head has 61; of the record attributes, time, offset and number of headers have one each, three lengths
    have as many as they need.
    """
    record = 4 + _varint(keyed) + _varint(size - keyed) + size
    return 61 + _varint(record) + record


def _varint(number: int) -> int:
    """Bytes of a length, seven bits in each, one bit for the sign."""
    return max(1, -(-(2 * number).bit_length() // 7))


class Refused:
    """The shortest record that brokers refused as too long of late, by topic, where it could not be known before.

    Whoever sends it again is told before anything is sent. Thread-safe.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._found: dict[str, tuple[int, float]] = {}

    def note(self, topic: str, size: int) -> None:
        """A record of this size, key and value, was refused."""
        if len(self._found) >= MAX_REFUSED:
            self._found.clear()
        self._found[topic] = (min(size, self._shortest(topic) or size), self._clock.monotonic())

    def check(self, topic: str, sizes: Sequence[int]) -> None:
        """Raise RecordTooLargeError for records as long as one that was refused."""
        shortest = self._shortest(topic)
        if shortest is not None and max(sizes) >= shortest:
            found = [i for i, size in enumerate(sizes) if size >= shortest]
            raise RecordTooLargeError(f"topic {topic}: {too_large(found[0], len(sizes), sizes[found[0]], None)}", found)

    def _shortest(self, topic: str) -> int | None:
        size, at = self._found.get(topic, (None, 0.0))
        return size if self._clock.monotonic() - at < REFUSED_SECONDS else None


def too_large(i: int, count: int, size: int, limit: int | None) -> str:
    """The text for record `i` of `count` that is over the broker's limit (None: not known)."""
    most = "more than brokers take" if limit is None else f"brokers take at most {limit} with what they add"
    return f"record {i + 1} of {count} has {size} bytes, {most}: send less, or raise max.message.bytes of the topic"


def split_values(values: bytes, lengths: Int64Array) -> list[bytes]:
    """Each value of columns as RecordBatch has them."""
    starts = np.cumsum(lengths + 1) - lengths - 1
    return [values[s : s + n] for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)]


def _one_of(conf: Mapping[str, Any], option: str, allowed: Sequence[str], default: str, where: str) -> str:
    value = conf.get(option)
    if value is None:
        return default
    if value not in allowed:
        raise ConfigError(f"{where}.{option} must be one of {', '.join(allowed)}, got {value!r}")
    return str(value)


def _file(conf: Mapping[str, Any], option: str, where: str) -> str | None:
    path = conf.get(option)
    if path is None:
        return None
    if not isinstance(path, str) or not Path(path).is_file():
        raise ConfigError(f"{where}.{option}: no file {path!r} on this worker")
    return path
