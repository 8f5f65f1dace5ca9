"""One partition of Kafka as confluent-kafka reads it: a consumer of its own, its position kept from read to read."""

from collections.abc import Sequence

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from paystorm.log.base import Int64Array, RecordBatch
from paystorm.log.kafka_client import Cluster

SLICE = 2000
"""Messages taken at once: with more, they fall out of the processor's cache before they are looked at."""
QUEUE_MESSAGES, QUEUE_KILOBYTES = 40_000, 16 * 1024
"""What librdkafka may fetch ahead for one partition, beside the fetch under way: some 20 MiB of memory."""
FETCH_WAIT_MS = 100
"""How long a broker may hold a fetch while there is nothing new; a new assignment waits for that."""

_SETTINGS = {
    "group.id": "paystorm",  # demanded by confluent-kafka; no group is joined, nothing is committed
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "check.crcs": True,
    "queued.min.messages": QUEUE_MESSAGES,
    "queued.max.messages.kbytes": QUEUE_KILOBYTES,
    "fetch.queue.backoff.ms": 10,  # 1000 by default, which caps a replay
    "fetch.error.backoff.ms": 100,
    "fetch.wait.max.ms": FETCH_WAIT_MS,
}


def new_consumer(cluster: Cluster) -> Consumer:
    """A consumer that is assigned nothing yet."""
    return Consumer(cluster.config(_SETTINGS))


class PartitionConsumer:
    """Reads one partition. Not thread-safe: whoever holds it uses it alone."""

    def __init__(self, cluster: Cluster, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.position = -1
        """The offset that the next read goes on from; -1: none."""
        self.resumes = -1
        """Without a position: the last one. Whoever reads on from there reads on in the same topic."""
        self.topic_id: str | None = None
        """The id of the topic that either is of."""
        self._cluster = cluster
        self._made: Consumer | None = None
        self._held: list[Message] = []
        """Taken from librdkafka, but too much for the last read."""
        self._end = -1
        """The end that librdkafka last reported: there is nothing below it that was not given."""

    @property
    def place(self) -> str:
        """The name of the partition, for errors."""
        return f"{self.topic}/{self.partition}"

    def seek(self, offset: int, topic_id: str | None) -> None:
        """Read on from `offset`, which must lie within the partition of the topic with this id."""
        self.lose_position()
        if self._made is None:
            self._made = new_consumer(self._cluster)
        try:
            self._made.assign([TopicPartition(self.topic, self.partition, offset)])
        except KafkaException as e:
            raise self._cluster.error(e.args[0], self.place) from e
        self.position, self.resumes, self.topic_id = offset, -1, topic_id

    def lose_position(self) -> None:
        """What was taken has not arrived, or what follows is not known: the next read must seek."""
        if self.position >= 0:
            self.resumes = self.position
        self._held, self._end, self.position = [], -1, -1

    def take(self, max_records: int, max_bytes: int, *, keys: bool, wait: float) -> RecordBatch | None:
        """What has arrived, after waiting up to `wait` seconds for the first of it; None where nothing has.

        A batch without records says that there is a gap up to `next`: control records, or records of transactions
        that were given up. Raises LogError for what the broker reports.
        """
        columns = _Columns(keys)
        while columns.count < max_records:
            messages = self._next(min(SLICE, max_records - columns.count), 0.0 if columns.count else wait)
            if not messages:
                break
            fit = columns.add(messages, max_bytes)
            if fit < len(messages):
                self._held = messages[fit:] + self._held
                break
        if columns.count:
            after = columns.last() + 1
        elif self._end > self.position:
            after = self._end
        else:
            return None
        if not self._held:
            after = max(after, self._end)
        self.position = after
        return columns.batch(self.topic, self.partition, after)

    def close(self) -> None:
        """Leave the brokers."""
        self.lose_position()
        made, self._made = self._made, None  # not to be kept by the traceback of an error: a process has 1024 at most
        if made is not None:
            made.close()

    def _next(self, most: int, wait: float) -> list[Message]:
        """Up to `most` messages with records at or behind the position."""
        if self._held:
            messages, self._held = self._held[:most], self._held[most:]
            return messages
        assert self._made is not None, "seek first"
        messages = self._made.consume(1, wait) if wait else []
        if most > len(messages) and (messages or not wait):
            messages += self._made.consume(most - len(messages), 0)
        if any(map(Message.error, messages)):
            messages = [m for m in messages if m.error() is None or self._reported(m)]
        return messages

    def _reported(self, message: Message) -> bool:
        """Note what an event says; never a record. Raises LogError for an error."""
        error = message.error()
        assert error is not None
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._end = max(self._end, message.offset() or 0)
        elif code == KafkaError._AUTO_OFFSET_RESET and self._left_behind(message.offset()):
            pass
        elif code not in (KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.COORDINATOR_NOT_AVAILABLE):
            raise self._cluster.error(error, self.place)  # no group is used, so what is said of it does not matter
        return False

    def _left_behind(self, offset: int | None) -> bool:
        """Whether an offset is one from before the last `seek`: that its records are gone does not matter here."""
        return offset is not None and 0 <= offset < self.position


class _Columns:
    """Messages as columns, a slice at a time."""

    def __init__(self, keys: bool) -> None:
        self.count = 0
        self._bytes = 0
        self._values: list[bytes] = []
        self._lengths: list[Int64Array] = []
        self._offsets: list[Int64Array] = []
        self._stamps: list[Int64Array] = []
        self._keys: list[bytes | None] | None = [] if keys else None

    def add(self, messages: list[Message], max_bytes: int) -> int:
        """Take as many as `max_bytes` in all allows, at least the very first; how many that is."""
        lengths: Int64Array = np.fromiter(map(len, messages), dtype=np.int64, count=len(messages))
        fit = len(messages)
        if self._bytes + int(lengths.sum()) > max_bytes:
            fit = int(np.searchsorted(np.cumsum(lengths), max_bytes - self._bytes, side="right"))
            fit = max(fit, 0 if self.count else 1)
            if fit == 0:
                return 0
            messages, lengths = messages[:fit], lengths[:fit]
        values = list(map(Message.value, messages))
        values.append(b"")  # so that the last one, too, is followed by a newline
        self._values.append(_lines(values))
        self._stamps.append(np.array([stamp for _, stamp in map(Message.timestamp, messages)], dtype=np.int64))
        first, last = messages[0].offset(), messages[-1].offset()
        assert first is not None
        assert last is not None
        if last - first == fit - 1:
            self._offsets.append(np.arange(first, last + 1, dtype=np.int64))
        else:
            self._offsets.append(np.array([m.offset() for m in messages], dtype=np.int64))
        if self._keys is not None:
            self._keys += map(Message.key, messages)
        self._lengths.append(lengths)
        self._bytes += int(lengths.sum())
        self.count += fit
        return fit

    def last(self) -> int:
        """The offset of the last record."""
        return int(self._offsets[-1][-1])

    def batch(self, topic: str, partition: int, after: int) -> RecordBatch:
        """What was added, in the log's form."""
        return RecordBatch(
            topic=topic,
            partition=partition,
            offsets=_joined(self._offsets),
            timestamps=_joined(self._stamps),
            values=b"".join(self._values),
            lengths=_joined(self._lengths),
            next=after,
            keys=None if self._keys is None else tuple(self._keys),
        )


def _joined(arrays: Sequence[Int64Array]) -> Int64Array:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)


def _lines(values: list[bytes | None]) -> bytes:
    """The values joined by newlines; a record without a value (a tombstone) counts as empty."""
    try:
        return b"\n".join(values)  # type: ignore[arg-type]  # asking each for None would cost a tenth of a read
    except TypeError:
        return b"\n".join([value or b"" for value in values])
