"""One partition as a spout task reads it: chunks out, acks and fails in, the committed offset moved behind them (§6).

Acks and fails only change memory; what follows from them in log and tables is done by `tend`. Every method that reads
or writes them raises TablesError or LogError, and may then be called again.
"""

import heapq
import itertools
from collections.abc import Sequence

import msgspec

from paystorm import retry
from paystorm.chunk import Head, RecordChunk
from paystorm.errors import LogError
from paystorm.log.base import RecordBatch
from paystorm.reading.epochs import Epochs
from paystorm.reading.parked_rows import Surroundings
from paystorm.reading.parking import Emission, ParkedRecords
from paystorm.reading.pending import Pending, Unit, cut
from paystorm.stores.checkpoints import Checkpoint, begin_checkpoint, check_log, load_checkpoint, move_checkpoint
from paystorm.stores.letters import replays_table
from paystorm.stores.retry import Parked, put_parked, scan_parked
from paystorm.tables.base import Tables
from paystorm.tables.keys import key
from paystorm.validity import replay_claims

COMMIT_EVERY = 0.05
"""Seconds between two writes of the checkpoint while more is under way."""
SCAN_EVERY = 10.0
"""Seconds between two looks at the retry table for records parked by tuples that came late."""
CHECK_EVERY = 5.0
"""Seconds between two looks whether the topic is still the same."""
MAX_PARKED = 10_000
"""Parked records at which a partition reads no further: each chunk names them all."""
FEW = 20
"""A chunk below this part of `chunkRecords` is small: the next one waits for `lingerMs`."""
UNNAMED = "failed {} times without a name"


class PartitionReader:
    """The reader of one partition. Not thread-safe."""

    def __init__(self, here: Surroundings, partition: int, epochs: Epochs) -> None:
        """Reads nothing yet: call `load`."""
        self.partition = partition
        self.held = Checkpoint(topic_id=None, committed=0, read=0)
        """The checkpoint as this reader knows it."""
        self.loaded = False
        self._here = here
        self._source, self._topic = here.source.name, here.source.topic
        self._epochs = epochs
        self._serials = itertools.count()
        self._topic_id: str | None = None
        self._forget()

    def _forget(self) -> None:
        self.loaded = False
        self.pending = Pending(self.held.committed)
        self.parked = ParkedRecords(
            self._here, self.partition, new_id=self._new_id, head=self._head, duplicates=self._duplicates
        )
        self._sent_before = 0
        """Ranges below this offset may have been sent by a task before this one."""
        self._flights: dict[str, Unit] = {}
        self._waiting: list[tuple[float, int, Unit]] = []
        """Failed units by the monotonic time at which they are sent again."""
        self._condemned: list[Unit] = []
        """Single records that are to be parked."""
        mono = self._here.clock.monotonic()
        self._lingers_until = mono
        self._committed_at, self._scanned_at, self._checked_at = mono, mono, mono

    def load(self) -> None:
        """Begin from what the tables say. Raises OffsetsLostError where the log no longer fits."""
        self._forget()
        tables, log = self._here.tables, self._here.log
        held = load_checkpoint(tables, self._source, self._topic, self.partition)
        topic_id = log.topic_id(self._topic)
        start = log.start_offset(self._topic, self.partition)
        if held is None:
            first = Checkpoint(topic_id=topic_id, committed=start, read=0)
            held = begin_checkpoint(tables, self._source, self._topic, self.partition, first)
        end = log.end_offset(self._topic, self.partition)
        check_log(self._source, self._topic, self.partition, held, topic_id=topic_id, start=start, end=end)
        if held.topic_id is None:  # written by a driver that could not tell; the next commit notes what this one can
            self._topic_id = topic_id
        else:
            self._topic_id = held.topic_id
        self.held = held
        self.pending = Pending(held.committed)
        self._sent_before = end
        self.parked.scan(held.committed, held.read)
        self.parked.consider(held.read)
        self.loaded = True

    # What a spout asks.

    @property
    def in_flight(self) -> int:
        """Records read but not committed, and parked ones being tried."""
        return self.pending.records + self.parked.in_flight

    @property
    def failing(self) -> bool:
        """Some range waits to be sent again."""
        return bool(self._waiting)

    def settled(self) -> bool:
        """Nothing is under way, and all that was read is committed."""
        return self.loaded and not self.pending.units and not self._flights and self.parked.settled()

    def caught_up(self) -> bool:
        """Settled, the log read to its end, and no parked record due."""
        if not self.settled() or self.parked.due(self._here.clock.monotonic()):
            return False
        return self.pending.position >= self._here.log.end_offset(self._topic, self.partition)

    # Tuples out.

    def next_retry(self, *, unsure_only: bool = False) -> Emission | None:
        """The next parked record to be tried again; `unsure_only`: only one that failed and may have reached a sink."""
        return self.parked.next_retry(self._here.clock.monotonic(), unsure_only=unsure_only)

    def next_question(self) -> Emission | None:
        """The next question to the sinks about a record that may be given up."""
        return self.parked.next_question(self._here.clock.monotonic())

    def next_again(self) -> Emission | None:
        """The next range that failed without a name and whose backoff is over."""
        if not self._waiting or self._waiting[0][0] > self._here.clock.monotonic():
            return None
        return self._send(heapq.heappop(self._waiting)[2])

    def next_new(self, max_records: int, max_bytes: int) -> Emission | None:
        """The next records of the log, all of one version of the source; None where there is none now."""
        mono = self._here.clock.monotonic()
        if len(self.parked) >= MAX_PARKED or mono < self._lingers_until:
            return None
        position = self.pending.position
        change = self._epochs.next_change(position)
        limit = max_records if change is None else min(max_records, change - position)
        try:
            batch = self._here.log.read(self._topic, self.partition, position, max_records=limit, max_bytes=max_bytes)
        except LogError:
            self._check_topic()
            raise
        if batch is None:
            return None
        batch = self._within(batch, position, change)
        epoch = self._epochs.at(position)
        if not len(batch):
            self.pending.skip(batch, epoch)
            return None
        if len(batch) * FEW < max_records:  # a chunk costs much the same however few records it has
            self._lingers_until = mono + self._here.settings["lingerMs"] / 1000
        duplicates = self._duplicates(batch)
        unit = Unit(position, batch.next, batch, epoch, self._here.clock.now(), duplicates)
        self.pending.add(unit)
        return self._send(unit)

    # What becomes of them.

    def acked(self, tuple_id: str) -> None:
        """A tuple tree is complete. One that was forgotten since (it timed out, or was read anew) is passed over."""
        unit = self._flights.pop(tuple_id, None)
        if unit is not None:
            self.pending.complete(unit)
        else:
            self.parked.acked(tuple_id)

    def failed(self, tuple_id: str) -> None:
        """A tuple failed or timed out without a name."""
        mono = self._here.clock.monotonic()
        unit = self._flights.pop(tuple_id, None)
        if unit is None:
            self.parked.failed(tuple_id, mono)
            return
        settings = self._here.settings
        self.pending.fail(unit)
        if retry.counts_as_named(unit.records, unit.alone, settings):
            self._condemned.append(unit)
        elif retry.should_split(unit.records, unit.alone, settings):
            for part in self.pending.split(unit, int(settings["splitInto"])):
                self._wait(part, mono + retry.backoff(1, settings))
        else:
            self._wait(unit, mono + retry.backoff(unit.fails, settings))

    def tend(self, *, scan: bool = True, commit_now: bool = False) -> None:
        """Do what is due in the tables: park, settle retries, commit, look around. Raises OffsetsLostError."""
        if not self.loaded:
            self.load()
        mono = self._here.clock.monotonic()
        while self._condemned:
            self._park(self._condemned[-1])
            self._condemned.pop()
        if commit_now or not self.pending.open or mono - self._committed_at >= COMMIT_EVERY:
            self._commit(mono)
        self.parked.work(self.held.read)
        if mono - self._checked_at >= CHECK_EVERY:
            self._check_topic()
            self._checked_at = mono
        if scan and mono - self._scanned_at >= SCAN_EVERY:
            self.parked.scan(self.held.committed, self.held.read)
            self.parked.consider(self.held.read)
            self._scanned_at = mono

    # Private

    def _commit(self, mono: float) -> None:
        """Move the checkpoint up to the first unit that is not complete, once the records parked below are known."""
        units = self.pending.complete_head()
        if not units:
            return
        target = units[-1].after
        tables = self._here.tables
        found: list[Parked] = []
        i, rank = 0, self.held.read
        for row in list(scan_parked(tables, self._source, self.partition, self.held.committed, target)):
            while row.offset >= units[i].after:
                rank += units[i].records
                i += 1
            unit = units[i]
            upto = int(unit.batch.offsets.searchsorted(row.offset, side="right"))
            base = rank + upto + self.pending.done_after(unit)
            known = self.parked.rows.fill(row, unit.batch, base)
            if known is not None:
                found.append(known)
        new = Checkpoint(
            topic_id=self._topic_id,
            committed=target,
            read=self.held.read + sum(unit.records for unit in units),
        )
        if not move_checkpoint(tables, self._source, self._topic, self.partition, held=self.held, new=new):
            self._here.warn(
                f"{self._source}: another task has moved partition {self.partition} on from offset "
                f"{self.held.committed}; this one forgets what it read and begins from the tables"
            )
            self.load()
            return
        self.held = new
        self.pending.commit(len(units))
        self._committed_at = mono
        for known in found:
            self.parked.add(known)
        if len(self.parked):
            self.parked.consider(new.read)

    def _park(self, unit: Unit) -> None:
        """Park the single record of a unit that keeps failing while others succeed: it counts as named."""
        now = self._here.clock.now()
        row = Parked(
            partition=self.partition,
            offset=int(unit.batch.offsets[0]),
            error=UNNAMED.format(unit.fails),
            attempts=1,
            first_failed=now,
            last_failed=now,
            epoch=unit.epoch,
            timestamp=int(unit.batch.timestamps[0]),
            value=unit.batch.value(0),
        )
        put_parked(self._here.tables, self._source, row)
        self.pending.give_over(unit)

    def _check_topic(self) -> None:
        """Raise OffsetsLostError where the topic was made anew, or lost what is still to be read."""
        log = self._here.log
        position = msgspec.structs.replace(self.held, committed=self.pending.position)
        check_log(
            self._source,
            self._topic,
            self.partition,
            position,
            topic_id=log.topic_id(self._topic),
            start=log.start_offset(self._topic, self.partition),
            end=log.end_offset(self._topic, self.partition),
        )

    def _within(self, batch: RecordBatch, position: int, change: int | None) -> RecordBatch:
        """The records of a batch before `change`. Raises LogError for a batch that breaks the log's contract."""
        offsets = batch.offsets
        if batch.next <= position or (len(batch) and not position <= offsets[0] <= offsets[-1] < batch.next):
            raise LogError(
                f"{self._topic}/{self.partition}: read from offset {position}, got records up to {batch.next} that do "
                f"not lie there: the log's driver is at fault"
            )
        if change is None or batch.next <= change:
            return batch
        return cut(batch, 0, int(offsets.searchsorted(change)), change)

    def _duplicates(self, batch: RecordBatch) -> tuple[int, ...]:
        """The offsets whose claim to replay a dead letter is lost to another; the others' claims are put down."""
        validity = self._here.validity[self._epochs.at(int(batch.offsets[0]))]
        return lost_claims(self._here.tables, self._source, replay_claims(batch, validity))

    def _send(self, unit: Unit) -> Emission:
        try:
            left_out = self._parked_within(unit)
        except Exception:  # it is pending, and nobody else would ever send it
            self._wait(unit, self._here.clock.monotonic() + retry.backoff(1, self._here.settings))
            raise
        tuple_id = self._new_id(unit.first, unit.after)
        self._flights[tuple_id] = unit
        head = msgspec.structs.replace(
            self._head(unit.first, unit.after, 0), read_at=unit.read_at, epoch=unit.epoch, left_out=left_out
        )
        return Emission(RecordChunk.of(head, unit.batch, unit.duplicates), tuple_id)

    def _parked_within(self, unit: Unit) -> tuple[int, ...]:
        """What an earlier sending of the range has parked: it goes its own way, and must not pass with the range."""
        if not unit.fails and unit.first >= self._sent_before:
            return ()
        rows = scan_parked(self._here.tables, self._source, self.partition, unit.first, unit.after)
        return tuple(row.offset for row in rows)

    def _head(self, first: int, after: int, attempt: int) -> Head:
        return Head(
            source=self._source,
            topic=self._topic,
            partition=self.partition,
            first=first,
            after=after,
            epoch=self._epochs.at(first),
            generation=self._here.generation,
            committed=self.held.committed,
            parked=self.parked.offsets(),
            attempt=attempt,
            read_at=self._here.clock.now(),
        )

    def _new_id(self, first: int, after: int) -> str:
        return f"{self.partition}:{first}:{after}:{next(self._serials)}"

    def _wait(self, unit: Unit, due: float) -> None:
        heapq.heappush(self._waiting, (due, unit.first, unit))


def lost_claims(tables: Tables, source: str, claims: Sequence[tuple[int, tuple[str, int, int]]]) -> tuple[int, ...]:
    """Put down claims (offset, the record it replays) where there is none; the offsets that came too late."""
    lost: list[int] = []
    for offset, (topic, partition, original) in claims:
        row_key = key(topic, partition, original)
        mine = b"%d" % offset
        put = tables.put_if_absent(replays_table(source), [(row_key, mine)])[0]
        if not put and tables.get(replays_table(source), row_key) != mine:
            lost.append(offset)
    return tuple(lost)
