"""`paystorm new-source`: what is guessed from a sample, what is refused, what is written."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paystorm.cli.main import main
from paystorm.errors import UsageError
from paystorm.project import Project
from paystorm.scaffold import write
from paystorm.scaffold.draft import check_name, parse_field, parse_party, parse_rule
from paystorm.scaffold.guess import guess
from paystorm.scaffold.sample import read_sample

ROOT = Path(__file__).parents[2]
CONFIG = {
    "topology_specs": "topologies/",
    "virtualenv_specs": "virtualenvs/",
    "envs": {"local": {"embedded": {"data": "data", "partitions": 2}}},
}
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of nothing but a config.json, as the working folder."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(n: int, **data: Any) -> dict[str, Any]:
    return {
        "txId": f"t{n}",
        "when": f"2025-03-0{1 + n % 5}T10:{n % 60:02}:00Z",
        "customer_id": f"c{n % 7}",
        "shop": f"s{n % 3}",
        "amount": n + 0.25,
        "currency": "EUR",
        "channel": "web" if n % 2 else "app",
        "client_ip": f"10.0.0.{n % 9}",
        "items": n % 4,
        **({"note": 'said "hello", 🎉'} if n % 3 else {}),
        "basket": [1],
        "verdict": "x",
        **data,
    }


def sample(root: Path, records: list[Any], name: str = "sample.ndjson") -> str:
    path = root / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return str(path)


def refused(capsys: Captured, *arguments: str) -> str:
    """The line of a refusal."""
    assert main(["new-source", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()[-1].removeprefix("paystorm: ")


def written(root: Path) -> list[str]:
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "cache" not in str(path)
    )


# Guesses.


def test_types_time_parties_and_rules_are_guessed(root: Path) -> None:
    draft = guess("cards", "cards", read_sample(sample(root, [record(n) for n in range(60)])))
    source = draft.source
    assert {f.name: f.type for f in source.fields} == {
        "txId": "id",
        "when": "time",
        "customer_id": "id",
        "shop": "id",
        "amount": "amount",
        "currency": "currency",
        "channel": "choice",
        "client_ip": "id",
        "items": "integer",
        "note": "text",
    }
    assert [f.name for f in source.fields if not f.required] == ["note"]
    assert (source.event_time, source.own_id, source.enforces) == ("when", "txId", False)
    assert [(p.field, p.kind, p.role) for p in source.parties] == [
        ("customer_id", "account", "customer"),
        ("shop", "merchant", "merchant"),
        ("client_ip", "ip", "ip"),
    ]
    assert {rule.name: rule.limit for rule in source.rules} == {
        "account_per_day": 10,
        "merchant_per_day": 20,
        "ip_per_day": 10,
        "customer_amount_per_day": {"EUR": "500"},
    }
    assert {rule.acts for rule in source.rules} == {"review"}
    assert draft.left_out == {
        "basket": "it holds true or false, lists or objects",
        "verdict": "the warehouse has a column of that name",
    }


def test_every_guess_is_marked_in_the_file(root: Path) -> None:
    assert main(["new-source", "cards", "--from", sample(root, [record(n) for n in range(60)])]) == 0
    text = (root / "topologies" / "cards.py").read_text()
    declared = re.findall(r"^        (?:Field|Party|Rule)\(", text, re.MULTILINE)
    assert text.count("# a guess: ") == len(declared) + 2
    assert "# a guess: choice; in 60 of 60 records, 2 different; any other value is dead-lettered" in text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a b", "c"], "text"),
        (["u1", "u1"], "text"),
        ([1, 2], "integer"),
        ([1, 2.5], "amount"),
        ([-1, 2], "integer"),
        ([-1.5, 2], None),
        ([True, False], None),
        (["x", 1], None),
        ([{"a": 1}], None),
        (["2025-01-01T00:00:00Z"], "time"),
        (["10.0.0.1", "::1"], "id"),
        ([2**70], None),
    ],
)
def test_a_column_is_of_the_type_that_all_its_values_have(root: Path, values: list[Any], expected: Any) -> None:
    rows = [{"event_time": "2025-01-01T00:00:00Z", "x": value} for value in values]
    draft = guess("s", "s", read_sample(sample(root, rows)))
    found = {f.name: f.type for f in draft.source.fields}.get("x")
    assert found == expected


def test_a_time_without_a_zone_is_read_as_utc(root: Path) -> None:
    draft = guess("s", "s", read_sample(sample(root, [{"at": "2025-01-01 10:00:00"}])))
    assert [(f.name, f.zoneless_utc) for f in draft.source.fields] == [("at", True)]


def test_envelopes_are_taken_apart_and_their_applications_proposed(root: Path) -> None:
    found = read_sample(sample(root, [{"ApplicationRef": "till", "data": record(n)} for n in range(3)] + ["{"]))
    assert (found.applications, found.broken, len(found.records)) == (["till"], 1, 3)


def test_columns_of_a_csv_get_names_that_fields_can_have(root: Path, capsys: Captured) -> None:
    rows = ["Trans Date,cc num,Amt,n", *(f"2019-06-21 12:14:{n:02},{n % 5},{n}.5,{n}" for n in range(20))]
    assert main(["new-source", "fraud", "--from", sample(root, rows, "x.csv")]) == 0
    assert "--map trans_date='Trans Date' --map cc_num='cc num'" in capsys.readouterr().out
    source = Project.load(root).sources()["fraud"]
    types = {f.name: f.type for f in source.fields}
    assert types == {"trans_date": "time", "cc_num": "id", "Amt": "amount", "n": "integer"}


def test_a_sample_without_a_time_is_refused(root: Path, capsys: Captured) -> None:
    said = refused(capsys, "s", "--from", sample(root, [{"a": 1}]))
    assert "no field is a time (RFC 3339, such as 2026-01-01T10:00:00Z) in every record" in said
    assert written(root) == ["config.json", "sample.ndjson"]


def test_what_is_given_replaces_its_guess(root: Path) -> None:
    file = sample(root, [record(n) for n in range(60)])
    options = [
        "--party",
        "shop:merchant:seller",
        "--field",
        "channel:text",
        "--rule",
        "many: merchant count 1h >5 deny",
    ]
    assert main(["new-source", "cards", "--from", file, *options, "--enforces", "--doc", "Cards."]) == 0
    source = Project.load(root).sources()["cards"]
    assert [(p.field, p.role) for p in source.parties] == [("shop", "seller")]
    assert [(r.name, r.interval, r.acts) for r in source.rules] == [("many", "1h", "deny")]
    assert source.field("channel").type == "text"
    assert (source.enforces, source.doc) == (True, "Cards.")
    assert "# a guess: by its name" not in (root / "topologies" / "cards.py").read_text()


def test_records_that_are_not_valid_are_told_and_kept_out_of_the_test(root: Path, capsys: Captured) -> None:
    rows = [record(n) for n in range(5)] + [record(9, when="1999-01-01T00:00:00Z")]
    assert main(["new-source", "cards", "--from", sample(root, rows)]) == 0
    assert "of 6 records 1 are not valid: 1 × when: too_early" in capsys.readouterr().err
    assert len((root / "tests" / "sources" / "cards.ndjson").read_text().splitlines()) == 5


# Options and the dialogue.


def test_a_source_is_made_of_options(root: Path) -> None:
    options = [
        "--field",
        "rider:id:required",
        "--field",
        "kind:choice=a,b",
        "--field",
        "at:time:utc",
        "--field",
        "id:id",
    ]
    rule = "growth: account/rider count 7d x2.5 from 20 review"
    parts = ["--party", "rider:account", "--rule", rule, "--own-id", "id", "--application", "app", "--topic", "t.rips"]
    assert main(["new-source", "trips", *options, *parts]) == 0
    source = Project.load(root).sources()["trips"]
    assert (source.event_time, source.own_id, source.topic, source.applications) == ("at", "id", "t.rips", ("app",))
    assert source.field("kind").values == ("a", "b")
    assert source.field("at").required
    assert (source.rules[0].factor, source.rules[0].baseline) == ("2.5", 20)
    assert Project.load(root).env().applications == {"app": "trips"}


def test_a_dialogue_asks_again_for_what_cannot_be(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    answers = [
        "A ride",
        "",
        "at",
        "rider:idd",
        "rider:id:required",
        "",
        "ridder:account",
        "rider:account",
        "",
        "many: account count 1d",
        "many: account count 1d >30",
        "",
        "app",
        "y",
    ]
    stdin = io.StringIO("\n".join(answers) + "\n")
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["new-source", "trips"]) == 0
    err = capsys.readouterr().err
    assert "field 'rider:idd'" in err
    assert "no field ridder" in err
    assert "a rule is NAME: KIND" in err
    source = Project.load(root).sources()["trips"]
    assert (source.doc, source.enforces, source.applications) == ("A ride.", True, ("app",))
    assert [f.name for f in source.fields] == ["at", "rider"]
    assert [r.name for r in source.rules] == ["many"]


def test_without_a_terminal_there_is_no_dialogue(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("x\n"))
    assert "a dialogue needs a terminal" in refused(capsys, "trips")


@pytest.mark.parametrize("text", ["a", "a:b", "1a:id", "a-b:id", "a:choice", "a:id=x", "a:id:maybe", "a:id:utc", ":id"])
def test_a_field_that_cannot_be_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(text))):
        parse_field(text)


@pytest.mark.parametrize("text", ["a", "a:", ":a", "a:b:c:d"])
def test_a_party_that_cannot_be_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="such as from_party:account:sender"):
        parse_party(text)


@pytest.mark.parametrize(
    "text", ["", "a: b", "a: b count 1d", "a: b count 1d >", "a: b sum(x) 1d >EUR", "a: b count 1d >x"]
)
def test_a_rule_that_cannot_be_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="rule"):
        parse_rule(text)


# Names.


@pytest.mark.parametrize(
    "name",
    [
        "Trips",
        "my-trips",
        "1trips",
        "trips_",
        "a__b",
        "class",
        "match",
        "json",
        "polars",
        "bolts",
        "topology",
        "x" * 41,
    ],
)
def test_a_name_that_cannot_be_is_refused(root: Path, capsys: Captured, name: str) -> None:
    assert "cannot be a source" in refused(capsys, name, "--field", "a:id")
    assert written(root) == ["config.json"]


@pytest.mark.parametrize(
    ("name", "topic", "text"),
    [
        ("purchase", "x", "source purchase is there already"),
        ("customer_service", "x", "source customer-service is there already"),
        ("trips", "refund", "topic 'refund' is one of source refund's"),
        ("trips", "browser-verdicts", "topic 'browser-verdicts' is one of source browser's"),
        ("trips", "a/b", "Kafka takes letters"),
    ],
)
def test_a_name_or_topic_that_is_taken_is_refused(name: str, topic: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        check_name(name, topic, Project.load(ROOT))


def test_an_application_that_is_taken_is_refused(root: Path, capsys: Captured) -> None:
    assert main(["new-source", "a_source", "--field", "x:id"]) == 0
    capsys.readouterr()
    said = refused(capsys, "b_source", "--field", "x:id", "--application", "a_source")
    assert said == "--application a_source: it sends to source a_source: choose another"


def test_a_declaration_that_cannot_be_is_refused_and_nothing_written(root: Path, capsys: Captured) -> None:
    said = refused(capsys, "trips", "--field", "x:id", "--party", "y:account")
    assert said.startswith("source trips: no field y")
    assert "takes a warehouse column's name" in refused(capsys, "trips", "--field", "verdict:id")
    assert written(root) == ["config.json"]


# Files.


def test_a_dry_run_shows_the_files_and_writes_none(root: Path, capsys: Captured) -> None:
    assert main(["new-source", "trips", "--field", "x:id", "--dry-run"]) == 0
    out = capsys.readouterr().out
    for file in ("virtualenvs/trips.txt", "tests/sources/trips.ndjson", "topologies/trips.py"):
        assert f"# {file}" in out
    assert written(root) == ["config.json"]


@pytest.mark.parametrize(
    "file", ["virtualenvs/trips.txt", "tests/sources/trips.ndjson", "tests/sources/test_source_trips.py"]
)
def test_no_file_is_overwritten_and_then_none_is_written(root: Path, capsys: Captured, file: str) -> None:
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text("mine")
    assert refused(capsys, "trips", "--field", "x:id").startswith(f"{file} is there already: nothing was written")
    assert written(root) == ["config.json", file]
    assert (root / file).read_text() == "mine"


def test_a_failure_in_the_middle_leaves_nothing(root: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = write.os.link, []

    def link(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise OSError(28, "No space left on device", str(target))
        real(source, target)

    monkeypatch.setattr(write.os, "link", link)
    assert "No space left on device: nothing was written" in refused(capsys, "trips", "--field", "x:id")
    assert [path.name for path in root.iterdir()] == ["config.json"]


def test_the_files_are_as_the_formatter_has_them(root: Path) -> None:
    rows = [record(n) for n in range(60)]
    assert main(["new-source", "cards", "--from", sample(root, rows)]) == 0
    assert (
        main(["new-source", "trips", "--field", "x:id", "--party", "x:account", "--rule", "m: account count 1d >9"])
        == 0
    )
    ruff = Path(sys.executable).parent / "ruff"
    config = ["--config", str(ROOT / "pyproject.toml"), "--config", 'src = ["src"]']
    source = ["--config", 'lint.isort.known-first-party = ["paystorm", "bolts", "spouts"]']
    for command in (["format", "--check", *config[:2]], ["check", *config[:2], *source]):
        args = [ruff, *command, "topologies", "tests"]
        done = subprocess.run(args, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_chain_is_that_of_the_shipped_topologies(root: Path) -> None:
    assert main(["new-source", "trips", "--field", "x:id"]) == 0
    chain = re.compile(r"    spout = KafkaSpout.*", re.DOTALL)
    mine = chain.findall((root / "topologies" / "trips.py").read_text())
    assert mine == chain.findall((ROOT / "topologies" / "purchase.py").read_text())


def test_requirements_are_those_of_the_projects_other_topologies(root: Path) -> None:
    assert main(["new-source", "trips", "--field", "x:id"]) == 0
    text = (root / "virtualenvs" / "trips.txt").read_text()
    assert {line.split("=")[0].split("<")[0] for line in text.splitlines()[1:]} == {
        "msgspec",
        "numpy",
        "polars",
        "setuptools",
        "streamparse",
    }
    (root / "virtualenvs" / "trips.txt").write_text("mine==1\n")
    assert main(["new-source", "more", "--field", "x:id"]) == 0
    assert (root / "virtualenvs" / "more.txt").read_text() == "mine==1\n"
