"""The folder of `prune_world`, made once, and a copy of it for each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prune_world import build, now, opened

from paystorm.resources import Resources


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prune") / "data"
    build(folder)
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def resources(folder: Path) -> Iterator[Resources]:
    found = opened(folder, now())
    yield found
    found.close()
