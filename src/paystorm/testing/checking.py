"""Is what the world holds what it must hold? Against the oracle, and row by row among themselves."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from paystorm.offsets import OffsetSet
from paystorm.oracle import (
    Computed,
    Crossing,
    Denied,
    Difference,
    EventRow,
    Given,
    Held,
    ListHistory,
    Outcome,
    Stored,
    check_crossings,
    check_denied,
    compare,
    compute,
)
from paystorm.resources import Resources
from paystorm.shards import shards_of
from paystorm.stores.checkpoints import Checkpoint, load_checkpoint
from paystorm.stores.hits import load_hits
from paystorm.stores.index_tail import IndexTail
from paystorm.stores.journal import read_shard
from paystorm.stores.letters import DeadLetter, all_letters, letter_at
from paystorm.stores.retry import all_parked, load_parked
from paystorm.stores.versions import load_firsts, load_versions
from paystorm.tables.keys import parts
from paystorm.testing.faulty import Write
from paystorm.testing.world import World
from paystorm.verdicts import verdict_topic
from paystorm.verify.counts import Figures, held_counts, held_hits
from paystorm.verify.source import verify_source
from paystorm.windows.effects import load_caught_late

BOUND = 1_000_000
"""The refresh bound, µs."""
NEVER = 1 << 62
ENVELOPE = frozenset({"record", "envelope", "ApplicationRef", "data", "id", "received_at", "replay_of"})
Key = tuple[int, int]


class BrokenInvariantError(BaseException):
    """No Exception: nothing in the run may catch it."""


class Watcher:
    """Checks, as it runs, that the committed offset never passes a record that is not complete."""

    def __init__(self, world: World, parties: dict[Key, list[tuple[str, str]]]) -> None:
        """`parties`: of valid records whose parties are known."""
        self._world = world
        self._parties = parties
        self.checked = 0
        world.faults.watches.append(self._watch)

    def _watch(self, write: Write, rows: Any) -> None:
        world = self._world
        if write.what != "tables.replace" or write.name != f"{world.source.name}.offsets":
            return
        ((row_key, value),) = rows
        topic, partition = parts(row_key)
        new = msgspec.msgpack.decode(value, type=Checkpoint)
        held = load_checkpoint(world.tables, world.source.name, str(topic), int(partition))
        if held is not None:
            self._check(int(partition), held.committed, new.committed)

    def _check(self, partition: int, first: int, after: int) -> None:
        world, name = self._world, self._world.source.name
        applied = IndexTail(world.tables, name).applied(partition)
        shards = load_versions(world.tables, name)[0].shards
        counted: dict[int, OffsetSet] = {}
        # A distinct that knows a value already notes nothing: applying it again changes nothing either.
        kinds = {rule.kind for rule in world.source.rules if (rule.measure, rule.role) == ("count", "either")}
        for p, offset, _, _ in world.log.records(world.source.topic):
            if p != partition or not first <= offset < after:
                continue
            self.checked += 1
            if load_parked(world.tables, name, p, offset) or letter_at(world.tables, name, p, offset):
                continue
            if offset not in applied:
                raise BrokenInvariantError(f"{name}: {p}/{offset} is committed and not in the index")
            for kind, party in self._parties.get((p, offset), []):
                if kind not in kinds:
                    continue
                (shard,) = shards_of(kind, [party], shards)
                if shard not in counted:
                    state, _ = read_shard(world.tables, name, int(shard))
                    counted[shard] = state.applied_sets().get(p, OffsetSet())
                if offset not in counted[shard]:
                    raise BrokenInvariantError(
                        f"{name}: {p}/{offset} is committed and not in shard {shard} of {kind} {party}"
                    )


def check(world: World) -> list[str]:
    """Every difference, as a line each; none where all is well. To be called when nothing is in flight."""
    found = [str(difference) for difference in _differences(world)]
    return found + list(_verdicts(world)) + [f"surprise: {text}" for text in world.surprises]


def verified(world: World, folder: Path) -> list[str]:
    """What `paystorm verify` finds. The events are written to a folder for it, which must be new or empty."""
    resources = Resources(
        clock=world.clock, log=world.log, tables=world.tables, warehouse=world.warehouse.copied_to(folder)
    )
    return [str(difference) for difference in verify_source(resources, world.source, hold=False, timeout=1).differences]


def given(world: World) -> Given:
    """What the oracle computes from."""
    name, tables = world.source.name, world.tables
    parked = {(row.partition, row.offset) for row in all_parked(tables, name)}
    letters = list(all_letters(tables, name))
    firsts = load_firsts(tables, name)
    versions = [
        {
            "number": v.number,
            "rules": msgspec.to_builtins(v.rules),
            "settings": v.validity,
            "first": {
                p: firsts.get((v.number, p), 0 if v.number == 0 or p >= v.partitions else NEVER)
                for p in range(world.log.partitions(world.source.topic))
            },
        }
        for v in load_versions(tables, name)
    ]
    return Given(
        source=world.source.to_dict(),
        topic=world.source.topic,
        records=world.log.records(world.source.topic),
        versions=versions,
        parked=parked,
        gave_up={(x.partition, x.offset) for x in letters if x.code == "gave_up"},
    )


def _places(frame: pl.DataFrame) -> Iterator[Key]:
    yield from frame.select("log_partition", "log_offset").iter_rows()


def _differences(world: World) -> Iterator[Difference]:
    source, tables = world.source, world.tables
    with compute(given(world)) as computed:
        events = list(_events(world))
        letters = [
            Outcome(x.partition, x.offset, _id_of(x), False, x.field, x.code) for x in all_letters(tables, source.name)
        ]
        stored = [Outcome(e.partition, e.offset, e.id, True) for e, _ in events]
        versions = load_versions(tables, source.name)
        figures = Figures(tables, source.name, versions[0].shards)
        hits = list(load_hits(tables, source.name))
        rules = {(v.number, rule.name): rule for v in versions for rule in v.rules}
        standing = [h for h in hits if h.status == "standing"]
        keys = [(h.rule, h.kind, h.party, h.interval_start, h.currency) for h in hits if h.status == "withdrawn"]
        yield from compare(
            computed,
            Held(
                outcomes=stored + letters,
                events=[e for e, _ in events],
                counts=held_counts(figures, computed, source, {r.name: r for r in versions[-1].rules}),
                hits=held_hits(figures, computed, source, rules, standing),
                withdrawn=keys,
            ),
        )
        yield from _decisions(world, computed, events)


def _decisions(world: World, computed: Computed, events: list[tuple[EventRow, dict[str, Any]]]) -> Iterator[Difference]:
    source, tables = world.source, world.tables
    history = ListHistory(sorted(world.history, key=lambda change: change.at))
    denied = [
        Denied(e.partition, e.offset, _parties(world, row), row["decided_at"], row["verdict_reason"])
        for e, row in events
        if row["verdict"] == "denied"
    ]
    yield from check_denied(denied, history, BOUND)
    crossings = [
        Crossing(h.rule, h.kind, h.party, h.interval_start, h.currency, h.before)
        for h in load_hits(tables, source.name)
        if h.status == "standing" and h.action == "deny"
    ]
    # An event decided before a person's act and applied behind it (its tuple came again) may be either.
    applied: dict[Key, int] = {}
    for (_, partition, offset), at in world.applied_at.items():
        applied[partition, offset] = max(at, applied.get((partition, offset), 0))
    verdicts = {
        (e.partition, e.offset): Stored(row["verdict"], max(row["decided_at"], applied.get((e.partition, e.offset), 0)))
        for e, row in events
    }
    caught = {(c.partition, c.offset) for c in load_caught_late(tables, source.name)}
    yield from check_crossings(computed, crossings, verdicts, caught, history=history, bound=BOUND)
    for key in caught:
        if key not in verdicts or verdicts[key].verdict != "accepted":
            yield Difference("caught_late", key, "an accepted event", verdicts.get(key))


def _parties(world: World, row: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for party in world.source.parties:
        if row[party.field] is not None:
            kind = (row[party.kind_field] if party.kind_field else None) or party.kind
            found.append((kind, row[party.field]))
    return found


def _events(world: World) -> Iterator[tuple[EventRow, dict[str, Any]]]:
    fields = [field.name for field in world.source.fields]
    for frame in world.warehouse.events(world.source.name):
        times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
        for row in frame.with_columns(pl.col(times).cast(pl.Int64)).iter_rows(named=True):
            yield (
                EventRow(
                    row["log_partition"],
                    row["log_offset"],
                    row["event_id"],
                    row["application"],
                    row["received_at"],
                    row["event_time"],
                    {name: _plain(row[name]) for name in fields},
                    row["data"],
                ),
                row,
            )


def _id_of(letter: DeadLetter) -> str | None:
    """The id of a dead letter as the oracle has it: of an envelope with a fault, none."""
    # The streaming code also gives the id of an envelope whose id can be read and whose other keys cannot.
    envelope = letter.field in ENVELOPE and letter.code not in ("gave_up", "wrong_replay", "duplicate_replay")
    return None if envelope else letter.event_id


def _plain(value: Any) -> str | int | Decimal | None:
    return value if value is None or isinstance(value, str | int | Decimal) else str(value)


def _verdicts(world: World) -> Iterator[str]:
    """Every outcome was told, repeats are equal, and nothing else was told."""
    told: dict[Key, set[bytes]] = {}
    for key, value in world.log.keyed(verdict_topic(world.source.name)):
        said = json.loads(value)
        place = (said["partition"], said["offset"])
        if key != f"{said['topic']}/{said['partition']}/{said['offset']}".encode():
            yield f"verdicts {place}: key {key!r} of {value!r}"
        told.setdefault(place, set()).add(value)
    expected: dict[Key, str] = {}
    for event, row in _events(world):
        expected[event.partition, event.offset] = row["verdict"]
    for letter in all_letters(world.tables, world.source.name):
        if (letter.partition, letter.offset) in expected:
            yield f"outcomes {letter.partition}/{letter.offset}: stored, and dead-lettered as {letter.code}"
        expected[letter.partition, letter.offset] = "dead_lettered"
    caught: dict[Key, int] = {}
    for c in load_caught_late(world.tables, world.source.name):
        caught[c.partition, c.offset] = caught.get((c.partition, c.offset), 0) + 1
    for place, verdict in expected.items():
        said_of = [json.loads(value)["verdict"] for value in told.pop(place, set())]
        late = said_of.count("caught_late")
        rest = [v for v in said_of if v != "caught_late"]
        if rest != [verdict]:
            yield f"verdicts {place}: expected {verdict}, told {said_of}"
        if bool(late) != (place in caught) or late > caught.get(place, 0):
            yield f"verdicts {place}: caught late by {caught.get(place, 0)} shards, told {said_of}"
    for place, values in told.items():
        yield f"verdicts {place}: nothing is stored, told {values}"


def balance(world: World) -> Iterator[str]:
    """Below each committed offset: read = accepted + denied + dead-lettered + parked, counted from durable rows."""
    name, tables = world.source.name, world.tables
    for partition in range(world.log.partitions(world.source.topic)):
        held = load_checkpoint(tables, name, world.source.topic, partition)
        end = world.log.end_offset(world.source.topic, partition)
        if held is None or held.committed != end:
            yield f"partition {partition}: committed {held}, the log ends at {end}"
            continue
        records = sum(p == partition for p, _, _, _ in world.log.records(world.source.topic))
        if held.read != records:
            yield f"partition {partition}: {records} records, read {held.read}"
        accepted, denied = IndexTail(tables, name).totals(partition, held.committed)
        dead = sum(1 for _ in all_letters(tables, name, partition))
        stored = {place for frame in world.warehouse.events(name) for place in _places(frame)}
        rows = {(row.partition, row.offset) for row in all_parked(tables, name)}
        parked = sum(p == partition for p, _ in rows - stored)
        if held.read != accepted + denied + dead + parked:
            found = f"accepted {accepted}, denied {denied}, dead {dead}, parked {parked}"
            yield f"partition {partition}: read {held.read}, {found}"
