"""What stores the events of one partition exactly once, however often and however cut they arrive (SEMANTICS.md §6).

A flush: cut to what the index lacks, stage a file, put the index row, place the file, publish the verdicts, open cases.
The put decides; all before it may be thrown away, and all after it is done again by whoever loads the partition next.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Protocol

import numpy as np
import polars as pl

from paystorm.chunk import EventChunk, Head, Refusal
from paystorm.clock import Clock
from paystorm.errors import PrunedError, TablesError
from paystorm.log.base import Int64Array
from paystorm.offsets import OffsetSet
from paystorm.source import Source
from paystorm.stores.cases import Case, CaseOpener
from paystorm.stores.index import SNAPSHOT_ROWS, IndexRow, PartitionIndex, StoredFile, SupersededError
from paystorm.tables.base import Tables
from paystorm.tables.keys import key
from paystorm.verdicts import VerdictLog
from paystorm.warehouse.base import EventFile, Warehouse, flushed_name

SINK = "warehouse"
"""The name under which this sink answers the spout's questions before a record is given up."""

FIRST_COLUMNS: dict[str, pl.DataType] = {
    "log_topic": pl.String(),
    "log_partition": pl.Int32(),
    "log_offset": pl.Int64(),
    "event_id": pl.String(),
    "application": pl.String(),
    "received_at": pl.Datetime("us"),
    "event_time": pl.Datetime("us"),
    "decided_at": pl.Datetime("us"),
    "verdict": pl.String(),
    "verdict_reason": pl.String(),
    "entry_kind": pl.String(),
    "entry_party": pl.String(),
    "would_deny": pl.Boolean(),
}
"""The columns that every event has in the warehouse, in order; the declared fields and `data` follow."""


class SharedWarehouse(Warehouse, Protocol):
    """A warehouse that several tasks stage files in: each may throw away its own only."""

    def discard_staged(self, source: str, keep: Sequence[str], *, prefix: str = "") -> None:
        """As `Warehouse.discard_staged`, of the files whose names start with `prefix`."""
        ...


def answers_table(source: str) -> str:
    """The name of the table of the sinks' answers to refusals: b"refused", b"held" or, taken back, b"lifted"."""
    return f"{source}.answers"


class PartitionWriter:
    """The owner of one partition. Where a method raises, throw the writer away, fail the tuples, and make a new one."""

    def __init__(
        self,
        source: Source,
        partition: int,
        *,
        tables: Tables,
        warehouse: SharedWarehouse,
        verdicts: VerdictLog,
        clock: Clock,
        random: Random,
        publish_accepted: bool = True,
        snapshot_rows: int = SNAPSHOT_ROWS,
    ) -> None:
        """`random` makes file names that no other task makes. Nothing is read before the first `flush` or `refuse`."""
        self.records = 0
        """How many events are gathered."""
        self._source = source
        self._partition = partition
        self._tables = tables
        self._warehouse = warehouse
        self._verdicts = verdicts
        self._cases = CaseOpener(tables)
        self._clock = clock
        self._random = random
        self._publish_accepted = publish_accepted
        self._snapshot_rows = snapshot_rows
        self._gathered: list[EventChunk] = []
        self._index: PartitionIndex | None = None

    def gather(self, chunk: EventChunk) -> None:
        """Keep a chunk for the next flush. Raises ValueError for rows outside of what the chunk says it covers."""
        offsets = _offsets(chunk.events)
        if not chunk.head.covered().mask(offsets).all():
            raise ValueError(
                f"{self._source.name}: a chunk of partition {self._partition} that covers {chunk.head.covered()} "
                f"has rows from {offsets.min()} to {offsets.max()}; this is a bug of the bolt before"
            )
        self._gathered.append(chunk)
        self.records += len(chunk.events)

    def flush(self) -> None:
        """Make all that is gathered durable and published; only after it may the tuples be acknowledged.

        Raises SupersededError, TablesError, LogError.
        """
        index = self._loaded()
        gathered, self._gathered, self.records = self._gathered, [], 0
        fresh, events = self._cut(index.applied, gathered)
        if not fresh:
            return
        committed, parked = _floor([chunk.head for chunk in gathered])
        files: list[StoredFile] = []
        offsets = _offsets(events)
        if len(events):
            files.append(self._stage(index.next, events, offsets))
        denied = offsets[(events["verdict"] == "denied").to_numpy()]
        row = index.row(
            ranges=fresh.ranges(), committed=committed, parked=parked, files=files, stored=offsets, denied=denied
        )
        self._append(index, row)
        self._warehouse.place([file.of(self._source.name) for file in files])
        self._publish(events)
        index.mark_published()

    def refuse(self, refusal: Refusal) -> None:
        """Answer the spout's question durably: held, or refused from now on; or take the refusal back. Flushes first.

        A row is put in any case: the put proves that this task still owns the partition, and its number orders answers.
        """
        self.flush()
        index = self._loaded()
        head, offset = refusal.head, refusal.offset
        refused = offset in index.refused
        held = offset in index.applied and not refused
        answer = b"lifted" if refusal.lift else b"held" if held else b"refused"
        row = index.row(
            committed=head.committed,
            parked=head.parked,
            refused=(offset,) if answer == b"refused" and not refused else (),
            lifted=(offset,) if refusal.lift and refused else (),
        )
        self._append(index, row)
        self._tables.put(
            answers_table(self._source.name), [(key(self._partition, offset, SINK), answer)], version=row.n
        )
        index.mark_published()

    def _loaded(self) -> PartitionIndex:
        """The index; loaded first where it is not yet, with what the owner before left undone."""
        if self._index is not None:
            return self._index
        index = PartitionIndex(self._tables, self._source.name, self._partition, snapshot_rows=self._snapshot_rows)
        # An owner before us that sleeps between staging and its put must lose it before its staged file is thrown away
        self._append(index, index.row())
        for row in index.unpublished:
            files = [file.of(self._source.name) for file in row.files]
            self._warehouse.place(files)
            for file in files:
                with suppress(PrunedError):  # an hour goes only when what it holds is published
                    self._publish(self._warehouse.read(file))
        self._warehouse.discard_staged(self._source.name, (), prefix=self._prefix())
        index.mark_published()
        self._index = index
        return index

    def _append(self, index: PartitionIndex, row: IndexRow) -> None:
        if index.append(row):
            return
        with suppress(TablesError):  # else the owner's next start removes it
            if not index.stands(row):
                for file in row.files:
                    self._warehouse.discard_staged(self._source.name, (), prefix=file.name)
        raise SupersededError(
            f"{self._source.name}: row {row.n} of the index of partition {self._partition} was put by another task; "
            "the tuples fail and come again"
        )

    def _cut(self, applied: OffsetSet, chunks: Sequence[EventChunk]) -> tuple[OffsetSet, pl.DataFrame]:
        """What is new in the chunks: the offsets that they cover, and the events."""
        fresh, frames = OffsetSet(), []
        for chunk in chunks:
            first, after = chunk.head.first, chunk.head.after
            covered, events = chunk.head.covered(), chunk.events
            for seen in (applied, fresh):
                if seen.touches(first, after):
                    for known_first, known_after in seen.ranges():
                        covered.remove(known_first, known_after)
            if covered != chunk.head.covered():
                events = events.filter(pl.Series(covered.mask(_offsets(events)), dtype=pl.Boolean))
            fresh.update(covered)
            if len(events):
                frames.append(events)
        if not frames:
            return fresh, pl.DataFrame(schema=FIRST_COLUMNS)
        same = all(frame.schema == frames[0].schema for frame in frames)
        together = pl.concat(frames, how="vertical" if same else "diagonal_relaxed")
        return fresh, _as_stored(together, self._source, self._partition)

    def _prefix(self) -> str:
        return f"{self._partition:05d}-"

    def _stage(self, n: int, events: pl.DataFrame, offsets: Int64Array) -> StoredFile:
        hour = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._clock.now())).strftime("%Y-%m-%dT%H")
        name = flushed_name(self._partition, n, self._random.getrandbits(64))
        self._warehouse.stage(EventFile(self._source.name, hour, name), events)
        return StoredFile(name=name, hour=hour, rows=len(events), first=int(offsets.min()), last=int(offsets.max()))

    def _publish(self, events: pl.DataFrame) -> None:
        """Verdicts and cases of stored events; repeating it changes nothing."""
        self._verdicts.append_events(events, accepted=self._publish_accepted)
        listed = events.get_column("entry_party")
        if listed.null_count() == len(listed):
            return
        parties = (
            events.filter(pl.col("entry_party").is_not_null())
            .group_by("entry_kind", "entry_party", maintain_order=True)
            .agg(pl.col("verdict_reason").first(), pl.col("decided_at").min().cast(pl.Int64))
        )
        self._cases.open(
            Case(
                kind=kind,
                party=party,
                opened_at=at,
                source=self._source.name,
                cause=(reason or "person").removeprefix(f"{self._source.name}."),
            )
            for kind, party, reason, at in parties.iter_rows()
            if not self._cases.is_open(kind, party)  # mostly so: a listed party goes on paying
        )


def _offsets(events: pl.DataFrame) -> Int64Array:
    return events["log_offset"].cast(pl.Int64).to_numpy() if len(events) else np.empty(0, dtype=np.int64)


def _floor(heads: Sequence[Head]) -> tuple[int, tuple[int, ...]]:
    """The highest committed offset, and what was parked below it then."""
    committed = max(head.committed for head in heads)
    parked = {offset for head in heads if head.committed == committed for offset in head.parked}
    return committed, tuple(sorted(parked))


def _as_stored(events: pl.DataFrame, source: Source, partition: int) -> pl.DataFrame:
    """The columns as the files have them: the first ones, declared fields, what bolts added, `data`; times in UTC."""
    zoned = [
        pl.col(name).dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        for name, kind in events.schema.items()
        if isinstance(kind, pl.Datetime) and kind.time_zone is not None
    ]
    if zoned:
        events = events.with_columns(*zoned)
    events = events.with_columns(log_topic=pl.lit(source.topic, pl.String), log_partition=pl.lit(partition, pl.Int32))
    first = [pl.col(name).cast(kind) for name, kind in FIRST_COLUMNS.items()]
    declared = [field.name for field in source.fields if field.name in events.columns]
    names = dict.fromkeys([*declared, *events.columns])
    rest = [name for name in names if name not in FIRST_COLUMNS and name != "data"]
    return events.select(*first, *rest, "data")
