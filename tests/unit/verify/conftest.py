"""The folder of `verify_world`, made once, and a copy of it for each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from verify_world import build, opened

from paystorm.resources import Resources


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "data"
    build(folder)
    return folder


@pytest.fixture
def resources(built: Path, tmp_path: Path) -> Iterator[Resources]:
    """A copy of the folder that may be spoilt."""
    shutil.copytree(built, tmp_path / "data")
    with opened(tmp_path / "data") as found:
        yield found
