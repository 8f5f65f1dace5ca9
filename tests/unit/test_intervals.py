"""Intervals against the calendar of datetime."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paystorm.errors import ConfigError
from paystorm.intervals import DAY, Interval

TEXTS = ["1s", "10s", "30s", "7200s", "86400s", "1m", "15m", "90m", "1440m", "1h", "6h", "24h", "1d", "2d", "7d", "30d"]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Far on both sides of 1970; within datetime's years with a month to spare.
times = st.integers(-60_000_000_000, 250_000_000_000) | st.integers(-40 * DAY, 40 * DAY)


def date_of(at: int) -> datetime:
    return EPOCH + timedelta(seconds=at)


def seconds_of(date: datetime) -> int:
    return (date - EPOCH) // timedelta(seconds=1)


@given(st.sampled_from([*TEXTS, "month"]), times)
def test_intervals_follow_each_other_without_gap_or_overlap(text: str, at: int) -> None:
    interval = Interval.parse(text)
    start = interval.start(at)
    after = interval.following(start)
    assert start <= at < after
    assert interval.start(start) == interval.start(after - 1) == start
    assert interval.start(after) == after
    assert interval.previous(after) == start
    assert interval.following(interval.previous(start)) == start


@given(st.sampled_from([t for t in TEXTS if not t.endswith("d")]), times)
def test_parts_of_a_day_are_counted_from_midnight(text: str, at: int) -> None:
    date = date_of(at)
    midnight = date.replace(hour=0, minute=0, second=0)
    length = timedelta(seconds=Interval.parse(text).seconds)
    assert date_of(Interval.parse(text).start(at)) == midnight + (date - midnight) // length * length


@given(times)
def test_seven_days_begin_on_the_monday_on_or_before(at: int) -> None:
    date = date_of(at)
    monday = (date - timedelta(days=date.weekday())).replace(hour=0, minute=0, second=0)
    assert date_of(Interval.parse("7d").start(at)) == monday


@given(st.integers(1, 3660), times)
def test_whole_days_are_counted_from_monday_the_fifth_of_january_1970(days: int, at: int) -> None:
    origin, length = datetime(1970, 1, 5, tzinfo=UTC), timedelta(days=days)
    assert date_of(Interval.parse(f"{days}d").start(at)) == origin + (date_of(at) - origin) // length * length


@given(times)
def test_months_are_those_of_the_calendar(at: int) -> None:
    month = Interval.parse("month")
    first = date_of(at).replace(day=1, hour=0, minute=0, second=0)
    assert date_of(month.start(at)) == first
    assert date_of(month.following(seconds_of(first))) == (first + timedelta(days=31)).replace(day=1)
    assert date_of(month.previous(seconds_of(first))) == (first - timedelta(days=1)).replace(day=1)


@given(st.sampled_from([*TEXTS, "month"]), st.lists(times, max_size=6))
def test_many_points_at_once_give_the_same_starts(text: str, points: list[int]) -> None:
    interval = Interval.parse(text)
    starts = interval.starts(np.array(points, dtype=np.int64))
    assert starts.dtype == np.int64
    assert starts.tolist() == [interval.start(at) for at in points]


@given(st.integers(1, 100_000), st.sampled_from("smh"))
def test_a_part_of_a_day_must_divide_it(number: int, unit: str) -> None:
    seconds = number * {"s": 1, "m": 60, "h": 3600}[unit]
    if seconds <= DAY and DAY % seconds == 0:
        assert Interval.parse(f"{number}{unit}") == Interval(f"{number}{unit}", seconds)
    else:
        with pytest.raises(ConfigError):
            Interval.parse(f"{number}{unit}")


@pytest.mark.parametrize(
    "text",
    ["", "s", "10", "0s", "00d", "01h", "-1h", "+1h", "1.5h", "1 h", " 1h", "1h\n", "1H", "1w", "1y", "7s", "7h", "48h",
     "3661d", "10000000s", "Month", "months", "1month", "１h", "1h1m", "P1D"],
)  # fmt: skip
def test_other_texts_are_refused_by_one_line_that_shows_them(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^interval must be ") as caught:
        Interval.parse(text)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)
