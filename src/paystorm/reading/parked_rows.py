"""Rows of the retry table as the spout handles them: filling in what the bolt does not know, and burying."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from paystorm.clock import Clock
from paystorm.errors import LogError, TablesError
from paystorm.log.base import Log, RecordBatch
from paystorm.settings import Settings
from paystorm.source import Source
from paystorm.stores.letters import bury, letter_at, store_letters
from paystorm.stores.retry import (
    REPLACE_TRIES,
    Parked,
    delete_answers,
    delete_parked,
    load_parked,
    replace_parked,
)
from paystorm.tables.base import Tables
from paystorm.validity.envelope import Record, read_envelope
from paystorm.validity.settings import ValiditySettings
from paystorm.verdicts import VerdictLog


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a partition's reader works with."""

    source: Source
    settings: Settings
    clock: Clock
    log: Log
    tables: Tables
    verdicts: VerdictLog
    generation: int
    """The newest version of the source."""
    validity: Mapping[int, ValiditySettings]
    """By version."""
    warn: Callable[[str], None]


class ParkedRows:
    """The rows of one partition. Methods raise TablesError, and LogError where they read the log."""

    def __init__(self, here: Surroundings, partition: int) -> None:
        self._here = here
        self._source = here.source.name
        self._partition = partition

    def load(self, offset: int) -> Parked | None:
        """The row of an offset, or None."""
        return load_parked(self._here.tables, self._source, self._partition, offset)

    def replace(self, held: Parked, new: Parked) -> None:
        """Put `new` in the place of `held`. Raises TablesError where it has changed: who decided by it decides anew."""
        if new != held and not replace_parked(self._here.tables, self._source, held, new):
            raise self._changed(held.offset)

    def delete(self, held: Parked) -> None:
        """Remove the row. Raises TablesError where it has changed."""
        if not delete_parked(self._here.tables, self._source, held):
            raise self._changed(held.offset)

    def fill(self, row: Parked, batch: RecordBatch | None, base: int) -> Parked | None:
        """Put the raw value into a row before the log may lose it. None: the record is no longer parked.

        batch: records among which it is; without, it is read from the log.
        """
        for _ in range(REPLACE_TRIES):
            if row.value is not None and row.base >= 0:
                return row
            timestamp, value = (row.timestamp, row.value) if row.value is not None else self._raw(row.offset, batch)
            filled = row.base if row.base >= 0 else base
            new = msgspec.structs.replace(row, timestamp=timestamp, value=value, base=filled)
            if replace_parked(self._here.tables, self._source, row, new):
                return new
            again = self.load(row.offset)
            if again is None:
                return None
            row = again
        raise self._changed(row.offset)

    def as_batch(self, row: Parked) -> RecordBatch:
        """The record of a filled row as the log gave it."""
        value = self._value(row)
        return RecordBatch(
            topic=self._here.source.topic,
            partition=self._partition,
            offsets=np.array([row.offset], dtype=np.int64),
            timestamps=np.array([row.timestamp], dtype=np.int64),
            values=value + b"\n",
            lengths=np.array([len(value)], dtype=np.int64),
            next=row.offset + 1,
        )

    def bury(self, row: Parked) -> None:
        """Dead-letter a record that no sink holds, publish its verdict, remove its row. Done twice it is the same."""
        here = self._here
        value = self._value(row)
        record = Record(here.source.topic, row.partition, row.offset, row.timestamp, value)
        envelope = read_envelope(record, here.validity[row.epoch])
        bury(
            here.tables,
            self._source,
            here.verdicts,
            partition=row.partition,
            offset=row.offset,
            timestamp=row.timestamp,
            value=value,
            event_id=envelope.id,
            application=envelope.application,
            attempts=row.attempts,
            last_error=row.error,
            now=here.clock.now(),
        )
        self._remove(row)

    def finish_buried(self, row: Parked) -> bool:
        """Remove the row of a record that is dead-lettered already; False: it is not.

        A restart came between, or a tuple that came late parked it again.
        """
        here = self._here
        letter = letter_at(here.tables, self._source, row.partition, row.offset)
        if letter is None:
            return False
        store_letters(here.tables, self._source, here.verdicts, [letter])  # its verdict may not be published yet
        self._remove(row)
        return True

    def _remove(self, row: Parked) -> None:
        # Whatever became of the row meanwhile, the record's outcome is decided.
        held: Parked | None = row
        for _ in range(REPLACE_TRIES):
            if held is None or delete_parked(self._here.tables, self._source, held):
                delete_answers(self._here.tables, self._source, row.partition, row.offset)
                return
            held = self.load(row.offset)
        raise self._changed(row.offset)

    def _raw(self, offset: int, batch: RecordBatch | None) -> tuple[int, bytes]:
        """Timestamp (ms) and value of a record."""
        topic = self._here.source.topic
        if batch is None:
            batch = self._here.log.read(topic, self._partition, offset, max_records=1, max_bytes=1)
        i = -1 if batch is None else int(np.searchsorted(batch.offsets, offset))
        if batch is None or i >= len(batch) or int(batch.offsets[i]) != offset:
            raise LogError(f"{topic}/{self._partition}: the parked record {offset} is not in the log")
        return int(batch.timestamps[i]), batch.value(i)

    def _value(self, row: Parked) -> bytes:
        if row.value is None:
            raise TablesError(f"{self._source}: the parked record {row.partition}/{row.offset} has no value yet")
        return row.value

    def _changed(self, offset: int) -> TablesError:
        return TablesError(
            f"{self._source}: the parked record {self._partition}/{offset} was changed by another at the same time; "
            f"it is looked at again"
        )
