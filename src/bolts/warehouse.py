"""The bolt that stores events: grouped by partition, each event in the warehouse once, its verdict sent back."""

from typing import Any, ClassVar

from paystorm.chunk import EventChunk, Refusal
from paystorm.stores.index import SNAPSHOT_ROWS
from paystorm.stores.retry import still_asked
from paystorm.storm import ChunkBolt
from paystorm.verdicts import VerdictLog
from paystorm.warehouse.writer import PartitionWriter

REFUSALS = "refusals"
"""The spout's stream of questions before it gives a record up."""
NEVER = 2**63


class _Held:
    """What is gathered for a partition."""

    def __init__(self, writer: PartitionWriter, since: float) -> None:
        self.writer = writer
        self.since = since
        self.tuples: list[Any] = []
        self.refusals: list[Refusal] = []
        self.read_at = NEVER
        """When the spout read the first of them, µs since 1970-01-01 UTC."""


class WarehouseBolt(ChunkBolt):
    """Gathers chunks of each partition up to `flushRecords` or `flushMs`, writes one file, then acknowledges."""

    snapshot_rows: ClassVar[int] = SNAPSHOT_ROWS
    """Rows of a partition's index between two snapshots."""

    def prepare(self) -> None:
        """No I/O: a partition is loaded when it is first written."""
        self._verdicts = VerdictLog(self.here.resources.log, self.source.name, self.source.topic)
        self._writers: dict[int, PartitionWriter] = {}
        self._held: dict[int, _Held] = {}

    def handle(self, tup: Any) -> None:
        """Keep the tuple, of whichever stream."""
        if tup.stream == REFUSALS:
            refusal = self.chunk(Refusal, tup)
            held = self._partition(refusal.head.partition)
            held.refusals.append(refusal)
        else:
            chunk = self.chunk(EventChunk, tup)
            held = self._partition(chunk.head.partition)
            held.writer.gather(chunk)
            held.read_at = min(held.read_at, chunk.head.read_at)
        held.tuples.append(tup)

    def flush_if_due(self) -> None:
        """Write each partition that holds enough, or has held something for long enough."""
        now = self.clock.monotonic()
        for partition, held in list(self._held.items()):
            full = held.writer.records >= self.settings["flushRecords"]
            if full or held.refusals or (now - held.since) * 1000 >= self.settings["flushMs"]:
                self._write(partition, self._held.pop(partition))

    def due_in(self) -> float | None:
        """Seconds until what has been held longest is to be written."""
        if not self._held:
            return None
        since = min(held.since for held in self._held.values())
        return float(since + self.settings["flushMs"] / 1000 - self.clock.monotonic())

    def _partition(self, partition: int) -> _Held:
        held = self._held.get(partition)
        if held is None:
            resources = self.here.resources
            writer = self._writers.get(partition)
            if writer is None:
                writer = self._writers[partition] = PartitionWriter(
                    self.source,
                    partition,
                    tables=resources.tables,
                    warehouse=resources.warehouse,
                    verdicts=self._verdicts,
                    clock=resources.clock,
                    random=resources.random,
                    publish_accepted=self.settings["publishAccepted"],
                    snapshot_rows=self.snapshot_rows,
                )
            held = self._held[partition] = _Held(writer, self.clock.monotonic())
        return held

    def _write(self, partition: int, held: _Held) -> None:
        """Write one partition. What fails here fails its own tuples only: others' may be acknowledged already."""
        try:
            held.writer.flush()
            for refusal in held.refusals:
                # A question that timed out may come after its lift; answered then, it would shut the record out.
                if refusal.lift or still_asked(self.tables, self.source.name, partition, refusal.offset):
                    held.writer.refuse(refusal)
        except Exception as error:  # whatever it was, the tuples come again and the process lives
            self.logger.exception("%s: partition %d could not be written: %s", self.source.name, partition, error)
            self._writers.pop(partition, None)
            for tup in held.tuples:
                self.undone(tup)
        else:
            if held.read_at != NEVER:
                self.meter.stored(held.read_at)
            for tup in held.tuples:
                self.done(tup)
