"""What `verify` reads of the tables while the source stands still, and the records it then computes from."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from paystorm.errors import UsageError
from paystorm.lists import PartyFacts, RuleName
from paystorm.offsets import OffsetSet
from paystorm.oracle import Outcome
from paystorm.oracle.model import Key
from paystorm.resources import Resources
from paystorm.source import Source
from paystorm.stores.cases import all_cases
from paystorm.stores.checkpoints import Checkpoint, load_checkpoints
from paystorm.stores.hits import Hit, load_hits
from paystorm.stores.hours import Hour
from paystorm.stores.index import IndexRow, rows_from
from paystorm.stores.index_tail import IndexTail
from paystorm.stores.letters import DeadLetter, all_letters, letter_at, replays_table
from paystorm.stores.lists import HISTORY, HistoryRow, load_party_facts, open_breakers
from paystorm.stores.pruned import PrunedEvents, counts_floor, pruned_events
from paystorm.stores.retry import Parked, all_parked
from paystorm.stores.versions import Version, load_firsts, load_versions
from paystorm.tables.keys import parts
from paystorm.verdicts import verdict_topic
from paystorm.verify.counts import Figures
from paystorm.verify.stored import StoredEvents, files_and_hours
from paystorm.warehouse.base import EventFile
from paystorm.windows.effects import CaughtLate, load_caught_late

READ_RECORDS = 20_000
READ_BYTES = 16 * 1024 * 1024
NEVER = 2**62
"""The first offset of a version that was replaced before anybody read the partition under it."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter without its raw bytes."""

    partition: int
    offset: int
    event_id: str | None
    application: str | None
    field: str
    code: str
    pruned: bool = False


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """The tables of a source as of one moment at which nothing is in flight."""

    at: int
    """µs since 1970-01-01 UTC."""
    checkpoints: dict[int, Checkpoint]
    starts: dict[int, int]
    """The first offset that each partition of the log holds."""
    versions: list[Version]
    firsts: dict[tuple[int, int], int]
    letters: list[Letter]
    parked: dict[Key, Parked]
    index: dict[int, list[IndexRow]]
    totals: dict[int, tuple[int, int]]
    """Accepted and denied by partition, as the index counts them below the committed offset."""
    files: set[EventFile]
    hours: Mapping[str, Hour]
    """What is known of the hours that were merged."""
    figures: Figures
    hits: list[Hit]
    caught: list[CaughtLate]
    facts: dict[tuple[str, str], PartyFacts]
    """Of all sources: lists are looked up whichever source made them."""
    breakers: frozenset[RuleName]
    history: list[HistoryRow]
    cases: set[tuple[str, str]]
    verdict_ends: dict[int, int]
    """The end offset of each partition of the verdict topic; none where there is no such topic."""
    counts_floor: int | None = None
    """Intervals that ended at or before it are not counted any more, s."""
    pruned: PrunedEvents | None = None
    """How far the stored events went with their retention."""

    def committed(self, partition: int) -> int:
        """The offset up to which the partition is verified."""
        return self.checkpoints[partition].committed


def checkpoints_of(resources: Resources, source: Source) -> dict[int, Checkpoint]:
    """The checkpoints of the source's topic by partition."""
    found = load_checkpoints(resources.tables, source.name)
    return {p: held for (topic, p), held in sorted(found.items()) if topic == source.topic}


def read_snapshot(resources: Resources, source: Source, between: Callable[[], None]) -> Snapshot:
    """Read everything that changes while the source runs. `between` is called before each part that may take long.

    Raises UsageError where something has been stored that is not committed.
    """
    tables, name = resources.tables, source.name
    checkpoints = checkpoints_of(resources, source)
    versions = load_versions(tables, name)
    between()
    figures = Figures(tables, name, versions[0].shards if versions else 0)
    between()
    letters = [_slim(letter) for letter in all_letters(tables, name)]
    between()
    index = {p: list(rows_from(tables, name, p, 0)) for p in checkpoints}
    tail = IndexTail(tables, name)
    _check_settled(source, checkpoints, figures, letters, {p: tail.applied(p) for p in checkpoints})
    between()
    facts, history = load_party_facts(tables), [_history_row(value) for _, value in tables.scan(HISTORY)]
    between()
    topic = verdict_topic(name)
    partitions = range(resources.log.partitions(topic)) if topic in resources.log.topics() else range(0)
    files, hours = files_and_hours(resources.warehouse, tables, name)
    return Snapshot(
        at=resources.clock.now(),
        checkpoints=checkpoints,
        starts={p: resources.log.start_offset(source.topic, p) for p in checkpoints},
        versions=versions,
        firsts=load_firsts(tables, name),
        letters=letters,
        parked={(r.partition, r.offset): r for r in all_parked(tables, name) if _below(checkpoints, r)},
        index=index,
        totals={p: tail.totals(p, held.committed) for p, held in checkpoints.items()},
        files=files,
        hours=hours,
        figures=figures,
        hits=list(load_hits(tables, name)),
        caught=list(load_caught_late(tables, name)),
        facts=facts,
        breakers=open_breakers(tables),
        history=history,
        cases={(case.kind, case.party) for case in all_cases(tables)},
        verdict_ends={p: resources.log.end_offset(topic, p) for p in partitions},
        counts_floor=counts_floor(tables, name),
        pruned=pruned_events(tables, name),
    )


def _slim(letter: DeadLetter) -> Letter:
    return Letter(
        letter.partition,
        letter.offset,
        letter.event_id,
        letter.application,
        letter.field,
        letter.code,
        letter.pruned,
    )


def _history_row(value: bytes) -> HistoryRow:
    return msgspec.msgpack.decode(value, type=HistoryRow)


def _below(checkpoints: Mapping[int, Checkpoint], row: Parked) -> bool:
    held = checkpoints.get(row.partition)
    return held is not None and row.offset < held.committed


def _check_settled(
    source: Source,
    checkpoints: Mapping[int, Checkpoint],
    figures: Figures,
    letters: list[Letter],
    indexed: Mapping[int, OffsetSet],
) -> None:
    """Raise UsageError where a sink holds what is not committed: the source was stopped in the midst of it."""
    ends: dict[int, int] = {}
    for letter in letters:
        ends[letter.partition] = max(ends.get(letter.partition, 0), letter.offset + 1)
    applied = [indexed, *(state.applied_sets() for state in figures.states)]
    for sets in applied:
        for partition, offsets in sets.items():
            ranges = offsets.ranges()
            ends[partition] = max(ends.get(partition, 0), ranges[-1][1] if ranges else 0)
    for partition, end in sorted(ends.items()):
        committed = checkpoints[partition].committed if partition in checkpoints else 0
        if end > committed:
            raise UsageError(
                f"source {source.name}: partition {partition} is committed up to offset {committed} and stored up to "
                f"{end}: it was stopped with records in flight; let it run until they are done, then verify"
            )


def versions_given(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The versions of the source as the oracle takes them."""
    out = []
    for version in snapshot.versions:
        first = {}
        for partition in snapshot.checkpoints:
            later = version.number == 0 or partition >= version.partitions
            first[partition] = snapshot.firsts.get((version.number, partition), 0 if later else NEVER)
        rules = [msgspec.to_builtins(rule) for rule in version.rules]
        out.append({"number": version.number, "rules": rules, "settings": version.validity, "first": first})
    return out


@dataclass(slots=True)
class Records:
    """The raw records below the committed offsets, counted as they are read.

    For those that the log no longer holds stored events, dead letters and parked records stand in.
    """

    resources: Resources
    source: Source
    snapshot: Snapshot
    events: StoredEvents
    in_log: dict[int, int] = field(default_factory=dict)
    """Records read from the log, by partition."""
    stood_in: dict[int, int] = field(default_factory=dict)
    gone: dict[int, int] = field(default_factory=dict)
    """Records that neither log nor warehouse nor letters hold any more: they went with their retention."""
    left_out: set[Key] = field(default_factory=set)
    """Records that are read and stand for nothing but their claim to replay another: parked, or gone."""

    def __post_init__(self) -> None:
        self.left_out.update(self.snapshot.parked)

    def __iter__(self) -> Iterator[tuple[int, int, int, bytes]]:
        for partition in self.snapshot.checkpoints:
            self.stood_in[partition] = self.in_log[partition] = self.gone[partition] = 0
            for offset, timestamp, value in self._stand_ins(partition):
                if (partition, offset) not in self.left_out or (partition, offset) in self.snapshot.parked:
                    self.stood_in[partition] += 1
                yield partition, offset, timestamp, value
            for offset, timestamp, value in self._from_log(partition):
                self.in_log[partition] += 1
                yield partition, offset, timestamp, value

    def read(self) -> int:
        """How many records there are."""
        return sum(self.in_log.values()) + sum(self.stood_in.values()) + sum(self.gone.values())

    def _from_log(self, partition: int) -> Iterator[tuple[int, int, bytes]]:
        log, topic = self.resources.log, self.source.topic
        position, end = self.snapshot.starts[partition], self.snapshot.committed(partition)
        while position < end:
            batch = log.read(topic, partition, position, max_records=READ_RECORDS, max_bytes=READ_BYTES)
            if batch is None:
                return
            offsets, stamps = batch.offsets.tolist(), batch.timestamps.tolist()
            for offset, timestamp, value in zip(offsets, stamps, batch.all_values(), strict=True):
                if offset < end:
                    yield offset, timestamp, value
            position = batch.next

    def _stand_ins(self, partition: int) -> Iterator[tuple[int, int, bytes]]:
        below = min(self.snapshot.starts[partition], self.snapshot.committed(partition))
        if below <= 0:
            return
        dead = {x.offset for x in self.snapshot.letters if x.partition == partition and x.offset < below}
        waiting = {o for p, o in self.snapshot.parked if p == partition and o < below}
        events = {row[0]: row[1:] for row in self.events.before(partition, below).iter_rows()}
        claims = self._claims(partition)
        gone = {x.offset for x in self.snapshot.letters if x.partition == partition and x.offset < below and x.pruned}
        pruned = self.events.pruned.below(partition, below)
        self.gone[partition] = len(gone) + len(pruned)
        gone.update(offset for offset in claims if (partition, offset) in self.events.pruned and offset < below)
        for offset in sorted(events.keys() | dead | waiting | (gone & claims.keys())):
            if offset in gone:
                if offset in claims:
                    self.left_out.add((partition, offset))
                    yield offset, *_as_record(self.source.topic, partition, claims[offset], "gone", "gone", 0, "{}")
            elif offset in dead:  # as raw bytes
                letter = letter_at(self.resources.tables, self.source.name, partition, offset)
                if letter is not None:
                    yield offset, letter.timestamp, letter.value
            elif offset in events:
                yield offset, *_as_record(self.source.topic, partition, claims.get(offset), *events[offset])
            else:
                row = self.snapshot.parked[partition, offset]
                yield offset, row.timestamp, row.value or b""

    def _claims(self, partition: int) -> dict[int, int]:
        """Which record an offset replays, of those whose claim was put down."""
        found = {}
        for row_key, value in self.resources.tables.scan(replays_table(self.source.name)):
            topic, its_partition, original = parts(row_key)
            if (topic, its_partition) == (self.source.topic, partition):
                found[int(value)] = int(original)
        return found


def _as_record(
    topic: str, partition: int, replays: int | None, event_id: str, application: str, received_at: int, data: str
) -> tuple[int, bytes]:
    """(timestamp, value) of a record that makes the stored event again. The `data` is its literal text."""
    envelope: dict[str, Any] = {"ApplicationRef": application, "id": event_id}
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=received_at)
    envelope["received_at"] = at.isoformat()
    if replays is not None:
        envelope["replay_of"] = {"topic": topic, "partition": partition, "offset": replays}
    text = json.dumps(envelope, ensure_ascii=False)
    return received_at // 1000, f'{text[:-1]}, "data": {data}}}'.encode()


def readable_id(topic: str, partition: int, offset: int, value: bytes) -> str | None:
    """The id of a record whose envelope is faulty elsewhere; None where it cannot be read.

    The oracle knows no id of such a record; the system tells its sender the id where it can be read.
    """
    try:
        pairs = json.loads(value.decode(), object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        return None
    ids = [found for key, found in pairs if key == "id"]
    if len(ids) > 1:
        return None
    if not ids or ids[0] is None:
        return f"{topic}/{partition}/{offset}"
    return ids[0] if isinstance(ids[0], str) and 1 <= len(ids[0]) <= 256 else None


def letter_outcomes(
    snapshot: Snapshot, source: Source, expected: Mapping[Key, Outcome], value_of: Callable[[Key], bytes | None]
) -> Iterator[Outcome]:
    """The outcomes that the dead letters are; an id that the oracle does not know is checked here by itself."""
    for letter in snapshot.letters:
        key = (letter.partition, letter.offset)
        event_id, wanted = letter.event_id, expected.get(key)
        if letter.pruned and wanted is None and letter.offset < snapshot.starts.get(letter.partition, 0):
            continue  # neither the log nor the letter has its bytes any more
        if event_id is not None and wanted is not None and wanted.id is None:
            value = value_of(key)
            if letter.pruned:
                event_id = None
            if value is not None and event_id == readable_id(source.topic, *key, value):
                event_id = None
        yield Outcome(letter.partition, letter.offset, event_id, False, letter.field, letter.code)


def half_done(snapshot: Snapshot, events: StoredEvents) -> int:
    """How many parked records have reached a sink: an earlier attempt failed only further on."""
    sets = [state.applied_sets() for state in snapshot.figures.states]
    found = 0
    for partition, offset in snapshot.parked:
        stored = events.offsets(partition)
        i = int(np.searchsorted(stored, offset))
        in_file = i < len(stored) and stored[i] == offset
        found += in_file or any(offset in held[partition] for held in sets if partition in held)
    return found
