"""What an operator can get wrong, and what a machine can: one line, exit code 2, the data intact."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from paystorm.cli.main import main
from paystorm.cli.query import stored_columns
from paystorm.project import Project
from paystorm.resources import open_embedded
from paystorm.stores.lists import open_breaker

Captured = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]
PAYMENT = {"event_time": "2025-01-01T00:00:00Z", "from_party": "a", "to_party": "b"}


def told(capsys: Captured) -> str:
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("paystorm: ")
    return line


def payments(file: Path, *parties: str, day: int = 1, amount: int = 10) -> str:
    """A file with a payment of each party."""
    fields = {"event_time": f"2025-01-{day:02}T10:00:00Z", "amount": amount, "currency": "EUR"}
    rows = [{**fields, "from_party": party, "to_party": f"to-{n}"} for n, party in enumerate(parties)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def screen(data: Path, *options: str) -> None:
    """Run until idle, and find no difference."""
    assert main(["run", "purchase", "--until-idle", *options, "--data", str(data)]) == 0
    agree(data)


def agree(data: Path) -> None:
    """The balance adds up, and nothing differs."""
    assert main(["status", "--data", str(data)]) == 0
    assert main(["verify", "purchase", "--data", str(data)]) == 0


@pytest.fixture
def screened(tmp_path: Path, capsys: Captured) -> Path:
    """A data folder with payments that have been screened."""
    data = tmp_path / "data"
    assert main(["send", "purchase", payments(tmp_path / "x.ndjson", "a", "b", "c"), "--data", str(data)]) == 0
    screen(data)
    capsys.readouterr()
    return data


# The project's file.


def options_of(**options: Any) -> Callable[[dict[str, Any]], None]:
    """A change to the options of `local`."""

    def change(config: dict[str, Any]) -> None:
        config["envs"]["local"]["options"] |= {name.replace("__", "."): value for name, value in options.items()}

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (options_of(maxOffsetBehind="five"), "envs.local.options.maxOffsetBehind must be a whole number, got 'five'"),
        (options_of(maxOffsetBehind=-1), "envs.local.options.maxOffsetBehind must be ≥ 0, got -1"),
        (options_of(maxOffsetbehind=1), "envs.local.options.maxOffsetbehind: no such setting; see docs/settings.md"),
        (options_of(rules__purchase__nope__limit=1), "source purchase has no rule 'nope'; it has account_per_day"),
        (options_of(rules__nope__nope__limit=1), "no source 'nope'; there are browser"),
        (options_of(topology__message__timeout__secs="x"), "topology.message.timeout.secs must be a number"),
        (lambda c: c["envs"].update(local=[]), "envs.local must be an object, got []"),
        (lambda c: c["envs"].pop("local"), "envs has no 'local'; there are prod"),
        (lambda c: c.update(applications={"x": "nope"}), "applications.x: no source 'nope'; there are browser"),
        (lambda c: c.update(topology_specs="nowhere/"), "topology_specs: no folder"),
    ],
)
def test_a_config_that_cannot_be_is_one_line_that_names_the_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    change: Callable[[dict[str, Any]], object],
    expected: str,
) -> None:
    config = json.loads((ROOT / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copytree(ROOT / "topologies", tmp_path / "topologies")
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--until-idle"]) == 2
    assert expected in told(capsys)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{\n"envs":', "config.json line 2: not JSON"),
        (b"", "config.json line 1: not JSON"),
        (b"\xff", "config.json line 1: not UTF-8"),
        (b"[]", "config.json must hold an object"),
    ],
)
def test_a_config_that_is_no_json_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, text: bytes, expected: str
) -> None:
    (tmp_path / "config.json").write_bytes(text)
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 2
    assert expected in told(capsys)


@pytest.mark.parametrize(
    "option",
    [
        "rubbish",
        "=1",
        "nope=1",
        "maxOffsetBehind=",
        "maxAhead=[[[[",
        "breakerShare=NaN",
        "chunkRecords=1e3",
        "rules.purchase=1",
        "rules.purchase.account_per_day=1",
        "rules.purchase.account_per_day.limit=-5",
        "rules.purchase.account_per_day.wat=1",
        "rules.purchase.sender_cap_day.limit.EUR=NaN",
        "rules.purchase.account_growth.factor=Infinity",
        "topology.max.spout.pending=0",
        "paystorm.source=7",
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path, capsys: Captured, option: str
) -> None:
    assert main(["run", "--until-idle", "-o", option, "--data", str(tmp_path / "data")]) == 2
    assert ".".join(option.partition("=")[0].split(".")[:3]) in told(capsys)
    assert main(["status", "--data", str(tmp_path / "data")]) == 0
    assert "running: none" in capsys.readouterr().out


# The data folder.


def newer_mark(data: Path) -> None:
    """Of a newer version as a whole."""
    (data / "paystorm.json").write_text('{"format": 9}')


def newer_topic(data: Path) -> None:
    """A topic of a newer version."""
    path = data / "log/purchase/topic.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))


def newer_tables(data: Path) -> None:
    """Tables of a newer version."""
    with sqlite3.connect(data / "tables/purchase.sqlite") as connection:
        connection.execute("PRAGMA user_version = 9")


@pytest.mark.parametrize("make_newer", [newer_mark, newer_topic, newer_tables])
def test_data_of_a_newer_version_is_refused_and_left_as_it_is(
    screened: Path, tmp_path: Path, capsys: Captured, make_newer: Callable[[Path], None]
) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(screened, newer)
    make_newer(newer)
    kept = {p: p.read_bytes() for p in newer.rglob("*.log") if "logs" not in p.parts}
    for arguments in (["status"], ["verify"], ["run", "--until-idle"], ["run", "purchase"], ["export", "outcomes"]):
        if make_newer is newer_topic and arguments[0] == "export":
            continue  # that does not read the log
        assert main([*arguments, "--data", str(newer)]) == 2
        assert "written in format 9, this paystorm reads up to 1: use a newer paystorm" in told(capsys)
    assert all(p.read_bytes() == before for p, before in kept.items())


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


FULL = ("is full", "is it full", "its free space", "No space left on device")
READ_ONLY = ("Read-only file system", "writable")


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_full_or_read_only_disk_is_one_line_and_the_data_is_intact(small: Path, capsys: Captured, how: str) -> None:
    data = small / "data"
    file = payments(small / "x.ndjson", *(f"u{n % 50}" for n in range(300)))
    assert main(["send", "purchase", file, "--data", str(data)]) == 0
    screen(data)
    if how == "full":
        with (small / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    capsys.readouterr()
    for arguments in (
        ["send", "purchase", file],
        ["send", "refund", file],
        ["lists", "add", "account", "u1"],
        ["run", "--until-idle"],
        ["run", "purchase"],
        ["verify", "purchase"],
        ["export", "outcomes", "--out", str(small / "out")],
    ):
        assert main([*arguments, "--data", str(data)]) == 2, arguments
        line = told(capsys)
        assert any(word in line for word in (FULL if how == "full" else READ_ONLY)), line
        assert str(small) in line
    if how == "full":
        (small / "filler").unlink()
    else:
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
    screen(data)
    assert main(["send", "purchase", file, "--data", str(data)]) == 0
    screen(data)


def test_a_disk_that_fills_up_during_a_send_says_how_far_it_got(small: Path, tmp_path: Path, capsys: Captured) -> None:
    data = small / "data"
    file = payments(tmp_path / "x.ndjson", *("x" * 100 + str(n) for n in range(30_000)))
    assert main(["send", "purchase", file, "--data", str(data)]) == 2
    assert "is full: free space, then send again; " in told(capsys)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    screen(data)


# Rules that change.


def test_a_rule_may_change_with_every_run(tmp_path: Path, capsys: Captured) -> None:
    data, file = tmp_path / "data", tmp_path / "x.ndjson"
    limit = "rules.purchase.account_per_day.limit"
    for n, options in enumerate(
        ([], ["-o", f"{limit}=5"], [], ["-o", f"{limit}=3", "-o", "rules.purchase.account_growth.baseline=2"], [])
    ):
        parties = ["busy"] * (4 + n) + [f"p{n}"] * 5 + ["q"] * 2
        for day in (1, 1 + n):
            assert main(["send", "purchase", payments(file, *parties, day=day), "--data", str(data)]) == 0
        screen(data, *options)
    capsys.readouterr()
    assert main(["export", "hits", "--data", str(data)]) == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {(h["party"], h["version"], h["limit"]) for h in hits if h["rule"] == "account_per_day"}
    assert ("busy", 1, "5") in found
    # What is sent before a run is of the version of the run before it.
    assert {(version, limit) for _, version, limit in found} == {(1, "5"), (3, "3")}


# Breakers.


def test_an_open_breaker_is_shown_and_closed_by_a_person(screened: Path, capsys: Captured) -> None:
    where = ["--data", str(screened)]
    assert main(["lists", "breakers", *where]) == 0
    assert "0 breakers" in capsys.readouterr().out
    assert main(["lists", "close-breaker", "purchase", "account_per_day", *where]) == 2
    assert "no open breaker of purchase.account_per_day; paystorm lists breakers shows" in told(capsys)
    resources = open_embedded(screened)
    now = resources.clock.now()
    open_breaker(resources.tables, source="purchase", rule="account_per_day", now=now, by="purchase", share=0.5)
    assert main(["status", "purchase", *where]) == 0
    assert "paystorm lists close-breaker purchase account_per_day" in told(capsys)
    assert main(["lists", "breakers", "--json", *where]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["source"], shown["rule"], shown["state"], shown["share"]) == (
        "purchase",
        "account_per_day",
        "open",
        0.5,
    )
    assert main(["lists", "close-breaker", "purchase", "account_per_day", "--by", "eve", *where]) == 0
    assert main(["lists", "close-breaker", "purchase", "account_per_day", *where]) == 2
    capsys.readouterr()
    assert main(["lists", "breakers", *where]) == 0
    assert "0 breakers" in capsys.readouterr().out
    assert main(["lists", "breakers", "--all", "--json", *where]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["by"]) == ("closed", "eve")
    assert main(["export", "history", *where]) == 0
    changes = [json.loads(line)["what"] for line in capsys.readouterr().out.splitlines()]
    assert changes == ["breaker opened", "breaker closed"]
    agree(screened)


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lists", "add", "account", "\udcff"], "argument '\\udcff': not UTF-8"),
        (["query", "SELECT '\udcff'"], "not UTF-8"),
        (["lists", "add", "account", ""], "party must have 1 to 256 characters, got 0"),
        (["lists", "add", "account", "x" * 257], "party must have 1 to 256 characters, got 257"),
        (["lists", "add", "account", "a", "--expires", "999999w"], "that is after the year 9999"),
        (["run", "-o", "rules.refund.account_per_week.expires_after=99999999999"], "expires_after must be"),
        (["query", "SELECT now() AS n"], "column 'n' is a time with a zone: add ::TIMESTAMP"),
        (["query", "--json", "SELECT 1 AS n, 2 AS n"], "two columns are called 'n': tell them apart with AS"),
        (["send", "purchase", "/"], "/: Is a directory: name a file"),
        (["export", "hits", "--out", "/nowhere/x"], "/nowhere/x: No such file or directory: name another file"),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_one_line(
    tmp_path: Path, capsys: Captured, arguments: list[str], expected: str
) -> None:
    assert main([*arguments, "--data", str(tmp_path / "data")]) == 2
    assert expected in told(capsys)


def test_json_has_null_for_what_is_no_number(tmp_path: Path, capsys: Captured) -> None:
    sql = "SELECT 'nan'::DOUBLE AS a, ['inf'::DOUBLE, 1.5] AS b, {'c': '-inf'::DOUBLE} AS c, now() > '2020-01-01' AS d"
    assert main(["query", sql, "--json", "--data", str(tmp_path / "data")]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {"a": None, "b": [None, 1.5], "c": {"c": None}, "d": True}


@pytest.mark.parametrize(("closed", "code"), [("<&-", 2), (">&-", 0), ("2>&-", 0)])
def test_closed_streams_are_no_crash(tmp_path: Path, closed: str, code: int) -> None:
    script = "import sys; from paystorm.cli.main import main; sys.exit(main(sys.argv[1:]))"
    what = "send purchase -" if closed == "<&-" else "status"
    command = f'"$0" -c "$1" {what} --data "$2" {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, script, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)


# Queries on nothing.


def test_a_source_without_events_is_an_empty_table_of_its_own_columns(screened: Path, capsys: Captured) -> None:
    where = ["--csv", "--data", str(screened)]
    for name in Project.load().sources():
        if name != "purchase":
            assert main(["query", f"SELECT * FROM {name.replace('-', '_')}", *where]) == 0
            (header,) = capsys.readouterr().out.splitlines()
            assert "log_offset" in header
    sql = "SELECT sum(p.amount) FROM purchase p JOIN refund r ON p.amount = r.amount AND p.event_time = r.event_time"
    assert main(["query", sql, *where]) == 0


def test_the_columns_of_an_empty_source_are_those_that_are_stored(screened: Path) -> None:
    sql = (
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'purchase' "
        "ORDER BY ordinal_position"
    )
    known = {"purchase": stored_columns(Project.load().sources()["purchase"])}
    full, empty = open_embedded(screened), open_embedded(screened.parent / "empty")
    assert full.warehouse.query(sql)[1] == empty.warehouse.query(sql, known)[1]
