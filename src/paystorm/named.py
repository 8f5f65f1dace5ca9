"""Failures with a name: a bolt before the first sink says which records it cannot process; they are parked (§6)."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import polars as pl

from paystorm.chunk import EventChunk
from paystorm.errors import PaystormError
from paystorm.stores.retry import park
from paystorm.storm import ChunkBolt

MAX_ERROR = 2_000
"""Characters of an error that are kept."""


class CannotProcess(PaystormError):  # noqa: N818  it reads as what a bolt says of records
    """Some records of a chunk cannot be processed. `failures`: by offset, why."""

    def __init__(self, failures: Mapping[int, str]) -> None:
        self.failures = {int(offset): str(text)[:MAX_ERROR] for offset, text in failures.items()}
        first = min(self.failures, default=None)
        super().__init__(
            f"{len(self.failures)} records cannot be processed"
            + ("" if first is None else f", the first at offset {first}: {self.failures[first]}")
        )


def without_failures(
    chunk: EventChunk, work: Callable[[pl.DataFrame], pl.DataFrame]
) -> tuple[EventChunk, dict[int, str]]:
    """Do `work` on a chunk; where it names records, do it again without them: what came of the rest, and the failures.

    Raises ValueError where `work` names a record that it was not given, or gives back other records than it was given:
    every record must come to exactly one outcome.
    """
    failures: dict[int, str] = {}
    while True:
        given = chunk.events.get_column("log_offset")
        try:
            events = work(chunk.events)
        except CannotProcess as error:
            foreign = set(error.failures) - set(given.to_list())
            if foreign or not error.failures:
                raise ValueError(f"CannotProcess must name records of the chunk, got {sorted(foreign)[:5]}") from error
            failures.update(error.failures)
            chunk = chunk.without(tuple(error.failures))
            continue
        if not events.get_column("log_offset").equals(given):
            raise ValueError("a transform must give back the same records in the same order (column log_offset)")
        return EventChunk(chunk.head, events), failures


class TransformBolt(ChunkBolt):
    """Base of an operator's own bolt between validation and look-up. Fill in `transform`, or `transform_row`.

    Declared fields keep their names and types; columns may be added. A record that cannot be processed is named by
    raising CannotProcess (or, in `transform_row`, by any exception): it is parked and the others go on. Any other
    exception of `transform` names nobody, and the whole chunk is sent again.
    """

    outputs: ClassVar[list[Any]] = ["partition", "chunk"]

    def transform(self, events: pl.DataFrame) -> pl.DataFrame:
        """The events, changed; the same rows in the same order. By default by `transform_row`, one by one."""
        rows: list[dict[str, Any]] = []
        failures: dict[int, str] = {}
        schema = events.schema
        # Columns of which nothing is changed are kept as they are; what a nested value holds may change in its place.
        changed = {name for name, dtype in schema.items() if dtype.is_nested()}
        for values in events.iter_rows():
            given = dict(zip(schema, values, strict=True))
            offset = given["log_offset"]
            try:
                row = self.transform_row(given)
                if row.get("log_offset") != offset or not schema.keys() <= row.keys():
                    raise ValueError("transform_row must keep every key, and log_offset as it is")
                rows.append(row)
                changed.update(name for name, value in zip(schema, values, strict=True) if row[name] is not value)
            except Exception as error:  # whatever it was, it has a name: the record's
                failures[offset] = f"{type(error).__name__}: {error}"
        if failures:
            raise CannotProcess(failures)
        added = dict.fromkeys(name for row in rows for name in row if name not in schema)
        kept = [
            pl.Series(name, [row[name] for row in rows], dtype=dtype) if name in changed else events.get_column(name)
            for name, dtype in schema.items()
        ]
        return pl.DataFrame(kept + [pl.Series(name, [row.get(name) for row in rows]) for name in added])

    def transform_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """One event, changed: a dict with the same keys, and more where wanted."""
        return row

    def handle(self, tup: Any) -> None:
        """Transform a chunk, park what cannot be processed, send the rest on."""
        chunk, failures = without_failures(self.chunk(EventChunk, tup), self.transform)
        if failures:
            # Durable before the chunk goes on: it says that these offsets are parked.
            park(self.tables, self.source.name, chunk.head, failures, self.clock.now())
        self.send(chunk, chunk.head.partition, anchor=tup)
        self.done(tup)
