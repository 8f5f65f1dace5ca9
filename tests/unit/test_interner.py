"""Ids as codes: one by one where there are few, by polars where there are many."""

from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paystorm.shards import shard_of
from paystorm.windows import interner as module
from paystorm.windows.interner import Interner


def codes_of(interner: Interner, ids: list[str]) -> list[int]:
    return interner.codes(pl.Series(ids, dtype=pl.String)).tolist()


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(["", "a", "é\0x", *(f"p{n}" for n in range(100))]), max_size=90), max_size=8))
def test_codes_are_given_in_the_order_in_which_ids_come_however_many_come_at_once(batches: list[list[str]]) -> None:
    interner, expected = Interner("account", 5), {"": 0}
    for ids in batches:
        for one in ids:
            expected.setdefault(one, len(expected))
        assert codes_of(interner, ids) == [expected[one] for one in ids]
    assert interner.size == len(expected)
    every = pl.Series(list(expected.values()), dtype=pl.UInt32).to_numpy()
    assert interner.names(every).to_list() == list(expected)
    assert interner.shards[1 : interner.size].tolist() == [shard_of("account", one, 5) for one in list(expected)[1:]]


def test_codes_stay_the_same_past_the_bound_of_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KNOWN", 20)
    interner, ids = Interner("account", 3), [f"p{n}" for n in range(60)]
    firsts = [codes_of(interner, ids[first:after]) for first, after in pairwise(range(0, 61, 6))]
    assert [code for codes in firsts for code in codes] == list(range(1, 61))
    assert codes_of(interner, ids[3:9]) == list(range(4, 10))
    assert codes_of(interner, ids) == list(range(1, 61))
    assert not interner._known


def test_a_guess_that_is_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """All ids but one share a place with another there: whose code stands in it is not theirs."""
    monkeypatch.setattr(Interner, "_learn", lambda self, ids, codes: self._guesses.fill(codes[-1]))
    interner, ids = Interner("account", 3), [f"p{n}" for n in range(100)]
    for batch in (ids, ids[::-1], ids[10:90]):
        assert codes_of(interner, batch) == [int(one[1:]) + 1 for one in batch]


def test_the_table_of_guesses_grows_with_the_ids() -> None:
    interner = Interner("account", 3)
    for first in range(0, 20_000, 5_000):
        codes_of(interner, [f"p{n}" for n in range(first, first + 5_000)])
    assert len(interner._guesses) >= 20_000 * module.PLACES
    assert codes_of(interner, ["p7", "new", *(f"p{n}" for n in range(100, 200))])[:3] == [8, 20_001, 101]
