"""Counts and hits computed anew beside the running state."""

import json
from pathlib import Path

import msgspec
import pytest

from paystorm.cli.main import main
from paystorm.resources import open_embedded
from paystorm.stores.hits import Hit


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = [{"event_time": f"2025-01-01T00:00:{n:02d}Z", "customer": "c1"} for n in range(8)]
    file = tmp_path / "sent.ndjson"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = tmp_path / "data"
    assert main(["send", "refund", str(file), "--data", str(folder)]) == 0
    assert main(["run", "refund", "--until-idle", "--data", str(folder)]) == 0
    return folder


def test_what_is_counted_anew_is_what_stands(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["rebuild", "refund", "--json", "--data", str(data)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["records"], report["hits"], report["ok"]) == (8, 1, True)


def test_a_hit_that_should_stand_and_does_not_is_shown(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resources = open_embedded(data)
    ((key, value),) = list(resources.tables.scan("refund.hits"))
    hit = msgspec.msgpack.decode(value, type=Hit)
    resources.tables.put(
        "refund.hits", [(key, msgspec.msgpack.encode(msgspec.structs.replace(hit, status="withdrawn")))], version=10**6
    )
    resources.close()
    assert main(["rebuild", "refund", "--data", str(data)]) == 1
    assert "account_per_week" in capsys.readouterr().out
