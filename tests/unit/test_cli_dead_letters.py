"""`paystorm dead-letters`: what it prints, what it refuses, and that a mended record is counted."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paystorm.cli.main import main

Captured = pytest.CaptureFixture[str]


def row(n: int, amount: str = "1.00") -> str:
    event = {"event_time": f"2025-01-01T00:00:0{n}Z", "from_party": "a", "to_party": "b"}
    return json.dumps({**event, "amount": amount, "currency": "EUR"})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder in which two records are good, three have a negative amount, and one is no JSON."""
    file = tmp_path / "x.ndjson"
    file.write_text("\n".join([*(row(n, "-1.50") for n in range(3)), "{", row(3), row(4)]) + "\n")
    assert main(["send", "purchase", str(file), "--data", str(tmp_path / "data")]) == 0
    run(tmp_path / "data")
    return tmp_path / "data"


def run(data: Path) -> None:
    assert main(["run", "purchase", "--until-idle", "--data", str(data)]) == 0


def asked(capsys: Captured, data: Path, *arguments: str) -> Any:
    """What a command answers in JSON."""
    capsys.readouterr()
    assert main(["dead-letters", *arguments, "--json", "--data", str(data)]) == 0
    return json.loads(capsys.readouterr().out)


def letters(capsys: Captured, data: Path, *arguments: str) -> list[str]:
    return sorted(x["letter"] for x in asked(capsys, data, "list", *arguments)["letters"])


def test_a_mended_record_is_counted_and_its_letter_says_so(data: Path, capsys: Captured) -> None:
    (name, second, third) = letters(capsys, data, "--code", "negative")
    where = ["--data", str(data)]
    assert main(["dead-letters", "replay", name, "--reason", "try", *where]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"paystorm: {name}: it would be dead-lettered again: amount: negative")
    assert told[1] == "paystorm: 1 dead letter left alone"
    acted = ["dead-letters", "mend", name, "--set", "data.amount=1.50", "--reason", "typo", "--by", "eve", *where]
    assert main(acted) == 0
    shown = capsys.readouterr().out
    assert '-    "amount": "-1.50"' in shown
    assert '+    "amount": 1.50' in shown
    run(data)
    view = asked(capsys, data, "show", name)
    assert (view["state"], [(r["outcome"], r["counts"]) for r in view["replays"]]) == ("replayed", [("accepted", True)])
    assert [(a["act"], a["by"], a["reason"]) for a in view["acts"]] == [
        ("mend", "eve", "typo"),
        ("sent", "eve", "typo"),
    ]
    assert main(["export", "counts", "--source", "purchase", *where]) == 0
    counts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {c["value"] for c in counts if c["party"] == "a" and c["rule"] == "sender_cap_day"} == {"3.5"}
    assert main(["export", "dead-letters", "--source", "purchase", *where]) == 0
    exported = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(x["state"] for x in exported) == ["open", "open", "open", "replayed"]
    assert main(["status", "purchase", *where]) == 0
    assert letters(capsys, data, "--code", "negative", "--state", "open") == [second, third]


def test_many_are_mended_by_a_condition_and_the_rest_discarded(data: Path, capsys: Captured) -> None:
    bulk = ["--where", "code = 'negative' AND value->>'$.data.amount' = '-1.50'", "--reason", "sign"]
    acted = asked(capsys, data, "mend", "--set", "data.amount=1.50", *bulk)
    assert (len(acted["done"]), acted["refused"]) == (3, [])
    run(data)
    assert asked(capsys, data, "mend", "--set", "data.amount=1.50", *bulk) == {"done": [], "refused": []}
    assert len(asked(capsys, data, "discard", "--all", "--reason", "junk", "--dry-run")["done"]) == 1
    assert len(asked(capsys, data, "discard", "--all", "--reason", "junk")["done"]) == 1
    causes = {c["cause"]: c["states"] for c in asked(capsys, data, "list", "--causes")}
    assert causes == {"amount: negative": {"replayed": 3}, "record: not_json": {"discarded": 1}}
    assert main(["dead-letters", "list", "--causes", "--data", str(data)]) == 0
    assert "4 dead letters of 2 causes" in capsys.readouterr().out


def test_a_letter_is_shown_with_its_bytes(data: Path, capsys: Captured) -> None:
    (name,) = letters(capsys, data, "--code", "record: not_json")
    assert main(["dead-letters", "show", name, "--data", str(data)]) == 0
    assert capsys.readouterr().out.endswith("1 bytes:\n{\n")
    assert main(["dead-letters", "list", "--limit", "2", "--data", str(data)]) == 0
    assert "2 of 4 dead letters; --skip 2 goes on" in capsys.readouterr().out


def test_a_whole_new_record_comes_from_standard_input(
    data: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = letters(capsys, data, "--code", "not_json")
    value = json.dumps({"ApplicationRef": "shop", "data": json.loads(row(7))}) + "\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(value.encode())))
    (done,) = asked(capsys, data, "mend", name, "--value", "-", "--reason", "asked the shop")["done"]
    run(data)
    (replay,) = asked(capsys, data, "show", name)["replays"]
    assert (replay["offset"], replay["outcome"]) == (done["sent_as"], "accepted")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show", "purchase/1"], "a dead letter is named source/partition/offset"),
        (["show", "nope/0/1"], "no source 'nope'"),
        (["show", "purchase/0/99"], "purchase/0/99: there is no such dead letter"),
        (["list", "--state", "x"], "--state must be open, replaying, replayed, discarded, got 'x'"),
        (["list", "--since", "x"], "--since must be a length such as 30m, 12h, 7d, or an ISO time, got 'x'"),
        (["list", "--where", "nope = 1"], "--where 'nope = 1': Binder Error"),
        (["replay", "--reason", "x"], "which dead letters? Name them"),
        (["replay", "--all"], "a reason is needed (--reason)"),
        (["replay", "--all", "--reason", "x", "--max", "0"], "--max must be 1 to 100,000, got 0"),
        (["mend", "purchase/0/0", "--reason", "x"], "nothing to mend"),
        (["mend", "--all", "--reason", "x", "--value", "-"], "--value is the record of one letter"),
        (["mend", "purchase/0/0", "--reason", "x", "--value", "no-such"], "--value no-such: No such file"),
        (["mend", "purchase/0/0", "--reason", "x", "--set", "y"], "--set must be path=value"),
        (["discard", "--all", "--reason", " "], "a reason is needed"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    tmp_path: Path, capsys: Captured, arguments: list[str], expected: str
) -> None:
    assert main(["dead-letters", *arguments, "--data", str(tmp_path / "data")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("paystorm: ")
    assert expected in line
