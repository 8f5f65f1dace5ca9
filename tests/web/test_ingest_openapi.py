"""The service does what its description says: schemathesis finds nothing."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.web.served import Served, make_key, make_project, start

MISSING = importlib.util.find_spec("schemathesis") is None


CONFIG = """
# Each event of a batch is answered by itself: 207 tells of those that were refused.
[checks.negative_data_rejection]
expected-statuses = [207, 400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
"""


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Served]:
    project = make_project(tmp_path / "project", {"waitSeconds": 0.2})
    made = start(project, make_key(project))
    yield made
    assert made.end() == 0


@pytest.mark.skipif(MISSING and os.environ.get("CI") != "true", reason="schemathesis is not installed")
def test_schemathesis_finds_nothing(quick: Served) -> None:
    (quick.project / "schemathesis.toml").write_text(CONFIG)
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{quick.port}/openapi.json",
        "--header", f"Authorization: Bearer {quick.key}", "--checks", "all", "--max-examples", "10",
        "--exclude-path", "/v1/verdicts/{ApplicationRef}", "--request-timeout", "20", "--seed", "1", "--no-color",
        "--workers", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=240, check=False, cwd=quick.project)
    assert done.returncode == 0, done.stdout.decode()[-12_000:] + done.stderr.decode()[-2000:]


def test_every_problem_and_every_path_is_described(served: Served) -> None:
    described = served.request("GET", "/openapi.json").json()
    assert {f"Problem{s}" for s in (400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 503)} <= set(
        described["components"]["responses"]
    )
    assert {"shop", "wallet", "refunds"} <= set(described["components"]["schemas"]["ApplicationRef"]["enum"])
