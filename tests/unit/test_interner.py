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
