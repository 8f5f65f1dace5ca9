"""How far a source is, looked at all the time from beside; and from that, how long a fault was felt."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from paystorm.chaos.feeder import Feeder
from paystorm.clock import Clock
from paystorm.errors import TablesError
from paystorm.stores.checkpoints import load_checkpoints
from paystorm.tables.base import Tables

LOOK_EVERY = 0.25
SMALL_LAG = 5.0
"""Seconds of sending that may be uncommitted while all is well, and seconds without a commit."""
CALM = 10.0
"""Seconds that the lag must stay small before a fault counts as over."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at a moment."""

    at: float
    """Monotonic seconds."""
    committed: int | None
    """Over all partitions; None: the tables did not answer."""
    lag: int | None
    """Records acknowledged to the sender and not committed; None: not known, or the sender gets nothing through."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long a fault was felt, seconds from it."""

    first_commit: float
    """Until the end of the longest time without a commit; 0: there was none worth the name."""
    caught_up: float
    """Until the lag was small, and stayed so; 0: it was all the time."""


def recovery(samples: Sequence[Sample], struck: float, small: int) -> Recovery | None:
    """From the samples since `struck`; None: the lag is not small yet, or has not been for `CALM` seconds. Pure."""
    since = [sample for sample in samples if sample.at >= struck]
    restless = [sample.at for sample in since if sample.lag is None or sample.lag > small]
    calm_from = restless[-1] if restless else struck
    if not since or since[-1].at - calm_from < CALM:
        return None
    commits, last = [struck], None
    for sample in since:
        if sample.committed is not None:
            if last is not None and sample.committed > last:
                commits.append(sample.at)
            last = sample.committed
    gaps = [(after - before, after - struck) for before, after in pairwise(commits)]
    longest, ended = max(gaps, default=(0.0, 0.0))
    return Recovery(first_commit=ended if longest > SMALL_LAG else 0.0, caught_up=calm_from - struck)


class Watch:
    """Looks in a thread of its own from `start` to `stop`."""

    def __init__(self, tables: Tables, source: str, topic: str, feeder: Feeder, clock: Clock, *, rate: int) -> None:
        """`tables` should have a short time-out: while they are away nothing is seen."""
        self._tables, self._source, self._topic = tables, source, topic
        self._feeder, self._clock = feeder, clock
        self.small = max(1, round(rate * SMALL_LAG))
        self._samples: list[Sample] = []
        self._sent: tuple[int, float] = (-1, clock.monotonic())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; waits for the look that is under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def forget(self) -> None:
        """Drop what was seen so far."""
        self._samples = self._samples[-1:]

    def recovery(self, struck: float) -> Recovery | None:
        """How long the fault of that moment was felt; None: it still is."""
        return recovery(list(self._samples), struck, self.small)

    def moved(self, since: float) -> bool:
        """Whether something was committed after that moment."""
        seen = [s.committed for s in list(self._samples) if s.at >= since and s.committed is not None]
        return bool(seen) and seen[-1] > seen[0]

    def last(self) -> Sample | None:
        """What was seen last."""
        return self._samples[-1] if self._samples else None

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY):
            self._samples.append(self._look())

    def _look(self) -> Sample:
        at = self._clock.monotonic()
        ends, sent = self._feeder.ends(), self._feeder.sent
        if sent != self._sent[0]:
            self._sent = sent, at
        try:
            held = load_checkpoints(self._tables, self._source)
        except TablesError:
            return Sample(self._clock.monotonic(), None, None)
        committed = {p: checkpoint.committed for (topic, p), checkpoint in held.items() if topic == self._topic}
        lag = sum(max(0, end - committed.get(p, 0)) for p, end in ends.items())
        flows = at - self._sent[1] < SMALL_LAG
        return Sample(self._clock.monotonic(), sum(committed.values()), lag if flows else None)
