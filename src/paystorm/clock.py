"""Time as an argument: nothing in paystorm reads a clock that was not handed to it."""

import time
from typing import Protocol

SECOND = 1_000_000
"""Microseconds in a second; all points in time are whole microseconds since 1970-01-01 UTC."""


class Clock(Protocol):
    """What tells the time. `SystemClock` in production, a `ManualClock` in tests and in the simulator."""

    def now(self) -> int:
        """Wall-clock time, microseconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back; only differences mean something."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class ManualClock:
    """A clock that goes only when told to."""

    def __init__(self, now: int = 1_767_225_600 * SECOND) -> None:
        self._now = now
        self._elapsed = 0.0

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move both clocks on by `seconds` (≥ 0)."""
        if seconds < 0:
            raise ValueError(f"a clock moves forward: got {seconds} s (use jump for the wall clock)")
        self._now += round(seconds * SECOND)
        self._elapsed += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back by `seconds`; the monotonic clock does not notice."""
        self._now += round(seconds * SECOND)
