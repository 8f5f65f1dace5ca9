"""The counting bolt, driven as the embedded runner does: when it counts what it has gathered."""

from datetime import datetime

import numpy as np
import pytest
from tests.unit.hosted import RULES, Hosted
from tests.unit.test_bolts_validation import head
from tests.unit.test_touches import PLAN, frame_of

from bolts.window_count import WindowCountBolt
from paystorm.chunk import EventChunk
from paystorm.clock import ManualClock
from paystorm.settings import Settings
from paystorm.stores.index import PartitionIndex
from paystorm.stores.versions import Version, add_version
from paystorm.tables.memory import MemoryTables


@pytest.fixture
def bolt() -> Hosted:
    tables = MemoryTables()
    validity = Settings({}).validity()
    add_version(tables, "pay", Version(number=0, rules=RULES, validity=validity, partitions=1, shards=8, made_at=0))
    options = {"flushRecords": 10, "flushMs": 100}
    return Hosted(WindowCountBolt, tables=tables, clock=ManualClock(), options=options)


def touches(first: int, records: int, *, payers: int = 1000) -> EventChunk:
    """A chunk of records with two parties each, which makes twice as many touches."""
    seen = {"event_time": datetime(2026, 1, 1), "verdict": "accepted", "payee_kind": None, "currency": None}
    rows = [{**seen, "log_offset": first + n, "payer": f"u{n % payers}", "payee": f"v{n}"} for n in range(records)]
    return EventChunk(head(first, first + records), PLAN.touches(frame_of(rows)))


def test_it_counts_once_it_holds_so_many_records_however_many_parties_they_have(bolt: Hosted) -> None:
    bolt.give(touches(0, 6))  # 12 touches
    assert bolt.acked == 0
    bolt.give(touches(6, 4))
    assert bolt.acked == 2
    bolt.give(touches(10, 9))
    assert bolt.acked == 0


def test_it_counts_what_it_has_held_for_long_enough(bolt: Hosted) -> None:
    bolt.give(touches(0, 1))
    assert bolt.acked == 0
    bolt.clock.advance(0.11)
    bolt.give(touches(1, 1))
    assert bolt.acked == 2


def test_with_nothing_to_count_it_looks_at_each_tick_whether_what_it_noted_is_stored(bolt: Hosted) -> None:
    bolt.give(touches(0, 10, payers=1))  # u0 crosses its limit of 3 with the fourth
    assert bolt.acked == 0, "nobody knows yet what the warehouse stores of the six behind the crossing"
    bolt.tick()
    assert bolt.acked == 0
    chunk, offsets = touches(0, 10), np.arange(10)
    index = PartitionIndex(bolt.tables, "pay", chunk.head.partition)
    assert index.append(index.row(ranges=[(0, 10)], stored=offsets, denied=offsets[4:]))
    bolt.tick()
    assert bolt.acked == 1, "the chunk, without any time having passed"
