"""When what failed is tried again, split, or given up (SEMANTICS.md §6). Pure: no I/O, no clock.

`settings` is a `Settings` or any mapping with its names.
"""

from collections.abc import Mapping
from typing import Any


def delay(n: int, settings: Mapping[str, Any]) -> int:
    """Microseconds before retry n ≥ 1: initial × multiplier^(n−1), at most the longest delay."""
    if n < 1:
        raise ValueError(f"retries are counted from 1, got {n}")
    initial, longest = float(settings["retryInitialDelayMs"]), int(settings["retryDelayMaxMs"])
    if initial == 0:
        return 0
    try:
        wanted = initial * float(settings["retryDelayMultiplier"]) ** (n - 1)
    except OverflowError:  # past any float, so past the longest delay
        return longest * 1000
    return round(min(wanted, longest) * 1000)


def due(attempts: int, last_failed: int, now: int, settings: Mapping[str, Any]) -> int:
    """When retry number `attempts` is due, µs. `last_failed` was told by another machine's clock: it may be ahead."""
    return min(last_failed, now) + delay(attempts, settings)


def may_give_up(attempts: int, later: int, settings: Mapping[str, Any]) -> bool:
    """Whether a parked record may be given up: a retry of it failed, and `later` records are complete.

    attempts: how often it was tried in all; the first try is no retry.
    later: records of its partition with higher offsets that have been completed since it first failed.
    """
    return attempts >= 2 and later >= int(settings["maxOffsetBehind"])


def backoff(fails: int, settings: Mapping[str, Any]) -> float:
    """Seconds before what failed `fails` ≥ 1 times without a name is sent again: 1, 2, 4, … at most 10 by default."""
    # 2^60 ms is past any longest delay; without the bound a failure of many days would overflow.
    wanted = int(settings["failureBackoffMs"]) << min(fails - 1, 60)
    return min(wanted, int(settings["failureBackoffMaxMs"])) / 1000


def should_split(records: int, alone: int, settings: Mapping[str, Any]) -> bool:
    """Whether a range of `records` that failed `alone` times while others succeeded is to be split."""
    return records > 1 and alone >= int(settings["splitAfterFailures"])


def counts_as_named(records: int, alone: int, settings: Mapping[str, Any]) -> bool:
    """Whether a single record that failed `alone` times while others succeeded counts as failing by itself."""
    return records == 1 and alone >= int(settings["parkAfterFailures"])
