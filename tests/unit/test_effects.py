"""Which tuples wait for the events that were noted behind a crossing."""

import msgspec
import numpy as np
import polars as pl
import pytest

from paystorm.chunk import Head, frame_to_bytes
from paystorm.source import Field, Party, Source
from paystorm.stores.journal import Row, ShardState
from paystorm.tables.memory import MemoryTables
from paystorm.windows.effects import Effects
from paystorm.windows.shard import Shard

SOURCE = Source(
    name="pay",
    topic="pay",
    enforces=True,
    fields=(Field(name="event_time", type="time", required=True), Field(name="account", type="id")),
    parties=(Party(field="account", role="customer", kind="account"),),
)
HEAD = Head(source="pay", topic="pay", partition=1, first=27, after=47, epoch=0, generation=0, committed=27)


@pytest.fixture
def noted() -> Effects:
    """A shard has noted offset 30 of partition 1, which no warehouse has stored yet."""
    effects = Effects(
        SOURCE,
        MemoryTables(),
        lambda partition, offsets: np.full(len(offsets), -1, dtype=np.int8),
        lambda events: None,
        lambda: 0.0,
    )
    notes = pl.DataFrame(
        {
            "partition": [1],
            "offset": [30],
            "kind": ["account"],
            "party": ["u1"],
            "rule": ["per_day"],
            "application": ["shop"],
            "event_id": ["e1"],
        }
    )
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
