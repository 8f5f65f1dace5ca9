"""Many seeds: over worker processes of one thread each, with what they came to in all."""

import atexit
import gc
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from math import sqrt
from statistics import median

from paystorm.testing.reach import EVENTS, FAULTS
from paystorm.testing.simulate import Story, simulate

FLOOR = 0.05
"""The share of seeds that must come to each kind of fault and each event."""
CERTAIN = 3.0
"""Standard deviations by which a share must be below the floor, so that it is not the draw of the seeds."""
MEDIANS = {"records": 300, "chunks": 60, "faults": 5}
"""What the median seed must have at least."""
SEED_SECONDS = 600.0
"""A worker that takes longer for a seed hangs."""
AHEAD = 2
"""Seeds given to each worker."""


@dataclass(frozen=True, slots=True)
class Result:
    """What is kept of one seed."""

    seed: int
    records: int
    chunks: int
    writes: int
    faults: int
    reached: frozenset[str]
    digest: str
    found: tuple[str, ...]


@dataclass(slots=True)
class Total:
    """What many seeds came to."""

    results: list[Result] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.results)

    def add(self, result: Result) -> None:
        """Count one more."""
        self.results.append(result)

    def failing(self) -> list[Result]:
        """Those that found something."""
        return [result for result in self.results if result.found]

    def medians(self) -> dict[str, float]:
        """Records, chunks and faults of the median seed."""
        return {name: median(getattr(r, name) for r in self.results) if self.results else 0.0 for name in MEDIANS}

    def shares(self) -> dict[str, float]:
        """For each kind of fault and each event the share of seeds that came to it."""
        count = Counter(what for result in self.results for what in result.reached)
        return {what: count[what] / max(len(self.results), 1) for what in (*FAULTS, *EVENTS)}

    def short(self) -> list[str]:
        """Where the seeds fall short of a floor by more than chance, as a line each."""
        chance = CERTAIN * sqrt(FLOOR * (1 - FLOOR) / max(len(self.results), 1))
        low = FLOOR - chance
        lines = [f"{what}: {share:.1%} of the seeds" for what, share in self.shares().items() if share < low]
        return lines + [
            f"{name} of the median seed: {value:g}, must be ≥ {MEDIANS[name]}"
            for name, value in self.medians().items()
            if value < MEDIANS[name]
        ]


def one(seed: int, records: int | None = None) -> Result:
    """Run one seed."""
    return result_of(simulate(seed, records=records))


def result_of(story: Story) -> Result:
    """What is kept of a story."""
    return Result(
        seed=story.seed,
        records=story.records,
        chunks=story.chunks,
        writes=story.writes,
        faults=story.inflicted,
        reached=story.reached,
        digest=story.digest,
        found=tuple(story.found),
    )


def run_many(seeds: Iterable[int], *, workers: int, records: int | None = None) -> Iterator[Result]:
    """Run seeds, and give the results as they come. A worker that dies or hangs is a finding of its seed.

    With one worker everything runs in this process.
    """
    left = iter(seeds)
    if workers == 1:
        yield from (one(seed, records) for seed in left)
        return
    # polars would start a thread for each core in each worker.
    os.environ["POLARS_MAX_THREADS"] = "1"
    running: dict[Future[Result], int] = {}
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    # Workers that have nothing more to do are waited for: their queue, closed meanwhile, would print an error.
    idle = False
    try:
        while True:
            for seed in islice(left, workers * AHEAD - len(running)):
                running[pool.submit(one, seed, records)] = seed
            if not running:
                idle = True
                return
            done, _ = wait(running, timeout=SEED_SECONDS, return_when=FIRST_COMPLETED)
            if not done:
                yield from (_lost(seed, f"no end after {SEED_SECONDS:g} s") for seed in running.values())
                for process in list((pool._processes or {}).values()):
                    process.kill()
                return
            for future in done:
                seed = running.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    yield from (_lost(s, "the process that ran it died") for s in (seed, *running.values()))
                    return
    finally:
        pool.shutdown(wait=idle, cancel_futures=True)


def _begin() -> None:
    # What is imported stays: the collector of garbage need not look at it after each seed.
    gc.freeze()
    atexit.register(gc.unfreeze)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed tells its workers nothing; they would wait for seeds for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _lost(seed: int, why: str) -> Result:
    return Result(seed, 0, 0, 0, 0, frozenset(), "", (why,))
