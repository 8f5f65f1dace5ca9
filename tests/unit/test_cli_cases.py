"""`paystorm cases` and the second person of `paystorm lists`: what they print, what they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest

from paystorm.cli.main import main
from paystorm.project import Project

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which `busy` has paid 40 times in a day, 10.10 EUR each, to five others."""
    folder = tmp_path_factory.mktemp("cases")
    file = folder / "x.ndjson"
    rows = [
        {"event_time": f"2025-01-01T00:{n:02}:00Z", "from_party": "busy", "to_party": f"u{n % 5}"} for n in range(40)
    ]
    file.write_text("\n".join(json.dumps({**row, "amount": "10.10", "currency": "EUR"}) for row in rows) + "\n")
    assert main(["send", "purchase", str(file), "--data", str(folder / "data")]) == 0
    assert main(["run", "purchase", "--until-idle", "--data", str(folder / "data")]) == 0
    return folder / "data"


def asked(capsys: Captured, data: Path, *arguments: str) -> Any:
    """What a command answers in JSON."""
    capsys.readouterr()
    assert main([*arguments, "--json", "--data", str(data)]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_case_is_listed_shown_and_decided_on(screened: Path, capsys: Captured) -> None:
    where = ["--data", str(screened)]
    (case,) = asked(capsys, screened, "cases", "list")["cases"]
    assert (case["party"], case["status"], case["cause"], case["events"]) == ("busy", "open", "account_per_day", 9)
    assert case["amounts"] == {"EUR": "90.9"}
    view = asked(capsys, screened, "cases", "show", "account", "busy", "--events", "3")
    assert [e["state"] for e in view["entries"]] == ["in_force"]
    assert [(h["rule"], h["figure"]) for h in view["hits"]] == [("account_per_day", "31")]
    assert {(c["rule"], c["value"]) for c in view["counts"]} >= {("account_per_day", "40"), ("sender_cap_day", "404")}
    assert {(o["party"], o["role"], o["events"]) for o in view["dealt_with"]} == {
        (f"u{n}", "receiver", 8) for n in range(5)
    }
    assert len(view["newest_events"]) == 3
    assert {e["verdict"] for e in view["newest_events"]} <= {"denied", "caught_late"}
    assert main(["cases", "show", "account", "busy", *where]) == 0
    shown = capsys.readouterr().out
    assert "dealt with" in shown
    assert "purchase.account_per_day" in shown
    decided = ["cases", "decide", "account", "busy", "false_alarm", "--lift", "--allow-for", "30d", "--by", "eve"]
    assert main([*decided, "--reason", "a school", *where]) == 0
    assert "the case of account busy is decided: false_alarm (by eve)" in capsys.readouterr().out
    (case,) = asked(capsys, screened, "cases", "list", "--status", "false_alarm")["cases"]
    assert case["decision"]["did"][0] == "lift its entries"
    assert asked(capsys, screened, "cases", "list", "--status", "open")["cases"] == []
    states = {(e["list"], e["state"]) for e in asked(capsys, screened, "lists", "show", "account", "busy")}
    assert states == {("blacklist", "lifted"), ("allowlist", "in_force")}
    assert main(["cases", "list", "--sort", "amount", *where]) == 0
    assert "1 of 1 cases" in capsys.readouterr().out


@pytest.fixture
def two_persons(monkeypatch: pytest.MonkeyPatch) -> None:
    """config.json asks for approvals."""
    load = Project.load

    def loaded(start: Path | None = None) -> Project:
        project = load(start)
        return Project(project.root, {**project.config, "approvals": {"lists": True}})

    monkeypatch.setattr(Project, "load", loaded)


@pytest.mark.usefixtures("two_persons")
def test_where_the_project_asks_for_it_a_second_person_approves(tmp_path: Path, capsys: Captured) -> None:
    data = tmp_path / "data"
    where = ["--data", str(data)]
    for reason in ("stolen card", "typo"):
        assert main(["lists", "add", "account", "u1", "--reason", reason, "--by", "eve", *where]) == 0
        assert "another person approves it with" in capsys.readouterr().out
    assert asked(capsys, data, "lists", "show", "account", "u1") == []
    first, second = asked(capsys, data, "lists", "proposals")
    assert (first["by"], first["what"], first["state"]) == ("eve", "put it on the blacklist", "open")
    assert main(["lists", "approve", first["id"], "--by", "eve", *where]) == 2
    assert "eve's own: another person approves it" in capsys.readouterr().err
    assert main(["lists", "approve", first["id"], "--by", "bob", *where]) == 0
    assert main(["lists", "reject", second["id"], "--by", "bob", "--reason", "no", *where]) == 0
    assert f"proposal {second['id']} is rejected (by bob)" in capsys.readouterr().out
    assert [e["state"] for e in asked(capsys, data, "lists", "show", "account", "u1")] == ["in_force"]
    assert main(["lists", "proposals", "--state", "rejected", *where]) == 0
    assert "1 proposals" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["cases", "show", "account", "nobody"], "no case of account 'nobody'"),
        (["cases", "show", "acount", "u1"], "no party is of kind 'acount'"),
        (["cases", "list", "--status", "x"], "--status must be open, confirmed"),
        (["cases", "list", "--sort", "x"], "--sort must be events, amount, opened, last, got 'x'"),
        (["cases", "list", "--limit", "0"], "a page has 1 to 10,000 cases"),
        (["cases", "list", "--source", "x"], "no source 'x'"),
        (["cases", "decide", "account", "u1", "guilty", "--reason", "x"], "a decision is confirmed"),
        (["cases", "decide", "account", "u1", "confirmed"], "a reason is needed (--reason)"),
        (["cases", "decide", "account", "u1", "confirmed", "--reason", "x"], "no case of account 'u1'"),
        (["cases", "decide", "account", "u1", "confirmed", "--allow-for", "x"], "--allow-for must be a length"),
        (["lists", "approve", "x"], "no proposal 'x'"),
        (["lists", "proposals", "--state", "x"], "--state must be open, approved"),
        (["lists", "close-breaker", "purchase", "x"], "no open breaker of purchase.x"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    tmp_path: Path, capsys: Captured, arguments: list[str], expected: str
) -> None:
    assert main([*arguments, "--data", str(tmp_path / "data")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("paystorm: ")
    assert expected in line
