"""Which faults are done, when, in which order: drawn by a seed. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from random import Random

QUIET = (2.0, 8.0)
"""Seconds of undisturbed flow before a fault."""
AWAY = (0.0, 10.0)
"""Seconds that a killed server is away before it is started again, or that a disk is full."""


@dataclass(frozen=True, slots=True)
class Step:
    """One fault."""

    fault: str
    after: float
    """Seconds of flow before it."""
    away: float
    """Seconds until it is undone."""
    seed: int
    """What the fault itself draws with, such as which of several processes."""


def plan(names: Sequence[str], *, seed: int, each: int | None = None, count: int | None = None) -> Iterator[Step]:
    """`each`: every fault so often, in a drawn order. `count`: so many, different ones first. None of both: endless."""
    random = Random(seed)
    order = sorted(names)
    drawn = 0
    for _ in repeat(None) if each is None else repeat(None, each):
        random.shuffle(order)
        for name in order:
            if count is not None and drawn >= count:
                return
            drawn += 1
            yield Step(name, random.uniform(*QUIET), random.uniform(*AWAY), random.getrandbits(32))
