"""The counting bolt, driven as the embedded runner does: when it counts what it has gathered."""

from datetime import datetime

import pytest
from tests.unit.hosted import RULES, Hosted
from tests.unit.test_bolts_validation import head
from tests.unit.test_touches import PLAN, frame_of

from bolts.window_count import WindowCountBolt
from paystorm.chunk import EventChunk
from paystorm.clock import ManualClock
from paystorm.settings import Settings
from paystorm.stores.versions import Version, add_version
from paystorm.tables.memory import MemoryTables


@pytest.fixture
def bolt() -> Hosted:
    tables = MemoryTables()
    validity = Settings({}).validity()
    add_version(tables, "pay", Version(number=0, rules=RULES, validity=validity, partitions=1, shards=8, made_at=0))
    options = {"flushRecords": 10, "flushMs": 100}
    return Hosted(WindowCountBolt, tables=tables, clock=ManualClock(), options=options)


def touches(first: int, records: int) -> EventChunk:
    """A chunk of records with two parties each, which makes twice as many touches."""
    seen = {"event_time": datetime(2026, 1, 1), "verdict": "accepted", "payee_kind": None, "currency": None}
    rows = [{**seen, "log_offset": first + n, "payer": f"u{n}", "payee": f"v{n}"} for n in range(records)]
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
