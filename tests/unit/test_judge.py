"""Which rules hold for which parties, asked of the judge; the tests of counting and crossing ask a whole flush."""

from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.test_book import SUM, book_of, rule

from paystorm.windows.judge import Judge, meets_growth

CODES = np.arange(1, 4, dtype=np.uint32)


@pytest.mark.parametrize(
    ("given_", "currency", "shape"),
    [
        ({"limit": 0}, "", (3,)),
        ({"factor": "2", "baseline": 0}, "", (3,)),
        ({**SUM, "limit": {"EUR": "0"}}, "EUR", (3, 3)),
        ({**SUM, "factor": "2", "baseline": {"EUR": "0"}}, "EUR", (3, 3)),
    ],
)
def test_no_rule_holds_where_nothing_was_ever_counted(
    given_: dict[str, Any], currency: str, shape: tuple[int, ...]
) -> None:
    book = book_of([rule(**given_)])
    (span,) = book.spans["r"]
    judge = Judge(book, lambda label, start: None)
    assert judge.versions("r", 0, CODES, currency).tolist() == [-1] * 3
    assert judge.remembered(span, 0, CODES, currency, 0) == 0
    assert not judge.had(span, 0, CODES, currency, 0)
    assert judge.figures(span, 0, CODES, currency).shape == shape
    assert not judge.figures(span, 0, CODES, currency).any()


@given(
    st.sampled_from(["1.5", "3", "1000", "1000.5", "1.000001", "1000000"]).map(Fraction),
    st.lists(st.tuples(st.integers(0, 6), st.integers(-1, 1)), min_size=1),
    st.integers(0, 4),
)
def test_growth_is_met_from_the_factor_and_the_baseline_on(
    factor: Fraction, pairs: list[tuple[int, int]], baseline: int
) -> None:
    figures = [(max(ceil(factor * before) + more, 0), before) for before, more in pairs]
    now, before = np.array(figures, dtype=np.int64).T
    met = meets_growth(now, before, (factor.numerator, factor.denominator), baseline)
    assert met.tolist() == [n >= factor * b and b >= baseline for n, b in figures]
