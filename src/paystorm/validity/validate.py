"""Batches of records to events and dead letters."""

import numpy as np
import polars as pl

from paystorm.log.base import RecordBatch
from paystorm.source import Source
from paystorm.validity.envelope import Record, ReplayOf, read_envelope
from paystorm.validity.exact import Event, ExactValidator, Invalid
from paystorm.validity.fast import FastPath
from paystorm.validity.frame import event_frame, event_schema
from paystorm.validity.settings import ValiditySettings
from paystorm.validity.words import occurrences

MIN_BATCH = 50
"""Smaller batches go the exact way only."""


class Validator:
    """Validates the records of one source's topic. Pure, but for a bounded memory of shapes that only saves time."""

    def __init__(self, source: Source, topic: str, settings: ValiditySettings | None = None) -> None:
        """Raises ConfigError where the source's amounts could need more digits than a column has."""
        self._topic = topic
        self._settings = settings or ValiditySettings()
        self.schema = event_schema(source)
        self._exact = ExactValidator(source, topic, self._settings)
        self._fast = FastPath(source, topic, self._settings)

    def validate(
        self, batch: RecordBatch, duplicates: frozenset[int] = frozenset()
    ) -> tuple[pl.DataFrame, list[Invalid]]:
        """The valid events by ascending offset, in `schema`, and the invalid records likewise. Never raises.

        duplicates: offsets whose claim to replay a record was lost to a record of a lower offset.
        """
        starts = batch.starts()

        def exact(i: int) -> Event | Invalid:
            start = int(starts[i])
            offset = int(batch.offsets[i])
            value = batch.values[start : start + int(batch.lengths[i])]
            return self._exact.check(batch.partition, offset, int(batch.timestamps[i]), value, offset in duplicates)

        frames: list[pl.DataFrame] = []
        rows = np.zeros(len(batch), dtype=np.bool_)
        decided: dict[int, Event | Invalid] = {}
        if len(batch) >= MIN_BATCH:
            taken = self._fast.take(batch, exact)
            frames, rows, decided = taken.frames, taken.rows, taken.decided
        rest = np.flatnonzero(~rows).tolist()
        words = [decided[i] if i in decided else exact(i) for i in rest]
        events = [word for word in words if not isinstance(word, Invalid)]
        invalid = [word for word in words if isinstance(word, Invalid)]
        if events or not frames:
            frames.append(event_frame(self.schema, events))
        if len(frames) == 1:
            return frames[0], invalid
        return pl.concat(frames).sort("log_offset"), invalid


def replay_claims(batch: RecordBatch, settings: ValiditySettings | None = None) -> list[tuple[int, ReplayOf]]:
    """(offset, the record it replays) of each record whose envelope is valid and carries `replay_of`, in order."""
    settings = settings or ValiditySettings()
    out: list[tuple[int, ReplayOf]] = []
    for row in _suspects(batch):
        record = Record(
            batch.topic, batch.partition, int(batch.offsets[row]), int(batch.timestamps[row]), batch.value(row)
        )
        envelope = read_envelope(record, settings)
        if envelope.fault is None and envelope.replay_of is not None:
            out.append((record.offset, envelope.replay_of))
    return out


def _suspects(batch: RecordBatch) -> list[int]:
    """The records that may carry the key: as it stands, or with an ASCII letter or `_` of it escaped."""
    places = occurrences(batch.values, b"replay_of", pair=b"replay_of".index(b"y_"))
    # Most batches hold no backslash, which is found out much sooner than that they hold no such escape.
    if b"\\" in batch.values:
        places += [
            at for at in occurrences(batch.values, b"\\u00") if batch.values[at + 4 : at + 5] in (b"5", b"6", b"7")
        ]
    if not places:
        return []
    ends = batch.starts() + batch.lengths
    found: list[int] = np.unique(np.searchsorted(ends, places)).tolist()
    return found
