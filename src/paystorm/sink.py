"""Sinks of an operator's own: every decided event once, however often and however cut its tuples arrive.

A sink writes in two steps, as the warehouse does: `stage` writes a batch aside, where nobody reads it; a conditional
put of the partition's index row then decides whether the batch counts; `place` shows it. Whatever is staged and not in
the index is thrown away, and whatever is in the index is placed again by whoever loads the partition next.

The index stands in the tables `<source>.<sink>.index` and `<source>.<sink>.indexed`, where <sink> is the name that the
topology gives the bolt: removing the bolt leaves them, and nothing else knows of them.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from random import Random
from typing import Any, ClassVar, Protocol

import numpy as np
import polars as pl
from streamparse import Grouping

from paystorm.chunk import EventChunk, Refusal
from paystorm.errors import PaystormError
from paystorm.log.base import Int64Array
from paystorm.offsets import OffsetSet
from paystorm.source import Source
from paystorm.stores.index import PartitionIndex, StoredFile, SupersededError
from paystorm.stores.retry import HELD, REFUSED, answers_table, still_asked
from paystorm.storm import ChunkBolt
from paystorm.tables.base import Tables
from paystorm.tables.keys import key

REFUSALS = "refusals"
"""The spout's stream of questions before it gives a record up: every sink must take it."""
LIFTED = b"lifted"


def by_partition(events: Any, spout: Any) -> dict[Any, Any]:
    """The `inputs` of a sink: the events of a component (usually the look-up), and the spout's questions."""
    return {events: Grouping.fields("partition"), spout[REFUSALS]: Grouping.fields("partition")}


class Medium(Protocol):
    """Where a sink writes. Every method may be called again with the same name, and must then come to the same."""

    def stage(self, name: str, events: pl.DataFrame) -> None:
        """Write a batch aside, durably. Nobody reads it yet."""
        ...

    def place(self, name: str) -> None:
        """Show a staged batch. Passes over one that is shown already."""
        ...

    def discard(self, prefix: str) -> None:
        """Remove what is staged, and not shown, under names that start with `prefix`."""
        ...


class SinkPartition:
    """One partition of a sink. Where a method raises, throw it away, fail the tuples, and make a new one."""

    def __init__(self, *, source: Source, sink: str, partition: int, tables: Tables, medium: Medium, random: Random):
        """`random` makes names that no other task makes. Nothing is read before the first `flush` or `refuse`."""
        self.records = 0
        """How many events are gathered."""
        self._source = source.name
        self._topic = source.topic
        self._sink = sink
        self._partition = partition
        self._tables = tables
        self._medium = medium
        self._random = random
        self._gathered: list[EventChunk] = []
        self._index: PartitionIndex | None = None

    def gather(self, chunk: EventChunk) -> None:
        """Keep a chunk for the next flush."""
        self._gathered.append(chunk)
        self.records += len(chunk.events)

    def flush(self, now: int) -> None:
        """Make all that is gathered durable (`now` in µs): after it the tuples may be acknowledged.

        Raises SupersededError, TablesError, and what the medium raises.
        """
        index = self._loaded()
        gathered, self._gathered, self.records = self._gathered, [], 0
        fresh, events = _cut(index.applied, gathered)
        if not fresh:
            return
        files: tuple[StoredFile, ...] = ()
        offsets = _offsets(events)
        if len(events):
            name = f"{self._prefix()}{index.next:010d}-{self._random.getrandbits(64):016x}"
            topic, partition = pl.lit(self._topic), pl.lit(self._partition, pl.Int32)
            place = [topic.alias("log_topic"), partition.alias("log_partition")]
            self._medium.stage(name, events.select(*place, pl.all()))
            hour = datetime.fromtimestamp(now // 1_000_000, UTC).strftime("%Y-%m-%dT%H")
            first, last = int(offsets.min()), int(offsets.max())
            files = (StoredFile(name=name, hour=hour, rows=len(events), first=first, last=last),)
        committed = max(chunk.head.committed for chunk in gathered)
        parked = {o for chunk in gathered if chunk.head.committed == committed for o in chunk.head.parked}
        self._append(
            index, ranges=fresh.ranges(), committed=committed, parked=sorted(parked), files=files, stored=offsets
        )
        for file in files:
            self._medium.place(file.name)
        index.mark_published()

    def refuse(self, refusal: Refusal, now: int) -> None:
        """Answer durably whether the sink holds a record that is to be given up; if not, never take it."""
        self.flush(now)
        index, head, offset = self._loaded(), refusal.head, refusal.offset
        refused = offset in index.refused
        held = offset in index.applied and not refused
        self._append(
            index,
            committed=head.committed,
            parked=head.parked,
            refused=(offset,) if not (refusal.lift or held or refused) else (),
            lifted=(offset,) if refusal.lift and refused else (),
        )
        answer = LIFTED if refusal.lift else HELD if held else REFUSED
        row = (key(self._partition, offset, self._sink), answer)
        self._tables.put(answers_table(self._source), [row], version=index.next - 1)
        index.mark_published()

    def _loaded(self) -> PartitionIndex:
        """The index; loaded first where it is not yet, with what the owner before left undone."""
        if self._index is None:
            index = PartitionIndex(self._tables, f"{self._source}.{self._sink}", self._partition)
            # An owner before us that sleeps between staging and its put loses that put: then its batch may go.
            self._append(index)
            for row in index.unpublished:
                for file in row.files:
                    self._medium.place(file.name)
            self._medium.discard(self._prefix())
            index.mark_published()
            self._index = index
        return self._index

    def _append(self, index: PartitionIndex, *, files: Sequence[StoredFile] = (), **parts: Any) -> None:
        """Put the next row of the index. Raises SupersededError where another task was faster."""
        row = index.row(files=files, **parts)
        if index.append(row):
            return
        with suppress(PaystormError, OSError):  # else the owner's next start removes it
            for file in files:
                self._medium.discard(file.name)
        raise SupersededError(
            f"{self._source}: row {row.n} of the index of {self._sink}, partition {self._partition}, was put by "
            "another task; the tuples fail and come again"
        )

    def _prefix(self) -> str:
        return f"{self._partition:05d}-"


class SinkBolt(ChunkBolt):
    """Base of an operator's own sink: fill in `stage`, `place` and `discard` (see `Medium`), and `open` where needed.

    In a topology, with the look-up's events and the spout's questions:

        copy = MyBolt.spec(inputs=by_partition(lookup, spout), par=1)

    It gathers chunks of a partition up to `flushRecords` or `flushMs`. A tuple is acknowledged once its events are
    staged, indexed and placed. Names of batches are those of this source and sink alone: in a medium that several
    share, put `self.source.name` and `self.component_name` before them.
    """

    outputs: ClassVar[list[Any]] = []

    def open(self) -> None:
        """Called before the first tuple: read options. No I/O that can fail for long."""

    def stage(self, name: str, events: pl.DataFrame) -> None:
        """As `Medium.stage`.

        events: log_topic, log_partition and log_offset say which record it is; then the columns of validation, those
        that transforming bolts added, and the decision's.
        """
        raise NotImplementedError

    def place(self, name: str) -> None:
        """As `Medium.place`."""
        raise NotImplementedError

    def discard(self, prefix: str) -> None:
        """As `Medium.discard`."""
        raise NotImplementedError

    def prepare(self) -> None:
        """No I/O: a partition is loaded when it is first written."""
        self._partitions: dict[int, SinkPartition] = {}
        self._held: dict[int, tuple[float, list[Any], list[Refusal]]] = {}
        self.open()

    def handle(self, tup: Any) -> None:
        """Keep the tuple, of whichever stream."""
        if tup.stream == REFUSALS:
            refusal = self.chunk(Refusal, tup)
            self._hold(refusal.head.partition, tup)[1].append(refusal)
        else:
            chunk = self.chunk(EventChunk, tup)
            self._partition(chunk.head.partition).gather(chunk)
            self._hold(chunk.head.partition, tup)

    def flush_if_due(self) -> None:
        """Write each partition that holds enough, or has held something for long enough."""
        now = self.clock.monotonic()
        for partition, (since, _, refusals) in list(self._held.items()):
            full = self._partition(partition).records >= self.settings["flushRecords"]
            if full or refusals or (now - since) * 1000 >= self.settings["flushMs"]:
                self._write(partition)

    def due_in(self) -> float | None:
        """Seconds until what has been held longest is to be written."""
        if not self._held:
            return None
        since = min(since for since, _, _ in self._held.values())
        return float(since + self.settings["flushMs"] / 1000 - self.clock.monotonic())

    def _partition(self, partition: int) -> SinkPartition:
        held = self._partitions.get(partition)
        if held is None:
            held = self._partitions[partition] = SinkPartition(
                source=self.source,
                sink=self.component_name,
                partition=partition,
                tables=self.tables,
                medium=self,
                random=self.here.resources.random,
            )
        return held

    def _hold(self, partition: int, tup: Any) -> tuple[list[Any], list[Refusal]]:
        _, tuples, refusals = self._held.setdefault(partition, (self.clock.monotonic(), [], []))
        tuples.append(tup)
        return tuples, refusals

    def _write(self, partition: int) -> None:
        """Write one partition. What fails here fails its own tuples only: others' may be acknowledged already."""
        _, tuples, refusals = self._held.pop(partition)
        writer = self._partition(partition)
        try:
            writer.flush(self.clock.now())
            for refusal in refusals:
                # A question that timed out may come after its lift; answered then, it would shut the record out.
                if refusal.lift or still_asked(self.tables, self.source.name, partition, refusal.offset):
                    writer.refuse(refusal, self.clock.now())
        except Exception as error:  # whatever it was, the tuples come again and the process lives
            self.logger.exception("%s: partition %d could not be written: %s", self.component_name, partition, error)
            self._partitions.pop(partition, None)
            for tup in tuples:
                self.undone(tup)
        else:
            for tup in tuples:
                self.done(tup)


def _cut(applied: OffsetSet, chunks: Sequence[EventChunk]) -> tuple[OffsetSet, pl.DataFrame]:
    """What is new in the chunks: the offsets that they cover, and the events."""
    fresh, frames = OffsetSet(), []
    for chunk in chunks:
        covered = chunk.head.covered()
        for seen in (applied, fresh):
            if seen.touches(chunk.head.first, chunk.head.after):
                for first, after in seen.ranges():
                    covered.remove(first, after)
        events = chunk.events.filter(pl.Series(covered.mask(_offsets(chunk.events)), dtype=pl.Boolean))
        fresh.update(covered)
        if len(events):
            frames.append(events)
    if not frames:
        return fresh, pl.DataFrame()
    same = all(frame.schema == frames[0].schema for frame in frames)
    return fresh, pl.concat(frames, how="vertical" if same else "diagonal_relaxed")


def _offsets(events: pl.DataFrame) -> Int64Array:
    return events["log_offset"].cast(pl.Int64).to_numpy() if len(events) else np.empty(0, dtype=np.int64)
