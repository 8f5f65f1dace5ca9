"""Rates: a bucket of tokens for each API key."""

import math

from paystorm.ingest.problems import Problem

MAX_BUCKETS = 100_000


class Rates:
    """Events a second by key. A key may go into debt with one batch, and waits until that is paid off."""

    def __init__(self, rate: float | None, burst: float) -> None:
        """`rate`: events a second in the mean; None: no limit. `burst`: what may come at once."""
        self._rate = rate
        self._burst = burst
        self._buckets: dict[str, tuple[float, float]] = {}

    def check(self, key: str, now: float) -> None:
        """Raises Problem while the key's bucket is empty. `now`: seconds of a clock that never goes back."""
        if self._rate is None:
            return
        tokens = self._tokens(key, now)
        if tokens < 1:
            wait = max(1, math.ceil((1 - tokens) / self._rate))
            raise Problem("rate_limited", f"more than {self._rate:g} events a second: wait {wait} s", wait)

    def spend(self, key: str, events: int, now: float) -> None:
        """Count events that came."""
        if self._rate is not None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.clear()
            self._buckets[key] = (self._tokens(key, now) - events, now)

    def _tokens(self, key: str, now: float) -> float:
        assert self._rate is not None
        tokens, at = self._buckets.get(key, (self._burst, now))
        return min(self._burst, tokens + (now - at) * self._rate)
