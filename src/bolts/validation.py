"""The bolt that tells events from what is not valid."""

from collections import OrderedDict
from collections.abc import Set
from typing import Any, ClassVar

import numpy as np
import polars as pl
from streamparse import Stream

from paystorm.chunk import EventChunk, Head, Letter, LetterChunk, RecordChunk
from paystorm.errors import FencedError, TablesError
from paystorm.log.base import RecordBatch
from paystorm.stores.versions import Version, load_versions
from paystorm.storm import ChunkBolt
from paystorm.touches import columns_read
from paystorm.validity import Invalid, Validator, ValiditySettings
from paystorm.validity.frame import event_schema

INVALID = "invalid"
"""The stream of dead letters."""
MAX_VALIDATORS = 8
"""Versions of the source whose validators are kept: a partition's records are of few at a time."""


class ValidationBolt(ChunkBolt):
    """Takes raw records apart: events go on, the rest to the dead letters. Judged by the version that they belong to.

    A chunk of events is sent even where it has no rows: the sinks note its range.
    """

    outputs: ClassVar[list[Any]] = [
        Stream(fields=["partition", "chunk"]),
        Stream(fields=["partition", "chunk"], name=INVALID),
    ]

    def prepare(self) -> None:
        """No version is known yet."""
        self._versions: dict[int, Version] = {}
        self._apart: Set[str] = frozenset()
        """Columns that a look-up does not read: on the wire it sends them on as they come."""
        self._validators: OrderedDict[tuple[str, int], Validator] = OrderedDict()

    def handle(self, tup: Any) -> None:
        """Validate a chunk. Raises TablesError where its version cannot be read now."""
        chunk = self.chunk(RecordChunk, tup)
        head, batch = chunk.head, chunk.batch()
        events, invalid = self._validator(head).validate(batch, frozenset(chunk.duplicates))
        if head.left_out:
            # Parked by an earlier sending of the range: each goes its own way, on the retry schedule.
            kept = ~np.isin(events.get_column("log_offset").to_numpy(), head.left_out)
            events = events.filter(pl.Series(kept))
            invalid = [i for i in invalid if i.offset not in head.left_out]
        letters = _letters(head, invalid, batch) if invalid else ()
        self.send(EventChunk(head, events, self._apart), head.partition, anchor=tup)
        if letters:
            self.send(LetterChunk(head=head, letters=letters), head.partition, anchor=tup, stream=INVALID)
        self.done(tup)

    def _validator(self, head: Head) -> Validator:
        wanted = max(head.epoch, head.generation)
        if wanted not in self._versions:
            self._versions = {v.number: v for v in load_versions(self.tables, self.source.name)}
            read = columns_read(self.source, [rule for v in self._versions.values() for rule in v.rules])
            self._apart = event_schema(self.source).keys() - read
        if head.epoch not in self._versions or wanted not in self._versions:
            raise TablesError(f"{self.source.name}.versions: version {wanted} is not there yet; trying again")
        if head.generation < max(self._versions):
            raise FencedError(
                f"source {self.source.name}: a spout of version {head.generation} is still running; "
                f"version {max(self._versions)} has taken its place"
            )
        name = head.topic, head.epoch
        validator = self._validators.get(name)
        if validator is None:
            validator = Validator(self.source, head.topic, _settings(self._versions[head.epoch]))
            self._validators[name] = validator
            if len(self._validators) > MAX_VALIDATORS:
                self._validators.popitem(last=False)
        self._validators.move_to_end(name)
        return validator


def _settings(version: Version) -> ValiditySettings:
    """The validity settings of a version, as `Settings.validity` wrote them."""
    given = version.validity
    return ValiditySettings(
        max_record_bytes=given["maxRecordBytes"],
        earliest=given["earliest"],
        max_ahead=given["maxAhead"],
        counts_retention=given["countsRetention"],
    )


def _letters(head: Head, invalid: list[Invalid], batch: RecordBatch) -> tuple[Letter, ...]:
    if not invalid:
        return ()
    timestamps = batch.timestamps[np.searchsorted(batch.offsets, [i.offset for i in invalid])].tolist()
    return tuple(
        Letter(
            partition=head.partition,
            offset=i.offset,
            timestamp=timestamp,
            field=i.field,
            code=str(i.code),
            detail=i.detail,
            event_id=i.id,
            application=i.application,
            value=i.raw,
        )
        for i, timestamp in zip(invalid, timestamps, strict=True)
    )
