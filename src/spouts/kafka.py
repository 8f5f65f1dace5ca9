"""The spout: reads a source's topic in chunks, sends again what failed, gives up what cannot be done (SEMANTICS.md §6).

What happens to one partition is in `paystorm.reading.partition_reader`; here is what joins them: which partitions are
this task's, whose turn it is, how much may be in flight, and when to stop.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from streamparse import Spout, Stream

from paystorm.errors import ConfigError, FencedError, LogError, OffsetsLostError, TablesError
from paystorm.reading.epochs import check_newest, settle_firsts, settle_version
from paystorm.reading.parked_rows import Surroundings
from paystorm.reading.parking import REFUSALS, Emission
from paystorm.reading.partition_reader import PartitionReader
from paystorm.retry import backoff
from paystorm.stores.checkpoints import load_checkpoints
from paystorm.stores.control import Held, delete_held, load_hold, put_held, put_problem
from paystorm.stores.journal import fence_shards
from paystorm.stores.lists import register_source
from paystorm.stores.versions import Version, load_versions
from paystorm.storm import Prepared
from paystorm.storm_wire import in_own_process
from paystorm.validity import ValiditySettings
from paystorm.verdicts import VerdictLog

POLL_EVERY = 0.1
"""Seconds between two looks for a request to hold."""
LOOK_EVERY = 5.0
"""Seconds between two looks for new partitions and newer versions of the source."""
FATAL = (OffsetsLostError, FencedError, ConfigError)
"""What no waiting mends."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a spout task is, over its partitions."""

    read: int
    """Records below the committed offsets since the source first started."""
    committed: dict[int, int]
    """Committed offset by partition."""
    in_flight: int
    parked: int
    held: dict[int, tuple[int, ...]]
    """By partition the parked offsets that a sink holds."""


class KafkaSpout(Spout):  # type: ignore[misc]  # streamparse is not typed
    """Reads the partitions p with p % tasks == its own index: no rebalance, whatever other tasks do."""

    outputs: ClassVar[list[Any]] = [
        Stream(fields=["partition", "chunk"]),
        Stream(fields=["partition", "chunk"], name=REFUSALS),
    ]

    def run(self) -> None:
        """Called where the task has a process of its own, as under Storm: handle messages until Storm goes away."""
        self.serializer = in_own_process(self.serializer)
        super().run()

    def initialize(self, storm_conf: Mapping[str, Any], context: Mapping[str, Any]) -> None:
        """Called by pystorm first. The source is opened when the first tuple is asked for, and again if that fails."""
        self.here = Prepared(storm_conf)
        component = context["task->component"][str(context["taskid"])]
        peers = sorted(int(t) for t, name in context["task->component"].items() if name == component)
        self.index, self.peers = peers.index(int(context["taskid"])), len(peers)
        self.meter = self.here.meter(component, int(context["taskid"]))
        self.readers: dict[int, PartitionReader] = {}
        self.version: Version | None = None
        self.problem: str | None = None
        """Why nothing is read: for good, or until it can be opened."""
        self._stopped = False
        self._active = True
        self._turn = 0
        self._holding = self._told_held = False
        self._polled_at = self._looked_at = float("-inf")
        self._not_before: dict[int, float] = {}
        """By partition (−1: all) the monotonic time before which it is left alone after an error."""
        self._errors: dict[int, int] = {}

    # Called by pystorm: no exception of ours may reach it.

    def next_tuple(self) -> None:
        """Emit at most one chunk. Never waits for records or acks."""
        if not self._stopped:
            self._guarded(-1, self._step)
        self.meter.tell_if_due()

    def ack(self, tup_id: str) -> None:
        """A tuple tree is complete."""
        self._settle(tup_id, PartitionReader.acked)

    def fail(self, tup_id: str) -> None:
        """A tuple failed or timed out: nobody said why."""
        self._settle(tup_id, PartitionReader.failed)

    def activate(self) -> None:
        """The topology runs (again)."""
        self._active = True

    def deactivate(self) -> None:
        """The topology is stopped: what is complete is committed now, and after each further ack."""
        self._active = False
        self._commit_all()

    def close(self) -> None:
        """Commit what is complete; release what is this task's own."""
        self._commit_all()
        if self._told_held:
            self._guarded(-1, partial(self._go_on, self.here.source.name))
        if not self.here.in_process:
            self.here.resources.close()

    # For the embedded runner.

    def idle(self) -> bool:
        """Nothing is in flight, the log is read to its end, all is committed, and no parked record is due."""
        if self._stopped or self.version is None:
            return False
        try:
            return all(reader.caught_up() for reader in list(self.readers.values()))
        except (TablesError, LogError):
            return False

    @property
    def parked_count(self) -> int:
        """Records that wait for a retry."""
        return sum(len(reader.parked) for reader in list(self.readers.values()))

    def progress(self) -> Progress:
        """How far this task is."""
        readers = list(self.readers.values())
        return Progress(
            read=sum(reader.held.read for reader in readers),
            committed={reader.partition: reader.held.committed for reader in readers},
            in_flight=sum(reader.in_flight for reader in readers),
            parked=self.parked_count,
            held={reader.partition: reader.parked.held for reader in readers if reader.parked.held},
        )

    # One step

    def _step(self) -> None:
        if self.version is None:
            self._open()
        mono = self.here.resources.clock.monotonic()
        if mono - self._looked_at >= LOOK_EVERY:
            self._look_around()
            self._looked_at = mono
        if mono - self._polled_at >= POLL_EVERY:
            self._poll()
            self._polled_at = mono
        ready = [r for p, r in self.readers.items() if self._guarded(p, partial(r.tend, scan=not self._holding))]
        if self._stopped:
            return
        emission = self._choose(ready)
        if emission is not None:
            self._emit(emission)
            self.meter.worked(mono)
        elif self._holding and not self._told_held and all(r.settled() for r in self.readers.values()):
            committed = {r.partition: r.held.committed for r in self.readers.values()}
            held = Held(at=self.here.resources.clock.now(), committed=committed)
            put_held(self.here.resources.tables, self.here.source.name, self.index, held)
            self._told_held = True

    def _emit(self, emission: Emission) -> None:
        partition = emission.chunk.head.partition
        try:
            values = [partition, self.here.wire(emission.chunk)]
            self.emit(values, tup_id=emission.tuple_id, stream=emission.stream)
            self.meter.saw(emission.chunk.head.after - emission.chunk.head.first)
        except BaseException:
            self.readers[partition].failed(emission.tuple_id)  # nobody else will ever say so
            raise

    def _choose(self, ready: list[PartitionReader]) -> Emission | None:
        """The next tuple: due retries, then ranges that failed, then questions, then what is new.

        While it holds, only what has been sent before is sent again, until nothing is in flight.
        """
        holding = self._holding
        found = self._first(ready, lambda r: r.next_retry(unsure_only=holding))
        found = found or self._first(ready, PartitionReader.next_again)
        if found is not None or holding:
            return found
        return self._first(ready, PartitionReader.next_question) or self._next_new(ready)

    def _next_new(self, ready: list[PartitionReader]) -> Emission | None:
        """New records of the partition whose turn it is, as far as the bounds allow."""
        settings = self.here.settings
        most, most_bytes = int(settings["maxPendingRecords"]), int(settings["maxPendingBytes"])
        records, size = min(settings["chunkRecords"], most), min(settings["chunkBytes"], most_bytes)
        room = most - records - sum(r.in_flight for r in self.readers.values())
        room_bytes = most_bytes - size - sum(r.pending.size for r in self.readers.values())
        if room < 0 or room_bytes < 0:
            return None
        for i in range(len(ready)):
            reader = ready[(self._turn + i) % len(ready)]
            # A partition with a range that keeps failing reads ahead no further than its share: the others go on.
            share = max(most // len(self.readers), records)
            if reader.failing and reader.in_flight + records > share:
                continue
            emission = self._first([reader], lambda r: r.next_new(records, size))
            if emission is not None:
                self._turn = (self._turn + i + 1) % len(ready)
                return emission
        return None

    def _first(
        self, readers: Iterable[PartitionReader], ask: Callable[[PartitionReader], Emission | None]
    ) -> Emission | None:
        found: list[Emission] = []

        def one(reader: PartitionReader) -> None:
            emission = ask(reader)
            if emission is not None:
                found.append(emission)

        for reader in readers:
            self._guarded(reader.partition, partial(one, reader))
            if found:
                return found[0]
        return None

    # Start

    def _open(self) -> None:
        """Settle the version, the first offsets, then begin to read. Raises whatever hinders it."""
        source, resources = self.here.source, self.here.resources
        tables, log, now = resources.tables, resources.log, resources.clock.now()
        others = sorted({topic for topic, _ in load_checkpoints(tables, source.name)} - {source.topic})
        if others:
            raise OffsetsLostError(
                f"{source.name}: it has read topic {others[0]} so far, now {source.topic} is named: name {others[0]} "
                f"again, or begin anew: paystorm reset {source.name}"
            )
        partitions = log.partitions(source.topic)
        register_source(tables, source.name)
        version = settle_version(tables, log, source, self.here.settings, now)
        readers = self._read_from(version, range(self.index, partitions, self.peers))
        delete_held(tables, source.name, self.index)
        put_problem(tables, source.name, self.index, None)
        self.readers, self.version, self.problem = readers, version, None
        self._looked_at = resources.clock.monotonic()

    def _read_from(self, version: Version, partitions: Iterable[int]) -> dict[int, PartitionReader]:
        """Loaded readers of partitions of this task."""
        source, resources = self.here.source, self.here.resources
        tables, log = resources.tables, resources.log
        epochs = settle_firsts(tables, log, source, version, partitions, now=resources.clock.now(), fence=fence_shards)
        here = Surroundings(
            source=source,
            settings=self.here.settings,
            clock=resources.clock,
            log=log,
            tables=tables,
            verdicts=VerdictLog(log, source.name, source.topic),
            generation=version.number,
            validity={v.number: _validity(v) for v in load_versions(tables, source.name)},
            warn=self.logger.warning,
        )
        readers = {p: PartitionReader(here, p, of_partition) for p, of_partition in epochs.items()}
        for reader in readers.values():
            reader.load()
        return readers

    # Looking around

    def _look_around(self) -> None:
        """Stop where a newer version has started; read partitions that were added."""
        assert self.version is not None
        source = self.here.source
        check_newest(self.here.resources.tables, source.name, self.version)
        count = self.here.resources.log.partitions(source.topic)
        added = [p for p in range(self.index, count, self.peers) if p not in self.readers]
        if added:
            # A new dict: another thread may be looking at the old one.
            self.readers = {**self.readers, **self._read_from(self.version, added)}

    def _poll(self) -> None:
        """Look whether somebody asks to hold."""
        source = self.here.source.name
        hold = load_hold(self.here.resources.tables, source)
        self._holding = hold is not None and hold.until > self.here.resources.clock.now()
        if not self._holding and self._told_held:
            self._go_on(source)

    def _go_on(self, source: str) -> None:
        delete_held(self.here.resources.tables, source, self.index)
        self._told_held = False

    # Errors

    def _settle(self, tup_id: str, settle: Callable[[PartitionReader, str], None]) -> None:
        partition, _, _ = str(tup_id).partition(":")
        reader = self.readers.get(int(partition)) if partition.isdecimal() else None
        if reader is None:
            return

        def one() -> None:
            settle(reader, tup_id)
            if not self._active and not self._stopped:
                reader.tend(scan=False, commit_now=True)

        self._guarded(reader.partition, one, always=True)

    def _commit_all(self) -> None:
        for p, reader in self.readers.items():
            if reader.loaded and not self._stopped:
                self._guarded(p, partial(reader.tend, scan=False, commit_now=True), always=True)

    def _guarded(self, where: int, action: Callable[[], Any], *, always: bool = False) -> bool:
        """Do something for a partition (−1: for all); says whether it was done.

        After an error the partition is left alone for a while, longer each time, unless `always`. What no waiting
        mends stops the task.
        """
        clock = self.here.resources.clock
        if not always and clock.monotonic() < self._not_before.get(where, float("-inf")):
            return False
        try:
            action()
        except FATAL as error:
            self._stop(error)
            return False
        except Exception as error:
            self._errors[where] = self._errors.get(where, 0) + 1
            self._not_before[where] = clock.monotonic() + backoff(self._errors[where], self.here.settings)
            self._say(error)
            return False
        self._errors.pop(where, None)
        self._not_before.pop(where, None)
        return True

    def _say(self, error: Exception) -> None:
        if isinstance(error, TablesError | LogError):
            self.logger.error("%s: %s; trying again", self.component_name, error)
        else:
            self.logger.exception("%s: %s; trying again", self.component_name, error)
        if self.version is None:
            self._tell_problem(str(error))

    def _stop(self, error: Exception) -> None:
        """Emit nothing any more, and say why."""
        self._stopped = True
        self.logger.error("%s stops reading: %s", self.component_name, error)
        self._tell_problem(str(error))

    def _tell_problem(self, text: str) -> None:
        self.problem = text
        try:
            put_problem(self.here.resources.tables, self.here.source.name, self.index, text)
        except TablesError as error:
            self.logger.error("%s: the problem cannot be written down: %s", self.component_name, error)


def _validity(version: Version) -> ValiditySettings:
    held = version.validity
    return ValiditySettings(
        max_record_bytes=held["maxRecordBytes"],
        earliest=held["earliest"],
        max_ahead=held["maxAhead"],
        counts_retention=held["countsRetention"],
    )
