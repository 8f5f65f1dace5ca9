"""`doctor`: every check says what it found and what mends it; none hides another, and none takes for ever."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paystorm.cli.main import main
from paystorm.doctor import Check, Finding, failed, machine, ok, project, run_checks
from paystorm.errors import TablesError
from paystorm.project import Project

ROOT = Path(__file__).resolve().parents[2]
Captured = pytest.CaptureFixture[str]


def told(capsys: Captured, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit code, and the findings by name (of several the worst)."""
    code = main(["doctor", *arguments, "--json"])
    order = ("failed", "warning", "ok")
    rows = sorted(json.loads(capsys.readouterr().out), key=lambda row: order.index(row["result"]), reverse=True)
    return code, {row["name"]: row for row in rows}


def copied(folder: Path, change: Any = None) -> Path:
    """A project of its own, with a changed config.json."""
    for name in ("topologies", "src", "virtualenvs"):
        (folder / name).symlink_to(ROOT / name)
    config = json.loads((ROOT / "config.json").read_text())
    if change is not None:
        change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# How checks are run.


def test_a_check_that_fails_or_hangs_hides_no_other() -> None:
    def raises() -> Iterator[Finding]:
        yield ok("half")
        raise TablesError("gone")

    def breaks() -> Iterator[Finding]:
        yield from ()
        raise ValueError("two\nlines")

    def hangs() -> Iterator[Finding]:
        time.sleep(5)
        yield ok("late")

    checks = [
        Check("raises", raises, "mend it"),
        Check("breaks", breaks, "report it"),
        Check("hangs", hangs, "start it"),
        Check("well", lambda: [ok("fine")]),
    ]
    begin = time.monotonic()
    found = run_checks(checks, bound=0.5)
    assert time.monotonic() - begin < 4
    assert [(f.name, f.result, f.found, f.mend) for f in found] == [
        ("raises", "ok", "half", ""),
        ("raises", "failed", "gone", "mend it"),
        ("breaks", "failed", "ValueError: two lines", "report it"),
        ("hangs", "failed", "no answer within 0.5 s", "start it"),
        ("well", "ok", "fine", ""),
    ]


# The command.


def test_a_sound_embedded_environment_has_no_failure(tmp_path: Path, capsys: Captured) -> None:
    data = tmp_path / "data"
    code, found = told(capsys, "--data", str(data))
    assert code == 0
    assert {row["result"] for row in found.values()} <= {"ok", "warning"}
    assert found["data folder"]["found"] == f"{data} is made when it is first used"
    assert not data.exists()
    assert main(["doctor", "--data", str(data)]) == 0
    assert "0 failed" in capsys.readouterr().out


def test_it_warns_of_sparse_run(tmp_path: Path, capsys: Captured) -> None:
    row = told(capsys, "--data", str(tmp_path / "data"))[1]["sparse run"]
    assert (row["result"], row["mend"]) == ("warning", "paystorm run")
    assert "submits to the cluster of storm.yaml" in row["found"]


def test_a_used_folder_is_looked_into(tmp_path: Path, capsys: Captured) -> None:
    data = tmp_path / "data"
    (tmp_path / "x.ndjson").write_text('{"event_time":"2025-01-01T00:00:00Z","customer":"a"}\n')
    assert main(["send", "refund", str(tmp_path / "x.ndjson"), "--data", str(data)]) == 0
    assert (
        main(["run", "refund", "-o", "rules.refund.account_per_week.limit=9", "--until-idle", "--data", str(data)]) == 0
    )
    capsys.readouterr()
    code, found = told(capsys, "--data", str(data))
    assert code == 0
    assert found["topics"]["found"] == "refund 4 partitions"
    assert found["tables"]["result"] == "warning"
    assert found["tables"]["found"].startswith("refund: its rules differ from version 0")


def test_a_folder_of_somebody_elses_is_a_failure(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    code, found = told(capsys, "--data", str(tmp_path))
    assert (code, found["data folder"]["result"]) == (1, "failed")
    assert "it holds thesis.txt and no paystorm.json" in found["data folder"]["found"]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_bad_option_is_named_and_the_machine_is_checked_all_the_same(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(config: Any) -> None:
        config["envs"]["local"]["options"]["maxOffsetBehind"] = -1

    monkeypatch.chdir(copied(tmp_path, change))
    code, found = told(capsys)
    assert (code, found["config.json"]["result"]) == (1, "failed")
    assert "maxOffsetBehind must be ≥ 0, got -1" in found["config.json"]["found"]
    assert found["Python"]["result"] == "ok"


def test_a_config_that_is_no_json_is_named(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    code, found = told(capsys)
    assert (code, found["config.json"]["mend"]) == (1, "mend config.json")
    assert found["setuptools"]["result"] == "ok"


def test_a_topology_that_is_broken_hides_no_other(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "topologies").unlink()
    (folder / "topologies").mkdir()
    for name in ("refund.py", "browser.py"):
        (folder / "topologies" / name).symlink_to(ROOT / "topologies" / name)
    (folder / "topologies" / "zoo.py").write_text("import nothing_of_the_kind\n")
    found = {f.name: f for f in project.topologies(Project.load(folder))}
    assert {name: f.result for name, f in found.items()} == {
        "topologies/browser.py": "ok",
        "topologies/refund.py": "ok",
        "topologies/zoo.py": "failed",
    }
    assert "zoo.py line 1" in found["topologies/zoo.py"].found


def test_servers_that_are_down_are_named_one_by_one(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(config: Any) -> None:
        stack = config["envs"]["stack"]
        stack["nimbus"] = "127.0.0.1:1"
        stack["options"] |= {
            "paystorm.kafka.brokers": "127.0.0.1:1",
            "paystorm.hbase": "127.0.0.1:1",
            "paystorm.hive": "127.0.0.1:1",
        }

    monkeypatch.chdir(copied(tmp_path, change))
    code, found = told(capsys, "-e", "stack")
    assert code == 1
    for name in ("Nimbus", "Kafka", "topics", "HBase", "Hive"):
        assert (found[name]["result"], found[name]["mend"]) == ("failed", "paystorm stack up -e stack"), found[name]
    assert "there is no folder" in found["warehouse"]["found"]


# The machine.


def test_setuptools_without_pkg_resources_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "version", {"streamparse": "5.0.1", "setuptools": "82.0.1"}.__getitem__)
    (finding,) = machine.setuptools()
    assert finding.result == "failed"
    assert finding.mend.endswith("-m pip install 'setuptools<81'")


def test_a_missing_driver_is_named_with_what_it_is_for() -> None:
    (finding,) = machine.packages({"no-such-driver": "it speaks to nobody"})
    assert (finding.result, finding.found) == ("failed", "no-such-driver is not installed: it speaks to nobody")
    assert finding.mend.endswith("-m pip install no-such-driver")


@pytest.mark.parametrize(("free", "result"), [(50 << 20, "failed"), (500 << 20, "warning"), (2 << 30, "ok")])
def test_little_space_is_a_warning_and_none_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, result: str
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=free, total=10 << 30))
    (finding,) = machine.disk(tmp_path / "absent" / "too", "data folder")
    assert finding.result == result
    assert str(tmp_path) in finding.found


def test_a_clock_that_is_set_meanwhile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter([1_800_000_000.0, 1_800_000_007.0])
    monkeypatch.setattr(
        machine, "time", SimpleNamespace(time=lambda: next(given), monotonic=time.monotonic, sleep=time.sleep)
    )
    (finding,) = machine.clock()
    assert finding.result == "warning"
    assert "the clock was set by +" in finding.found


def test_a_folder_that_cannot_be_written_to_is_a_failure(tmp_path: Path) -> None:
    (finding,) = machine.writable(tmp_path / "absent", "the warehouse", "mount it")
    assert (finding.result, finding.mend) == ("failed", "mount it")
    (finding,) = machine.writable(Path("/proc"), "the warehouse", "mount it")
    assert finding.result == "failed"
    (finding,) = machine.writable(tmp_path, "the warehouse", "mount it")
    assert finding.result == "ok"
    assert os.listdir(tmp_path) == []


def test_lein_refuses_root_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/usr/bin/lein")
    monkeypatch.setattr(machine.os, "geteuid", lambda: 0)
    monkeypatch.delenv("LEIN_ROOT", raising=False)
    (finding,) = machine.lein()
    assert (finding.result, finding.mend) == ("warning", "export LEIN_ROOT=1")
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    (finding,) = machine.lein()
    assert finding.result == "failed"


def test_a_virtualenv_without_the_pin_is_named(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "virtualenvs").unlink()
    (folder / "virtualenvs").mkdir()
    for name in ("browser", "purchase", "customer_service"):
        (folder / "virtualenvs" / f"{name}.txt").write_text("streamparse\nsetuptools < 81\n")
    (folder / "virtualenvs" / "browser.txt").write_text("streamparse\n")
    held = Project.load(folder)
    found = [(f.result, Path(f.mend.split()[-1]).name) for f in project.virtualenvs(held, held.env("prod")) if f.mend]
    assert sorted(found) == [("failed", "browser.txt"), ("failed", "refund.txt")]


def test_findings_are_made_with_what_mends_them() -> None:
    assert failed("it broke", "mend it") == Finding("failed", "it broke", "mend it")
