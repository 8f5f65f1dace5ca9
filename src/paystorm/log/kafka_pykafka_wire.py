"""What the pykafka driver says to brokers: pykafka's connections and requests, one at a time, with time-outs of ours.

pykafka's own client waits for ever on some errors and takes others for an empty topic; its connections and its
protocol do not. What they cannot see, whether records are compressed with zstd or belong to transactions, stands in the
heads of the batches that a newer fetch request gives (`FetchHeads`).
"""

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pykafka.common import CompressionType
from pykafka.connection import BrokerConnection
from pykafka.exceptions import KafkaException, MessageSetDecodeFailure, SocketDisconnectedError
from pykafka.handlers import ThreadingHandler
from pykafka.protocol import (
    ApiVersionsRequest,
    ApiVersionsResponse,
    CreateTopicsResponse,
    DeleteTopicsResponse,
    FetchResponseV2,
    MessageSet,
    MetadataRequestV4,
    MetadataResponseV4,
)
from pykafka.protocol.base import Request
from pykafka.utils import compression

from paystorm.clock import Clock
from paystorm.errors import LogError
from paystorm.log.kafka_common import NEWER_DRIVER

T = TypeVar("T")
Address = tuple[str, int]

PRODUCE, FETCH = 0, 1
SPOKEN = {PRODUCE: (0, 0), FETCH: (2, 4), 2: (0, 0), 3: (4, 4), 19: (0, 0), 20: (0, 0)}
"""The lowest and the highest version of each request that is sent here: brokers of 0.11 to 3.9 know them all."""
OUT_OF_RANGE, MISSING, TOO_LARGE, NO_VERSION, EXISTS, NOT_CONTROLLER, NO_CODEC = 1, 3, 10, 35, 36, 41, 76
MOVED = frozenset({5, 6, 7, 9})
"""There is no leader now, it is another, or it waits for a replica: ask again."""
IDLE_SECONDS = 30.0
"""Brokers close a connection that is not used; a request lost in that way cannot be told from one that was done."""
_ZSTD = 4
_LIBRARIES = {2: ("snappy", "python-snappy"), 3: ("lz4", "lz4")}
"""What pykafka needs for a codec: the name of the module, and of the package."""
_ERRORS = {
    2: "CORRUPT_MESSAGE",
    17: "INVALID_TOPIC_EXCEPTION",
    19: "NOT_ENOUGH_REPLICAS",
    20: "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    29: "TOPIC_AUTHORIZATION_FAILED",
    31: "CLUSTER_AUTHORIZATION_FAILED",
    37: "INVALID_PARTITIONS",
    38: "INVALID_REPLICATION_FACTOR",
    44: "POLICY_VIOLATION",
}


def error_name(code: int) -> str:
    """Kafka's name of an error."""
    return _ERRORS.get(code, f"error {code}")


class Wire:
    """Connections to the brokers of a cluster. Thread-safe: one request at a time."""

    def __init__(self, bootstrap: list[Address], clock: Clock, timeout: float) -> None:
        self.brokers = ",".join(f"{host}:{port}" for host, port in bootstrap)
        self.timeout = timeout
        self._bootstrap = bootstrap
        self._clock = clock
        self._lock = threading.RLock()
        self._open: dict[Address, tuple[BrokerConnection, float]] = {}

    def ask(self, address: Address, request: Request, parse: Callable[[Any], T]) -> T:
        """Send a request to one broker and read its answer. Raises LogError where it is away or too new."""
        with self._lock:
            connection = self._connection(address)
            try:
                connection.request(request)
                answer = parse(connection.response())
            except (SocketDisconnectedError, OSError, AttributeError) as e:
                self._drop(address)  # a later answer must not be taken for that of another request
                raise self.away(address) from e
            except (KafkaException, struct.error, ValueError, KeyError) as e:
                self._drop(address)
                text = f"Kafka at {_text(address)}: pykafka cannot read its answer ({type(e).__name__} {e})"
                raise LogError(f"{text}: {NEWER_DRIVER}") from e
            self._open[address] = (connection, self._clock.monotonic())
            return answer

    def metadata(self, topics: list[str]) -> Any:
        """What the cluster holds: brokers by id, these topics (none: all) by name. Makes no topic."""
        request = MetadataRequestV4([t.encode() for t in topics], allow_topic_autocreation=False)
        failure: LogError | None = None
        for address in self._bootstrap:
            try:
                return self.ask(address, request, MetadataResponseV4)
            except LogError as e:
                failure = e
        assert failure is not None
        raise failure

    def away(self, address: Address) -> LogError:
        """The error for a broker that does not answer."""
        named = self.brokers if _text(address) in self.brokers else _text(address)
        return LogError(
            f"Kafka does not answer at {_text(address)} within {self.timeout:g} s: is Kafka running at {named}?"
        )

    def _connection(self, address: Address) -> BrokerConnection:
        connection, used = self._open.get(address, (None, 0.0))
        if connection is not None and self._clock.monotonic() - used < IDLE_SECONDS:
            return connection
        self._drop(address)
        connection = BrokerConnection(*address, ThreadingHandler())
        try:
            connection.connect(round(self.timeout * 1000))
            connection.request(ApiVersionsRequest())
            known = ApiVersionsResponse(connection.response()).api_versions
        except (SocketDisconnectedError, OSError, AttributeError) as e:
            connection.disconnect()
            raise self.away(address) from e
        for key, (low, high) in SPOKEN.items():
            least, most = (known[key].min, known[key].max) if key in known else (-1, -1)
            if not least <= low <= high <= most:
                connection.disconnect()
                age = "older than 0.11" if most < high else "Kafka 4 or newer"
                raise LogError(f"Kafka at {_text(address)} is {age}, which pykafka does not speak to: {NEWER_DRIVER}")
        self._open[address] = (connection, self._clock.monotonic())
        return connection

    def _drop(self, address: Address) -> None:
        found = self._open.pop(address, None)
        if found is not None:
            found[0].disconnect()

    def close(self) -> None:
        """Leave the brokers."""
        with self._lock:
            for address in list(self._open):
                self._drop(address)


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


@dataclass(frozen=True, slots=True)
class BatchHead:
    """The head of a batch of records."""

    first: int
    after: int
    """The offset behind its last record."""
    size: int
    records: int | None
    """How many records it has; none where compaction has left only its head. None: the head is cut off there."""
    codec: int
    """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."""
    transactional: bool
    append_time: bool
    """The timestamps are the broker's, one for the whole batch."""


class FetchHeads(Request):  # type: ignore[misc]  # pykafka has no types
    """A fetch of version 4, the first whose answer shows batches as brokers keep them."""

    API_KEY = FETCH

    def __init__(self, topic: str, partition: int, offset: int, max_bytes: int) -> None:
        self._body = struct.pack("!iiiibi", -1, 0, 0, max_bytes, 0, 1)
        name = topic.encode()
        self._body += struct.pack(f"!h{len(name)}siiqi", len(name), name, 1, partition, offset, max_bytes)

    def __len__(self) -> int:
        return int(self.HEADER_LEN) + len(self._body)

    def get_bytes(self) -> bytearray:
        """The request as it is sent."""
        output = bytearray(len(self))
        self._write_header(output, api_version=4)
        output[self.HEADER_LEN :] = self._body
        return output


@dataclass(frozen=True, slots=True)
class Heads:
    """The answer to `FetchHeads`."""

    error: int
    end: int
    """The offset behind the last record that consumers may see."""
    batches: tuple[BatchHead, ...]

    @classmethod
    def parse(cls, answer: Any) -> "Heads":
        """Of a fetch of one partition."""
        raw = bytes(answer)
        (length,) = struct.unpack_from("!h", raw, 8)
        at = 10 + length + 4
        _, error, end, _, aborted = struct.unpack_from("!ihqqi", raw, at)
        at += 26 + 16 * max(0, aborted)
        (size,) = struct.unpack_from("!i", raw, at)
        return cls(error, end, tuple(_heads(raw, at + 4, at + 4 + max(0, size))))


_OLD, _NEW, _COUNT = struct.Struct("!qiiBB"), struct.Struct("!qiiBihi"), struct.Struct("!57xi")


def _heads(raw: bytes, at: int, end: int) -> list[BatchHead]:
    """The heads of whole batches, and of a last one that is cut off behind its head."""
    found: list[BatchHead] = []
    records: int | None
    while at + _NEW.size <= end:
        first, size, _, magic, attributes = _OLD.unpack_from(raw, at)
        after, records = first + 1, 1
        if magic >= 2:
            first, size, _, _, _, attributes, last = _NEW.unpack_from(raw, at)
            after = first + last + 1
            records = _COUNT.unpack_from(raw, at)[0] if at + _COUNT.size <= end else None
        found.append(
            BatchHead(
                first,
                after,
                size + 12,
                records,
                attributes & 7,
                transactional=magic >= 2 and bool(attributes & 0x30),
                append_time=bool(attributes & 8),
            )
        )
        at += size + 12
    return found


def check_readable(head: BatchHead, place: str) -> None:
    """Raise LogError for a batch that pykafka would read wrong, or as if it were not there."""
    where = f"{place}: offset {head.after - 1}"
    if head.transactional:
        raise LogError(
            f"{where} was written in a transaction, which pykafka cannot tell from an aborted one: {NEWER_DRIVER}"
        )
    if head.codec == _ZSTD:
        raise LogError(f"{where} is compressed with zstd, which pykafka cannot read: {NEWER_DRIVER}")
    module, package = _LIBRARIES.get(head.codec, ("", ""))
    if module and getattr(compression, module) is None:
        raise LogError(f"{where} is compressed with {module}, which pykafka needs {package} for: pip install {package}")


class Fetched(FetchResponseV2):  # type: ignore[misc]  # pykafka has no types
    """pykafka takes the mark of a broker's own timestamps for a codec, and fails where no whole record is there."""

    def _unpack_message_set(self, buff: Any, partition_id: int = -1, broker_version: str = "0.11.0") -> list[Any]:
        output: list[Any] = []
        if buff is None:
            return output
        try:
            found = MessageSet.decode(buff, partition_id=partition_id).messages
        except MessageSetDecodeFailure:
            return output
        for message in found:
            codec = message.compression_type & 7
            if codec == CompressionType.NONE:
                output.append(message)
                continue
            unpacked = _UNPACK[codec](message.value)
            inner = self._unpack_message_set(memoryview(unpacked), partition_id, broker_version)
            shift = message.offset - inner[-1].offset  # offsets within are counted from 0
            for each in inner:
                each.offset += shift
                if message.compression_type & 8:
                    each.timestamp = message.timestamp
            output += inner
        return output


_UNPACK: dict[int, Callable[[Any], bytes]] = {
    CompressionType.GZIP: compression.decode_gzip,
    CompressionType.SNAPPY: compression.decode_snappy,
    CompressionType.LZ4: lambda buff: bytes(compression.decode_lz4(buff)),
}


class TopicMade(CreateTopicsResponse):  # type: ignore[misc]
    """pykafka has no name for every error."""

    code = 0

    def raise_error(self, err_code: int, response: Any) -> None:
        self.code = err_code


class TopicDeleted(DeleteTopicsResponse):  # type: ignore[misc]
    """pykafka has no name for every error."""

    code = 0

    def raise_error(self, err_code: int, response: Any) -> None:
        self.code = err_code
