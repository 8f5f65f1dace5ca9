"""Is what the world holds what it must hold? Against the oracle, and row by row among themselves."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

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
from paystorm.oracle.model import Words
from paystorm.resources import Resources
from paystorm.stores.checkpoints import load_checkpoint
from paystorm.stores.hits import load_hits
from paystorm.stores.index_tail import IndexTail
from paystorm.stores.journal import read_shard
from paystorm.stores.letters import DeadLetter, all_letters
from paystorm.stores.retry import all_parked
from paystorm.stores.versions import load_firsts, load_versions
from paystorm.testing.world import World
from paystorm.verdicts import verdict_topic
from paystorm.verify.counts import Figures, held_counts, held_hits
from paystorm.verify.source import verify_source
from paystorm.windows.effects import CaughtLate, load_caught_late

BOUND = 1_000_000
"""The refresh bound, µs."""
NEVER = 1 << 62
ENVELOPE = frozenset({"record", "envelope", "ApplicationRef", "data", "id", "received_at", "replay_of"})
Key = tuple[int, int]
Event = tuple[EventRow, dict[str, Any]]
"""A stored event as the oracle has it, and all its columns."""


def check(world: World) -> list[str]:
    """Every difference, as a line each; none where all is well. To be called when nothing is in flight."""
    events, caught = list(_events(world)), list(load_caught_late(world.tables, world.source.name))
    found = [str(difference) for difference in _differences(world, events, caught)]
    found += [f"lists: {text}" for text in world.lists.untold()]
    return found + list(_verdicts(world, events, caught)) + [f"surprise: {text}" for text in world.surprises]


def half_done(world: World) -> bool:
    """Whether a parked record has reached a sink: it is retried, and differs from the oracle until it is done.

    An operator's bolt that lets a record through and, where the clock is set back, fails it when it comes again.
    """
    parked = {(row.partition, row.offset) for row in all_parked(world.tables, world.source.name)}
    if not parked:
        return False
    versions = load_versions(world.tables, world.source.name)
    states = [read_shard(world.tables, world.source.name, shard)[0] for shard in range(versions[0].shards)]
    sets = [state.applied_sets() for state in states]
    counted = any(o in held[p] for p, o in parked for held in sets if p in held)
    return counted or not parked.isdisjoint(_stored(world))


def verified(world: World, folder: Path) -> list[str]:
    """What `paystorm verify` finds. The events are written to a folder for it, which must be new or empty."""
    resources = Resources(
        clock=world.clock, log=world.log, tables=world.tables, warehouse=world.warehouse.copied_to(folder)
    )
    return [str(difference) for difference in verify_source(resources, world.source, hold=False, timeout=1).differences]


def given(world: World) -> Given:
    """What the oracle computes from."""
    name, tables = world.source.name, world.tables
    parked = _parked_rows(world)
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


def _parked_rows(world: World) -> set[Key]:
    """The records that are parked. A tuple that comes late may park one that has its outcome: the spout undoes that."""
    name, tables = world.source.name, world.tables
    dead = {(x.partition, x.offset) for x in all_letters(tables, name)}
    return {(row.partition, row.offset) for row in all_parked(tables, name)} - _stored(world) - dead


def _stored(world: World) -> set[Key]:
    return {place for frame in world.warehouse.events(world.source.name) for place in _places(frame)}


def _places(frame: pl.DataFrame) -> Iterator[Key]:
    yield from zip(frame["log_partition"].to_list(), frame["log_offset"].to_list(), strict=True)


def _differences(world: World, events: list[Event], caught: list[CaughtLate]) -> Iterator[Difference]:
    source, tables = world.source, world.tables
    with compute(given(world)) as computed:
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
        yield from _decisions(world, computed, events, {(c.partition, c.offset) for c in caught})


def _decisions(world: World, computed: Computed, events: list[Event], caught: set[Key]) -> Iterator[Difference]:
    source, tables = world.source, world.tables
    history = ListHistory(sorted(world.lists.seen, key=lambda change: change.at))
    told = ListHistory(sorted(world.lists.told, key=lambda change: change.at))
    unclear = _unclear(world)
    denied = []
    for e, row in events:
        parties = _parties(world, row)
        at = _decided_at(world, e, row["decided_at"])
        if at is None or unclear.intersection(parties):
            continue
        if row["verdict"] == "denied":
            denied.append(Denied(e.partition, e.offset, parties, at, row["verdict_reason"]))
        elif source.enforces and not row["would_deny"]:
            # A millisecond more: within the bound it may be either.
            listed = [p for p in parties if told.in_force_throughout(*p, at - BOUND - 1000, at)]
            if listed:
                yield Difference("let_through", (e.partition, e.offset), Words("denied"), Words(f"{listed} is listed"))
    # A millisecond more here too: a copy may be just as old as the bound.
    yield from check_denied(denied, history, BOUND + 1000)
    verdicts = {
        (e.partition, e.offset): (row["verdict"], _decided_at(world, e, row["decided_at"])) for e, row in events
    }
    by_shard: dict[int, list[Crossing]] = {}
    for h in load_hits(tables, source.name):
        if h.status == "standing" and h.action == "deny" and (h.kind, h.party) not in unclear:
            crossing = Crossing(h.rule, h.kind, h.party, h.interval_start, h.currency, h.before)
            by_shard.setdefault(h.shard, []).append(crossing)
    for shard, crossings in by_shard.items():

        def applied(key: Key, shard: int = shard) -> Stored | None:
            """The verdict, as of when the shard applied the event; None: it did not, no rule counts the party in it.

            An event decided before a person's act and applied behind it (its tuple came again) may be either.
            """
            at, verdict = world.applied_at.get((shard, *key)), verdicts.get(key)
            if at is None or verdict is None or verdict[1] is None:
                return None
            return Stored(verdict[0], max(verdict[1], at))

        yield from check_crossings(computed, crossings, applied, caught, history=history, bound=BOUND)
    for key in caught:
        if key not in verdicts or verdicts[key][0] != "accepted":
            yield Difference("caught_late", key, "an accepted event", verdicts.get(key))


def _decided_at(world: World, event: EventRow, said: int) -> int | None:
    """When (`World.time`) an event was decided; `said`: by the wall clock. None: that cannot be told."""
    name = (event.partition, event.offset, said)
    return None if name in world.decided_twice else world.decided_at.get(name, said)


def _unclear(world: World) -> set[tuple[str, str]]:
    """Parties whose entries expire by a wall clock that has been set: when that was is not on record."""
    if not world.jumps:
        return set()
    return {
        (change.kind, change.party)
        for change in world.lists.seen
        if change.detail.get("expires") is not None or change.detail.get("expires_after") is not None
    }


def _parties(world: World, row: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for party in world.source.parties:
        if row[party.field] is not None:
            kind = (row[party.kind_field] if party.kind_field else None) or party.kind
            found.append((kind, row[party.field]))
    return found


def _events(world: World) -> Iterator[Event]:
    frames = world.warehouse.events(world.source.name)
    if not frames:
        return
    time = world.source.event_time
    columns = {field.name: "event_time" if field.name == time else field.name for field in world.source.fields}
    every = pl.concat(frames, how="diagonal")  # a bolt of an operator's may have added columns by then
    times = [name for name, kind in every.schema.items() if isinstance(kind, pl.Datetime)]
    for row in every.with_columns(pl.col(times).cast(pl.Int64)).iter_rows(named=True):
        yield (
            EventRow(
                row["log_partition"],
                row["log_offset"],
                row["event_id"],
                row["application"],
                row["received_at"],
                row["event_time"],
                {name: _plain(row[column]) for name, column in columns.items()},
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


def _verdicts(world: World, events: list[Event], caught_late: list[CaughtLate]) -> Iterator[str]:
    """Every outcome was told, repeats are equal, and nothing else was told."""
    told: dict[Key, set[bytes]] = {}
    for key, value in world.log.keyed(verdict_topic(world.source.name)):
        said = json.loads(value)
        place = (said["partition"], said["offset"])
        if key != f"{said['topic']}/{said['partition']}/{said['offset']}".encode():
            yield f"verdicts {place}: key {key!r} of {value!r}"
        told.setdefault(place, set()).add(value)
    expected: dict[Key, str] = {}
    for event, row in events:
        expected[event.partition, event.offset] = row["verdict"]
    for letter in all_letters(world.tables, world.source.name):
        if (letter.partition, letter.offset) in expected:
            yield f"outcomes {letter.partition}/{letter.offset}: stored, and dead-lettered as {letter.code}"
        expected[letter.partition, letter.offset] = "dead_lettered"
    caught: dict[Key, int] = {}
    for c in caught_late:
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
        parked = sum(p == partition for p, _ in _parked_rows(world))
        if held.read != accepted + denied + dead + parked:
            found = f"accepted {accepted}, denied {denied}, dead {dead}, parked {parked}"
            yield f"partition {partition}: read {held.read}, {found}"
