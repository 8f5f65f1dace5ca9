"""The schedule of retries, the backoff of failures without a name, when to split, park, give up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paystorm import retry
from paystorm.clock import SECOND
from paystorm.settings import Settings

DEFAULTS = Settings({})


def test_the_defaults_retry_after_1_s_60_s_3600_s_and_then_every_day() -> None:
    delays = [retry.delay(n, DEFAULTS) // SECOND for n in range(1, 7)]
    assert delays == [1, 60, 3600, 86_400, 86_400, 86_400]


@given(
    n=st.integers(1, 10**9),
    initial=st.integers(0, 86_400_000),
    multiplier=st.floats(1, 1_000_000),
    longest=st.integers(0, 31 * 86_400_000),
)
def test_no_delay_overflows_is_negative_or_past_the_longest(
    n: int, initial: int, multiplier: float, longest: int
) -> None:
    settings = Settings(
        {"retryInitialDelayMs": initial, "retryDelayMultiplier": multiplier, "retryDelayMaxMs": longest}
    )
    delay = retry.delay(n, settings)
    assert 0 <= delay <= longest * 1000
    assert delay <= retry.delay(n + 1, settings)


def test_a_delay_past_any_float_is_the_longest() -> None:
    assert retry.delay(10**6, DEFAULTS) == 86_400 * SECOND


def test_no_initial_delay_means_no_delay_ever() -> None:
    assert retry.delay(10**6, Settings({"retryInitialDelayMs": 0})) == 0


def test_retries_are_counted_from_1() -> None:
    with pytest.raises(ValueError, match="from 1, got 0"):
        retry.delay(0, DEFAULTS)


def test_a_bolt_whose_clock_is_ahead_does_not_put_a_retry_off() -> None:
    assert retry.due(1, last_failed=10_000 * SECOND, now=5 * SECOND, settings=DEFAULTS) == 6 * SECOND


def test_failures_without_a_name_back_off_1_2_4_8_10_10_s() -> None:
    assert [retry.backoff(n, DEFAULTS) for n in (1, 2, 3, 4, 5, 6, 10**6)] == [1, 2, 4, 8, 10, 10, 10]


def test_given_up_only_after_a_failed_retry_and_5_later_records() -> None:
    assert not retry.may_give_up(1, 10**6, DEFAULTS)
    assert not retry.may_give_up(2, 4, DEFAULTS)
    assert retry.may_give_up(2, 5, DEFAULTS)
    assert retry.may_give_up(2, 0, Settings({"maxOffsetBehind": 0}))


def test_a_range_is_split_at_3_failures_and_a_single_record_counts_as_named_at_5() -> None:
    assert [retry.should_split(100, n, DEFAULTS) for n in (2, 3)] == [False, True]
    assert retry.should_split(2, 3, DEFAULTS)
    assert not retry.should_split(1, 100, DEFAULTS)
    assert [retry.counts_as_named(1, n, DEFAULTS) for n in (4, 5)] == [False, True]
    assert not retry.counts_as_named(2, 100, DEFAULTS)
