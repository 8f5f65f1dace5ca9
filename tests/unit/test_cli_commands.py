"""The commands beside `send`: what they print, what they refuse, their exit codes."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from paystorm import __version__, exports
from paystorm.cli.balance import balance_of
from paystorm.cli.demo import MARK, fresh_folder
from paystorm.cli.folder import lock_source, prepare_folder, running_pid
from paystorm.cli.lists import expiry
from paystorm.cli.main import main
from paystorm.errors import DataFolderError
from paystorm.project import Project
from paystorm.resources import open_embedded
from paystorm.tables.keys import key

Captured = pytest.CaptureFixture[str]


def told(capsys: Captured) -> str:
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("paystorm: ")
    return line


def rows(capsys: Captured, *arguments: str) -> list[dict[str, Any]]:
    """The rows that an export prints."""
    assert main(["export", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with payments that have been screened: `busy` pays 40 times in a day, and some are broken."""
    folder = tmp_path_factory.mktemp("screened")
    data = folder / "data"
    lines = [
        json.dumps({"event_time": f"2025-01-01T00:{n:02}:00Z", "from_party": "busy", "to_party": f"u{n}"})
        for n in range(40)
    ]
    amount = {"amount": "0.10", "currency": "EUR"}
    lines += [json.dumps({"event_time": "2025-01-02T00:00:00Z", "from_party": "p", "to_party": "q", **amount})] * 3
    lines += ["{", json.dumps({"event_time": "2025-01-02T00:00:00Z", "from_party": "p"})]
    file = folder / "x.ndjson"
    file.write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    assert main(["send", "purchase", str(file), "--data", str(data)]) == 0
    assert main(["run", "purchase", "--until-idle", "--data", str(data)]) == 0
    return data


# The program.


def test_the_version_is_told(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"paystorm {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["status", "--frob"], "No such option: --frob"),
        (["status", "nope"], "no source 'nope'; there are browser, customer-service, purchase, refund"),
        (["status", "-e", "nope"], "config.json: envs has no 'nope'; there are local, prod"),
        (["status", "-e", "prod"], "config.json: envs.prod names a cluster"),
        (["export", "nope"], "export: no 'nope'; there are outcomes, counts"),
        (["export", "hits", "--format", "xml"], "--format must be ndjson, csv, parquet, got 'xml'"),
        (["run", "-o", "maxOffsetBehind=-1"], "-o.maxOffsetBehind must be ≥ 0, got -1"),
        (["run", "-o", "rules.purchase.account_per_day.limit=x"], "must be a whole number, got 'x'"),
        (["run", "-o", "nonsense"], "-o must be name=value, got 'nonsense'"),
        (["send", "purchase", "no-such-file"], "no-such-file: No such file or directory"),
        (["query", "DROP TABLE x"], "query: only one SELECT statement can be run"),
        (["lists", "add", "acount", "u1"], "no party is of kind 'acount'; there are account"),
        (["lists", "lift", "account", "u1"], "account 'u1' has no standing hit"),
        (["lists", "remove", "account", "u1"], "account 'u1' has no entry by a person that is in force"),
        (["lists", "add", "account", "u1", "--expires", "7x"], "--expires must be a length such as 30m, 12h, 7d"),
        (["lists", "add", "account", "u1", "--expires", "2001-01-01"], "it must lie ahead"),
    ],
)
def test_bad_usage_and_options_are_refused_in_one_line(
    tmp_path: Path, capsys: Captured, arguments: list[str], expected: str
) -> None:
    folder = [] if arguments == ["frobnicate"] else ["--data", str(tmp_path / "data")]
    assert main([*arguments, *folder]) == 2
    assert expected in told(capsys)


def test_a_command_without_arguments_shows_its_help_and_is_bad_usage(capsys: Captured) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out.count("Usage:") == 1


def test_a_closed_pipe_is_no_error() -> None:
    script = "import sys; from paystorm.cli.main import main; sys.exit(main(['sources', '--json']))"
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


# The data folder.


def test_a_data_folder_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "paystorm.json").write_text('{"format": 2}')
    assert main(["status", "--data", str(tmp_path)]) == 2
    assert "written in format 2, this paystorm reads up to 1: use a newer paystorm" in told(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["paystorm.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "1"}'])
def test_an_unreadable_mark_is_named(tmp_path: Path, capsys: Captured, text: str) -> None:
    (tmp_path / "paystorm.json").write_text(text)
    assert main(["status", "--data", str(tmp_path)]) == 2
    assert "paystorm.json: not readable" in told(capsys)


def test_a_folder_of_somebody_elses_is_not_taken(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["status", "--data", str(tmp_path)]) == 2
    assert "it holds thesis.txt and no paystorm.json" in told(capsys)
    assert main(["demo", "--data", str(tmp_path)]) == 2
    assert "not made by the demo, so not emptied" in told(capsys)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_file_is_no_data_folder(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").write_text("")
    assert main(["status", "--data", str(tmp_path / "file")]) == 2
    assert "name a folder with --data, not a file" in told(capsys)


def test_the_demo_empties_what_it_made_unless_a_source_runs_there(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    fresh_folder(folder, ["purchase"])
    prepare_folder(folder)
    (folder / MARK).touch()
    lock = lock_source(folder, "purchase")
    with pytest.raises(DataFolderError, match=f"process {os.getpid()} runs purchase in it"):
        fresh_folder(folder, ["purchase"])
    lock.release()
    fresh_folder(folder, ["purchase"])
    assert list(folder.iterdir()) == []


def test_a_second_lock_of_a_source_names_who_has_the_first(tmp_path: Path) -> None:
    assert running_pid(tmp_path, "purchase") is None
    lock = lock_source(tmp_path, "purchase")
    assert running_pid(tmp_path, "purchase") == os.getpid()
    with pytest.raises(DataFolderError, match=f"source purchase is run by process {os.getpid()} already"):
        lock_source(tmp_path, "purchase")
    lock_source(tmp_path, "refund").release()
    lock.release()
    lock_source(tmp_path, "purchase").release()


# run.


def test_a_second_run_is_refused_while_the_first_goes_on_and_ends_in_order(tmp_path: Path, capsys: Captured) -> None:
    data = tmp_path / "data"
    script = "import sys; from paystorm.cli.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", script, "run", "refund", "--data", str(data)]
    first = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 180
        while running_pid(data, "refund") != first.pid and time.monotonic() < deadline:
            time.sleep(0.05)
        assert main(["run", "refund", "--until-idle", "--data", str(data)]) == 2
        assert f"source refund is run by process {first.pid} already" in told(capsys)
        file = tmp_path / "x.ndjson"
        file.write_text('{"event_time":"2025-01-01T00:00:00Z","customer":"c"}\n' * 5)
        assert main(["send", "refund", str(file), "--data", str(data)]) == 0
        resources = open_embedded(data)
        source = Project.load().sources()["refund"]
        while balance_of(resources, source).total("accepted") < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        capsys.readouterr()
        assert main(["status", "refund", "--data", str(data), "--json"]) == 0
        (status,) = json.loads(capsys.readouterr().out)
        assert (status["running"], status["pid"], status["totals"]["accepted"]) == (True, first.pid, 5)
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=60)
    finally:
        first.kill()
    assert (first.returncode, out, "Traceback" in err) == (130, "refund: 5 read, lag 0\n", False)
    assert running_pid(data, "refund") is None


def test_run_ends_when_idle_and_says_how_many_are_parked(screened: Path, capsys: Captured) -> None:
    assert main(["run", "purchase", "--until-idle", "--data", str(screened), "--json"]) == 0
    (progress,) = json.loads(capsys.readouterr().out)
    assert (progress["read"], progress["lag"], progress["parked"], progress["problem"]) == (46, 0, 0, None)


def test_a_source_whose_log_is_gone_ends_the_run_with_the_reason(tmp_path: Path, capsys: Captured) -> None:
    data = tmp_path / "data"
    file = tmp_path / "x.ndjson"
    file.write_text('{"event_time":"2025-01-01T00:00:00Z","customer":"c"}\n' * 5)
    assert main(["send", "refund", str(file), "--data", str(data)]) == 0
    assert main(["run", "refund", "--until-idle", "--data", str(data)]) == 0
    resources = open_embedded(data)
    resources.log.delete_topic("refund")
    resources.close()
    capsys.readouterr()
    assert main(["run", "refund", "--until-idle", "--data", str(data)]) == 2
    assert "offsets" in capsys.readouterr().err.splitlines()[-1]
    main(["status", "refund", "--data", str(data)])
    assert "refund: the spout has a problem: " in capsys.readouterr().err


# status.


def test_status_works_before_anything_was_sent(tmp_path: Path, capsys: Captured) -> None:
    assert main(["status", "--data", str(tmp_path / "data"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [s["source"] for s in found] == ["browser", "customer-service", "purchase", "refund"]
    assert all(s["adds_up"] and not s["running"] and set(s["totals"].values()) == {0} for s in found)
    assert main(["status", "--data", str(tmp_path / "data"), "--partitions"]) == 0
    assert "running: none" in capsys.readouterr().out


def test_the_balance_adds_up_and_a_lost_dead_letter_is_told_loudly(screened: Path, capsys: Captured) -> None:
    assert main(["status", "purchase", "--data", str(screened), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    totals = found["totals"]
    assert (totals["read"], totals["accepted"] + totals["denied"], totals["dead_lettered"]) == (46, 43, 3)
    resources = open_embedded(screened)
    letter_key, value = next(iter(resources.tables.scan("purchase.letters")))
    resources.tables.delete("purchase.letters", [letter_key])
    assert main(["status", "purchase", "--data", str(screened)]) == 1
    shown = capsys.readouterr()
    assert "+1 MISSING" in shown.out
    assert "does NOT add up" in shown.err
    resources.tables.put("purchase.letters", [(letter_key, value)])
    assert main(["status", "purchase", "--data", str(screened)]) == 0


# export.


def test_outcomes_have_every_record_once_with_its_reason(screened: Path, capsys: Captured) -> None:
    found = rows(capsys, "outcomes", "--data", str(screened), "--source", "purchase")
    assert len({(r["partition"], r["offset"]) for r in found}) == len(found) == 46
    assert {tuple(r) for r in found} == {tuple(exports.OUTCOMES)}
    letters = sorted(r["reason"] for r in found if r["outcome"] == "dead-lettered")
    assert letters == ["record: not_json", "record: not_utf8", "to_party: missing"]


def test_counts_are_exact_and_of_every_rule(screened: Path, capsys: Captured) -> None:
    found = rows(capsys, "counts", "--data", str(screened), "--source", "purchase")
    mine = {(r["rule"], r["currency"], r["interval_start"]): r["value"] for r in found if r["party"] == "p"}
    assert mine == {
        ("account_per_day", None, "2025-01-02T00:00:00Z"): "3",
        ("account_growth", None, "2025-01-02T00:00:00Z"): "3",
        ("sender_amount_growth", "EUR", "2025-01-02T00:00:00Z"): "0.3",
        ("sender_cap_day", "EUR", "2025-01-02T00:00:00Z"): "0.3",
        ("sender_cap_week", "EUR", "2024-12-30T00:00:00Z"): "0.3",
        ("sender_cap_month", "EUR", "2025-01-01T00:00:00Z"): "0.3",
    }
    assert {r["value"] for r in found if r["party"] == "busy"} == {"40"}


def test_hits_lists_cases_and_history_tell_of_the_busy_party(screened: Path, capsys: Captured) -> None:
    where = ["--data", str(screened), "--source", "purchase"]
    (hit,) = rows(capsys, "hits", *where)
    assert (hit["rule"], hit["party"], hit["limit"], hit["figure"]) == ("account_per_day", "busy", "30", "31")
    assert (hit["status"], hit["action"], hit["topic"], hit["currency"]) == ("standing", "deny", "purchase", None)
    (entry,) = rows(capsys, "lists", *where)
    assert (entry["party"], entry["state"], entry["reason"]) == ("busy", "in_force", "purchase.account_per_day")
    (case,) = rows(capsys, "cases", *where)
    assert case["denied"] + case["caught_late"] == 9
    assert len(rows(capsys, "caught-late", *where)) == case["caught_late"]
    (change,) = rows(capsys, "history", *where)
    assert (change["what"], change["by"]) == ("hit", "purchase.account_per_day")


def test_dead_letters_keep_their_bytes(screened: Path, capsys: Captured) -> None:
    found = rows(capsys, "dead-letters", "--data", str(screened))
    assert {(r["value"], r["value_base64"]) for r in found if r["field"] == "record"} == {("{", None), (None, "/w==")}


@pytest.mark.parametrize("what", ["outcomes", "counts", "hits", "lists", "cases", "dead-letters", "caught-late"])
def test_the_three_formats_hold_the_same_rows(screened: Path, tmp_path: Path, capsys: Captured, what: str) -> None:
    where = ["--data", str(screened)]
    lines = rows(capsys, what, *where)
    main(["export", what, "--format", "csv", *where])
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [[v or "" for v in r.values()] for r in table] == [
        ["" if v is None else str(v) for v in r.values()] for r in lines
    ]
    assert main(["export", what, "--format", "parquet", "--out", str(tmp_path / "x.parquet"), *where]) == 0
    frame = pl.read_parquet(tmp_path / "x.parquet")
    assert (len(frame), frame.columns) == (len(lines), list(lines[0]) if lines else frame.columns)
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]


def test_exports_of_nothing_have_their_columns(tmp_path: Path, capsys: Captured) -> None:
    for what in ("outcomes", "counts", "hits", "lists", "cases", "dead-letters", "history", "caught-late"):
        assert main(["export", what, "--format", "csv", "--data", str(tmp_path / "data")]) == 0
        (header,) = capsys.readouterr().out.splitlines()
        assert "," in header


# lists, query, sources.


def test_entries_by_people_are_made_shown_and_taken_back(tmp_path: Path, capsys: Captured) -> None:
    where = ["--data", str(tmp_path / "data")]
    assert (
        main(["lists", "add", "account", "u1", "--reason", "[b]fraud", "--expires", "7d", "--by", "eve", *where]) == 0
    )
    assert main(["lists", "allow", "account", "u1", *where]) == 0
    capsys.readouterr()
    assert main(["lists", "show", "--json", *where]) == 0
    found = {e["list"]: e for e in json.loads(capsys.readouterr().out)}
    assert (found["blacklist"]["state"], found["blacklist"]["note"]) == ("overruled", "[b]fraud")
    assert found["blacklist"]["by"] == "eve"
    assert main(["lists", "remove", "account", "u1", *where]) == 2
    assert "several entries, name one" in told(capsys)
    assert main(["lists", "remove", "account", "u1", found["allowlist"]["act"], *where]) == 0
    assert main(["lists", "show", *where]) == 0
    assert "[b]fraud" in capsys.readouterr().out
    assert main(["lists", "history", "account", "u1", "--json", *where]) == 0
    assert [h["what"] for h in json.loads(capsys.readouterr().out)] == ["added", "allowed", "removed"]


def test_hits_are_lifted_and_confirmed(screened: Path, capsys: Captured) -> None:
    where = ["--data", str(screened)]
    assert main(["lists", "lift", "account", "busy", "--rule", "purchase.other", *where]) == 2
    assert "no standing hit of rule purchase.other" in told(capsys)
    for act, state in (("lift", "lifted"), ("confirm", "confirmed")):
        assert main(["lists", act, "account", "busy", "--reason", "known", *where]) == 0
        capsys.readouterr()
        assert main(["lists", "show", "account", "busy", "--json", *where]) == 0
        assert [e["state"] for e in json.loads(capsys.readouterr().out)] == [state]


def test_an_expiry_is_a_length_or_a_time() -> None:
    assert expiry("90s", 5) == 90_000_005
    assert expiry("2w", 0) == 14 * 86_400 * 1_000_000
    assert expiry("1970-01-01T00:00:01+01:00", 0) == -3_599_000_000
    assert expiry("1970-01-02", 0) == 86_400_000_000
    assert expiry(None, 0) is None


def test_a_query_prints_a_table_json_or_csv(screened: Path, capsys: Captured) -> None:
    sql = "SELECT count(*) AS n, 1.50::DECIMAL(9,2) AS d, max(event_time) AS t, '[x]' AS s FROM purchase"
    assert main(["query", sql, "--json", "--data", str(screened)]) == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 43, "d": "1.50", "t": "2025-01-02T00:00:00Z", "s": "[x]"}]
    assert main(["query", sql, "--csv", "--data", str(screened)]) == 0
    assert capsys.readouterr().out == "n,d,t,s\n43,1.50,2025-01-02T00:00:00Z,[x]\n"
    assert main(["query", sql, "--data", str(screened)]) == 0
    assert "[x]" in capsys.readouterr().out


def test_sources_are_shown_with_their_rules(capsys: Captured) -> None:
    assert main(["sources", "purchase"]) == 0
    shown = capsys.readouterr().out
    assert "sender_cap_month" in shown
    assert "> 30" in shown
    assert main(["sources", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "browser"


# Reading what a running source writes.


def test_counts_lay_journal_rows_over_cells(screened: Path, tmp_path: Path) -> None:
    resources = open_embedded(screened)
    source = Project.load().sources()["purchase"]
    before = pl.concat(exports.counts(resources, source)).sort(pl.all())
    # Every shard's head is where it was, so a second reading is the same; a shard without a head has rows alone.
    assert pl.concat(exports.counts(resources, source)).sort(pl.all()).equals(before)
    assert resources.tables.get("purchase.shards", key(99)) is None
    resources.close()
