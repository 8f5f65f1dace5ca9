"""Which tuples wait for the events that were noted behind a crossing."""

from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from paystorm.chunk import Head, frame_to_bytes
from paystorm.source import Field, Party, Source
from paystorm.stores.journal import Row, ShardState
from paystorm.tables.memory import MemoryTables
from paystorm.windows.effects import GATHER_SECONDS, Effects, load_caught_late
from paystorm.windows.shard import Shard

SOURCE = Source(
    name="pay",
    topic="pay",
    enforces=True,
    fields=(Field(name="event_time", type="time", required=True), Field(name="account", type="id")),
    parties=(Party(field="account", role="customer", kind="account"),),
)
HEAD = Head(source="pay", topic="pay", partition=1, first=27, after=47, epoch=0, generation=0, committed=27)


class World:
    """What the warehouse has stored, what was appended to the verdicts, and the time."""

    def __init__(self) -> None:
        self.stored: dict[tuple[int, int], int] = {}
        self.appended: list[int] = []
        self.now = 0.0
        self.tables = MemoryTables()
        self.effects = Effects(SOURCE, self.tables, self._verdicts, self._append, lambda: self.now)

    def _verdicts(self, partition: int, offsets: Any) -> Any:
        return np.array([self.stored.get((partition, offset), -1) for offset in offsets.tolist()], dtype=np.int8)

    def _append(self, events: pl.DataFrame) -> None:
        self.appended += events["log_offset"].to_list()


def notes_of(*offsets: int) -> pl.DataFrame:
    n = len(offsets)
    return pl.DataFrame(
        {
            "partition": [1] * n,
            "offset": offsets,
            "kind": ["account"] * n,
            "party": ["u1"] * n,
            "rule": ["per_day"] * n,
            "application": ["shop"] * n,
            "event_id": [f"e{offset}" for offset in offsets],
        }
    )


@pytest.fixture
def noted() -> Effects:
    """A shard has noted offset 30 of partition 1, which no warehouse has stored yet."""
    effects = World().effects
    notes = notes_of(30)
    row = Row(n=1, generation=0, at=0, notes=frame_to_bytes(notes))
    effects.publish([(Shard(ShardState(shard=2)), row, notes)])
    effects.settle()
    return effects


def test_the_tuple_that_carries_a_noted_event_waits_until_it_is_stored(noted: Effects) -> None:
    assert noted.waits()
    assert noted.waits_for(HEAD)


@pytest.mark.parametrize("other", [{"partition": 0}, {"first": 31}, {"after": 30}])
def test_tuples_of_other_records_do_not_wait(noted: Effects, other: dict[str, int]) -> None:
    assert not noted.waits_for(msgspec.structs.replace(HEAD, **other))


def test_a_tuple_does_not_wait_for_a_parked_record_that_it_leaves_out(noted: Effects) -> None:
    """That one is retried once the checkpoint has passed it, so each would wait for the other."""
    assert not noted.waits_for(HEAD.leaving_out((30, 36)))
    assert noted.waits_for(HEAD.leaving_out((36,)))


def test_notes_of_a_flush_are_settled_together_or_after_a_while_as_far_as_they_are_stored() -> None:
    world, shards = World(), [Shard(ShardState(shard=n)) for n in (2, 5)]
    notes = [notes_of(30, 31), notes_of(30, 40)]
    rows = [Row(n=1, generation=0, at=0, notes=frame_to_bytes(frame)) for frame in notes]
    world.effects.publish([(shards[0], rows[0], notes[0]), (shards[1], rows[1], None)])
    world.stored = {(1, 30): 0, (1, 31): 1}
    world.effects.settle()
    assert world.appended == []
    world.now = GATHER_SECONDS
    world.effects.settle()
    assert world.appended == [30, 30]  # for each of the two listed parties
    assert [shard.published for shard in shards] == [1, -1]
    assert not world.effects.waits_for(msgspec.structs.replace(HEAD, after=31))
    assert world.effects.waits_for(HEAD)
    world.stored[1, 40] = 0
    world.effects.settle()
    assert world.appended == [30, 30, 40]
    assert [shard.published for shard in shards] == [1, 1]
    assert not world.effects.waits()
    assert [(one.offset, one.party) for one in load_caught_late(world.tables, "pay")] == [
        (30, "u1"),
        (30, "u1"),
        (40, "u1"),
    ]


def test_a_row_without_notes_is_published_behind_those_before_it() -> None:
    world, shard = World(), Shard(ShardState(shard=2))
    notes = notes_of(30)
    world.effects.publish([(shard, Row(n=1, generation=0, at=0, notes=frame_to_bytes(notes)), notes)])
    world.effects.publish([(shard, Row(n=2, generation=0, at=0), None)])
    assert shard.published == -1
    world.stored = {(1, 30): 1}
    world.effects.settle()
    assert shard.published == 2
    assert world.appended == []
