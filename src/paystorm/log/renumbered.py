"""A log whose topics may have been made anew: their partitions are numbered on (see `stores.former`)."""

from collections.abc import Callable, Sequence

import numpy as np

from paystorm.errors import LogError
from paystorm.log.base import ColumnLog, DroppingLog, Int64Array, Log, OutRecord, RecordBatch, check_bounds
from paystorm.stores.former import Former

Formers = Callable[[str], Sequence[Former]]
"""From a topic's name to its former ones, the oldest first."""


class RenumberedLog:
    """Another log, with the partitions of former topics in front: empty, ending where they were processed up to."""

    def __init__(self, log: Log, formers: Formers) -> None:
        """`formers` is asked once for each topic: a reset is seen by those who open the log after it."""
        self._log = log
        self._formers = formers
        self._ends: dict[str, tuple[int, ...]] = {}

    def ends(self, topic: str) -> tuple[int, ...]:
        """Where each former partition ended; the topic's own come behind them."""
        if topic not in self._ends:
            self._ends[topic] = tuple(end for former in self._formers(topic) for end in former.ends)
        return self._ends[topic]

    def create_topic(self, topic: str, partitions: int) -> None:
        """As of the log."""
        self._log.create_topic(topic, partitions)

    def delete_topic(self, topic: str) -> None:
        """As of the log."""
        self._log.delete_topic(topic)

    def topics(self) -> list[str]:
        """As of the log."""
        return self._log.topics()

    def topic_id(self, topic: str) -> str | None:
        """As of the log."""
        return self._log.topic_id(topic)

    def partitions(self, topic: str) -> int:
        """Those of former topics too."""
        own = self._log.partitions(topic)
        return len(self.ends(topic)) + own

    def start_offset(self, topic: str, partition: int) -> int:
        """Of a former partition: its end."""
        ends = self.ends(topic)
        return ends[partition] if partition < len(ends) else self._log.start_offset(topic, partition - len(ends))

    def end_offset(self, topic: str, partition: int) -> int:
        """Of a former partition: up to where it was processed."""
        ends = self.ends(topic)
        return ends[partition] if partition < len(ends) else self._log.end_offset(topic, partition - len(ends))

    def append(self, topic: str, records: Sequence[OutRecord]) -> list[tuple[int, int]]:
        """As of the log. Raises LogError for a record that names a former partition."""
        base = len(self.ends(topic))
        if not base:
            return self._log.append(topic, records)
        own = [OutRecord(r.value, r.key, self._own(topic, r.partition)) for r in records]
        return [(partition + base, offset) for partition, offset in self._log.append(topic, own)]

    def append_keyed(
        self, topic: str, partition: int, values: bytes, lengths: Int64Array, keys: Sequence[bytes]
    ) -> Int64Array:
        """As `ColumnLog.append_keyed`, also where the log takes no columns."""
        own = self._own(topic, partition)
        assert own is not None
        if isinstance(self._log, ColumnLog):
            return self._log.append_keyed(topic, own, values, lengths, keys)
        lines = values.split(b"\n")
        places = self._log.append(topic, [OutRecord(v, k, own) for v, k in zip(lines, keys, strict=False)])
        return np.array([offset for _, offset in places], dtype=np.int64)

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
        """As of the log; of a former partition nothing is left."""
        ends = self.ends(topic)
        if partition < len(ends):
            wrong = check_bounds(offset, ends[partition], ends[partition], f"topic {topic}, partition {partition}")
            if wrong is not None:
                raise LogError(f"{wrong}; the topic was made anew since")
            return None
        batch = self._log.read(
            topic, partition - len(ends), offset, max_records=max_records, max_bytes=max_bytes, keys=keys
        )
        if batch is None or not ends:
            return batch
        return RecordBatch(
            topic, partition, batch.offsets, batch.timestamps, batch.values, batch.lengths, batch.next, batch.keys
        )

    def drop_before(self, topic: str, partition: int, offset: int) -> int:
        """As `DroppingLog.drop_before`. Raises LogError for a former partition, and where the log cannot."""
        if not isinstance(self._log, DroppingLog):
            raise LogError(f"topic {topic}: this log's driver cannot remove records: set the topic's retention.ms")
        own = self._own(topic, partition)
        assert own is not None
        return self._log.drop_before(topic, own, offset)

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _own(self, topic: str, partition: int | None) -> int | None:
        """The number that the log itself knows a partition by."""
        base = len(self.ends(topic))
        if partition is None or not base:
            return partition
        if partition < base:
            raise LogError(f"topic {topic}, partition {partition}: it was made anew since; it has {base} and up now")
        return partition - base
