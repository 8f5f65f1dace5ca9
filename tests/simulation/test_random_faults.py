"""Seeded worlds in which everything fails now and then end with what the oracle computes, and every step is sound."""

from pathlib import Path

import pytest
from tests.simulation.seeds import seeds

from paystorm.testing.simulate import simulate


@pytest.mark.parametrize("seed", seeds(1000, 40))
def test_nothing_is_lost_or_done_twice_under_faults(seed: int, tmp_path: Path) -> None:
    folder = tmp_path / "warehouse" if seed % 5 == 0 else None
    story = simulate(seed, records=None if seed % 8 == 0 else 60, folder=folder)
    assert not story.found, f"PAYSTORM_SEED={seed}: {story}"


def test_a_seed_gives_the_same_run_again() -> None:
    first, again = simulate(1003, records=40), simulate(1003, records=40)
    assert (first.writes, first.inflicted, first.starts) == (again.writes, again.inflicted, again.starts)
