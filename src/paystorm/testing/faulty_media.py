"""Log and warehouse whose writes pass through `Faults`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from paystorm.log.base import Log, OutRecord, RecordBatch
from paystorm.testing.faulty import Faults
from paystorm.warehouse.base import NONE, Columns, EventFile, Warehouse


class FaultyLog:
    """A log whose appends pass through `Faults`."""

    def __init__(self, inner: Log, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def create_topic(self, topic: str, partitions: int) -> None:
        """As `Log.create_topic`."""
        self._faults.write("log.create_topic", topic, [topic], lambda _: self._inner.create_topic(topic, partitions))

    def delete_topic(self, topic: str) -> None:
        """As `Log.delete_topic`."""
        self._inner.delete_topic(topic)

    def topics(self) -> list[str]:
        """As `Log.topics`."""
        self._faults.read("log.topics", "")
        return self._inner.topics()

    def topic_id(self, topic: str) -> str | None:
        """As `Log.topic_id`."""
        self._faults.read("log.topic_id", topic)
        return self._inner.topic_id(topic)

    def partitions(self, topic: str) -> int:
        """As `Log.partitions`."""
        self._faults.read("log.partitions", topic)
        return self._inner.partitions(topic)

    def start_offset(self, topic: str, partition: int) -> int:
        """As `Log.start_offset`."""
        self._faults.read("log.start_offset", topic)
        return self._inner.start_offset(topic, partition)

    def end_offset(self, topic: str, partition: int) -> int:
        """As `Log.end_offset`."""
        self._faults.read("log.end_offset", topic)
        return self._inner.end_offset(topic, partition)

    def append(self, topic: str, records: Sequence[OutRecord]) -> list[tuple[int, int]]:
        """As `Log.append`."""
        placed: list[tuple[int, int]] = self._faults.write(
            "log.append", topic, records, lambda some: self._inner.append(topic, some)
        )
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
        """As `Log.read`."""
        self._faults.read("log.read", topic)
        return self._inner.read(topic, partition, offset, max_records=max_records, max_bytes=max_bytes, keys=keys)

    def close(self) -> None:
        """The inner log outlives its users."""


class FaultyWarehouse:
    """A warehouse whose steps pass through `Faults`."""

    def __init__(self, inner: Warehouse, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def stage(self, file: EventFile, frame: pl.DataFrame) -> None:
        """As `Warehouse.stage`."""
        self._faults.write("warehouse.stage", file.source, [file], lambda _: self._inner.stage(file, frame))

    def place(self, files: Sequence[EventFile]) -> None:
        """As `Warehouse.place`."""
        if files:
            self._faults.write("warehouse.place", files[0].source, files, self._inner.place)

    def discard_staged(self, source: str, keep: Sequence[str], *, prefix: str = "") -> None:
        """As `Warehouse.discard_staged`."""
        self._faults.write(
            "warehouse.discard_staged",
            source,
            [source],
            lambda _: self._inner.discard_staged(source, keep, prefix=prefix),
        )

    def read(self, file: EventFile) -> pl.DataFrame:
        """As `Warehouse.read`."""
        self._faults.read("warehouse.read", file.source)
        return self._inner.read(file)

    def folders(self, source: str) -> list[Path]:
        """As `Warehouse.folders`."""
        return self._inner.folders(source)

    def query(self, sql: str, known: Mapping[str, Columns] = NONE) -> tuple[list[str], list[tuple[Any, ...]]]:
        """As `Warehouse.query`."""
        return self._inner.query(sql, known)

    def table(self, source: str) -> str:
        """As `Warehouse.table`."""
        return self._inner.table(source)

    def close(self) -> None:
        """The inner warehouse outlives its users."""
