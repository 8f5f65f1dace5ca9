"""`paystorm prune` on an embedded data folder."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contract.warehouse_contract import Flushes

from paystorm.cli.main import main
from paystorm.clock import ManualClock
from paystorm.project import Project
from paystorm.resources import open_embedded
from paystorm.stores.checkpoints import Checkpoint, begin_checkpoint

DAY = 86_400


@pytest.fixture
def data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with 3 files of 2 refunds each, stored nine days ago."""
    folder = tmp_path / "data"
    assert main(["merge", "--data", str(folder)]) == 0  # makes it
    resources = open_embedded(folder)
    flushes = Flushes(resources.warehouse, resources.tables, "refund")  # type: ignore[arg-type]
    flushes.clock = ManualClock(time.time_ns() // 1000 - 9 * DAY * 1_000_000)
    flushes.flush(flushes.writer(), 3)
    topic = Project.load().sources()["refund"].topic
    done = Checkpoint(topic_id=None, committed=6, read=6)
    begin_checkpoint(resources.tables, "refund", topic, 0, done)
    resources.close()
    capsys.readouterr()
    return folder


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options beside those of the environment."""
    options: dict[str, Any] = {}
    held = Project.env
    monkeypatch.setattr(
        Project, "env", lambda self, name: replace(env := held(self, name), options={**env.options, **options})
    )
    return options


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main([*arguments, "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_without_a_retention_it_says_that_everything_is_kept(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--data", str(data)]) == 0
    assert "nothing has a retention" in capsys.readouterr().out
    assert run(capsys, "prune", "--data", str(data)) == []


def test_what_goes_is_told_and_a_query_says_from_when_on_it_looks(
    data: Path, capsys: pytest.CaptureFixture[str], kept: dict[str, Any]
) -> None:
    kept["retention.refund.events"] = 7 * DAY
    (would,) = run(capsys, "prune", "--dry-run", "--data", str(data))
    count = ("query", "SELECT count(*) AS n FROM refund", "--data", str(data))
    assert run(capsys, *count) == [{"n": 6}]
    assert (would["source"], would["table"], would["went"]) == ("refund", "events", 1)
    assert main(["prune", "refund", "--keep", "0", "--data", str(data)]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("refund", "7 d", "hours"))
    assert not list((data / "warehouse").rglob("*.parquet"))
    assert main([*count, "--json"]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out) == [{"n": 0}]
    assert "refund: events stored before" in found.err
    (again,) = run(capsys, "prune", "--data", str(data))
    assert again["went"] == 0


def test_a_source_without_a_retention_is_left_alone(
    data: Path, capsys: pytest.CaptureFixture[str], kept: dict[str, Any]
) -> None:
    kept["retention.purchase.events"] = DAY
    (done,) = run(capsys, "prune", "--keep", "0", "--data", str(data))
    assert (done["source"], done["went"], done["since"]) == ("purchase", 0, None)
    assert len(list((data / "warehouse" / "refund").rglob("*.parquet"))) == 3


@pytest.mark.parametrize("arguments", [["nowhere"], ["--keep", "-1"], ["--keep", "soon"]])
def test_a_bad_argument_is_one_line(data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(["prune", *arguments, "--data", str(data)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
