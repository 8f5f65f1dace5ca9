"""The interface of a log: partitioned topics of records, durable when acknowledged, read by offset."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class OutRecord:
    """A record to be appended."""

    value: bytes
    key: bytes | None = None
    partition: int | None = None
    """The partition, or None: decided by the key (`partition_for`), or by turns where there is none."""


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Records of one partition in ascending order of offset, as columns.

    `values` holds each record's bytes followed by one newline, so that it can be parsed as lines where no
    value contains a newline; `lengths[i]` is the length of value i without that newline (0: empty or null value).
    `next` is the offset to read on from: behind the last record and any gap that was read over.
    `keys` is None unless the reader was asked for keys.
    """

    topic: str
    partition: int
    offsets: Int64Array
    timestamps: Int64Array
    """The log's own time of each record, milliseconds since 1970-01-01 UTC."""
    values: bytes
    lengths: Int64Array
    next: int
    keys: tuple[bytes | None, ...] | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def starts(self) -> Int64Array:
        """Where value i starts in `values`."""
        ends: Int64Array = np.cumsum(self.lengths + 1)
        return ends - self.lengths - 1

    def value(self, i: int) -> bytes:
        """The bytes of record i."""
        start = int(self.starts()[i])
        return self.values[start : start + int(self.lengths[i])]

    def all_values(self) -> list[bytes]:
        """The bytes of every record."""
        starts = self.starts()
        return [self.values[s : s + n] for s, n in zip(starts.tolist(), self.lengths.tolist(), strict=True)]


class Log(Protocol):
    """A log. Every wait has a time-out; a log that cannot be reached raises `LogError`."""

    def create_topic(self, topic: str, partitions: int) -> None:
        """Make a topic; nothing happens where it exists (also with another number of partitions)."""
        ...

    def delete_topic(self, topic: str) -> None:
        """Remove a topic and all its records. One made again under the name has another id."""
        ...

    def topics(self) -> list[str]:
        """The names of all topics, sorted."""
        ...

    def topic_id(self, topic: str) -> str | None:
        """The identity of a topic: another one when it was deleted and made again. None: the driver cannot tell.

        Raises LogError where there is no such topic.
        """
        ...

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises LogError where there is no such topic."""
        ...

    def start_offset(self, topic: str, partition: int) -> int:
        """The first offset that the partition still holds."""
        ...

    def end_offset(self, topic: str, partition: int) -> int:
        """The offset that the next record appended will have; with transactions open, that of the first one's records.

        Everything below can be read or is a gap; nothing beyond is read.
        """
        ...

    def append(self, topic: str, records: Sequence[OutRecord]) -> list[tuple[int, int]]:
        """Append, in order within a partition; durable on return. Gives (partition, offset) for each record.

        Raises RecordTooLargeError where the log does not take records of that length: then none has been appended.
        Where another LogError is raised, any of them may have been.
        """
        ...

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
        """Records from `offset` on that are there now, without waiting for more; None where there is none.

        "Now" is what `append` and `end_offset` of this object have told, and what others appended some 20 ms ago.
        A batch without records says that up to `next` there is only a gap.

        At most `max_records`, and at most `max_bytes` of values but never less than one record.
        Raises LogError where `offset` is below `start_offset` or above `end_offset`.
        """
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...


@runtime_checkable
class ColumnLog(Protocol):
    """A log that takes many records of one partition as columns, without an object for each."""

    def append_keyed(
        self, topic: str, partition: int, values: bytes, lengths: Int64Array, keys: Sequence[bytes]
    ) -> Int64Array:
        """Append records, `values` and `lengths` as in RecordBatch; durable on return. Gives the offset of each.

        They ascend; other writers' records may stand between. Raises as `Log.append`.
        """
        ...


@runtime_checkable
class DroppingLog(Protocol):
    """A log whose oldest records can be removed."""

    def drop_before(self, topic: str, partition: int, offset: int) -> int:
        """Remove records below `offset`, as far as the log can (it may keep some of them); gives the new start.

        Done again it changes nothing. Raises LogError.
        """
        ...


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of a key: crc32(key) modulo the number of partitions, as librdkafka's `consistent` partitioner."""
    return zlib.crc32(key) % partitions


def check_bounds(offset: int, start: int, end: int, what: str) -> str | None:
    """The error text for an offset outside [start, end], or None."""
    if offset < start:
        return f"{what}: offset {offset} is gone, the log starts at {start}"
    if offset > end:
        return f"{what}: offset {offset} is past the end {end}"
    return None
