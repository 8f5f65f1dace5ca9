"""`paystorm merge` on an embedded data folder."""

import json
import time
from pathlib import Path

import pytest
from tests.contract.warehouse_contract import Flushes

from paystorm.cli.main import main
from paystorm.clock import ManualClock
from paystorm.resources import open_embedded


@pytest.fixture
def data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with 12 files of 2 refunds each, stored three hours ago."""
    folder = tmp_path / "data"
    assert main(["merge", "--data", str(folder)]) == 0  # makes it
    resources = open_embedded(folder)
    flushes = Flushes(resources.warehouse, resources.tables, "refund")  # type: ignore[arg-type]
    flushes.clock = ManualClock(time.time_ns() // 1000 - 3 * 3600 * 1_000_000)
    flushes.flush(flushes.writer(), 12)
    resources.close()
    capsys.readouterr()
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main([*arguments, "--json"]) == 0
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


def test_past_hours_are_merged_and_every_event_is_still_there(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = ("query", "SELECT log_offset, event_id, dt, hr FROM refund ORDER BY 1", "--data", str(data))
    before = run(capsys, *query)
    assert len(before) == 24
    (done,) = run(capsys, "merge", "refund", "--data", str(data))
    assert (done["hours"], done["files"], done["into"], done["rows"]) == (1, 11, 1, 22)
    assert run(capsys, *query) == before
    (done,) = run(capsys, "merge", "refund", "--keep", "0", "--data", str(data))
    assert (done["hours"], done["removed"]) == (0, 1)
    assert run(capsys, *query) == before


def test_the_table_names_every_source_and_what_was_done(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "--files", "20", "--data", str(data)]) == 0
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines()[3:-1]] == [
        "browser",
        "customer-service",
        "purchase",
        "refund",
    ]


@pytest.mark.parametrize("arguments", [["nowhere"], ["--files", "0"], ["--keep", "-1"]])
def test_a_bad_argument_is_one_line(data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(["merge", *arguments, "--data", str(data)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
