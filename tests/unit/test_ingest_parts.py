"""The small parts of the ingest service, and its page in docs/."""

import re
from pathlib import Path

import msgspec
import pytest

from paystorm.clock import SECOND, ManualClock
from paystorm.errors import ConfigError, LogError, UsageError
from paystorm.ingest.access_log import AccessLog
from paystorm.ingest.catching_up import first_since
from paystorm.ingest.events_api import BATCH_TYPES, EVENT_TYPES
from paystorm.ingest.keys import ROLES, KeyRing, all_keys, bearer, make_key, revoke_key
from paystorm.ingest.limits import Rates
from paystorm.ingest.metrics import GAUGES, PREFIX, Metrics
from paystorm.ingest.openapi import document
from paystorm.ingest.problems import KINDS, Problem
from paystorm.ingest.settings import IngestSettings, ingest_settings
from paystorm.ingest.splitting import Items
from paystorm.ingest.verdict_index import SPAN, Seen, VerdictIndex
from paystorm.ingest.verdicts import Verdicts, format_cursor, parse_cursor
from paystorm.log.base import OutRecord
from paystorm.log.embedded import EmbeddedLog
from paystorm.project import Env, Project
from paystorm.tables.memory import MemoryTables
from paystorm.verdicts import VerdictLog, verdict_record

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "ingest.md").read_text()


def test_every_setting_is_documented_with_its_default() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", PAGE.split("## Settings")[1].split("\n## ")[0], re.MULTILINE))
    fields = msgspec.structs.fields(IngestSettings)
    assert table == {f.encode_name: "none" if f.default is None else str(f.default) for f in fields}


def test_every_problem_is_documented_under_its_status() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| (`.*) \|$", PAGE.split("## Errors")[1].split("## API keys")[0], re.MULTILINE)
    documented = {code: statuses.split(", ") for statuses, text in rows for code in re.findall(r"`([a-z_]+)`", text)}
    assert set(documented) == set(KINDS)
    assert all(str(KINDS[code].status) in statuses for code, statuses in documented.items())


def _rows(text: str) -> list[list[str]]:
    """The cells of the first table of a text, but for its two first lines."""
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[0].splitlines()[2:]]


def test_every_metric_is_documented_with_its_labels_and_meaning() -> None:
    declared = []
    for collector in Metrics().registry._collector_to_names:
        (family,) = collector.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)  # type: ignore[attr-defined]
        declared.append([f"`{name}`", family.type, labels, family.documentation])
    declared += [[f"`{PREFIX}{name}`", "gauge", "", text] for name, text in GAUGES.items()]
    assert _rows(PAGE.split("## Metrics")[1]) == declared


def test_every_role_and_every_verdict_is_documented() -> None:
    roles = [cells[0] for cells in _rows(PAGE.split("## API keys")[1])]
    assert re.findall(r"`(\w+)`", " ".join(roles)) == list(ROLES)
    verdicts = {cells[0].strip("`") for cells in _rows(PAGE.split("## Verdicts")[1])}
    described = document(["shop"], keys=True, max_wait=1)["components"]["schemas"]["Verdict"]["properties"]["verdict"]
    assert verdicts == set(described["enum"])


def test_every_media_type_that_is_taken_is_documented() -> None:
    rows = PAGE.split("## Sending")[1].split("### The same id")[0]
    assert set(re.findall(r"`(application/[\w+.-]+)`", rows)) == {*EVENT_TYPES, *BATCH_TYPES}


def test_a_bucket_refuses_until_its_debt_is_paid_off() -> None:
    rates = Rates(10, 20)
    rates.check("a", 0.0)
    rates.spend("a", 50, 0.0)
    with pytest.raises(Problem) as refused:
        rates.check("a", 0.0)
    assert (refused.value.status, refused.value.retry_after) == (429, 4)
    rates.check("b", 0.0)
    with pytest.raises(Problem):
        rates.check("a", 3.0)
    rates.check("a", 3.2)
    Rates(None, 1).check("a", 0.0)


def test_a_key_works_until_it_is_revoked_or_has_expired() -> None:
    tables, ring = MemoryTables(), KeyRing()
    kept, text = make_key(tables, name="x", role="ingest", applications=("shop",), now=5, by="me", expires_at=100)
    assert text.encode() not in b"".join(value for _, value in tables.scan("api_keys"))
    ring.load(list(all_keys(tables)))
    caller = ring.caller(text, 50)
    assert caller.applications == {"shop"}
    for wrong in (
        lambda: ring.caller(text, 100),
        lambda: ring.caller(text + "x", 50),
        lambda: caller.require("analyst"),
    ):
        with pytest.raises(Problem):
            wrong()
    revoke_key(tables, kept.id, now=60, by="you")
    ring.load(list(all_keys(tables)))
    with pytest.raises(Problem):
        ring.caller(text, 50)


@pytest.mark.parametrize("header", [None, "", "Basic abc", "Bearer", "Bearer  "])
def test_another_authorization_header_is_refused(header: str | None) -> None:
    with pytest.raises(Problem) as refused:
        bearer(header)
    assert refused.value.status == 401


def test_a_cursor_is_read_as_it_was_written() -> None:
    places = {3: 17, 0: 0, 11: 2**40}
    assert parse_cursor(format_cursor(places)) == places
    for wrong in ("", "x", "1", "1:2:3", "-1:2", "1:-2", "1:2,"):
        with pytest.raises(Problem):
            parse_cursor(wrong)


def test_reading_begins_with_the_first_record_of_the_hours_wanted(tmp_path: Path) -> None:
    clock = ManualClock()
    log = EmbeddedLog(tmp_path, clock)
    log.create_topic("t", 1)
    times = []
    for _ in range(50):
        log.append("t", [OutRecord(b"x"), OutRecord(b"y")])
        times += [clock.now() // 1000] * 2
        clock.advance(60)
    for since in (0, times[0], times[31] - 1, times[31], times[31] + 1, times[-1], times[-1] + 1):
        expected = next((i for i, at in enumerate(times) if at >= since), 100)
        assert first_since(log, "t", 0, 0, 100, since) == expected


def test_verdicts_are_found_by_offset_over_many_files_and_after_a_crash(tmp_path: Path) -> None:
    clock = ManualClock()
    log = EmbeddedLog(tmp_path / "log", clock)
    log.create_topic("t", 2)
    offsets = [0, 5, SPAN - 1, SPAN, 3 * SPAN + 7]

    def publish(offset: int, verdict: str) -> bytes:
        record = verdict_record(
            application="shop", event_id="i", topic="t", partition=1, offset=offset, verdict=verdict,  # type: ignore[arg-type]
        )  # fmt: skip
        VerdictLog(log, "s", "t").append([record])
        return record.value

    index = VerdictIndex(log, clock, tmp_path / "index", "s", "t", 24)
    assert index.tail() == 0
    values = {offset: publish(offset, "denied") for offset in offsets}
    log.append("s-verdicts", [OutRecord(b"not a verdict", partition=1)])
    index.tail()
    again = VerdictIndex(log, clock, tmp_path / "index", "s", "t", 24)  # nothing was closed
    again.tail()
    for found in (index, again):
        assert {o: (found.find(1, o) or Seen(None, False)).raw for o in offsets} == values
        assert found.find(0, 5) is None
        assert found.find(1, 6) is None
    publish(5, "accepted")
    again.tail()
    assert again.find(1, 5) == Seen(values[5], accepted=False)
    again.close()
    clock.advance(48 * 3600 * SECOND / SECOND)
    closed = VerdictIndex(log, clock, tmp_path / "index", "s", "t", 24)
    assert closed.tail() == 0
    assert closed.find(1, SPAN) == Seen(values[SPAN], accepted=False)


def test_a_verdict_that_cannot_be_read_any_more_is_never_taken_for_accepted(tmp_path: Path) -> None:
    """Its topic has fewer partitions than the source's, and lets go of its head."""
    clock = ManualClock()
    log = EmbeddedLog(tmp_path / "log", clock, segment_bytes=1)
    log.create_topic("t", 3)
    verdicts = VerdictLog(log, "s", "t")
    index = VerdictIndex(log, clock, tmp_path / "index", "s", "t", 24)

    def publish(partition: int, offset: int, verdict: str) -> bytes:
        record = verdict_record(
            application="shop", event_id="i", topic="t", partition=partition, offset=offset, verdict=verdict,  # type: ignore[arg-type]
        )  # fmt: skip
        verdicts.append([record])
        return record.value

    denied, accepted = publish(2, 7, "denied"), publish(2, 8, "accepted")
    behind = publish(5, 7, "denied")  # the source's topic has grown
    index.tail(surely=True)
    assert index.find(2, 7) == Seen(denied, accepted=False)
    assert index.find(2, 8) == Seen(accepted, accepted=True)
    assert index.find(5, 7) == Seen(behind, accepted=False)
    assert log.drop_before("s-verdicts", 2, 2) == 2
    assert index.find(2, 7) == Seen(None, accepted=False)
    assert index.find(2, 8) == Seen(None, accepted=True)
    assert Verdicts._verdict(index, 2, 7) == {"verdict": "unknown"}
    assert Verdicts._verdict(index, 2, 8) == {"verdict": "accepted", "reason": None, "entry": None}
    assert (Verdicts._verdict(index, 5, 7) or {})["verdict"] == "denied"
    assert Verdicts._verdict(index, 2, 9) is None
    log.delete_topic("s-verdicts")
    with pytest.raises(LogError):
        index.find(2, 7)


def test_blanks_behind_an_item_of_a_list_are_not_kept() -> None:
    items = Items(1 << 20)
    assert items.feed(b'[{"a": 1}') == []
    for _ in range(100):
        assert items.feed(b" " * 65_536) == []
        assert len(items._text) < 100
    assert items.feed(b", 2]") == [b'{"a": 1}', b"2"]


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"maxIdz": 1}, "config.json: ingest.maxIdz: no such setting; there are bodySeconds, "),
        ({"maxIds": 0}, "config.json: ingest.maxIds must be a whole number >= 1, got 0"),
        ({"maxIds": "x"}, "config.json: ingest.maxIds must be a whole number, got 'x'"),
        ({"waitSeconds": -1}, "config.json: ingest.waitSeconds must be a number >= 0.0, got -1"),
        ({"eventsPerSecond": "x"}, "config.json: ingest.eventsPerSecond must be a number or null, got 'x'"),
        ([], "config.json: ingest must be an object"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(section: object, told: str) -> None:
    project = Project(Path("."), {"ingest": section})
    env = Env("local", None, None, {}, {}, {})
    with pytest.raises(ConfigError, match=re.escape(told)):
        ingest_settings(project, env)


def test_an_environments_setting_stands_over_the_files() -> None:
    project = Project(Path("."), {"ingest": {"maxIds": 7, "idHours": 3}})
    found = ingest_settings(project, Env("local", None, None, {}, {}, {"ingest": {"maxIds": 8}}))
    assert (found.max_ids, found.id_hours) == (8, 3)


def test_a_key_whose_end_has_passed_is_not_made() -> None:
    with pytest.raises(UsageError, match="must lie ahead"):
        make_key(MemoryTables(), name="x", role="ingest", applications=None, now=5, by="me", expires_at=5)


def test_an_access_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"access log .*: File exists: name another with --access-log"):
        AccessLog(tmp_path / "file" / "x.log")
    with pytest.raises(UsageError, match="Is a directory"):
        AccessLog(tmp_path)
