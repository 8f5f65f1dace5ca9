"""Kafka through confluent-kafka (librdkafka): the default driver, for brokers of every version.

Records of open or aborted transactions are not read (`read_committed`), and offsets may have gaps.
"""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition

# The package re-exports some of them without saying so in its types.
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]

from paystorm.clock import Clock
from paystorm.errors import LogError
from paystorm.log.base import Int64Array, OutRecord, RecordBatch, check_bounds, partition_for
from paystorm.log.kafka_client import AWAY, FIRST_TRY, MIN_SECONDS, MISSING, PAUSE, Cluster
from paystorm.log.kafka_common import (
    PLAINTEXT,
    KafkaSecurity,
    check_name,
    check_new,
    is_internal,
    split_values,
)
from paystorm.log.kafka_consumer import PartitionConsumer, new_consumer
from paystorm.log.kafka_producer import Producers

TIMEOUT = 10.0
"""Seconds: below the 30 after which Storm takes a silent component for dead."""
MAX_CONSUMERS = 64
"""Consumers kept open while nobody reads, each with some threads and what it has fetched ahead."""
CONSUMERS_EACH = 2
"""Of them for one partition: one goes on in order, another looks up single records."""
FRESH = 0.1
"""Seconds for which it is believed that a partition has ended; records that arrive meanwhile are seen at once."""
KNOWN = 5.0
"""Seconds for which the number of partitions and the limits of a topic are believed when appending."""
_POLL = 0.05
_MOVED = frozenset({KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE})


class KafkaLog:
    """A `Log` and `ColumnLog` on Kafka. Usable from several threads; not after a fork."""

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

        Nothing is connected yet. Raises ConfigError for addresses of another form.
        """
        self._cluster = Cluster(brokers, security, timeout)
        self._clock = clock
        self._replication = replication
        self._producers = Producers(self._cluster, clock)
        self._turn = itertools.count()
        self._lock = threading.Lock()
        self._asker_made: Any = None
        self._idle: list[PartitionConsumer] = []
        """Consumers that nobody uses now, the least recently used first."""
        self._ids: dict[str, str | None] = {}
        """The ids of topics as last heard."""
        self._ends: dict[tuple[str, int], tuple[int, float]] = {}
        """The ends of partitions as last heard, and when (monotonic)."""
        self._known: dict[str, tuple[int, int, float]] = {}
        """Partitions, the longest record and when that was asked (monotonic), by topic."""

    # Topics

    def create_topic(self, topic: str, partitions: int) -> None:
        """As `Log.create_topic`. Raises LogError for a name or a number of partitions that is not allowed."""
        check_new(topic, partitions)
        new = NewTopic(topic, num_partitions=partitions, replication_factor=self._replication)
        try:
            self._cluster.ask(lambda admin, seconds: admin.create_topics([new], request_timeout=seconds)[topic])
        except KafkaException as e:
            if e.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return
            raise self._cluster.error(e.args[0], f"topic {topic}") from e
        self._forget(topic)
        self._until(lambda: self._leaders(topic) == partitions, f"topic {topic}: brokers do not take it up")

    def delete_topic(self, topic: str) -> None:
        """As `Log.delete_topic`, once no broker asked knows it. Nothing happens where there is no such topic."""
        check_name(topic)
        self._forget(topic)
        try:
            self._cluster.ask(lambda admin, seconds: admin.delete_topics([topic], request_timeout=seconds)[topic])
        except KafkaException as e:
            if e.args[0].code() in MISSING:
                return
            raise self._cluster.error(e.args[0], f"topic {topic}") from e
        self._until(lambda: self._leaders(topic) is None, f"topic {topic}: brokers do not let go of it")

    def topics(self) -> list[str]:
        """As `Log.topics`, without Kafka's own."""
        found = self._cluster.result("topics", _listed)
        return sorted(name for name in found if not is_internal(name))

    def topic_id(self, topic: str) -> str | None:
        """As `Log.topic_id`; None where the brokers are older than topic ids (before 2.8)."""
        found = self._describe(topic)
        with self._lock:
            self._ids[topic] = found
        return found

    def partitions(self, topic: str) -> int:
        """As `Log.partitions`."""
        return len(self._description(topic).partitions)

    def _check_partition(self, partition: int, count: int, topic: str) -> None:
        if not 0 <= partition < count:
            raise LogError(f"topic {topic}: there is no partition {partition}, only 0 to {count - 1}")

    def _description(self, topic: str) -> Any:
        check_name(topic)
        return self._cluster.result(f"topic {topic}", _described(topic))

    def _describe(self, topic: str) -> str | None:
        uuid = self._description(topic).topic_id
        if uuid is None or not (uuid.get_most_significant_bits() or uuid.get_least_significant_bits()):
            return None
        return str(uuid)

    def _leaders(self, topic: str) -> int | None:
        """How many partitions have a leader; None where there is no such topic."""
        try:
            found = self._cluster.ask(_described(topic))
        except KafkaException as e:
            if e.args[0].code() in MISSING:
                return None
            raise self._cluster.error(e.args[0], f"topic {topic}") from e
        return sum(1 for p in found.partitions if p.leader is not None and p.leader.id >= 0)

    def _until(self, done: Any, what: str) -> None:
        deadline = self._clock.monotonic() + self._cluster.timeout
        while not done():
            if self._clock.monotonic() >= deadline:
                raise LogError(f"{what} within {self._cluster.timeout:g} s: look at the brokers' logs")
            self._clock.sleep(_POLL)

    # Offsets

    def start_offset(self, topic: str, partition: int) -> int:
        """As `Log.start_offset`."""
        return self._bounds(topic, partition)[0]

    def end_offset(self, topic: str, partition: int) -> int:
        """As `Log.end_offset`: below every transaction that is still open."""
        return self._bounds(topic, partition)[1]

    def _bounds(self, topic: str, partition: int) -> tuple[int, int]:
        check_name(topic)
        if partition < 0:  # which means another thing to librdkafka
            self._check_partition(partition, self.partitions(topic), topic)
        with self._lock:
            before = self._ends.get((topic, partition))
        start, end = self._ask_bounds(topic, partition)
        with self._lock:
            now = self._ends.get((topic, partition))
            if now is not None and now is not before:  # records of our own came while we asked
                end = max(end, now[0])
            self._ends[topic, partition] = (end, self._clock.monotonic())
        return start, end

    def _ask_bounds(self, topic: str, partition: int) -> tuple[int, int]:
        place = f"{topic}/{partition}"
        deadline, seconds = self._clock.monotonic() + self._cluster.timeout, FIRST_TRY
        while True:
            left = max(MIN_SECONDS, deadline - self._clock.monotonic())
            asker = self._asker
            try:
                found = asker.get_watermark_offsets(TopicPartition(topic, partition), timeout=min(seconds, left))
                if found is not None:
                    return int(found[0]), int(found[1])
                seconds *= 2
            except KafkaException as e:
                code = e.args[0].code()
                if code == KafkaError._UNKNOWN_PARTITION:  # said of a broker that is away, too
                    self._check_partition(partition, self.partitions(topic), topic)
                elif code == KafkaError._TIMED_OUT:
                    seconds *= 2
                elif code not in _MOVED:
                    self._leave(asker)
                    if code not in AWAY or self._clock.monotonic() >= deadline:
                        raise self._cluster.error(e.args[0], place) from e
                    self._clock.sleep(seconds * PAUSE)
                    seconds *= 2
                    continue
            if self._clock.monotonic() >= deadline:
                raise self._cluster.late(place)
            self._clock.sleep(_POLL)
            try:
                asker.list_topics(topic, timeout=min(FIRST_TRY, left))  # has it hear who leads the partition now
            except KafkaException:
                self._leave(asker)

    # Appending

    def append(self, topic: str, records: Sequence[OutRecord]) -> list[tuple[int, int]]:
        """As `Log.append`. Where LogError is raised, any of the records may have been appended.

        A record that is longer than brokers take is named, and none is sent.
        """
        if not records:
            return []
        count, limit = self._of_topic(topic, max((r.partition for r in records if r.partition is not None), default=0))
        places = [self._place(record, count) for record in records]
        for partition in {*places}:
            self._check_partition(partition, count, topic)
        sent = self._send(topic, [r.value for r in records], [r.key for r in records], places, limit)
        taken = {p: iter(offsets) for p, offsets in sent.items()}
        return [(p, next(taken[p])) for p in places]

    def append_keyed(
        self, topic: str, partition: int, values: bytes, lengths: Int64Array, keys: Sequence[bytes]
    ) -> Int64Array:
        """As `ColumnLog.append_keyed`."""
        count, limit = self._of_topic(topic, partition)
        self._check_partition(partition, count, topic)
        if not len(lengths):
            return np.zeros(0, dtype=np.int64)
        sent = self._send(topic, split_values(values, lengths), keys, [partition] * len(lengths), limit)
        return np.array(sent[partition], dtype=np.int64)

    def _place(self, record: OutRecord, count: int) -> int:
        if record.partition is not None:
            return record.partition
        return next(self._turn) % count if record.key is None else partition_for(record.key, count)

    def _send(
        self, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None], places: Sequence[int], limit: int
    ) -> dict[int, list[int]]:
        """The offsets by partition, in the order of the records."""
        try:
            sent = self._producers.send(topic, values, keys, places, limit)
        except LogError:
            with self._lock:
                self._known.pop(topic, None)
            raise
        with self._lock:
            for partition, offsets in sent.items():
                end, at = self._ends.get((topic, partition), (0, 0.0))
                self._ends[topic, partition] = (max(end, offsets[-1] + 1), at)
        return sent

    def _of_topic(self, topic: str, highest: int) -> tuple[int, int]:
        """The number of partitions, which may have grown to cover `highest`, and the size of the longest record."""
        with self._lock:
            known = self._known.get(topic)
        now = self._clock.monotonic()
        if known is not None and now - known[2] < KNOWN and highest < known[0]:
            return known[0], known[1]
        partitions = self.partitions(topic)
        asked = ConfigResource(ResourceType.TOPIC, topic)
        settings = self._cluster.result(
            f"topic {topic}",
            lambda admin, seconds: admin.describe_configs([asked], request_timeout=seconds)[asked],
        )
        limit = int(settings["max.message.bytes"].value)
        with self._lock:
            self._known[topic] = (partitions, limit, now)
        return partitions, limit

    def drop_before(self, topic: str, partition: int, offset: int) -> int:
        """As `DroppingLog.drop_before`, by DeleteRecords: the brokers remove exactly these."""
        start, end = self._bounds(topic, partition)
        if offset <= start:
            return start
        place = TopicPartition(topic, partition, min(offset, end))
        answer = self._cluster.result(
            f"{topic}/{partition}",
            lambda admin, seconds: next(iter(admin.delete_records([place], request_timeout=seconds).values())),
        )
        kept = int(answer.low_watermark)
        with self._lock:  # those that stand below it would say so, whatever they are asked for next
            below = [c for c in self._idle if (c.topic, c.partition) == (topic, partition)]
            self._idle = [c for c in self._idle if c not in below]
        for consumer in below:
            consumer.close()
        return kept

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
        """As `Log.read`. Raises LogError also, once, where the topic was made anew.

        That is since the read that ended at `offset`; where there was none, since its id was last asked for.

        A record that others have appended is seen after `FRESH` seconds at the latest.
        """
        with self._consumer(topic, partition, offset) as consumer:
            if consumer.position != offset:
                self._check_bounds(topic, partition, offset)
                consumer.seek(offset, consumer.topic_id if consumer.resumes == offset else self._known_id(topic))
            batch = consumer.take(max_records, max_bytes, keys=keys, wait=0.0)
            if batch is None and self._at_end(topic, partition, offset):
                return None
            deadline, seconds = self._clock.monotonic() + self._cluster.timeout, FIRST_TRY
            while batch is None:
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    consumer.close()
                    raise self._cluster.late(f"{topic}/{partition}: offset {offset}")
                again = self._clock.monotonic() + seconds
                batch = consumer.take(max_records, max_bytes, keys=keys, wait=min(seconds, left))
                if batch is None and self._clock.monotonic() >= again:  # it may have lost the brokers
                    consumer.close()
                    consumer.seek(offset, consumer.topic_id)
                    seconds *= 2
            if len(batch):
                self._check_same(consumer)
            return batch

    def _at_end(self, topic: str, partition: int, offset: int) -> bool:
        """Nothing is to be read from `offset` on. The broker is asked unless the answer is fresh."""
        with self._lock:
            end, at = self._ends.get((topic, partition), (0, 0.0))
        if offset >= end and self._clock.monotonic() - at < FRESH:
            return True
        return self._check_bounds(topic, partition, offset) == offset

    def _check_bounds(self, topic: str, partition: int, offset: int) -> int:
        """The end of the partition. Raises LogError where the offset lies outside."""
        start, end = self._bounds(topic, partition)
        problem = check_bounds(offset, start, end, f"{topic}/{partition}")
        if problem is not None:
            raise LogError(problem)
        return end

    def _check_same(self, consumer: PartitionConsumer) -> None:
        """Raise LogError where the topic is another than before: librdkafka goes on with it at the same offset."""
        topic, before = consumer.topic, consumer.topic_id
        consumer.topic_id = self.topic_id(topic)
        if consumer.topic_id != before:
            with self._lock:
                self._drop_figures(topic)
            raise LogError(f"topic {topic}: was deleted and made anew meanwhile: its offsets mean other records now")

    @contextlib.contextmanager
    def _consumer(self, topic: str, partition: int, offset: int) -> Iterator[PartitionConsumer]:
        """A consumer of the partition for us alone: the one that stands at `offset`, if any."""
        with self._lock:
            mine = [c for c in self._idle if (c.topic, c.partition) == (topic, partition)]
            fit = [c for c in mine if offset in (c.position, c.resumes)] or [c for c in mine if c.position < 0]
            if not fit and len(mine) >= CONSUMERS_EACH:
                fit = mine[:1]
            if fit:
                self._idle.remove(fit[0])
        consumer = fit[0] if fit else PartitionConsumer(self._cluster, topic, partition)
        try:
            yield consumer
        except BaseException:
            consumer.lose_position()
            raise
        finally:
            with self._lock:
                self._idle.append(consumer)
                over = max(0, len(self._idle) - MAX_CONSUMERS)
                spare, self._idle = self._idle[:over], self._idle[over:]
            for each in spare:
                each.close()

    def _known_id(self, topic: str) -> str | None:
        """The topic's id as last heard, asked for where it never was."""
        with self._lock:
            if topic in self._ids:
                return self._ids[topic]
        return self.topic_id(topic)

    # Clients

    @property
    def _asker(self) -> Any:
        """A consumer that only asks for offsets: behind a fetch that waits for records, the answer would be late."""
        with self._lock:
            if self._asker_made is None:
                self._asker_made = new_consumer(self._cluster)
            return self._asker_made

    def _leave(self, asker: Any) -> None:
        """Have the next question put by another client: this one has lost the brokers (see `Cluster.ask`)."""
        asker.poll(0)  # tells the cluster why
        with self._lock:
            if self._asker_made is asker:
                self._asker_made = None

    def _forget(self, topic: str) -> None:
        """Drop what is known of a topic, but not its id."""
        with self._lock:
            self._drop_figures(topic)
            gone = [c for c in self._idle if c.topic == topic]
            self._idle = [c for c in self._idle if c.topic != topic]
        for consumer in gone:
            consumer.close()

    def _drop_figures(self, topic: str) -> None:
        self._known.pop(topic, None)
        for key in [key for key in self._ends if key[0] == topic]:
            del self._ends[key]

    def close(self) -> None:
        """Leave the brokers. They are connected again where the log is used afterwards."""
        with self._lock:
            gone, self._idle = self._idle, []
            asker, self._asker_made = self._asker_made, None
        for consumer in gone:
            consumer.close()
        if asker is not None:
            asker.close()
        self._producers.close()
        self._cluster.close()


def _described(topic: str) -> Callable[[AdminClient, float], Future[Any]]:
    """The call for what brokers say of a topic."""
    return lambda admin, seconds: admin.describe_topics(TopicCollection([topic]), request_timeout=seconds)[topic]


def _listed(admin: AdminClient, seconds: float) -> Future[Any]:
    """All topics, by name."""
    found: Future[Any] = Future()
    found.set_result(admin.list_topics(timeout=seconds).topics)
    return found
