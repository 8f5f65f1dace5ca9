"""Searching bytes by pairs finds what bytes.find finds."""

from hypothesis import given
from hypothesis import strategies as st

from paystorm.validity.words import occurrences


def found(values: bytes, text: bytes) -> list[int]:
    return [at for at in range(len(values)) if values.startswith(text, at)]


@given(st.text(alphabet="aby_", max_size=60), st.sampled_from(["ay_b", "y_", "_y_y", "aa"]), st.integers(0, 2))
def test_every_occurrence_is_found_at_even_and_odd_places(values: str, text: str, pair: int) -> None:
    raw, wanted = values.encode(), text.encode()
    assert occurrences(raw, wanted, min(pair, len(wanted) - 2)) == found(raw, wanted)


def test_what_is_too_short_holds_nothing() -> None:
    assert [occurrences(values, b"y_") for values in (b"", b"y", b"y_")] == [[], [], [0]]
