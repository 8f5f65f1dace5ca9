"""Sets of offsets against plain sets."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from paystorm.offsets import OffsetSet

TOP = 24
ranges = st.tuples(st.integers(0, TOP), st.integers(0, TOP))
steps = st.lists(st.tuples(st.sampled_from(["add", "remove"]), ranges), max_size=14)


def plain(first: int, after: int) -> set[int]:
    return set(range(first, after))


def made(sequence: list[tuple[str, tuple[int, int]]]) -> tuple[OffsetSet, set[int]]:
    held, model = OffsetSet(), set[int]()
    for what, (first, after) in sequence:
        getattr(held, what)(first, after)
        model = model | plain(first, after) if what == "add" else model - plain(first, after)
    return held, model


def members(held: OffsetSet) -> set[int]:
    return {o for first, after in held for o in range(first, after)}


def is_minimal(held: OffsetSet) -> bool:
    found = held.ranges()
    return all(first < after for first, after in found) and all(
        found[i][1] < found[i + 1][0] for i in range(len(found) - 1)
    )


@given(steps)
def test_adding_and_removing_do_as_a_set_does_in_the_fewest_ranges(sequence: Any) -> None:
    held, model = made(sequence)
    assert members(held) == model
    assert len(held) == len(model)
    assert is_minimal(held)
    assert held == OffsetSet((o, o + 1) for o in sorted(model, reverse=True)), "equal however it was made"


@given(steps, ranges)
def test_questions_are_answered_as_of_a_set(sequence: Any, asked: tuple[int, int]) -> None:
    held, model = made(sequence)
    first, after = asked
    assert [o in held for o in range(-1, TOP + 1)] == [o in model for o in range(-1, TOP + 1)]
    assert held.covers(first, after) == (plain(first, after) <= model)
    if first < after:
        assert held.touches(first, after) == bool(plain(first, after) & model)
    offsets = np.array([TOP, 0, 3, 3, 17, -1], dtype=np.int64)
    assert held.mask(offsets).tolist() == [o in model for o in offsets.tolist()]
    assert held.mask(offsets[:0]).tolist() == []


def test_taking_nothing_out_leaves_a_range_whole() -> None:
    held = OffsetSet([(0, 10)])
    held.remove(3, 3)
    assert held.ranges() == [(0, 10)]


def test_ranges_that_only_meet_do_not_touch() -> None:
    held = OffsetSet([(5, 8)])
    assert not held.touches(2, 5)
    assert not held.touches(8, 9)


@given(steps, steps)
def test_a_union_is_that_of_sets_and_a_copy_is_a_set_of_its_own(mine: Any, others: Any) -> None:
    (held, model), (other, other_model) = made(mine), made(others)
    copy = held.copy()
    held.update(other)
    assert members(held) == model | other_model
    assert is_minimal(held)
    assert members(copy) == model
    assert members(other) == other_model


@given(steps, st.integers(0, TOP), st.sets(st.integers(0, TOP)))
def test_a_fold_takes_all_below_the_committed_offset_but_those_left_out(
    sequence: Any, committed: int, left_out: set[int]
) -> None:
    held, model = made(sequence)
    held.fold(committed, sorted(left_out))
    # One that is parked and yet applied was applied: before it was parked, or as a retry.
    assert members(held) == model | (plain(0, committed) - left_out)
    assert is_minimal(held)


@given(steps, st.integers(0, TOP), st.sets(st.integers(0, TOP)))
def test_a_fold_twice_is_a_fold_once(sequence: Any, committed: int, left_out: set[int]) -> None:
    held, _ = made(sequence)
    held.fold(committed, sorted(left_out))
    once = held.copy()
    held.fold(committed, sorted(left_out))
    assert held == once


def test_a_set_is_no_key_and_equals_only_sets() -> None:
    assert OffsetSet([(1, 2)]) != [(1, 2)]
    assert OffsetSet.__hash__ is None
    assert repr(OffsetSet([(3, 5), (1, 3)])) == "OffsetSet([(1, 5)])"
