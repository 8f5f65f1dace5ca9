"""Counts over their retention (`countsRetention`): whole intervals go, once no record can touch them any more.

First the floor is raised: nothing is counted any more in intervals that ended below it (`paystorm.stores.pruned`). Then
the cells of intervals go whose following interval is frozen too. A counting task that does not know the new floor yet
holds such an interval whole or not at all; when it reads a cell, it reads the floor behind it.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

from paystorm.clock import SECOND
from paystorm.intervals import Interval
from paystorm.resources import Resources
from paystorm.retention.report import Went
from paystorm.source import Source
from paystorm.stores.checkpoints import load_checkpoint
from paystorm.stores.letters import LetterAct, acts_by_letter, all_letters, state_after
from paystorm.stores.pruned import counts_floor, gone_before, raise_floor
from paystorm.stores.retry import all_parked
from paystorm.stores.versions import Version, load_firsts, load_versions
from paystorm.tables.base import Tables
from paystorm.tables.keys import key
from paystorm.validity import Code

SLACK = 3600
"""Seconds by which a record's `received_at` may lie before the log's own time, beside what is looked at one by one."""
CELLS = 50
"""Cells that are removed at a time: each may be some megabytes."""
NEVER = -(2**62)
"""Of a record that may touch whatever interval."""


def prune_counts(resources: Resources, source: Source, *, dry: bool = False) -> Went | None:
    """One pass over the counts of a source; None where its version in force keeps them for ever.

    Raises TablesError and LogError; then run it again.
    """
    tables, versions = resources.tables, load_versions(resources.tables, source.name)
    seconds = versions[-1].validity["countsRetention"] if versions else None
    if seconds is None:
        return None
    done = Went(source.name, "counts", seconds, "cells")
    now = resources.clock.now() // SECOND
    reach, why = min(_reaches(resources, source, versions), default=(now, ""))
    floor = min(now, reach) - seconds - SLACK
    if reach < now - SLACK and why:
        done.notes.append(f"counts that are older stay: {why}")
    held = counts_floor(tables, source.name)
    if not dry:
        floor = raise_floor(tables, source.name, floor) if floor > 0 else held if held is not None else floor
    elif held is not None:
        floor = max(floor, held)
    for label, interval in _measures(versions).items():
        below = gone_before(interval, floor)
        for shard in range(versions[0].shards):
            done.went += _remove(tables, source.name, shard, label, below, dry=dry)
    done.since = floor * SECOND if held is not None or done.went else None
    return done


def _measures(versions: list[Version]) -> dict[str, Interval]:
    return {r.measured().label(): Interval.parse(r.interval) for v in versions for r in v.rules}


def _remove(tables: Tables, source: str, shard: int, label: str, below: int, *, dry: bool) -> int:
    table, start, stop = f"{source}.cells", key(shard, label), key(shard, label, below)
    went = 0
    while True:
        doomed = [row for row, _ in islice(tables.scan(table, start, stop, limit=CELLS), CELLS)]
        if not doomed:
            return went
        if not dry:
            tables.delete(table, doomed)
        went += len(doomed)
        start = doomed[-1] + b"\x00"


# What may still be counted.


def _reaches(resources: Resources, source: Source, versions: list[Version]) -> Iterator[tuple[int, str]]:
    """For each record that may still be counted: seconds, such that no event of it is older than that − the retention.

    Those that are not in the log yet are received now or later.
    """
    tables, log, name = resources.tables, resources.log, source.name
    retention = versions[-1].validity["countsRetention"]
    firsts = load_firsts(tables, name)

    def reach(partition: int, offset: int, at_ms: int) -> int:
        """By the retention that is in force at the offset."""
        numbers = [n for (n, p), first in firsts.items() if p == partition and first <= offset]
        of = versions[max(numbers, default=0)].validity["countsRetention"]
        return NEVER if of is None else at_ms // 1000 - of + retention

    committed: dict[int, int] = {}
    for p in range(log.partitions(source.topic)) if source.topic in log.topics() else ():
        start, end = log.start_offset(source.topic, p), log.end_offset(source.topic, p)
        held = load_checkpoint(tables, name, source.topic, p)
        committed[p] = held.committed if held is not None else start
        if start <= committed[p] < end:
            batch = log.read(source.topic, p, committed[p], max_records=1, max_bytes=0)
            if batch is not None and len(batch):
                yield reach(p, committed[p], int(batch.timestamps[0])), "records from before are not processed yet"
    parked = set()
    for row in all_parked(tables, name):
        parked.add((row.partition, row.offset))
        at = row.timestamp if row.value is not None else row.first_failed // 1000
        yield reach(row.partition, row.offset, _received(row.value, at)), "records from before are parked"
    acts = acts_by_letter(tables, name)
    for letter in all_letters(tables, name):
        place = (letter.partition, letter.offset)
        if (
            not letter.pruned
            and letter.code != Code.TOO_OLD
            and not _settled(place, acts.get(place, []), committed, parked)
        ):
            yield _received(letter.value, letter.timestamp) // 1000, "dead letters from before can still be replayed"


def _settled(
    place: tuple[int, int], acts: list[LetterAct], committed: dict[int, int], parked: set[tuple[int, int]]
) -> bool:
    """Whether nothing comes of a dead letter any more: it was discarded, or its replay is done."""
    state = state_after(acts)
    if state != "replayed":
        return state == "discarded"
    sent, partition = acts[-1].sent_as, place[0]
    return sent is not None and sent < committed.get(partition, 0) and (partition, sent) not in parked


def _received(value: bytes | None, at_ms: int) -> int:
    """When a record was received, ms: as it says itself where that can be read and is earlier than the log's time."""
    try:
        said = json.loads(value or b"")["received_at"]
        at = datetime.fromisoformat(said)
        ms = round((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return at_ms
    return min(at_ms, ms)
