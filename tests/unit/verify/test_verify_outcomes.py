"""`paystorm verify` names every difference in dead letters, verdicts, denials and what follows from them."""

import json
from pathlib import Path

import msgspec
import polars as pl
import pytest
from payments_world import Running
from verify_world import named, republish, rewrite, rows, verify

from paystorm.cli.main import main
from paystorm.clock import ManualClock
from paystorm.generate import purchases
from paystorm.log.base import OutRecord
from paystorm.project import Project
from paystorm.resources import Resources, open_embedded
from paystorm.settings import Settings
from paystorm.stores import lists
from paystorm.stores.checkpoints import load_checkpoint
from paystorm.stores.letters import all_letters, put_pruned
from paystorm.stores.retry import Parked, put_parked
from paystorm.tables.keys import key, parts
from paystorm.verdicts import verdict_record, verdict_topic
from paystorm.verify.stored import files_in_place


def test_a_removed_dead_letter_is_named(resources: Resources) -> None:
    letter = next(all_letters(resources.tables, "pay"))
    resources.tables.delete("pay.letters", [key(letter.partition, letter.offset)])
    report = verify(resources)
    assert f"{letter.field} {letter.code}" in named(report, "outcomes")[0]
    assert named(report, "balance")
    assert "dead_lettered" in named(report, "verdicts")[0]


@pytest.mark.parametrize("changed", [{"code": "missing"}, {"field": "payee"}, {"event_id": "another"}])
def test_a_changed_dead_letter_is_named(resources: Resources, changed: dict[str, str]) -> None:
    letter = next(x for x in all_letters(resources.tables, "pay") if x.field == "ApplicationRef")
    new = msgspec.structs.replace(letter, **changed)
    put_pruned(resources.tables, "pay", new)  # over whatever stands there
    if new != letter:
        assert len(named(verify(resources), "outcomes")) == 1


def test_a_verdict_that_contradicts_the_stored_outcome_is_named(resources: Resources) -> None:
    letter = next(all_letters(resources.tables, "pay"))
    where = {"topic": "pay", "partition": letter.partition, "offset": letter.offset}
    wrong = verdict_record(application="shop", event_id="x", verdict="accepted", **where)
    resources.log.append(verdict_topic("pay"), [wrong])
    found = named(verify(resources), "verdicts")
    assert len(found) == 1
    assert "expected nothing, held accepted" in found[0]


def test_a_repeat_that_differs_is_named(resources: Resources) -> None:
    letter = next(all_letters(resources.tables, "pay"))
    again = msgspec.structs.replace(letter, code="another").verdict("pay")
    same = letter.verdict("pay")
    resources.log.append(verdict_topic("pay"), [same, again])
    found = named(verify(resources), "verdicts")
    assert len(found) == 1
    assert "another" in found[0]


def test_what_is_no_verdict_is_named(resources: Resources) -> None:
    resources.log.append(verdict_topic("pay"), [OutRecord(b"{}", b"x", 0)])
    assert "pay-verdicts/0/" in named(verify(resources), "verdicts")[0]


@pytest.mark.parametrize("verdict", ["accepted", "denied", "dead_lettered", "caught_late"])
def test_a_missing_verdict_is_named(resources: Resources, verdict: str) -> None:
    lost: list[bytes] = []

    def keep(_: int, value: bytes) -> bool:
        wanted = json.loads(value)
        if wanted["verdict"] != verdict or (lost and value not in lost):
            return True
        lost.append(value)
        return False

    republish(resources, keep)
    report = verify(resources)
    assert report.differing == {"verdicts": 1}
    assert "held nothing" in named(report, "verdicts")[0]
    lenient = verify(resources, settings=Settings({"publishAccepted": False}))
    assert lenient.ok == (verdict == "accepted")


def test_a_denied_event_without_an_entry_is_named(resources: Resources) -> None:
    quiet = pl.col("payer") == "quiet"

    def deny(events: pl.DataFrame) -> pl.DataFrame:
        def of(name: str, value: str) -> pl.Expr:
            return pl.when(quiet).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)

        return events.with_columns(
            of("verdict", "denied"), of("entry_kind", "account"), of("entry_party", "quiet"), of("verdict_reason", "x")
        )

    rewrite(resources, deny, quiet)
    report = verify(resources)
    assert "none in force" in named(report, "denied")[0]
    assert named(report, "index")
    assert any("account:quiet" in line for line in named(report, "verdicts"))
    assert "quiet" in named(report, "cases")[0]


def test_a_denied_event_with_the_entry_of_another_party_is_named(resources: Resources) -> None:
    denied = pl.col("verdict") == "denied"
    rewrite(resources, lambda e: e.with_columns(pl.when(denied).then(pl.lit("a50")).alias("entry_party")), denied)
    assert "an entry for a party of the event" in named(verify(resources), "denied")[0]


def test_an_event_after_a_crossing_that_is_neither_denied_nor_caught_late_is_named(resources: Resources) -> None:
    resources.tables.delete("pay.caught_late", [row_key for row_key, _ in rows(resources, "caught_late")])
    report = verify(resources)
    assert named(report, "after_crossing")
    assert all("denied or caught late" in line for line in named(report, "after_crossing"))
    assert named(report, "verdicts")


def test_an_event_of_a_listed_party_that_was_let_through_is_named(resources: Resources) -> None:
    denied = (pl.col("verdict") == "denied") & (pl.col("verdict_reason") == "pay.per_day")

    def accept(events: pl.DataFrame) -> pl.DataFrame:
        nothing = [pl.when(denied).then(None).otherwise(pl.col(n)).alias(n) for n in ("verdict_reason", "entry_kind")]
        verdict = pl.when(denied).then(pl.lit("accepted")).otherwise(pl.col("verdict")).alias("verdict")
        return events.with_columns(verdict, *nothing)

    rewrite(resources, accept, denied)
    report = verify(resources)
    assert "expected denied or caught late, held 'accepted'" in named(report, "after_crossing")[0]
    assert named(report, "index")
    assert named(report, "verdicts")


def test_an_event_accepted_long_after_its_party_was_listed_is_named(resources: Resources) -> None:
    now = resources.clock.now() - 3600 * 1_000_000 - 10**12
    lists.add_entry(resources.tables, now=now, by="eve", kind="account", party="quiet", reason="known")
    found = named(verify(resources), "denied")
    assert len(found) == 1
    assert "'quiet'" in found[0]


def test_a_wrong_read_is_named(resources: Resources) -> None:
    held = load_checkpoint(resources.tables, "pay", "pay", 1)
    assert held is not None
    wrong = msgspec.structs.replace(held, read=held.read + 1)
    resources.tables.put("pay.offsets", [(key("pay", 1), wrong.encode())])
    report = verify(resources)
    assert report.differing == {"read": 1, "balance": 1}
    assert named(report, "read")[0].endswith(f"held {wrong.read}")


def test_a_parked_record_that_is_stored_is_named(resources: Resources) -> None:
    file = min(files_in_place(resources.warehouse, "pay"), key=lambda f: f.name)
    partition, offset = resources.warehouse.read(file).select("log_partition", "log_offset").row(0)
    row = Parked(partition=partition, offset=offset, error="x", attempts=1, first_failed=0, last_failed=0, epoch=0)
    put_parked(resources.tables, "pay", row)
    report = verify(resources)
    assert named(report, "parked")
    assert report.parked == 1
    assert "1 parked records have reached a sink" in report.notes[0]


def test_a_missing_case_and_a_missing_row_of_the_history_are_named(resources: Resources) -> None:
    resources.tables.delete("cases", [row_key for row_key, _ in resources.tables.scan("cases")])
    gone = [row_key for row_key, _ in resources.tables.scan("history") if parts(row_key)[0] == "merchant"]
    resources.tables.delete("history", gone)
    report = verify(resources)
    assert named(report, "cases")
    assert named(report, "history")


def test_only_so_many_differences_are_kept_and_all_are_counted(resources: Resources) -> None:
    resources.tables.delete("pay.hits", [row_key for row_key, _ in rows(resources, "hits")])
    report = verify(resources, keep=2)
    assert len(report.differences) == 2
    assert report.differing["hits"] > 2


# The command.


def test_the_command_prints_every_row_that_differs_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, clock = tmp_path / "data", ManualClock()
    source = Project.load().sources()["purchase"]
    resources = open_embedded(folder, clock)
    resources.log.create_topic(source.topic, 2)
    running = Running(resources, source)
    made = [value for block in purchases(120, seed=1, parties=20, malformed=0.2) for value in block]
    resources.log.append(source.topic, [OutRecord(value, None, i % 2) for i, value in enumerate(made)])
    running.stop()
    arguments = ["verify", "purchase", "--data", str(folder)]

    assert main(arguments) == 0
    assert "no difference" in capsys.readouterr().out

    letters = list(resources.tables.scan("purchase.letters"))
    resources.tables.delete("purchase.letters", [row for row, _ in letters])
    resources.close()
    assert main([*arguments, "--limit", "3"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("purchase: outcomes ")
    assert f"{len(letters):,} in outcomes" in lines[3]
    assert "more rows differ" in lines[3]

    assert main([*arguments, "--json"]) == 1
    (told,) = json.loads(capsys.readouterr().out)
    assert told["differing"]["outcomes"] == len(letters)
    assert not told["ok"]
    assert "outcomes" in {row["table"] for row in told["differences"]}

    assert main([*arguments[:1], "nothing", *arguments[2:]]) == 2
    assert "no source 'nothing'" in capsys.readouterr().err
