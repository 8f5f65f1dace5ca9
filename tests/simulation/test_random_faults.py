"""Seeded worlds in which everything fails now and then end with what the oracle computes, and every step is sound."""

from pathlib import Path

import pytest
from tests.simulation.seeds import seeds

from paystorm.testing.simulate import simulate


@pytest.mark.parametrize("seed", seeds(1000, 16))
def test_nothing_is_lost_or_done_twice_under_faults(seed: int, tmp_path: Path) -> None:
    folder = tmp_path / "warehouse" if seed % 5 == 0 else None
    story = simulate(seed, records=60, folder=folder)
    assert not story.found, f"PAYSTORM_SEED={seed}: {story}"
