"""Wide sums against Python's whole numbers."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from paystorm.windows import wide

EDGES = [0, 1, wide.BASE - 1, wide.BASE, wide.BASE**2 - 1, wide.BASE**2, wide.MAX - 1, wide.MAX]
figures = st.sampled_from(EDGES) | st.integers(0, wide.MAX) | st.integers(0, 100)


def limbs_of(*numbers: int) -> wide.Limbs:
    return np.array([wide.from_int(n) for n in numbers], dtype=np.int64).reshape(-1, 3)


def ints_of(limbs: wide.Limbs) -> list[int]:
    return [wide.to_int(row) for row in limbs]


@given(figures)
def test_a_whole_number_comes_back_from_its_limbs(number: int) -> None:
    limbs = wide.from_int(number)
    assert wide.to_int(np.array(limbs, dtype=np.int64)) == number
    assert all(0 <= limb < wide.BASE for limb in limbs)
    assert limbs[2] < wide.TOP


@given(st.integers(wide.MAX, wide.MAX * 1000))
def test_a_number_past_38_digits_becomes_the_largest_figure(number: int) -> None:
    assert wide.to_int(np.array(wide.from_int(number), dtype=np.int64)) == wide.MAX


@given(st.lists(st.integers(0, wide.MAX), max_size=8), st.integers(0, 18))
def test_a_decimal_column_becomes_the_units_of_its_last_digit(units: list[int], digits: int) -> None:
    amounts = [Decimal(f"{u}E-{digits}") for u in units]
    limbs = wide.from_decimals(pl.Series("amount", amounts, dtype=pl.Decimal(38, digits)))
    assert limbs.shape == (len(units), 3)
    assert ints_of(limbs) == units


@given(st.lists(st.lists(figures, min_size=1, max_size=6), min_size=1, max_size=4))
@example([[wide.MAX, 1], [wide.MAX]])
@example([[wide.MAX - 1, 1, 0]])
def test_sums_are_exact_and_stop_at_38_digits(columns: list[list[int]]) -> None:
    added = np.array([limbs_of(*numbers).sum(axis=0) for numbers in columns])
    before = added.copy()
    assert ints_of(wide.carried(added)) == [min(sum(numbers), wide.MAX) for numbers in columns]
    assert (added == before).all(), "the argument is left as it was"


@given(st.lists(figures, min_size=1, max_size=8))
def test_the_order_of_adding_does_not_matter(numbers: list[int]) -> None:
    def one_by_one(order: list[int]) -> int:
        total = limbs_of(0)
        for number in order:
            total = wide.carried(total + limbs_of(number))
        return ints_of(total)[0]

    assert one_by_one(numbers) == one_by_one(numbers[::-1]) == min(sum(numbers), wide.MAX)


def test_as_many_of_the_largest_rows_as_are_allowed_can_be_added_before_carrying() -> None:
    row = limbs_of(10**38 - 1)
    assert ints_of(wide.carried(row * wide.MAX_ROWS)) == [wide.MAX]
    low = limbs_of(wide.BASE - 1)
    assert ints_of(wide.carried(low * wide.MAX_ROWS)) == [(wide.BASE - 1) * wide.MAX_ROWS]


@given(st.lists(figures, min_size=1, max_size=6), figures)
def test_a_figure_exceeds_a_limit_that_is_below_it_and_a_saturated_one_exceeds_all(now: list[int], limit: int) -> None:
    assert wide.exceeds(limbs_of(*now), limit).tolist() == [n > limit or n == wide.MAX for n in now]


@given(figures)
def test_a_figure_next_to_the_limit_is_told_apart(limit: int) -> None:
    near = [max(limit - 1, 0), limit, min(limit + 1, wide.MAX)]
    assert wide.exceeds(limbs_of(*near), limit).tolist() == [n > limit or n == wide.MAX for n in near]


factors = st.sampled_from(["1.5", "2", "3", "1000000", "1.000000000000000001", "999999.999999999999999999"])


@given(factors, figures, figures, st.integers(-2, 2))
def test_growth_is_exact_also_where_floats_cannot_tell(text: str, before: int, baseline: int, off: int) -> None:
    factor = Fraction(text)
    # Right at the boundary: the smallest figure that has grown enough, and its neighbours.
    least = -(-before * factor.numerator // factor.denominator)
    now = min(max(least + off, 0), wide.MAX)
    grown = wide.grown(limbs_of(now), limbs_of(before), (factor.numerator, factor.denominator), baseline)
    assert grown.tolist() == [now >= factor * before and before >= baseline]


@given(st.lists(st.tuples(figures, figures), min_size=1, max_size=6), factors, figures)
def test_growth_is_judged_for_each_party_alone(pairs: list[tuple[int, int]], text: str, baseline: int) -> None:
    factor = Fraction(text)
    now, before = limbs_of(*(n for n, _ in pairs)), limbs_of(*(b for _, b in pairs))
    grown = wide.grown(now, before, (factor.numerator, factor.denominator), baseline)
    assert grown.tolist() == [n >= factor * b and b >= baseline for n, b in pairs]


@given(st.decimals(min_value=0, max_value=10**19, places=6), st.integers(0, 18))
def test_units_are_whole_and_rounded_as_asked(figure: Decimal, digits: int) -> None:
    exact = Fraction(figure) * 10**digits
    assert wide.units(figure, digits) == math.floor(exact)
    assert wide.units(figure, digits, up=True) == math.ceil(exact)


@pytest.mark.parametrize(
    ("text", "units"), [("1E+3", 100_000), ("0", 0), ("0.019", 1), ("1e-18", 0), ("12.50", 1250), ("-0", 0)]
)
def test_units_of_any_notation(text: str, units: int) -> None:
    assert wide.units(Decimal(text), 2) == units
