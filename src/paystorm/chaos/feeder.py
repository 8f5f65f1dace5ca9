"""A sender that never stops: made-up purchases at a steady rate, tried again until they are acknowledged."""

import threading
from collections.abc import Iterator

from paystorm.clock import Clock
from paystorm.errors import LogError
from paystorm.generate import purchases
from paystorm.log.base import Log, OutRecord

RECORDS = 1_000_000
"""Records before the seed's next round."""
DAYS = 100
PARTIES = 2_000
"""Few: so that some are listed, and events denied."""
BLOCK = 2_000
A_SECOND = 5
"""Appends in a second."""


class Feeder:
    """Sends in a thread of its own from `start` to `stop`.

    An append that was not acknowledged is done again: what it may have appended before are records of their own.
    """

    def __init__(self, log: Log, topic: str, clock: Clock, *, rate: int, seed: int) -> None:
        """`rate`: records a second, while the log takes them."""
        self._log, self._topic, self._clock = log, topic, clock
        self._rate, self._seed = rate, seed
        self._lock = threading.Lock()
        self._ends: dict[int, int] = {}
        self._sent = 0
        self._failed = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._died: Exception | None = None

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the append that is under way; waits for it, as long as the log's time-out."""
        self._stop.set()
        self.join()

    def join(self) -> None:
        """Wait until it sends no more: it was stopped, or died."""
        if self._thread.is_alive():
            self._thread.join()

    @property
    def sent(self) -> int:
        """Records acknowledged."""
        return self._sent

    @property
    def refused(self) -> int:
        """Appends that were not acknowledged, and were done again."""
        return self._failed

    def ends(self) -> dict[int, int]:
        """By partition the offset behind the last record acknowledged. Raises what the thread died of, if it did."""
        if self._died is not None:
            raise self._died
        with self._lock:
            return dict(self._ends)

    def _run(self) -> None:
        try:
            self._feed()
        except Exception as error:  # told by `ends`: nobody else looks at this thread
            self._died = error

    def _feed(self) -> None:
        a_time = max(1, self._rate // A_SECOND)
        due = self._clock.monotonic()
        for values in _slices(self._seed, a_time):
            self._append([OutRecord(value) for value in values])
            now = self._clock.monotonic()
            due = max(due + a_time / self._rate, now)  # what the log was away for is not made up for in a burst
            if self._stop.wait(due - now):
                return

    def _append(self, records: list[OutRecord]) -> None:
        while not self._stop.is_set():
            try:
                placed = self._log.append(self._topic, records)
            except LogError:
                self._failed += 1
                self._stop.wait(1 / A_SECOND)
                continue
            with self._lock:
                for partition, offset in placed:
                    self._ends[partition] = max(self._ends.get(partition, 0), offset + 1)
                self._sent += len(records)
            return


def _slices(seed: int, size: int) -> Iterator[list[bytes]]:
    """Values, so many at a time, without end."""
    gathered: list[bytes] = []
    while True:
        for values in purchases(RECORDS, seed=seed, parties=PARTIES, days=DAYS, block=BLOCK):
            gathered += values
            while len(gathered) >= size:
                yield gathered[:size]
                del gathered[:size]
        seed += 1
