"""Counting tasks as a whole: any order, overlap, repetition, tasks and memory give what a plain model gives."""

import itertools
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from paystorm.chunk import Head, frame_from_bytes
from paystorm.clock import ManualClock
from paystorm.errors import ConfigError, FencedError
from paystorm.intervals import Interval
from paystorm.rules import Rule
from paystorm.settings import Settings
from paystorm.shards import shard_of
from paystorm.source import Field, Party, Source
from paystorm.stores.hits import load_hits
from paystorm.stores.journal import read_shard, scan_cells
from paystorm.stores.versions import Version, add_version
from paystorm.tables.memory import MemoryTables
from paystorm.windows import frames
from paystorm.windows.book import RuleBook, Span
from paystorm.windows.effects import Effects
from paystorm.windows.task import Arrival, CountingTask, LostRaceError

SHARDS, PARTITIONS = 4, 2
BASE, DAY = 1_767_225_600, 86_400
"""2026-01-01, a Thursday."""
SENDER, RECEIVER = 1, 2
SUM: dict[str, Any] = {"role": "sender", "measure": "sum", "field": "amount"}
RULES = (
    Rule(name="count", kind="account", limit=3),
    Rule(name="growth", kind="account", factor="3", baseline=1),
    Rule(name="cap", kind="account", interval="7d", limit={"EUR": "25.5"}, **SUM),
    Rule(name="sum_growth", kind="account", factor="2.5", baseline={"EUR": "5"}, **SUM),
    Rule(name="distinct", kind="account", role="sender", measure="distinct", field="payee", interval="month", limit=2),
)
SOURCE = Source(
    name="pay",
    topic="pay",
    enforces=True,
    fields=(
        Field(name="event_time", type="time", required=True),
        Field(name="payer", type="id", required=True),
        Field(name="payee", type="id", required=True),
        Field(name="amount", type="amount", fraction_digits=2),
        Field(name="currency", type="currency"),
    ),
    parties=(
        Party(field="payer", role="sender", kind="account"),
        Party(field="payee", role="receiver", kind="account"),
        Party(field="payee", role="shop", kind="merchant"),
    ),
    rules=RULES,
)
SCHEMA = {
    "log_offset": pl.Int64(),
    "event_time": pl.Int64(),
    "kind": pl.UInt8(),
    "party": pl.String(),
    "roles": pl.UInt8(),
    "lead": pl.Boolean(),
    "denied": pl.Boolean(),
    "application": pl.String(),
    "event_id": pl.String(),
    "amount": pl.Decimal(38, 2),
    "currency": pl.String(),
    "payee": pl.String(),
}


@dataclass(frozen=True)
class Record:
    partition: int
    offset: int
    at: int = BASE
    payer: str = "x"
    payee: str = "y"
    amount: Decimal | None = Decimal(1)
    currency: str = "EUR"

    def parties(self) -> dict[str, int]:
        """The accounts of the event, with their roles as bits."""
        roles = {self.payer: SENDER}
        roles[self.payee] = roles.get(self.payee, 0) | RECEIVER
        return roles


def touches_of(records: list[Record], own: Callable[[str], bool] = lambda party: True) -> pl.DataFrame:
    rows = [
        (r.offset, r.at * 10**6, 0, party, roles, i == 0, False, "app", "id", r.amount, r.currency, r.payee)
        for r in records
        for i, (party, roles) in enumerate(r.parties().items())
        if own(party)
    ]
    frame = pl.DataFrame(rows, orient="row", schema=SCHEMA)
    return frame.with_columns(pl.col("event_time").cast(pl.Datetime("us")))


def head_of(partition: int, first: int, after: int, *, epoch: int = 0, generation: int = 0) -> Head:
    return Head(
        source="pay",
        topic="pay",
        partition=partition,
        first=first,
        after=after,
        epoch=epoch,
        generation=generation,
        committed=0,
    )


class World:
    """Tables with versions of a source, and tasks over them."""

    def __init__(self, *of_each: tuple[Rule, ...], source: Source = SOURCE, shards: int = SHARDS, **given: Any) -> None:
        self.source = source
        self.shards = shards
        self.tables = MemoryTables()
        self.clock = ManualClock()
        self.settings = Settings(given)
        self.versions = [
            Version(number=n, rules=rules, validity={}, partitions=PARTITIONS, shards=shards, made_at=0)
            for n, rules in enumerate(of_each)
        ]
        for version in self.versions:
            assert add_version(self.tables, "pay", version)

    def task(
        self, index: int = 0, of: int = 1, overruled: Callable[..., set[str]] = lambda *asked: set()
    ) -> CountingTask:
        def stored(partition: int, offsets: Any) -> Any:
            return np.ones(len(offsets), dtype=np.int8)

        effects = Effects(self.source, self.tables, stored, lambda records: None, self.clock.monotonic)
        return CountingTask(
            self.source,
            self.settings,
            self.tables,
            self.clock,
            lambda shards: [s for s in range(shards) if s % of == index],
            effects,
            overruled,
        )

    def hits(self) -> dict[tuple[str, str, int, str], int]:
        """The version of each standing hit."""
        standing = [hit for hit in load_hits(self.tables, "pay") if hit.status == "standing"]
        return {(h.rule, h.party, h.interval_start, h.currency): h.version for h in standing}

    def figures(self) -> dict[tuple[str, int, int, str, str], int]:
        """The stored figures, once every task has snapshot; of distincts the values that are kept."""
        task = self.task()
        task.refuse(head_of(0, 0, 0, generation=len(self.versions) - 1), -1, lift=True)  # it loads
        for shard in task.shards.values():
            task.snapshot(shard)
        out: dict[tuple[str, int, int, str, str], int] = defaultdict(int)
        for _, _, _, stored in scan_cells(self.tables, "pay"):
            for slot, figures, pairs in frames.cell_slots(stored):
                name = (slot.measure, slot.start, slot.epoch, slot.currency)
                for row in figures.rows(named=True) if figures is not None else ():
                    limbs = [row["v0"], row.get("v1", 0), row.get("v2", 0)]
                    out[*name, row["party"]] += sum(v * 10 ** (13 * i) for i, v in enumerate(limbs))
                for party in pairs["party"].to_list() if pairs is not None else ():
                    out[*name, party] += 1
        return out


Place = tuple[str, int, str]
"""Party, start of interval and currency."""


def tallied(rule: Rule, records: list[tuple[int, Record]]) -> dict[Place, int]:
    """The figures of a rule's measure over records."""
    figures: dict[Place, int] = defaultdict(int)
    values: dict[Place, set[str]] = defaultdict(set)
    for _, r in records:
        for party, roles in r.parties().items():
            if rule.role == "sender" and not roles & SENDER:
                continue
            start = Interval.parse(rule.interval).start(r.at)
            if rule.measure == "sum":
                if r.amount is not None:
                    figures[party, start, r.currency] += int(r.amount * 100)
            elif rule.measure == "distinct":
                values[party, start, ""].add(r.payee)
                figures[party, start, ""] = min(len(values[party, start, ""]), rule.counted_to())
            else:
                figures[party, start, ""] += 1
    return figures


def expected_of(span: Span, records: list[tuple[int, Record]]) -> set[Place]:
    """Where a version of a rule holds, over records with their epochs."""
    rule, interval = span.rule, Interval.parse(span.rule.interval)
    now = tallied(rule, [(e, r) for e, r in records if span.counted_from <= e <= span.last])
    own = tallied(rule, [(e, r) for e, r in records if span.first <= e <= span.last])

    def holds(place: Place) -> bool:
        party, start, currency = place
        if currency not in span.figures:
            return False
        if span.factor is None:
            return now[place] > span.figures[currency]
        before = now.get((party, interval.previous(start), currency), 0)
        return now[place] * span.factor[1] >= before * span.factor[0] and before >= span.figures[currency]

    return {place for place in own if holds(place)}


def varied(rules: tuple[Rule, ...], rng: random.Random) -> tuple[Rule, ...]:
    """The rules of the next version: other limits, and some away for a while."""
    changed = [msgspec.structs.replace(r, limit=rng.choice([1, 3, 5])) if r.name == "count" else r for r in RULES]
    return tuple(r for r in changed if rng.random() < 0.75)


def random_records(rng: random.Random, n: int) -> list[Record]:
    return [
        Record(
            partition=partition,
            offset=offset,
            at=BASE + rng.choice([0, 1, 2, 3, 8, 31]) * DAY + rng.randint(0, 80_000),
            payer=f"a{min(rng.randint(0, 9), rng.randint(0, 9))}",
            payee=f"a{rng.randint(0, 9)}",
            amount=Decimal(rng.randint(0, 2000)) / 100 if rng.random() < 0.9 else None,
            currency=rng.choice(["EUR", "USD"]),
        )
        for partition in range(PARTITIONS)
        for offset in range(n)
    ]


def random_ranges(rng: random.Random, n: int, firsts: list[int]) -> list[tuple[int, int, int]]:
    """Ranges that cover everything, some of them again, whole or in part; in any order."""
    ranges = []
    for partition in range(PARTITIONS):
        cuts = sorted({0, n, *firsts, *(rng.randint(0, n) for _ in range(rng.randint(0, 6)))})
        ranges += [(partition, first, after) for first, after in itertools.pairwise(cuts)]
    ranges += rng.sample(ranges, len(ranges) // 2)
    ranges += [(p, first + 1, after) for p, first, after in rng.sample(ranges, len(ranges) // 3) if after - first > 2]
    rng.shuffle(ranges)
    return ranges


@pytest.mark.parametrize("seed", range(10))
def test_whatever_the_way_the_counts_and_standing_hits_are_those_of_the_records(seed: int) -> None:
    rng = random.Random(seed)
    n, epochs = rng.randint(5, 60), rng.choice([1, 2, 3])
    rules = [RULES]
    for _ in range(epochs - 1):
        rules.append(varied(rules[-1], rng))
    firsts = [0, *sorted(rng.randint(0, n) for _ in range(epochs - 1))]
    world = World(
        *rules,
        snapshotRows=rng.choice([1, 3, 50]),
        countsMemoryBytes=rng.choice([1024, 10**9]),
        allowedLateness=rng.choice([0, DAY]),
    )
    records = random_records(rng, n)

    def epoch_of(offset: int) -> int:
        return max(i for i, first in enumerate(firsts) if first <= offset)

    def group(of: int) -> list[CountingTask]:
        return [world.task(index, of) for index in range(of)]

    # Two groups that do not know of each other take the shards from one another.
    groups = [group(rng.choice([1, 2, 4])) for _ in range(2)]
    ranges = random_ranges(rng, n, firsts)
    while ranges:
        if rng.random() < 0.1:
            groups[rng.randrange(2)] = group(rng.choice([1, 2, 4]))
        size = rng.randint(1, 4)
        batch, ranges = ranges[:size], ranges[size:]
        tasks = groups[int(rng.random() < 0.2)]
        for index, task in enumerate(tasks):
            arrivals = []
            for p, first, after in batch:
                mine = touches_of(
                    [r for r in records if r.partition == p and first <= r.offset < after],
                    lambda party: shard_of("account", party, SHARDS) % len(tasks) == index,  # noqa: B023  called here
                )
                if len(mine):
                    head = head_of(p, first, after, epoch=epoch_of(first), generation=epochs - 1)
                    arrivals.append(Arrival(head, mine))
            if arrivals:
                try:
                    task.apply(arrivals)
                except LostRaceError:
                    task.forget()
                    task.apply(arrivals)
                task._effects.settle()
        world.clock.advance(1)

    with_epochs = [(epoch_of(r.offset), r) for r in records]
    book = RuleBook(SOURCE, world.versions)
    expected: dict[tuple[str, str, int, str], int] = {}
    for name, spans in book.spans.items():
        for span in spans:
            for place in expected_of(span, with_epochs):
                expected.setdefault((name, *place), span.first)
    assert world.hits() == expected
    assert len(expected) > 0 or n < 20

    figures = {}
    for label, counted in book.measures.items():
        rule = next(r for given in rules for r in given if r.measured().label() == label)
        for epoch in counted.epochs:
            for (party, start, money), value in tallied(rule, [er for er in with_epochs if er[0] == epoch]).items():
                figures[label, start, epoch, money, party] = value
    assert world.figures() == figures


def counted(world: World, epoch: int, *records: Record, task: CountingTask | None = None) -> CountingTask:
    """Count records of one partition as one chunk."""
    task = task or world.task()
    first, after = records[0].offset, records[-1].offset + 1
    head = head_of(records[0].partition, first, after, epoch=epoch, generation=len(world.versions) - 1)
    task.apply([Arrival(head, touches_of(list(records)))])
    task._effects.settle()
    return task


def several(n: int, first: int = 0, **given: Any) -> list[Record]:
    return [Record(partition=0, offset=first + i, **given) for i in range(n)]


def noted(world: World, task: CountingTask) -> int:
    """The journal rows that note events which an entry ought to have caught."""
    return sum(bool(row.notes) for shard in task.shards for row in read_shard(world.tables, "pay", shard)[1])


def test_a_chunk_of_a_spout_that_does_not_know_the_newest_version_is_refused() -> None:
    world = World(RULES, RULES[:1])
    task = world.task()
    with pytest.raises(FencedError, match="a chunk of version 0 came after version 1"):
        task.apply([Arrival(head_of(0, 0, 1), touches_of(several(1)))])


def test_a_task_of_an_older_version_loses_its_shards_and_learns_the_newer() -> None:
    world = World(RULES)
    old = counted(world, 0, *several(1))
    add_version(world.tables, "pay", msgspec.structs.replace(world.versions[0], number=1))
    world.versions.append(msgspec.structs.replace(world.versions[0], number=1))
    new = counted(world, 1, *several(1, 1))
    stale = Arrival(head_of(0, 2, 3), touches_of(several(1, 2)))
    with pytest.raises(LostRaceError):
        old.apply([stale])
    old.forget()
    with pytest.raises(FencedError):
        old.apply([stale])
    del new


def test_a_refused_offset_is_not_counted_until_the_refusal_is_lifted() -> None:
    world = World(RULES[:1], shards=1)
    head = head_of(0, 3, 4)
    task = world.task()
    assert task.refuse(head, 3, lift=False) == {0: False}
    counted(world, 0, *several(4), task=task)
    assert world.hits() == {}
    assert task.refuse(head, 3, lift=True) == {0: False}
    counted(world, 0, *several(4), task=task)
    assert world.hits().keys() == {("count", party, BASE, "") for party in "xy"}
    assert task.refuse(head, 3, lift=False) == {0: True}, "what is counted is not refused"


def test_a_hit_that_holds_no_more_is_withdrawn() -> None:
    world = World(RULES[1:2])
    task = counted(world, 0, *several(2), *several(6, 2, at=BASE + DAY))
    assert world.hits().keys() == {("growth", party, BASE + DAY, "") for party in "xy"}
    counted(world, 0, *several(1, 8), task=task)
    assert world.hits() == {}
    assert {hit.status for hit in load_hits(world.tables, "pay")} == {"withdrawn"}


def test_a_record_that_changes_no_figure_stands_before_a_crossing_behind_it() -> None:
    """A value that a distinct knows already: the shard notes the record all the same, or it should be caught late."""
    world = World(RULES[4:], shards=1)
    task = world.task()
    for offset, payee in enumerate(("p", "p", "q", "r")):
        record = Record(0, offset, payee=payee)
        frame = touches_of([record], lambda party: party == "x")
        task.apply([Arrival(head_of(0, offset, offset + 1), frame)])
        assert task.shards[0].holds(0, offset)
    (hit,) = load_hits(world.tables, "pay")
    assert [tuple(held) for held in hit.before[0]] == [(0, 4)]


def test_events_of_parties_that_were_all_let_through_are_counted_and_not_noted() -> None:
    world = World(RULES[:1])
    task = world.task(overruled=lambda kind, standing, now: set(standing))
    counted(world, 0, *several(4), task=task)
    counted(world, 0, *several(2, 4), task=task)
    assert len(world.hits()) == 2
    assert noted(world, task) == 0


@pytest.mark.parametrize(("action", "rows"), [("deny", 1), ("review", 0)])
def test_events_behind_a_crossing_are_noted_where_the_hit_denies(action: Any, rows: int) -> None:
    world = World((msgspec.structs.replace(RULES[0], action=action),), shards=1)
    task = counted(world, 0, *several(6))
    assert len(world.hits()) == 2
    assert noted(world, task) == rows


def test_a_hit_that_stood_for_a_review_and_comes_to_deny_lists_its_party_from_then_on() -> None:
    """Once the version for a review holds no more. What was applied before was rightly let through."""
    review = Rule(name="growth", kind="account", factor="3", baseline=1, action="review")
    deny = msgspec.structs.replace(review, factor="1.5", action="deny")
    world = World((review,), (deny,), shards=1)
    task = counted(world, 0, *several(2), *several(6, 2, at=BASE + DAY))
    counted(world, 1, *several(1, 9, at=BASE + DAY), task=task)
    assert {(hit.action, hit.version) for hit in load_hits(world.tables, "pay")} == {("review", 0)}
    world.clock.advance(60)
    late = Arrival(head_of(0, 8, 9, generation=1), touches_of(several(1, 8)))  # the day before had more than was known
    behind = Arrival(head_of(0, 10, 12, epoch=1, generation=1), touches_of(several(2, 10, at=BASE + DAY)))
    task.apply([late, behind])
    hits = list(load_hits(world.tables, "pay"))
    assert {(hit.party, hit.action, hit.version, hit.since) for hit in hits} == {
        (party, "deny", 1, world.clock.now()) for party in "xy"
    }
    assert [[tuple(held) for held in hit.before[0]] for hit in hits] == [[(0, 10)]] * 2
    notes = frame_from_bytes(read_shard(world.tables, "pay", 0)[1][-1].notes)
    assert sorted(notes.select("party", "offset").rows()) == [(party, offset) for party in "xy" for offset in (10, 11)]


CHANGED = [
    Rule(name="growth", kind="account", limit={"EUR": "5"}, **SUM),
    Rule(name="growth", kind="merchant", factor="3", baseline=5),
    Rule(name="growth", kind="account", factor="3", baseline=5, interval="1h"),
]


@pytest.mark.parametrize("changed", CHANGED, ids=["measure", "kind", "interval"])
def test_a_rule_of_the_same_name_cannot_count_something_else(changed: Rule) -> None:
    world = World(RULES[1:2], (changed,))
    with pytest.raises(ConfigError, match=r"^rules\.pay\.growth: it counted .* give the new rule a name of its own$"):
        counted(world, 1, *several(10))
