"""What became of a source's records, counted from durable rows (SEMANTICS.md §3): the figures of `status`. Only reads.

Below a partition's committed offset: read = accepted + denied + dead-lettered + parked.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from paystorm.errors import LogError
from paystorm.log.base import Log
from paystorm.resources import Resources
from paystorm.source import Source
from paystorm.stores.checkpoints import Checkpoint, load_checkpoint, load_checkpoints
from paystorm.stores.control import load_problems
from paystorm.stores.index_tail import IndexTail
from paystorm.stores.journal import read_shard
from paystorm.stores.letters import letter_at, letters_below, letters_table
from paystorm.stores.lists import load_breakers
from paystorm.stores.retry import Parked, all_parked, scan_parked
from paystorm.stores.versions import load_versions
from paystorm.tables.base import Tables
from paystorm.tables.keys import key
from paystorm.windows.effects import load_caught_late

LOOKS = 8
PAUSE = 0.05
"""A running source moves records between tables while they are counted: a sum that does not add up is looked at again,
so often and after so many seconds (longer each time), before it is told."""


@dataclass(frozen=True, slots=True)
class PartitionBalance:
    """One partition; all but `end`, `start` and `waiting` is below the committed offset."""

    partition: int
    start: int
    """The first offset that the log still holds."""
    end: int
    committed: int
    lag: int
    read: int
    accepted: int
    denied: int
    dead_lettered: int
    parked: int
    """Parked records that the index does not hold, and that are not dead-lettered."""

    @property
    def missing(self) -> int:
        """Records that were read and have no outcome; negative: outcomes that no record was read for. 0: it adds up."""
        return self.read - self.accepted - self.denied - self.dead_lettered - self.parked


@dataclass(frozen=True, slots=True)
class SourceBalance:
    """One source."""

    source: str
    topic: str
    partitions: tuple[PartitionBalance, ...]
    waiting: int
    """All parked records, also those that are in flight."""
    held: int
    """Of those: that a sink holds, so that they are never given up."""
    late: int
    caught_late: int
    version: int | None
    """The newest version of its rules; None: it has never started."""
    problems: tuple[str, ...] = ()
    breakers: tuple[str, ...] = field(default=())
    """Rules whose breakers are open."""

    @property
    def adds_up(self) -> bool:
        """Whether it does in every partition."""
        return all(p.missing == 0 for p in self.partitions)

    def total(self, figure: str) -> int:
        """The sum of a figure over the partitions."""
        return sum(getattr(p, figure) for p in self.partitions)


def balance_of(resources: Resources, source: Source, *, sleep: Callable[[float], None] = time.sleep) -> SourceBalance:
    """The balance of a source, running or not, also of one that has never been sent anything."""
    tables = resources.tables
    partitions = [
        _settled(resources, source, partition, sleep) for partition in _partitions(resources.log, source, tables)
    ]
    versions = load_versions(tables, source.name)
    shards = range(versions[0].shards) if versions else ()
    parked = list(all_parked(tables, source.name))
    caught = {(c.partition, c.offset) for c in load_caught_late(tables, source.name)}
    return SourceBalance(
        source=source.name,
        topic=source.topic,
        partitions=tuple(partitions),
        waiting=len(parked),
        held=sum(row.state == "held" for row in parked),
        late=sum(read_shard(tables, source.name, shard)[0].late for shard in shards),
        caught_late=len(caught),
        version=versions[-1].number if versions else None,
        problems=_problems(tables, source.name),
        breakers=_open(tables, source.name),
    )


def followed(resources: Resources, source: Source, known: SourceBalance) -> SourceBalance:
    """The balance somewhat later, for the price of what is new: dead letters are counted from `known` on.

    Counted from the beginning where it does not add up so: a record that was given up is a dead letter further below.
    `late` and `caught_late` are those of `known`.
    """
    tables, name = resources.tables, source.name
    parked = list(all_parked(tables, name))
    held = load_checkpoints(tables, name)
    before = {p.partition: p for p in known.partitions}
    found = []
    for partition in _partitions(resources.log, source, tables):
        last = before.get(partition)
        here = [row for row in parked if row.partition == partition]
        now = _look(resources, source, partition, held.get((source.topic, partition)), here, last)
        if now.missing:
            now = _settled(resources, source, partition, time.sleep)
        found.append(now)
    return replace(
        known,
        partitions=tuple(found),
        waiting=len(parked),
        held=sum(row.state == "held" for row in parked),
        problems=_problems(tables, name),
        breakers=_open(tables, name),
    )


def _problems(tables: Tables, source: str) -> tuple[str, ...]:
    return tuple(text for _, text in sorted(load_problems(tables, source).items()))


def _open(tables: Tables, source: str) -> tuple[str, ...]:
    return tuple(b.rule for b in load_breakers(tables) if b.source == source and b.state == "open")


def _partitions(log: Log, source: Source, tables: Tables) -> range:
    """The partitions of the topic, and those that were read once."""
    known = max((p + 1 for topic, p in load_checkpoints(tables, source.name) if topic == source.topic), default=0)
    there = log.partitions(source.topic) if source.topic in log.topics() else 0
    return range(max(known, there))


def _settled(resources: Resources, source: Source, partition: int, sleep: Callable[[float], None]) -> PartitionBalance:
    tables, name = resources.tables, source.name
    for n in range(LOOKS):
        if n:
            sleep(PAUSE * n)
        # First the committed offset: all that is counted below it was durable before it moved there.
        held = load_checkpoint(tables, name, source.topic, partition)
        parked = list(scan_parked(tables, name, partition, 0, held.committed if held is not None else 0))
        found = _look(resources, source, partition, held, parked)
        if found.missing == 0:
            break
    return found


def _look(
    resources: Resources,
    source: Source,
    partition: int,
    held: Checkpoint | None,
    parked: Sequence[Parked],
    last: PartitionBalance | None = None,
) -> PartitionBalance:
    """Count once below the checkpoint `held`; `last`: an earlier count, from which dead letters are counted on."""
    tables, name = resources.tables, source.name
    committed, read = (held.committed, held.read) if held is not None else (0, 0)
    try:
        start = resources.log.start_offset(source.topic, partition)
        end = resources.log.end_offset(source.topic, partition)
    except LogError:  # gone: the spout says so too
        start = end = 0
    tail = IndexTail(tables, name)
    offsets = [row.offset for row in parked if row.offset < committed]
    stored = tail.verdicts(partition, np.array(offsets, dtype=np.int64)) if offsets else np.empty(0, dtype=np.int8)
    accepted, denied = tail.totals(partition, committed)
    waiting = [
        offset
        for offset, verdict in zip(offsets, stored.tolist(), strict=True)
        if verdict < 0 and letter_at(tables, name, partition, offset) is None
    ]
    if last is None or held is None or committed < last.committed:
        letters = letters_below(tables, name, partition, committed)
    else:
        since = tables.scan(letters_table(name), key(partition, last.committed), key(partition, committed))
        letters = last.dead_lettered + sum(1 for _ in since)
    return PartitionBalance(
        partition=partition,
        start=start,
        end=end,
        committed=committed if held is not None else start,
        lag=max(0, end - (committed if held is not None else start)),
        read=read,
        accepted=accepted,
        denied=denied,
        dead_lettered=letters,
        parked=len(waiting),
    )
