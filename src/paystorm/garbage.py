"""Python's collector of cycles, which looks at every object again and again: chunks make many, and hardly a cycle."""

import gc

COLLECT_EVERY = 100_000, 50, 100
"""The thresholds of `gc.set_threshold`."""


def collect_rarely() -> None:
    """Never look again at what is in memory by now, and rarely at what comes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_EVERY)
