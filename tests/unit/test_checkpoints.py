"""Committed offsets: moved only by who knows them, held against the log at start."""

import pytest

from paystorm.errors import OffsetsLostError
from paystorm.stores.checkpoints import (
    Checkpoint,
    begin_checkpoint,
    check_log,
    load_checkpoint,
    load_checkpoints,
    move_checkpoint,
)
from paystorm.tables.memory import MemoryTables

AT_0 = Checkpoint(topic_id="a", committed=0, read=0)
AT_10 = Checkpoint(topic_id="a", committed=10, read=8)


@pytest.fixture
def tables() -> MemoryTables:
    return MemoryTables()


def test_the_first_checkpoint_stays_whoever_else_begins(tables: MemoryTables) -> None:
    assert begin_checkpoint(tables, "s", "t", 0, AT_10) == AT_10
    assert begin_checkpoint(tables, "s", "t", 0, AT_0) == AT_10
    assert load_checkpoints(tables, "s") == {("t", 0): AT_10}
    assert load_checkpoint(tables, "s", "t", 1) is None


def test_a_stale_mover_loses_and_changes_nothing(tables: MemoryTables) -> None:
    begin_checkpoint(tables, "s", "t", 0, AT_0)
    assert move_checkpoint(tables, "s", "t", 0, held=AT_0, new=AT_10)
    assert not move_checkpoint(tables, "s", "t", 0, held=AT_0, new=Checkpoint(topic_id="a", committed=99, read=99))
    assert load_checkpoint(tables, "s", "t", 0) == AT_10


def test_a_move_whose_reply_was_lost_is_no_loss(tables: MemoryTables) -> None:
    begin_checkpoint(tables, "s", "t", 0, AT_0)
    move_checkpoint(tables, "s", "t", 0, held=AT_0, new=AT_10)
    assert move_checkpoint(tables, "s", "t", 0, held=AT_0, new=AT_10)


def test_a_checkpoint_never_moves_back(tables: MemoryTables) -> None:
    with pytest.raises(ValueError, match="moves forward"):
        move_checkpoint(tables, "s", "t", 0, held=AT_10, new=AT_0)


@pytest.mark.parametrize(
    ("topic_id", "start", "end", "said"),
    [
        ("b", 0, 100, "10 offsets of the former one are gone"),
        ("a", 0, 7, "3 offsets are gone: the source stands at 10, the log ends at 7"),
        ("a", 15, 20, "5 offsets are gone before they were processed"),
        (None, 15, 20, "5 offsets are gone before they were processed"),
    ],
)
def test_a_log_that_does_not_fit_is_refused_with_what_is_gone_and_the_way_out(
    topic_id: str | None, start: int, end: int, said: str
) -> None:
    with pytest.raises(OffsetsLostError, match=said) as caught:
        check_log("s", "t", 0, AT_10, topic_id=topic_id, start=start, end=end)
    assert "paystorm reset s" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("topic_id", "start", "end"), [("a", 0, 10), ("a", 10, 10), (None, 3, 11)])
def test_a_log_that_fits_is_accepted(topic_id: str | None, start: int, end: int) -> None:
    check_log("s", "t", 0, AT_10, topic_id=topic_id, start=start, end=end)
