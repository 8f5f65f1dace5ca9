"""Kafka through pykafka, for brokers from 0.11 to 3.9: written in Python, and slower than confluent by far.

It has no topic ids, and reads neither zstd nor transactions; what it cannot read right it refuses. Each read is first
made by a newer request that shows the heads of the batches (`paystorm.log.kafka_pykafka_wire`), then by pykafka's.
"""

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from pykafka.protocol import (
    CreateTopicRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    FetchRequest,
    ListOffsetRequest,
    ListOffsetResponse,
    Message,
    PartitionFetchRequest,
    PartitionOffsetRequest,
    ProduceRequest,
    ProduceResponse,
)

from paystorm.clock import Clock
from paystorm.errors import ConfigError, LogError
from paystorm.log.base import Int64Array, OutRecord, RecordBatch, check_bounds, partition_for
from paystorm.log.kafka_common import (
    NEWER_DRIVER,
    PLAINTEXT,
    KafkaSecurity,
    Refused,
    broker_addresses,
    check_name,
    check_new,
    is_internal,
    split_values,
    too_large,
)
from paystorm.log.kafka_pykafka_wire import (
    EXISTS,
    MISSING,
    MOVED,
    NO_CODEC,
    NO_VERSION,
    NOT_CONTROLLER,
    OUT_OF_RANGE,
    TOO_LARGE,
    Address,
    Fetched,
    FetchHeads,
    Heads,
    TopicDeleted,
    TopicMade,
    Wire,
    check_readable,
    error_name,
)

T = TypeVar("T")

TIMEOUT = 10.0
FETCH_BYTES = 256 * 1024
"""Asked for at once: pykafka decodes some ten thousand records a second, and a read is to take well under one."""
REQUEST_BYTES = 512 * 1024
"""Sent at once; brokers hold their limit of about 1 MB against all of it."""
KNOWN = 5.0
"""Seconds for which the partitions of a topic and their leaders are believed."""
_POLL = 0.05
_NO_TOPIC = "no.such.topic"  # asking for none of them is asking for all
_LATEST, _EARLIEST = -1, -2


class PyKafkaLog:
    """A `Log` and `ColumnLog` on Kafka through pykafka. Usable from several threads, one after the other."""

    def __init__(
        self,
        brokers: str,
        clock: Clock,
        *,
        security: KafkaSecurity = PLAINTEXT,
        replication: int = 1,
        timeout: float = TIMEOUT,
    ) -> None:
        """`brokers`: `host:port,host:port`; `replication`: of topics that are made; `timeout`: seconds of every wait.

        Nothing is connected yet. Raises ConfigError for security that pykafka does not have.
        """
        if security.protocol != "plaintext":
            raise ConfigError(
                f"paystorm.kafka.security is {security.protocol}: pykafka has no SASL and does not check the names in "
                f"certificates: {NEWER_DRIVER}"
            )
        self._wire = Wire(broker_addresses(brokers), clock, timeout)
        self._clock = clock
        self._replication = replication
        self._timeout = timeout
        self._turn = itertools.count()
        self._lock = threading.RLock()
        self._leaders: dict[str, tuple[dict[int, Address | None], float]] = {}
        """The leaders of a topic's partitions, and when that was asked (monotonic)."""
        self._refused = Refused(clock)
        self._held: dict[tuple[str, int], tuple[int, list[Any]]] = {}
        """Decoded records behind the last read, with the offset that the next one goes on from."""

    # Topics

    def create_topic(self, topic: str, partitions: int) -> None:
        """As `Log.create_topic`. Raises LogError for a name or a number of partitions that is not allowed."""
        check_new(topic, partitions)
        wanted = CreateTopicRequest(topic.encode(), partitions, self._replication, [], [])
        code = self._administer(CreateTopicsRequest([wanted], self._milliseconds), TopicMade)
        if code == EXISTS:
            return
        if code:
            raise self._error(topic, code)
        self._forget(topic)
        self._until(lambda: self._all_led(topic, partitions), f"topic {topic}: brokers do not take it up")

    def delete_topic(self, topic: str) -> None:
        """As `Log.delete_topic`. Nothing happens where there is no such topic."""
        check_name(topic)
        code = self._administer(DeleteTopicsRequest([topic.encode()], self._milliseconds), TopicDeleted)
        self._forget(topic)
        if code == MISSING:
            return
        if code:
            raise self._error(topic, code)
        self._until(lambda: topic not in self.topics(), f"topic {topic}: brokers do not let go of it")

    def topics(self) -> list[str]:
        """As `Log.topics`, without Kafka's own."""
        found = [name.decode() for name in self._wire.metadata([]).topics]
        return sorted(name for name in found if not is_internal(name))

    def topic_id(self, topic: str) -> str | None:
        """None: pykafka cannot tell. Raises LogError where there is no such topic."""
        self.partitions(topic)
        return None

    def partitions(self, topic: str) -> int:
        """As `Log.partitions`."""
        return len(self._led(topic, fresh=True))

    def _led(self, topic: str, *, fresh: bool = False) -> dict[int, Address | None]:
        """The leader of each partition, None where there is none now. Raises LogError where there is no such topic."""
        check_name(topic)
        now = self._clock.monotonic()
        leaders, at = self._leaders.get(topic, ({}, 0.0))
        if leaders and not fresh and now - at < KNOWN:
            return leaders
        answer = self._wire.metadata([topic])
        found = answer.topics.get(topic.encode())
        if found is None or found.err == MISSING:
            self._forget(topic)
            raise LogError(f"topic {topic}: there is none on Kafka at {self._wire.brokers}: create it first")
        if found.err and found.err not in MOVED:
            raise self._error(topic, found.err)
        hosts = {broker.id: (broker.host.decode(), broker.port) for broker in answer.brokers.values()}
        leaders = {number: hosts.get(p.leader) for number, p in found.partitions.items()}
        self._leaders[topic] = (leaders, now)
        return leaders

    def _all_led(self, topic: str, partitions: int) -> bool:
        try:
            leaders = self._led(topic, fresh=True)
        except LogError:
            return False
        return len(leaders) == partitions and None not in leaders.values()

    def _administer(self, request: Any, parse: Callable[[Any], Any]) -> int:
        """Have the controller do something; the error code."""
        deadline = self._clock.monotonic() + self._timeout
        while True:
            answer = self._wire.metadata([_NO_TOPIC])
            controller = answer.brokers.get(answer.controller_id)
            if controller is not None:
                code: int = self._wire.ask((controller.host.decode(), controller.port), request, parse).code
                if code != NOT_CONTROLLER:
                    return code
            if self._clock.monotonic() >= deadline:
                raise LogError(f"Kafka at {self._wire.brokers} has no controller: look at the brokers' logs")
            self._clock.sleep(_POLL)

    def _until(self, done: Callable[[], bool], what: str) -> None:
        deadline = self._clock.monotonic() + self._timeout
        while not done():
            if self._clock.monotonic() >= deadline:
                raise LogError(f"{what} within {self._timeout:g} s: look at the brokers' logs")
            self._clock.sleep(_POLL)

    # Asking the leader of a partition

    def _of_partition(self, topic: str, partition: int, ask: Callable[[Address], tuple[int, T]]) -> T:
        """What the leader answers to `ask` (error code, answer). Raises LogError for codes but 0 and OUT_OF_RANGE."""
        deadline = self._clock.monotonic() + self._timeout
        while True:
            leaders = self._led(topic)
            if partition not in leaders:
                leaders = self._led(topic, fresh=True)
            if partition not in leaders:
                raise LogError(f"topic {topic}: there is no partition {partition}, only 0 to {len(leaders) - 1}")
            leader = leaders[partition]
            if leader is not None:
                try:
                    code, answer = ask(leader)
                except LogError:
                    self._forget(topic)
                    raise
                if code in (0, OUT_OF_RANGE):
                    return answer
                if code not in MOVED and code != MISSING:
                    raise self._error(f"{topic}/{partition}", code)
            self._leaders.pop(topic, None)
            if self._clock.monotonic() >= deadline:
                raise LogError(
                    f"{topic}/{partition}: has no leader within {self._timeout:g} s: look at the brokers' logs"
                )
            self._clock.sleep(_POLL)

    def start_offset(self, topic: str, partition: int) -> int:
        """As `Log.start_offset`."""
        return self._offset(topic, partition, _EARLIEST)

    def end_offset(self, topic: str, partition: int) -> int:
        """As `Log.end_offset`."""
        return self._offset(topic, partition, _LATEST)

    def _offset(self, topic: str, partition: int, which: int) -> int:
        request = ListOffsetRequest([PartitionOffsetRequest(topic.encode(), partition, which, 1)])

        def ask(leader: Address) -> tuple[int, int]:
            answer = self._wire.ask(leader, request, ListOffsetResponse).topics[topic.encode()][partition]
            return answer.err, int(answer.offset[0]) if answer.offset else 0

        with self._lock:
            return self._of_partition(topic, partition, ask)

    # Appending

    def append(self, topic: str, records: Sequence[OutRecord]) -> list[tuple[int, int]]:
        """As `Log.append`. Where LogError is raised, any of the records may have been appended."""
        if not records:
            return []
        with self._lock:
            count = len(self._led(topic))
            groups: dict[int, list[int]] = {}
            for i, record in enumerate(records):
                groups.setdefault(self._place(record, count), []).append(i)
            self._refused.check(topic, [_size((r.key, r.value)) for r in records])
            places = [(0, 0)] * len(records)
            for partition, members in groups.items():
                pairs = [(records[i].key, records[i].value) for i in members]
                for i, offset in zip(members, self._append(topic, partition, pairs), strict=True):
                    places[i] = (partition, offset)
            return places

    def append_keyed(
        self, topic: str, partition: int, values: bytes, lengths: Int64Array, keys: Sequence[bytes]
    ) -> Int64Array:
        """As `ColumnLog.append_keyed`."""
        with self._lock:
            pairs: list[tuple[bytes | None, bytes]] = list(zip(keys, split_values(values, lengths), strict=True))
            self._refused.check(topic, [_size(pair) for pair in pairs])
            return np.array(self._append(topic, partition, pairs), dtype=np.int64)

    def _place(self, record: OutRecord, count: int) -> int:
        if record.partition is not None:
            return record.partition
        return next(self._turn) % count if record.key is None else partition_for(record.key, count)

    def _append(self, topic: str, partition: int, pairs: list[tuple[bytes | None, bytes]]) -> list[int]:
        """Append in order, in requests of a sane size; the offsets."""
        offsets: list[int] = []
        at = 0
        while at < len(pairs):
            size, after = 0, at
            while after < len(pairs) and (after == at or size < REQUEST_BYTES):
                size += _size(pairs[after])
                after += 1
            offsets += self._produce(topic, partition, pairs, at, after)
            at = after
        return offsets

    def _produce(
        self, topic: str, partition: int, pairs: list[tuple[bytes | None, bytes]], at: int, after: int
    ) -> list[int]:
        request = ProduceRequest(required_acks=-1, timeout=self._milliseconds)
        stamp = self._clock.now() // 1000
        for key, value in pairs[at:after]:
            message = Message(value, partition_key=key, protocol_version=1, timestamp=stamp)
            request.add_message(message, topic.encode(), partition)

        def ask(leader: Address) -> tuple[int, int | None]:
            answer = self._wire.ask(leader, request, ProduceResponse).topics[topic.encode()][partition]
            return (0, None) if answer.err == TOO_LARGE else (answer.err, int(answer.offset))

        first = self._of_partition(topic, partition, ask)
        if first is not None:
            return list(range(first, first + after - at))
        if after - at == 1:
            size = _size(pairs[at])
            self._refused.note(topic, size)  # of the others some may have been sent
            raise LogError(f"topic {topic}: {too_large(at, len(pairs), size, None)}")
        middle = (at + after) // 2
        return [
            *self._produce(topic, partition, pairs, at, middle),
            *self._produce(topic, partition, pairs, middle, after),
        ]

    # Reading

    def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        max_records: int,
        max_bytes: int,
        keys: bool = False,
    ) -> RecordBatch | None:
        """As `Log.read`, some thousand records at most. Raises LogError also for what pykafka cannot read right."""
        with self._lock:
            position, held = self._held.pop((topic, partition), (-1, []))
            after = offset
            if position != offset or not held:
                found = self._fetch(topic, partition, offset)
                if found is None:
                    return None
                held, after = found
            fit, size = 0, 0
            for message in held[:max_records]:
                size += len(message.value or b"")
                if fit and size > max_bytes:
                    break
                fit += 1
            if fit:
                after = int(held[fit - 1].offset) + 1
            if fit < len(held):
                self._held[topic, partition] = (after, held[fit:])
            return _batch(topic, partition, held[:fit], after, keys)

    def _fetch(self, topic: str, partition: int, offset: int) -> tuple[list[Any], int] | None:
        """Records from `offset` on and the offset behind them (a gap may give none); None where the partition ends."""
        place = f"{topic}/{partition}"

        def look(leader: Address) -> tuple[int, Heads]:
            heads = self._wire.ask(leader, FetchHeads(topic, partition, offset, FETCH_BYTES), Heads.parse)
            return heads.error, heads

        heads = self._of_partition(topic, partition, look)
        if heads.error == OUT_OF_RANGE:
            start, end = self.start_offset(topic, partition), self.end_offset(topic, partition)
            problem = check_bounds(offset, start, end, place)
            raise LogError(problem or f"{place}: offset {offset} is out of range: try again")
        batches = [head for head in heads.batches if head.after > offset]
        if not batches:
            if offset < heads.end:
                raise LogError(f"{place}: offset {offset}: Kafka shows no records up to {heads.end}: {NEWER_DRIVER}")
            return None
        for head in batches:
            check_readable(head, place)
        after = batches[-1].after
        messages = self._messages(topic, partition, offset, max(FETCH_BYTES, 2 * batches[0].size))
        if not messages and batches[0].records:
            text = f"{place}: offset {offset}: pykafka gets none of {batches[0].records} records"
            raise LogError(f"{text}: {NEWER_DRIVER}")
        messages = [message for message in messages if offset <= message.offset < after]
        return messages, batches[0].after

    def _messages(self, topic: str, partition: int, offset: int, max_bytes: int) -> list[Any]:
        asked = PartitionFetchRequest(topic.encode(), partition, offset, max_bytes)
        request = FetchRequest([asked], timeout=0, min_bytes=0, api_version=2)

        def ask(leader: Address) -> tuple[int, list[Any]]:
            answer = self._wire.ask(leader, request, Fetched).topics[topic.encode()][partition]
            return answer.err, answer.messages

        return self._of_partition(topic, partition, ask)

    # Private

    @property
    def _milliseconds(self) -> int:
        return round(self._timeout * 1000)

    def _error(self, what: str, code: int) -> LogError:
        if code == NO_CODEC:
            return LogError(f"{what}: the topic is compressed with zstd, which pykafka does not know: {NEWER_DRIVER}")
        if code == NO_VERSION:
            way_out = f"set message.downconversion.enable, or {NEWER_DRIVER}"
            return LogError(f"{what}: brokers do not turn its records into the old form that pykafka reads: {way_out}")
        return LogError(f"{what}: Kafka at {self._wire.brokers}: {error_name(code)}")

    def _forget(self, topic: str) -> None:
        self._leaders.pop(topic, None)
        for key in [key for key in self._held if key[0] == topic]:
            del self._held[key]

    def close(self) -> None:
        """Leave the brokers. They are connected again where the log is used afterwards."""
        with self._lock:
            self._wire.close()
            self._held.clear()
            self._leaders.clear()


def _size(pair: tuple[bytes | None, bytes]) -> int:
    """Bytes of a key and its value."""
    return len(pair[0] or b"") + len(pair[1])


def _batch(topic: str, partition: int, messages: list[Any], after: int, keys: bool) -> RecordBatch:
    values = [bytes(message.value or b"") for message in messages]
    count = len(messages)
    return RecordBatch(
        topic=topic,
        partition=partition,
        offsets=np.fromiter((m.offset for m in messages), dtype=np.int64, count=count),
        timestamps=np.fromiter((m.timestamp for m in messages), dtype=np.int64, count=count),
        values=b"".join([value + b"\n" for value in values]),
        lengths=np.fromiter(map(len, values), dtype=np.int64, count=count),
        next=after,
        keys=tuple(None if m.partition_key is None else bytes(m.partition_key) for m in messages) if keys else None,
    )
