"""Row keys sort as their tuples do and can be taken apart again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paystorm.tables.keys import Part, key, keys, parts, prefix_end, under

_TEXT = st.text(st.characters(codec=None)) | st.text("a\x00\x01\xff\ud800", max_size=4)
_NUMBER = st.integers(-(1 << 63), (1 << 63) - 1)
_KINDS: list[st.SearchStrategy[Part]] = [_TEXT, _NUMBER]
_TUPLE = st.lists(_TEXT | _NUMBER, max_size=4).map(tuple)


@st.composite
def _pairs_of_same_types(draw: st.DrawFn) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    shape = draw(st.lists(st.sampled_from(_KINDS), max_size=4))
    one: tuple[Part, ...] = tuple(draw(kind) for kind in shape)
    two: tuple[Part, ...] = tuple(draw(kind) for kind in shape)
    same = draw(st.integers(0, len(shape)))  # a common beginning, which chance alone hardly gives
    return one, one[:same] + two[same:]


@given(_TUPLE)
def test_a_key_is_taken_apart_into_the_tuple_it_was_made_of(given_parts: tuple[Part, ...]) -> None:
    assert parts(key(*given_parts)) == given_parts


@given(_pairs_of_same_types())
def test_keys_sort_as_tuples_of_the_same_types_do(pair: tuple[tuple[Part, ...], tuple[Part, ...]]) -> None:
    one, two = pair
    assert (key(*one) < key(*two)) == (one < two)
    assert (key(*one) == key(*two)) == (one == two)


@given(_TUPLE, _TUPLE, _TUPLE)
def test_under_holds_exactly_the_keys_that_begin_so(
    head: tuple[Part, ...], rest: tuple[Part, ...], other: tuple[Part, ...]
) -> None:
    start, stop = under(*head)

    def inside(encoded: bytes) -> bool:
        return start <= encoded and (stop is None or encoded < stop)

    assert inside(key(*head, *rest))
    assert inside(key(*other)) == (other[: len(head)] == head)


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_prefix_end_is_behind_all_that_start_so(prefix: bytes, other: bytes) -> None:
    end = prefix_end(prefix)
    assert (prefix <= other and (end is None or other < end)) == other.startswith(prefix)


@pytest.mark.parametrize("bad", [b"\x03", b"\x02\x00", b"\x01abc", b"\x01abc\x00", key("a", 1)[:-1], key(1) + b"x"])
def test_what_is_not_a_key_is_refused(bad: bytes) -> None:
    with pytest.raises(ValueError, match="not a row key"):
        parts(bad)


def test_a_number_outside_64_bits_is_refused() -> None:
    with pytest.raises(OverflowError):
        key(1 << 63)
    with pytest.raises(OverflowError):
        key(-(1 << 63) - 1)


def test_keys_encodes_each_tuple() -> None:
    assert keys([("a", 1), ("b",)]) == [key("a", 1), key("b")]
