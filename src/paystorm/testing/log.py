"""A log in memory: the contract of `paystorm.log.base.Log`, nothing durable."""

import itertools
import threading
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from paystorm.clock import Clock
from paystorm.errors import LogError
from paystorm.log.base import OutRecord, RecordBatch, check_bounds


@dataclass(frozen=True, slots=True)
class _Record:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes


@dataclass(slots=True)
class _Partition:
    records: list[_Record] = field(default_factory=list)
    end: int = 0


@dataclass(slots=True)
class _Topic:
    id: str
    partitions: list[_Partition]


class MemoryLog:
    """A `Log` of one process. Usable from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._topics: dict[str, _Topic] = {}
        self._numbers = itertools.count(1)
        self._turn = itertools.count()

    def create_topic(self, topic: str, partitions: int) -> None:
        """As `Log.create_topic`."""
        if partitions < 1:
            raise LogError(f"topic {topic}: partitions must be ≥ 1, got {partitions}")
        with self._lock:
            if topic not in self._topics:
                self._topics[topic] = _Topic(f"id-{next(self._numbers)}", [_Partition() for _ in range(partitions)])

    def add_partitions(self, topic: str, partitions: int) -> None:
        """Let the topic have this many partitions, as Kafka's administrators can; never fewer."""
        with self._lock:
            held = self._topic(topic).partitions
            held.extend(_Partition() for _ in range(partitions - len(held)))

    def skip(self, topic: str, partition: int, offsets: int) -> None:
        """Leave a gap of `offsets` behind the last record, as transactions and compaction do."""
        with self._lock:
            self._partition(topic, partition).end += offsets

    def delete_topic(self, topic: str) -> None:
        """As `Log.delete_topic`."""
        with self._lock:
            self._topics.pop(topic, None)

    def topics(self) -> list[str]:
        """As `Log.topics`."""
        with self._lock:
            return sorted(self._topics)

    def topic_id(self, topic: str) -> str | None:
        """As `Log.topic_id`; never None."""
        with self._lock:
            return self._topic(topic).id

    def partitions(self, topic: str) -> int:
        """As `Log.partitions`."""
        with self._lock:
            return len(self._topic(topic).partitions)

    def start_offset(self, topic: str, partition: int) -> int:
        """As `Log.start_offset`: nothing is ever lost here."""
        with self._lock:
            self._partition(topic, partition)
            return 0

    def end_offset(self, topic: str, partition: int) -> int:
        """As `Log.end_offset`."""
        with self._lock:
            return self._partition(topic, partition).end

    def append(self, topic: str, records: Sequence[OutRecord]) -> list[tuple[int, int]]:
        """As `Log.append`."""
        placed: list[tuple[int, int]] = []
        with self._lock:
            count = len(self._topic(topic).partitions)
            chosen = [self._choose(record, count) for record in records]
            for number in chosen:
                self._partition(topic, number)
            now = self._clock.now() // 1000
            for number, record in zip(chosen, records, strict=True):
                held = self._partition(topic, number)
                stamp = max(now, held.records[-1].timestamp) if held.records else now
                held.records.append(_Record(held.end, stamp, record.key, record.value))
                placed.append((number, held.end))
                held.end += 1
        return placed

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
        """As `Log.read`. A gap at the end of a partition is read over by a batch without records."""
        with self._lock:
            held = self._partition(topic, partition)
            wrong = check_bounds(offset, 0, held.end, f"{topic}/{partition}")
            if wrong is not None:
                raise LogError(wrong)
            if offset == held.end:
                return None
            taken: list[_Record] = []
            size = 0
            following = held.end
            for record in held.records[bisect_left(held.records, offset, key=lambda r: r.offset) :]:
                if len(taken) == max_records or (taken and size + len(record.value) > max_bytes):
                    following = record.offset
                    break
                taken.append(record)
                size += len(record.value)
        return RecordBatch(
            topic=topic,
            partition=partition,
            offsets=np.array([r.offset for r in taken], dtype=np.int64),
            timestamps=np.array([r.timestamp for r in taken], dtype=np.int64),
            values=b"".join(r.value + b"\n" for r in taken),
            lengths=np.array([len(r.value) for r in taken], dtype=np.int64),
            next=following,
            keys=tuple(r.key for r in taken) if keys else None,
        )

    def records(self, topic: str) -> list[tuple[int, int, int, bytes]]:
        """(partition, offset, timestamp in ms, value) of every record, by partition and offset."""
        with self._lock:
            return [
                (number, r.offset, r.timestamp, r.value)
                for number, held in enumerate(self._topic(topic).partitions)
                for r in held.records
            ]

    def offsets(self, topic: str, partition: int, first: int, after: int) -> list[int]:
        """The offsets of the records of a partition with first ≤ offset < after."""
        with self._lock:
            held = self._partition(topic, partition).records
            start = bisect_left(held, first, key=lambda r: r.offset)
            return [r.offset for r in held[start : bisect_left(held, after, key=lambda r: r.offset)]]

    def keyed(self, topic: str) -> list[tuple[bytes | None, bytes]]:
        """(key, value) of every record, by partition and offset; nothing where there is no such topic."""
        with self._lock:
            if topic not in self._topics:
                return []
            return [(r.key, r.value) for held in self._topics[topic].partitions for r in held.records]

    def close(self) -> None:
        """Nothing to release."""

    def _topic(self, topic: str) -> _Topic:
        found = self._topics.get(topic)
        if found is None:
            raise LogError(f"topic {topic} does not exist: create it")
        return found

    def _partition(self, topic: str, partition: int) -> _Partition:
        held = self._topic(topic).partitions
        if not 0 <= partition < len(held):
            raise LogError(f"topic {topic} has no partition {partition}; it has {len(held)}")
        return held[partition]

    def _choose(self, record: OutRecord, count: int) -> int:
        if record.partition is not None:
            return record.partition
        if record.key is not None:
            return zlib.crc32(record.key) % count
        return next(self._turn) % count
