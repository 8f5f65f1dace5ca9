"""Draws a scenario from a seed: workload, shapes, settings, people's acts and faults."""

import itertools
from random import Random
from typing import Any

import msgspec

from paystorm.source import Source
from paystorm.stores.index import SNAPSHOT_ROWS
from paystorm.testing.scenario import Act, Jump, Outage, Rewind, Scenario, Send, Shares, Stage, Start
from paystorm.testing.topology import RULES, SOURCE, Shape
from paystorm.testing.workload import Writer

RECORDS = (303, 345)
"""Records of a seed, from and to."""
OUTAGES = (*("tables", "log", "log", "warehouse") * 2, "journal", "index", "offsets", "lists", "retry")


def draw(seed: int, *, records: int | None = None) -> Scenario:
    """The scenario of a seed. The same for ever, as long as this module, `workload` and Python's Random are."""
    random = Random(seed)
    partitions = random.choice((1, 2, 2, 3))
    source = draw_source(random)
    failing = random.choice((0.0, 0.0, 0.04, 0.1))
    writer = Writer(
        random,
        source.topic,
        partitions,
        bad=random.choice((0.0, 0.05, 0.1)),
        failing=failing,
        days=random.choice((1, 2, 4, 20)),
        start_of_seconds=failing > 0,
    )
    total = random.randint(*RECORDS) if records is None else records
    retries: dict[str, float] = {
        "retryInitialDelayMs": random.choice((200, 1000)),
        "retryDelayMultiplier": random.choice((3.0, 60.0)),
        # Longer than any flush: else a record that fails for ever is never at rest.
        "retryDelayMaxMs": random.choice((8000, 40_000, 86_400_000)),
        "maxOffsetBehind": random.choice((0, 2, 5, 40)),
    }
    return Scenario(
        seed=seed,
        partitions=partitions,
        source=source,
        stages=tuple(_stages(random, writer, source, total, retries, naming=failing > 0 or random.random() < 0.3)),
        spoilt=Shares(
            writes=random.choice((0.0, 0.006, 0.011)),
            reads=random.choice((0.0, 0.0, 0.001, 0.003)),
            deliveries=random.choice((0.0, 0.002, 0.004, 0.006)),
        ),
        poison={
            (random.randrange(partitions), random.randrange(total // partitions)): random.choice((3, 4, 9, 12))
            for _ in range(random.choice((0, 0, 0, 0, 0, 1, 2)))
        },
        month=failing > 0 and random.random() < 0.7,
        fresh_end=random.random() < 0.4,
        retries=retries,
    )


def draw_source(random: Random) -> Source:
    """The simulator's source with some of its rules; now and then one that only watches."""
    count = random.choice((2, 2, 3, 3, 4, 5, len(RULES)))
    rules = tuple(sorted(random.sample(RULES, count), key=lambda rule: rule.name))
    return msgspec.structs.replace(SOURCE, rules=rules, enforces=random.random() < 0.9)


def _stages(
    random: Random, writer: Writer, source: Source, total: int, retries: dict[str, float], *, naming: bool
) -> list[Stage]:
    legs = random.choice((1, 2, 2, 3))
    sizes = _parts(random, total, legs)
    stages: list[Stage] = []
    settings = _settings_of_all(random)
    rules: dict[str, Any] = {}
    for leg, size in enumerate(sizes):
        if leg and random.random() < 0.45:
            rules = {**random_rules(random, source)}
        chunk = random.choice((3, 4, 5, 5, 5, 6, 6, 7, 7, 40, 5000)) if size > 40 else random.choice((1, 2, 4))
        options = {**random_options(random), "chunkRecords": chunk, **settings, **rules, **retries}
        shape = random_shape(random, naming=int(naming))
        if leg and random.random() < 0.2:
            stages.append(Rewind(random.getrandbits(32)))
        stages.append(Start(shape, options, orderly=leg > 0 and random.random() < 0.3))
        for part in _parts(random, size, max(2, size // 45)):
            stages.append(Send(tuple(itertools.islice(writer, part)), random.choice((0.3, 1.2, 1.2, 2.5, 4.0, 12.0))))
            stages += _happenings(random)
    return stages


def _happenings(random: Random) -> list[Stage]:
    stages: list[Stage] = []
    if random.random() < 0.35:
        stages.append(Act(random.getrandbits(32)))
    if random.random() < 0.115:
        stages.append(Outage(random.choice(OUTAGES), random.choice((0.5, 3.0, 12.0, 35.0))))
    if random.random() < 0.045:
        stages.append(Jump(random.choice((-3600.0, -20.0, -2.0, 2.0, 20.0, 3600.0))))
    return stages


def _parts(random: Random, total: int, parts: int) -> list[int]:
    """`total` in so many parts, none much smaller than the others."""
    weights = [random.uniform(0.5, 1.5) for _ in range(parts)]
    edges = [round(total * sum(weights[:i]) / sum(weights)) for i in range(parts + 1)]
    return [after - first for first, after in itertools.pairwise(edges) if after > first]


def random_shape(random: Random, *, naming: int = 1) -> Shape:
    """Any parallelism."""
    return Shape(
        spout=random.randint(1, 2),
        validation=random.choice((1, 1, 2)),
        naming=naming,
        lookup=random.choice((1, 1, 2)),
        warehouse=random.randint(1, 2),
        counts=random.choice((1, 1, 1, 1, 2, 2, 3, 4)),
        index_rows=random.choice((1, 8, 20, SNAPSHOT_ROWS)),
    )


def _settings_of_all(random: Random) -> dict[str, Any]:
    """Settings that a source keeps over its starts."""
    settings: dict[str, Any] = {"shards": random.choice((1, 3, 3, 5))}
    if random.random() < 0.15:
        settings.update(breakerShare=random.choice((0.05, 0.2)), breakerMinEvents=random.choice((10, 40)))
    if random.random() < 0.3:
        more = {"parkAfterFailures": random.choice((2, 5)), "splitInto": random.choice((2, 3, 8))}
        settings.update(splitAfterFailures=2, **more)
    return settings


def random_options(random: Random) -> dict[str, Any]:
    """Any chunking, flushing, snapshots and memory."""
    return {
        "chunkRecords": random.choice((1, 2, 7, 50, 5000)),
        "flushMs": random.choice((0, *(100,) * 12, *(600,) * 6, *(1500,) * 4, 3000, 3000)),
        "flushRecords": random.choice((1, 60, *(100_000,) * 18)),
        "snapshotRows": random.choice((1, 3, 6, 10, 20, 512)),
        "allowedLateness": random.choice((0, 0, 86_400)),
        "idleAfter": random.choice((5, 60)),
        "countsMemoryBytes": random.choice((1024, 20_000, *(1 << 28,) * 10)),
        "maxPendingRecords": random.choice((60, 400_000)),
        "lingerMs": random.choice((0, 0, 25, 400)),
    }


def random_rules(random: Random, source: Source = SOURCE) -> dict[str, Any]:
    """Options that make another version of the source."""
    drawn = {
        "rules.pay.per_day.limit": random.choice((3, 4, 6)),
        "rules.pay.growth.factor": random.choice(("1.5", "2")),
        "rules.pay.growth.action": random.choice(("deny", "review")),
        "rules.pay.spent.limit.EUR": random.choice(("60", "100")),
        "rules.pay.payers.limit": random.choice((2, 3)),
        "maxAhead": random.choice((3600, 7200)),
    }
    known = {rule.name for rule in source.rules}
    return {name: value for name, value in drawn.items() if "." not in name or name.split(".")[2] in known}
