"""A source with one partition, its reader, and sinks that do as a test says."""

from pathlib import Path

from paystorm.chunk import Head, RecordChunk, Refusal
from paystorm.clock import SECOND, ManualClock
from paystorm.log.base import Log, OutRecord
from paystorm.log.embedded import EmbeddedLog
from paystorm.reading.epochs import Epochs
from paystorm.reading.parked_rows import Surroundings
from paystorm.reading.parking import Emission
from paystorm.reading.partition_reader import PartitionReader
from paystorm.settings import Settings
from paystorm.source import Field, Source
from paystorm.stores.checkpoints import load_checkpoint
from paystorm.stores.retry import (
    Parked,
    load_parked,
    park,
    put_answer,
    still_asked,
)
from paystorm.tables.memory import MemoryTables
from paystorm.validity import ValiditySettings
from paystorm.verdicts import VerdictLog

SOURCE = Source(
    name="s", topic="t", enforces=False, fields=(Field(name="event_time", type="time", required=True),), parties=()
)
START = 1_767_225_600 * SECOND


class World:
    """Log, tables and clock of a source with one partition, its reader, and sinks that do as a test says."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.clock = ManualClock(START)
        self.log: Log = EmbeddedLog(folder, self.clock, segment_bytes=2000)
        self.log.create_topic("t", 1)
        self.tables = MemoryTables()
        self.settings = Settings({"chunkRecords": 10, **options})
        self.firsts = {0: 0}
        self.warnings: list[str] = []
        self.applied: set[int] = set()
        self.refused: set[int] = set()
        self.sent: list[Head] = []
        self.reader = self.start()

    def start(self) -> PartitionReader:
        """A spout task that starts; the one before is forgotten."""
        here = Surroundings(
            source=SOURCE,
            settings=self.settings,
            clock=self.clock,
            log=self.log,
            tables=self.tables,
            verdicts=VerdictLog(self.log, "s", "t"),
            generation=max(self.firsts),
            validity={n: ValiditySettings() for n in self.firsts},
            warn=self.warnings.append,
        )
        self.reader = PartitionReader(here, 0, Epochs(self.firsts))
        self.reader.load()
        return self.reader

    def write(self, n: int) -> None:
        end = self.log.end_offset("t", 0)
        for first in range(end, end + n, 30):  # a segment of the log ends between appends
            offsets = range(first, min(first + 30, end + n))
            self.log.append("t", [OutRecord(b'{"ApplicationRef":"a","id":"e%d"}' % o, None, 0) for o in offsets])

    def next(self, *, new: bool = True) -> Emission | None:
        self.reader.tend()
        found = self.reader.next_retry() or self.reader.next_again() or self.reader.next_question()
        if found is None and new:
            found = self.reader.next_new(self.settings["chunkRecords"], 10**6)
        if found is not None:
            self.sent.append(found.chunk.head)
        return found

    def expect(self) -> Emission:
        found = self.next()
        assert found is not None
        return found

    def nothing(self) -> bool:
        return self.next() is None

    def chunk(self) -> tuple[RecordChunk, str]:
        found = self.expect()
        assert isinstance(found.chunk, RecordChunk)
        return found.chunk, found.tuple_id

    def deliver(self, emission: Emission, bad: set[int] | None = None) -> None:
        """What bolts and sinks do before they ack: name the bad records, apply the others, answer questions."""
        chunk = emission.chunk
        if isinstance(chunk, Refusal):
            if chunk.lift:
                self.refused.discard(chunk.offset)
            elif still_asked(self.tables, "s", 0, chunk.offset):
                held = chunk.offset in self.applied
                if not held:
                    self.refused.add(chunk.offset)
                put_answer(self.tables, "s", 0, chunk.offset, "warehouse", held=held)
                put_answer(self.tables, "s", 0, chunk.offset, 3, held=False)
            return
        offsets = set(chunk.batch().offsets.tolist())
        failures = {o: f"bad {o}" for o in offsets & (bad or set())}
        if failures:
            park(self.tables, "s", chunk.head, failures, self.clock.now())
        self.applied |= offsets - set(failures) - self.refused

    def run(self, bad: set[int] | None = None, *, seconds: float = 0) -> None:
        """Deliver and ack all there is, for so long."""
        end = self.clock.monotonic() + seconds
        step = max(0.5, seconds / 500)
        while True:
            found = self.next()
            if found is not None:
                self.deliver(found, bad)
                self.reader.acked(found.tuple_id)
            elif self.clock.monotonic() >= end:
                self.reader.tend()
                return
            else:
                self.clock.advance(step)

    def run_to_question(self, bad: set[int]) -> Emission:
        """Deliver and ack all there is, up to the first question to the sinks."""
        while True:
            found = self.next()
            if found is None:
                self.clock.advance(0.5)
            elif isinstance(found.chunk, Refusal):
                return found
            else:
                self.deliver(found, bad)
                self.reader.acked(found.tuple_id)

    @property
    def committed(self) -> int:
        held = load_checkpoint(self.tables, "s", "t", 0)
        assert held is not None
        return held.committed

    def row(self, offset: int) -> Parked:
        row = load_parked(self.tables, "s", 0, offset)
        assert row is not None
        return row
