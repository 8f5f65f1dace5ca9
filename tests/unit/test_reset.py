"""A topic that was deleted and made again, or has lost offsets: the source stops, and goes on after a reset."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.contract.log_contract import LogContract

from paystorm.cli.main import main
from paystorm.clock import SystemClock
from paystorm.errors import LogError, TablesError
from paystorm.log.base import OutRecord
from paystorm.log.renumbered import RenumberedLog
from paystorm.resources import open_embedded
from paystorm.stores.former import Former, add_former, load_former
from paystorm.tables.memory import MemoryTables
from paystorm.testing.log import MemoryLog


class TestALogWithoutFormerTopicsIsTheLog(LogContract):
    @pytest.fixture
    def log(self) -> RenumberedLog:
        return RenumberedLog(MemoryLog(SystemClock()), lambda topic: [])


def _renumbered() -> RenumberedLog:
    inner = MemoryLog(SystemClock())
    inner.create_topic("t", 2)
    inner.append("t", [OutRecord(b"new", b"k", 1)])
    former = Former(topic_id="old", ends=(5, 0), at=1, by="x")
    return RenumberedLog(inner, lambda topic: [former] if topic == "t" else [])


def test_the_partitions_of_a_topic_made_anew_are_numbered_on() -> None:
    log = _renumbered()
    assert log.partitions("t") == 4
    assert [(log.start_offset("t", p), log.end_offset("t", p)) for p in range(4)] == [(5, 5), (0, 0), (0, 0), (0, 1)]
    batch = log.read("t", 3, 0, max_records=9, max_bytes=99)
    assert batch is not None
    assert (batch.partition, batch.all_values()) == (3, [b"new"])
    assert log.append("t", [OutRecord(b"x", b"k", 2)]) == [(2, 0)]


def test_nothing_is_read_from_a_former_partition_nor_written_to_it() -> None:
    log = _renumbered()
    assert log.read("t", 0, 5, max_records=1, max_bytes=1) is None
    with pytest.raises(LogError, match="the topic was made anew since"):
        log.read("t", 0, 4, max_records=1, max_bytes=1)
    with pytest.raises(LogError, match="it was made anew since; it has 2 and up now"):
        log.append("t", [OutRecord(b"x", b"k", 1)])


def test_of_two_resets_at_once_one_is_refused() -> None:
    tables, former = MemoryTables(), Former(topic_id=None, ends=(1,), at=1, by="x")
    add_former(tables, "t", [], former)
    with pytest.raises(TablesError, match="reset by another at the same time"):
        add_former(tables, "t", [], former)
    add_former(tables, "t", [former], former)
    assert load_former(tables, "t") == [former, former]


def _send(folder: Path, data: Path, count: int, first: int = 0) -> None:
    lines = [
        {"event_time": f"2025-01-01T00:{n // 60:02d}:{n % 60:02d}Z", "customer": "c1", "refund_id": f"r{first + n}"}
        for n in range(count)
    ]
    file = folder / "sent.ndjson"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["send", "refund", str(file), "--data", str(data)]) == 0


def _run(data: Path) -> int:
    return main(["run", "refund", "--until-idle", "--data", str(data)])


def _verified(data: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["verify", "refund", "--json", "--data", str(data)]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    return dict(report)


def test_a_topic_made_anew_goes_on_under_new_partitions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    _send(tmp_path, data, 4)
    assert _run(data) == 0
    resources = open_embedded(data)
    resources.log.delete_topic("refund")
    resources.close()
    _send(tmp_path, data, 3, first=4)

    assert _run(data) == 2
    assert "paystorm reset refund" in capsys.readouterr().err
    assert main(["reset", "refund", "--data", str(data)]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert main(["reset", "refund", "--yes", "--data", str(data)]) == 0
    assert "processed up to: " in capsys.readouterr().out
    assert _run(data) == 0

    report = _verified(data, capsys)
    assert (report["events"], report["ok"]) == (7, True)
    # Six of customer c1 in seven days are one more than the rule allows: what was counted before is counted on.
    assert report["hits"] == 1
    assert main(["status", "refund", "--data", str(data)]) == 0
    assert main(["reset", "refund", "--data", str(data)]) == 0
    assert "nothing to reset" in capsys.readouterr().out
