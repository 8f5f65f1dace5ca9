"""Appending to Kafka through confluent-kafka: sent once, acknowledged by all replicas in sync."""

import threading
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from paystorm.clock import Clock
from paystorm.errors import LogError
from paystorm.log.kafka_client import AWAY, MIN_SECONDS, Cluster
from paystorm.log.kafka_common import Refused, check_sizes, too_large

BATCH_BYTES = 1_000_000
"""Records sent as one batch, at most; brokers hold their limit against the batch."""
QUEUE_MESSAGES, QUEUE_KILOBYTES = 200_000, 256 * 1024
MAX_PRODUCERS = 8
_FLUSH = 0.05
_GRACE = 2.5
"""Seconds for librdkafka to say by itself that a record's time is over: it looks about once a second."""
_LAST_WORDS = 1.0
"""Seconds for a producer that is given up to say what became of its records."""

_SETTINGS = {
    "acks": "all",
    "enable.idempotence": True,  # keeps the order in a partition, too
    "allow.auto.create.topics": False,
    "linger.ms": 5,  # a flush does not wait for it
    "queue.buffering.max.messages": QUEUE_MESSAGES,
    "queue.buffering.max.kbytes": QUEUE_KILOBYTES,
    "message.max.bytes": 1_000_000_000,  # brokers decide, by topic
    "topic.metadata.propagation.max.ms": 5000,
}


class Producers:
    """A producer for each size of batches that topics take (mostly one). Thread-safe."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self._lock = threading.Lock()
        self._made: dict[int, Producer] = {}
        self._refused = Refused(clock)

    def send(
        self, topic: str, values: Sequence[bytes], keys: Sequence[bytes | None], places: Sequence[int], limit: int
    ) -> dict[int, list[int]]:
        """Append each value with its key to its partition; gives the offsets by partition, in the order of the records.

        `limit`: bytes of a batch that brokers take for this topic. Raises RecordTooLargeError, with nothing sent, where
        a record is over it; LogError where one is not acknowledged.
        """
        keyed = [len(k or b"") for k in keys]
        sizes = [len(v) + n for v, n in zip(values, keyed, strict=True)]
        check_sizes(topic, sizes, keyed, limit)
        self._refused.check(topic, sizes)
        batch_bytes = min(BATCH_BYTES, limit)
        producer = self._producer(batch_bytes)
        deadline = self._clock.monotonic() + self._cluster.timeout + _GRACE
        taken = {partition: _Receipts() for partition in set(places)}
        try:
            for value, key, partition in zip(values, keys, places, strict=True):
                while not self._queued(producer, topic, value, key, partition, taken[partition], deadline):
                    self._wait(producer, deadline)
            while sum(receipts.count() for receipts in taken.values()) < len(values):
                self._wait(producer, deadline)
        except KafkaException as e:
            raise self._failed(e.args[0], f"topic {topic}", producer) from e
        for partition, receipts in taken.items():
            if receipts.error is not None:
                if receipts.error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    i = max(range(len(sizes)), key=sizes.__getitem__)
                    self._refused.note(topic, sizes[i])  # of the others some may have been sent
                    raise LogError(f"topic {topic}: {too_large(i, len(sizes), sizes[i], limit)}")
                raise self._failed(receipts.error, f"{topic}/{partition}", producer)
        # Whichever thread waited was told of them, in no order; in the partition they stand as they were handed over.
        return {partition: sorted(receipts.offsets) for partition, receipts in taken.items()}

    def _queued(
        self,
        producer: Producer,
        topic: str,
        value: bytes,
        key: bytes | None,
        partition: int,
        receipts: "_Receipts",
        deadline: float,
    ) -> bool:
        """Hand a record to librdkafka; False where that must be tried again."""
        try:
            producer.produce(topic, value, key, partition, receipts.note)
        except BufferError:
            return False
        except KafkaException as e:
            if e.args[0].code() != KafkaError._UNKNOWN_PARTITION:
                raise
            left = max(MIN_SECONDS, deadline - self._clock.monotonic())
            if partition not in producer.list_topics(topic, left).topics[topic].partitions:
                raise self._cluster.error(e.args[0], f"{topic}/{partition}") from e
            self._clock.sleep(_FLUSH)  # it was added since the producer last asked
            return False
        return True

    def _wait(self, producer: Producer, deadline: float) -> None:
        producer.flush(_FLUSH)
        if self._clock.monotonic() >= deadline:
            raise KafkaException(self._cluster.nothing_came())

    def _failed(self, error: KafkaError, what: str, producer: Producer) -> LogError:
        # After a fatal error a producer sends nothing more, and it may have lost the brokers (see `Cluster.ask`).
        if error.fatal() or error.code() in {KafkaError._FATAL, *AWAY}:
            with self._lock:
                self._made = {size: made for size, made in self._made.items() if made is not producer}
            # Nobody waits for what it still holds: it must not be sent when the brokers are back.
            producer.purge()
            producer.flush(_LAST_WORDS)
        return self._cluster.error(error, what)

    def _producer(self, batch_bytes: int) -> Producer:
        with self._lock:
            if batch_bytes not in self._made:
                if len(self._made) >= MAX_PRODUCERS:  # whoever sends through it still has it
                    self._made.pop(next(iter(self._made)))
                more = {**_SETTINGS, "batch.size": batch_bytes}
                more["message.timeout.ms"] = more["request.timeout.ms"] = max(1000, round(self._cluster.timeout * 1000))
                self._made[batch_bytes] = Producer(self._cluster.config(more))
            return self._made[batch_bytes]

    def close(self) -> None:
        """Leave the brokers. Whoever appends waits for its records by itself."""
        with self._lock:
            gone, self._made = list(self._made.values()), {}
        for producer in gone:
            producer.flush(0)


class _Receipts:
    """What became of the records of one partition. Told by every thread that waits, so in no order."""

    __slots__ = ("error", "failed", "offsets")

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.failed = 0
        self.error: KafkaError | None = None

    def note(self, error: KafkaError | None, message: Message) -> None:
        """Called by librdkafka."""
        offset = message.offset()
        if error is None and (offset is None or offset < 0):
            error = KafkaError(KafkaError.UNKNOWN, "it was appended, and the broker does not say where")
        if error is None:
            assert offset is not None
            self.offsets.append(offset)
        else:
            self.error = error
            self.failed += 1

    def count(self) -> int:
        """Records of which we have heard."""
        return len(self.offsets) + self.failed
