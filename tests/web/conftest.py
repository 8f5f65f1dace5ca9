"""One service for the tests that do not need one of their own."""

from collections.abc import Iterator

import pytest

from tests.web.served import Served, make_key, make_project, start


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    project = make_project(tmp_path_factory.mktemp("served"))
    made = start(project, make_key(project))
    yield made
    assert made.end() == 0, made.lines
