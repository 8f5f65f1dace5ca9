"""`paystorm prune`: what is over its retention goes and nothing else; what is left is right, whoever dies when."""

# mypy: disable-error-code="misc"

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from test_verify import PARTITIONS, SOURCE, Running, payment, payments

from bolts.window_count import WindowCountBolt
from paystorm.clock import SECOND, ManualClock
from paystorm.desk import Who
from paystorm.desk.base import Desk
from paystorm.desk.letters import LetterName, Selection, show
from paystorm.desk.replays import Mend, replay
from paystorm.errors import ConfigError, LogError
from paystorm.ingest.verdict_index import VerdictIndex
from paystorm.log.base import OutRecord
from paystorm.log.embedded import EmbeddedLog
from paystorm.log.renumbered import RenumberedLog
from paystorm.resources import Resources
from paystorm.retention.prune import prune_source
from paystorm.retention.report import Went
from paystorm.settings import check_options, retention_of
from paystorm.stores import lists
from paystorm.stores.former import load_former
from paystorm.stores.hits import load_hits
from paystorm.stores.hours import Hours
from paystorm.stores.index import IndexRow
from paystorm.stores.journal import scan_cells
from paystorm.stores.letters import LetterAct, all_letters, put_acts
from paystorm.stores.lists import load_party_facts
from paystorm.stores.pruned import PrunedEvents, counts_floor, note_events, pruned_events, raise_floor
from paystorm.stores.retry import Parked, put_parked
from paystorm.tables.sqlite import SqliteTables
from paystorm.testing.log import MemoryLog
from paystorm.verdicts import VerdictLog, verdict_record, verdict_topic
from paystorm.verify.source import Report, verify_source
from paystorm.warehouse.local import LocalWarehouse
from paystorm.warehouse.merging import Merger, MergeSettings
from paystorm.windows.effects import load_caught_late

DAY = 86_400
START = 1_767_225_600
"""2026-01-01, s."""
COUNTS = 7 * DAY
OPTIONS = {"retention.pay.events": 5 * DAY, "retention.pay.verdicts": 5 * DAY, "retention.pay.letters": 5 * DAY}
SEGMENT = 4_000
"""Bytes of a segment of the log: several of each partition."""


def opened(folder: Path, clock: ManualClock) -> Resources:
    tables = SqliteTables(folder / "tables")
    log = RenumberedLog(EmbeddedLog(folder / "log", clock, segment_bytes=SEGMENT), partial(load_former, tables))
    warehouse = LocalWarehouse(folder / "warehouse", Hours(tables))
    return Resources(clock=clock, log=log, tables=tables, warehouse=warehouse)


def on(day: int, count: int, seed: int, **changed: Any) -> list[OutRecord]:
    """Payments of the days before a day of 2026, by event time."""
    rng = random.Random(seed)
    out = []
    for number in range(count):
        at = f"2026-01-{day - rng.randrange(3):02}T{rng.randrange(20):02}:{rng.randrange(60):02}:00Z"
        data = payment(rng, **{"event_time": at, **changed})
        out.append(OutRecord(json.dumps({"ApplicationRef": "shop", "data": data}).encode(), None, number % PARTITIONS))
    return out


def build(folder: Path) -> None:
    """Some days of payments, with acts of people and letters that were settled long ago. It ends on day 12."""
    clock = ManualClock()
    resources = opened(folder, clock)
    tables = resources.tables
    resources.log.create_topic("pay", PARTITIONS)
    running = Running(resources, countsRetention=COUNTS)
    resources.log.append("pay", payments(150, 1))
    running.settle()
    first = next(h for h in load_hits(tables, "pay") if h.action == "deny" and h.status == "standing")
    lists.lift(tables, now=clock.now(), by="eve", kind=first.kind, party=first.party, hits=[first.name()], reason="ok")
    lists.add_entry(tables, now=clock.now(), by="eve", kind="merchant", party="m7", reason="known")
    clock.advance(3600)
    resources.log.append("pay", payments(60, 2))
    running.settle()
    settle_letters(resources)
    clock.advance(10 * DAY)
    resources.log.append("pay", on(10, 90, 3))
    running.settle()
    clock.advance(DAY)
    resources.log.append("pay", on(11, 60, 4))
    running.stop()
    resources.close()


def settle_letters(resources: Resources) -> None:
    for letter in all_letters(resources.tables, "pay"):
        act = LetterAct(
            partition=letter.partition, offset=letter.offset, n=0, act="discard", at=resources.clock.now(), by="eve",
            reason="broken",
        )  # fmt: skip
        put_acts(resources.tables, "pay", [act])


def now() -> ManualClock:
    clock = ManualClock()
    clock.advance(11 * DAY + 3700)
    return clock


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prune") / "data"
    build(folder)
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def resources(folder: Path) -> Iterator[Resources]:
    found = opened(folder, now())
    yield found
    found.close()


def prune(resources: Resources, options: dict[str, Any] = OPTIONS, **how: Any) -> dict[str, Went]:
    return {went.table: went for went in prune_source(resources, SOURCE, options, **how)}


def verify(resources: Resources) -> Report:
    return verify_source(resources, SOURCE, hold=False, timeout=1)


def wholly(resources: Resources) -> dict[str, Went]:
    """Prune, and again once the files out of sight may go."""
    went = prune(resources)
    clock = resources.clock
    assert isinstance(clock, ManualClock)
    clock.advance(3700)
    prune(resources)
    return went


def in_sight(resources: Resources) -> int:
    return int(resources.warehouse.query("SELECT count(*) FROM pay")[1][0][0])


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in (folder / "warehouse").rglob("*.parquet")}


def starts(resources: Resources) -> set[tuple[str, int]]:
    return {(label, start) for _, label, start, _ in scan_cells(resources.tables, "pay")}


def drop_log(resources: Resources) -> int:
    """Let the log forget what was processed, as far as its segments go."""
    dropped = 0
    assert isinstance(resources.log, RenumberedLog)
    for p in range(PARTITIONS):
        dropped += resources.log.drop_before("pay", p, resources.log.end_offset("pay", p))
    return dropped


# What goes.


def test_without_a_retention_nothing_goes(built: Path, folder: Path) -> None:
    resources = opened(folder, now())
    before = files(folder), in_sight(resources)
    assert set(prune(resources, {})) == {"counts"}  # which its version says
    assert (files(folder), in_sight(resources)) == before
    resources.close()


def test_whole_hours_of_events_go_once_all_of_them_are_over_their_retention(resources: Resources, folder: Path) -> None:
    stored = in_sight(resources)
    old = "SELECT max(epoch_us(event_time)) FROM pay WHERE dt = '2026-01-01'"
    newest = resources.warehouse.query(old)[1][0][0]
    assert len(resources.warehouse.folders("pay")) == 4
    went = prune(resources)["events"]
    assert (went.went, went.since, went.notes) == (2, (START + 10 * DAY + 3600) * SECOND, [])
    assert 0 < in_sight(resources) < stored
    assert pruned_events(resources.tables, "pay") == PrunedEvents(until="2026-01-01T02", newest=newest)
    kept = files(folder)
    assert {"01", "00"} <= {name.split("hr=")[1][:2] for name in kept}  # for those who read them
    assert isinstance(resources.clock, ManualClock)
    resources.clock.advance(3700)
    assert prune(resources)["events"].went == 0
    assert {name.split("dt=")[1][:10] for name in files(folder)} == {"2026-01-11", "2026-01-12"}
    assert prune(resources)["events"].went == 0


def test_a_dry_run_says_what_would_go_and_changes_nothing(resources: Resources, folder: Path) -> None:
    def state() -> Any:
        names = ("hours", "letters", "letters.acts", "cells", "pruned", "hits")
        rows = [list(resources.tables.scan(f"pay.{name}")) for name in names]
        return files(folder), rows, [resources.log.start_offset(verdict_topic("pay"), p) for p in range(PARTITIONS)]

    before = state()
    would = prune(resources, dry=True)
    assert state() == before
    did = prune(resources)
    for name in ("events", "letters", "counts"):
        assert would[name].went == did[name].went > 0
    assert would["verdicts"].went >= did["verdicts"].went > 0  # whole segments go


def test_verify_finds_no_difference_in_what_is_left(resources: Resources) -> None:
    assert verify(resources).ok
    wholly(resources)
    report = verify(resources)
    assert report.ok, [str(d) for d in report.differences[:5]]
    assert any("stored before 2026-01-01T02 went" in note for note in report.notes)
    assert min(report.counts, report.hits, report.events) > 0


def test_verify_finds_no_difference_where_the_log_has_forgotten_too(resources: Resources) -> None:
    wholly(resources)
    assert drop_log(resources)
    report = verify(resources)
    assert report.ok, [str(d) for d in report.differences[:5]]
    assert any("in neither log nor warehouse" in note for note in report.notes)
    assert report.counts  # those of the last days are compared all the same


def test_verify_still_finds_what_is_wrong_in_what_is_left(resources: Resources) -> None:
    wholly(resources)
    drop_log(resources)
    file = max(p for folder in resources.warehouse.folders("pay") for p in folder.glob("*.parquet"))
    pl.read_parquet(file).slice(1).write_parquet(file)
    assert not verify(resources).ok


def test_a_retention_of_events_alone_leaves_counts_that_cannot_be_computed_any_more(resources: Resources) -> None:
    prune(resources, {"retention.pay.events": 5 * DAY})
    drop_log(resources)
    report = verify(resources)
    assert report.ok, [str(d) for d in report.differences[:5]]


def test_a_replay_that_went_still_counts_before_those_that_came_later(folder: Path) -> None:
    """Of an event and of a letter that replayed others nothing is left but the claim; later replays lost to it."""
    clock = now()
    resources = opened(folder, clock)
    one, two = [x.offset for x in all_letters(resources.tables, "pay") if x.partition == 0][:2]

    def replaying(offset: int, event_time: str, **changed: Any) -> OutRecord:
        data = payment(random.Random(3), event_time=event_time, **changed)
        envelope = {"ApplicationRef": "shop", "replay_of": {"topic": "pay", "partition": 0, "offset": offset}}
        return OutRecord(json.dumps({**envelope, "data": data}).encode(), None, 0)

    running = Running(resources, countsRetention=COUNTS)
    early = "2026-01-11T00:00:00Z"
    resources.log.append("pay", [replaying(one, early), replaying(two, early, amount="-1"), *on(11, 60, 6)])
    running.settle()
    second = resources.log.end_offset("pay", 0)
    settle_letters(resources)
    clock.advance(10 * DAY)
    late = "2026-01-21T00:00:00Z"
    resources.log.append("pay", [*on(21, 30, 7), replaying(one, late), replaying(two, late), *on(21, 30, 8)])
    running.stop()
    assert [x.code for x in all_letters(resources.tables, "pay")].count("duplicate_replay") == 2
    prune(resources)
    assert drop_log(resources)
    assert resources.log.start_offset("pay", 0) == second
    assert {x.code for x in all_letters(resources.tables, "pay") if x.pruned} > {"negative"}
    report = verify(resources)
    assert report.ok, [str(d) for d in report.differences[:5]]
    resources.close()


# Counts.


def test_counts_go_by_whole_intervals_but_for_the_one_that_growth_looks_at(resources: Resources) -> None:
    before = starts(resources)
    went = prune(resources)["counts"]
    floor = counts_floor(resources.tables, "pay")
    assert floor == START + 11 * DAY + 3700 - COUNTS - 3600
    gone = before - starts(resources)
    assert went.went > 0
    days = {start for label, start in gone}
    assert days == {START - n * DAY for n in range(1, 5)}  # no month: that of January is open
    assert all(start >= START for label, start in starts(resources) if "month" not in label)
    assert prune(resources)["counts"].went == 0


def late(resources: Resources, received: str | None, event_time: str = "2025-12-30T12:00:00Z") -> OutRecord:
    """An event of a day whose counts went."""
    envelope: dict[str, Any] = {"ApplicationRef": "shop", "id": "late"}
    if received is not None:
        envelope["received_at"] = received
    envelope["data"] = payment(random.Random(9), event_time=event_time, payer="a0", amount="1", currency="EUR")
    return OutRecord(json.dumps(envelope).encode(), None, 0)


def test_a_late_event_of_a_pruned_interval_is_dead_lettered_and_not_counted_anew(resources: Resources) -> None:
    prune(resources)
    kept, letters = starts(resources), len(list(all_letters(resources.tables, "pay")))
    running = Running(resources, countsRetention=COUNTS)
    resources.log.append("pay", [late(resources, None)])
    running.stop()
    found = list(all_letters(resources.tables, "pay"))
    assert len(found) == letters + 1
    assert [x.code for x in found if x.event_id == "late"] == ["too_old"]
    assert starts(resources) <= kept
    assert verify(resources).ok


@pytest.mark.parametrize("event_time", ["2025-12-30T12:00:00Z", "2026-01-03T12:00:00Z"])
def test_an_event_that_says_it_was_received_long_ago_is_stored_and_not_counted_anew(
    resources: Resources, event_time: str
) -> None:
    prune(resources)
    hits = list(load_hits(resources.tables, "pay"))
    running = Running(resources, countsRetention=COUNTS)
    resources.log.append("pay", [late(resources, "2026-01-03T13:00:00Z", event_time)] * 9)
    running.stop()
    found = resources.warehouse.query("SELECT count(*) FROM pay WHERE event_id = 'late'")[1][0][0]
    assert found == 9
    day = START - 2 * DAY if event_time < "2026" else START + 2 * DAY
    assert not any(start == day for _, start in starts(resources))
    assert list(load_hits(resources.tables, "pay")) == hits
    assert verify(resources).ok


def test_a_task_that_counts_while_counts_go_does_no_harm(resources: Resources) -> None:
    """It has read an old interval; then the interval goes; then it counts on, dies, and loads again."""
    running = Running(resources, countsRetention=COUNTS, snapshotRows=100)
    old = [late(resources, "2026-01-03T13:00:00Z")]
    resources.log.append("pay", old)
    running.settle()
    prune(resources)
    resources.log.append("pay", old)
    running.settle()
    components = [task.host.component for task in running.driver.engine.tasks.values() if task.host is not None]
    counting = [c._task for c in components if isinstance(c, WindowCountBolt)]
    assert counting
    for each in counting:
        each.forget()
    resources.log.append("pay", [*old, *on(11, 20, 8)])
    running.stop()
    report = verify(resources)
    assert report.ok, [str(d) for d in report.differences[:5]]


def test_counts_stay_while_a_record_is_parked_a_letter_open_or_the_source_behind(resources: Resources) -> None:
    def would() -> tuple[int, list[str]]:
        went = prune(resources, dry=True)["counts"]
        return went.went, went.notes

    assert would()[0] > 0
    parked = Parked(
        partition=0, offset=1, error="x", attempts=1, first_failed=START * SECOND, last_failed=START * SECOND, epoch=0,
        timestamp=START * 1000, value=b"{}",
    )  # fmt: skip
    put_parked(resources.tables, "pay", parked)
    assert would() == (0, ["counts that are older stay: records from before are parked"])
    resources.tables.delete("pay.retry", [row for row, _ in resources.tables.scan("pay.retry")])
    assert would()[0] > 0
    acts = [row for row, _ in resources.tables.scan("pay.letters.acts")]
    resources.tables.delete("pay.letters.acts", acts[:1])
    assert would() == (0, ["counts that are older stay: dead letters from before can still be replayed"])


def test_counts_stay_for_what_is_not_processed_yet(folder: Path) -> None:
    clock = now()
    resources = opened(folder, clock)
    resources.log.append("pay", on(11, 9, 5))
    clock.advance(3 * DAY)
    went = prune(resources)["counts"]
    assert went.notes == ["counts that are older stay: records from before are not processed yet"]
    assert counts_floor(resources.tables, "pay") == START + 11 * DAY + 3700 - COUNTS - 3600
    resources.close()


def test_the_floor_and_the_hour_never_move_back(resources: Resources) -> None:
    tables = resources.tables
    assert raise_floor(tables, "pay", 9) == 9
    assert raise_floor(tables, "pay", 7) == 9
    note_events(tables, "pay", "2026-01-02T00", 5)
    note_events(tables, "pay", "2026-01-01T00", 9)
    assert pruned_events(tables, "pay") == PrunedEvents(until="2026-01-02T00", newest=9)


# What stays.


def test_nothing_that_is_in_force_or_on_record_goes(resources: Resources) -> None:
    def kept() -> Any:
        facts = load_party_facts(resources.tables)
        entries = {party: f.entries(now().now(), frozenset()) for party, f in facts.items()}
        tables = ("acts", "history", "cases", "pay.index", "pay.indexed", "pay.offsets", "pay.shards", "pay.hits")
        tables += ("pay.journal", "pay.versions", "pay.retry", "pay.replays")
        return (
            entries,
            [list(resources.tables.scan(name)) for name in tables],
            set(load_caught_late(resources.tables, "pay")),
        )

    before = kept()
    wholly(resources)
    assert kept() == before


def test_an_hour_that_is_not_wholly_processed_stays_and_all_behind_it(resources: Resources) -> None:
    parked = Parked(
        partition=0, offset=0, error="x", attempts=1, first_failed=START * SECOND, last_failed=START * SECOND, epoch=0,
        timestamp=START * 1000, value=b"{}", state="held",
    )  # fmt: skip
    checkpoints = list(resources.tables.scan("pay.offsets"))
    resources.tables.delete("pay.offsets", [row for row, _ in checkpoints])
    resources.tables.delete("pay.indexed", [row for row, _ in resources.tables.scan("pay.indexed")])
    index = list(resources.tables.scan("pay.index"))
    resources.tables.delete("pay.index", [row for row, _ in index])
    rows = [(row, msgspec.msgpack.decode(value, type=IndexRow)) for row, value in index]
    unsure = [(row, msgspec.msgpack.encode(msgspec.structs.replace(r, published_through=-1))) for row, r in rows]
    resources.tables.put("pay.index", unsure)
    went = prune(resources)["events"]
    assert went.went == 0
    assert "is known to be processed" in went.notes[0]
    resources.tables.put("pay.offsets", checkpoints)
    put_parked(resources.tables, "pay", parked)
    assert prune(resources)["events"].went == 0
    resources.tables.delete("pay.retry", [row for row, _ in resources.tables.scan("pay.retry")])
    assert prune(resources)["events"].went == 2


def test_an_hour_that_is_not_known_to_be_published_goes_once_its_records_are_done(folder: Path) -> None:
    """The last row of a source that was stopped is never known to be published by the index alone."""
    clock = now()
    resources = opened(folder, clock)
    clock.advance(30 * DAY)
    assert prune(resources)["events"].went == 4
    assert resources.warehouse.folders("pay") == []
    clock.advance(3700)
    prune(resources)
    assert files(folder) == set()
    running = Running(resources, countsRetention=COUNTS)  # and loads without them
    resources.log.append("pay", on(11, 9, 5, event_time="2026-02-10T00:00:00Z"))
    running.stop()
    report = verify(resources)
    assert report.ok, [str(d) for d in report.differences[:5]]
    resources.close()


# Letters and verdicts.


def test_the_bytes_of_settled_letters_go_and_their_outcome_stays(resources: Resources) -> None:
    before = list(all_letters(resources.tables, "pay"))
    went = prune(resources)["letters"]
    after = list(all_letters(resources.tables, "pay"))
    emptied = [x for x in after if x.pruned]
    assert went.went == len(emptied) > 3
    assert all((x.value, x.detail) == (b"", "its bytes were removed after their retention") for x in emptied)
    same = ("partition", "offset", "timestamp", "dead_at", "field", "code", "event_id", "application")
    assert [[getattr(x, name) for name in same] for x in before] == [[getattr(x, n) for n in same] for x in after]
    assert prune(resources)["letters"].went == 0
    assert verify(resources).ok


def test_a_letter_that_nobody_has_settled_stays_and_is_told_of(resources: Resources) -> None:
    acts = [row for row, _ in resources.tables.scan("pay.letters.acts")]
    resources.tables.delete("pay.letters.acts", acts[:1])
    went = prune(resources)["letters"]
    assert went.went == len(acts) - 1
    assert went.notes == ["1 older letters stay: they are neither replayed nor discarded"]


def test_the_bytes_of_a_mend_go_with_the_letter(resources: Resources) -> None:
    letter = next(all_letters(resources.tables, "pay"))
    said = {"partition": letter.partition, "offset": letter.offset, "at": 0, "by": "eve", "reason": "x"}
    mend, sent = LetterAct(n=1, act="mend", value=b"secret", **said), LetterAct(n=2, act="sent", sent_as=1, **said)
    put_acts(resources.tables, "pay", [mend, sent])
    prune(resources)
    assert not any(b"secret" in value for _, value in resources.tables.scan("pay.letters.acts"))


def test_a_letter_whose_bytes_went_is_shown_and_not_replayed(resources: Resources) -> None:
    prune(resources)
    desk = Desk(resources, {"pay": SOURCE}, {}, frozenset())
    first = next(x for x in all_letters(resources.tables, "pay") if x.pruned)
    name = LetterName("pay", first.partition, first.offset)
    assert show(desk, name).found.letter == first
    for mend in (None, Mend({}, value=b"{}")):
        (refused,) = replay(desk, Selection(names=(name,)), Who("eve", "again"), mend=mend, force=True).refused
        assert "its bytes were removed after their retention" in refused.why


def test_verdicts_over_their_retention_go_by_segments_of_the_embedded_log(resources: Resources) -> None:
    topic = verdict_topic("pay")
    ends = [resources.log.end_offset(topic, p) for p in range(PARTITIONS)]
    went = prune(resources)["verdicts"]
    begin = [resources.log.start_offset(topic, p) for p in range(PARTITIONS)]
    assert went.went == sum(begin) > 0
    assert [resources.log.end_offset(topic, p) for p in range(PARTITIONS)] == ends
    cut = (resources.clock.now() - 5 * DAY * SECOND) // 1000
    for p, first in enumerate(begin):
        batch = resources.log.read(topic, p, first, max_records=10_000, max_bytes=10**8)
        assert batch is not None
        assert (batch.timestamps >= cut).any()
    assert all("stay until their segment of the log is full" in note for note in went.notes)
    assert verify(resources).ok


def test_the_index_of_verdicts_goes_on_where_what_it_had_not_read_is_gone(tmp_path: Path) -> None:
    clock = ManualClock()
    log = EmbeddedLog(tmp_path / "log", clock, segment_bytes=200)
    log.create_topic("pay", 1)

    def publish(offset: int) -> None:
        told = verdict_record(
            application="shop", event_id="i", topic="pay", partition=0, offset=offset, verdict="denied"
        )  # fmt: skip
        VerdictLog(log, "pay", "pay").append([told])

    publish(1)
    index = VerdictIndex(log, clock, tmp_path / "index", "pay", "pay", 24)
    assert index.tail() == 1
    index.close()
    for offset in range(2, 9):
        publish(offset)
    topic = verdict_topic("pay")
    start = log.drop_before(topic, 0, log.end_offset(topic, 0))
    assert start > 2
    again = VerdictIndex(log, clock, tmp_path / "index", "pay", "pay", 24)
    assert again.tail() == 8 - start
    assert again.find(0, 8) is not None
    assert again.find(0, 1) is None


def test_a_log_that_cannot_remove_records_says_so_in_one_line_when_all_else_is_done(resources: Resources) -> None:
    log = MemoryLog(resources.clock)
    for topic, partitions in (("pay", PARTITIONS), (verdict_topic("pay"), 1)):
        log.create_topic(topic, partitions)
    log.append(verdict_topic("pay"), [OutRecord(b"{}", None, 0)])
    clock = now()
    clock.advance(10 * DAY)
    other = replace(resources, log=RenumberedLog(log, lambda topic: ()), clock=clock)
    with pytest.raises(LogError, match=r"cannot remove records: set the topic's retention\.ms"):
        prune(other)
    assert resources.warehouse.folders("pay") == []


# Others at work, and death.


def test_pruning_while_records_are_being_written_loses_nothing_that_is_not_over(tmp_path: Path) -> None:
    clock = ManualClock()
    resources = opened(tmp_path / "data", clock)
    resources.log.create_topic("pay", PARTITIONS)
    running = Running(resources, countsRetention=COUNTS)
    gone = 0
    for day in range(12):
        records = on(max(day, 4), 30, day) if day > 3 else payments(30, day)
        resources.log.append("pay", records)
        for _ in range(40):
            running.driver.step()
            gone += prune(resources, grace=0)["events"].went
        running.settle()
        settle_letters(resources)
        clock.advance(DAY)
    running.stop()
    assert gone >= 5
    report = verify(resources)
    assert report.ok, [str(d) for d in report.differences[:5]]
    resources.close()


class DiedError(BaseException):
    """The process dies: nothing of ours may catch it."""


class Dying:
    """Dies before, or right after, one of the writes of what it stands for."""

    WRITES = frozenset(
        ("put", "put_if_absent", "replace", "delete", "delete_if", "remove_folder", "drop_before", "hide")
    )

    def __init__(self, of: Any, count: Callable[[], bool], after: bool) -> None:
        self._of, self._count, self._after = of, count, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        if name not in self.WRITES:
            return found

        def write(*args: Any, **kwargs: Any) -> Any:
            dies = self._count()
            if dies and not self._after:
                raise DiedError
            result = found(*args, **kwargs)
            if dies:
                raise DiedError
            return result

        return write


def dying(resources: Resources, at: int, *, after: bool) -> Resources:
    left = at

    def count() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    tables: Any = Dying(resources.tables, count, after)
    warehouse = LocalWarehouse(resources.warehouse.folder, Hours(tables))  # type: ignore[attr-defined]
    for name in ("remove_folder", "hide"):
        setattr(warehouse, name, getattr(Dying(getattr(warehouse, "__self__", warehouse), count, after), name))
    log: Any = Dying(resources.log, count, after)
    return Resources(clock=resources.clock, log=log, tables=tables, warehouse=warehouse)


@pytest.mark.parametrize("after", [False, True])
def test_killed_between_any_two_of_its_writes_the_next_run_goes_on(built: Path, tmp_path: Path, after: bool) -> None:
    def left(folder: Path, resources: Resources) -> Any:
        names = ("hours", "letters", "letters.acts", "cells", "pruned", "index", "hits")
        rows = {name: list(resources.tables.scan(f"pay.{name}")) for name in names}
        log = [resources.log.start_offset(verdict_topic("pay"), p) for p in range(PARTITIONS)]
        return files(folder), rows, log, in_sight(resources)

    def two_passes(resources: Resources, undone: Resources) -> None:
        prune(resources, grace=0)
        prune(undone, grace=0)

    shutil.copytree(built, tmp_path / "whole")
    resources = opened(tmp_path / "whole", now())
    two_passes(resources, resources)
    expected = left(tmp_path / "whole", resources)
    resources.close()
    deaths = 0
    for at in range(1_000):
        folder = tmp_path / f"{at}"
        shutil.copytree(built, folder)
        resources = opened(folder, now())
        try:
            two_passes(dying(resources, at, after=after), resources)
            died = False
        except DiedError:
            died = True
            two_passes(resources, resources)
        assert left(folder, resources) == expected
        if at % 7 == 0:
            report = verify(resources)
            assert report.ok, [str(d) for d in report.differences[:5]]
        resources.close()
        shutil.rmtree(folder)
        if not died:
            break
        deaths += 1
    assert deaths > 20


def test_a_merge_and_a_pruner_at_once_leave_one_outcome(resources: Resources, folder: Path) -> None:
    """The merge has written its files when the hour is pruned; it loses, and what it made goes too."""
    hours = Hours(resources.tables)
    warehouse = resources.warehouse
    assert isinstance(warehouse, LocalWarehouse)
    merger = Merger(resources.tables, warehouse, resources.clock, MergeSettings(files=1, grace=0))
    swap = merger._swap

    def late_swap(source: str, hour: str, number: int, files: Any) -> None:
        if not hours.get("pay", hour).pruned:
            prune(resources)
        swap(source, hour, number, files)

    merger._swap = late_swap  # type: ignore[method-assign]
    merger.run("pay")
    assert [h for h, held in hours.all("pay").items() if held.pruned] == ["2026-01-01T00", "2026-01-01T01"]
    assert isinstance(resources.clock, ManualClock)
    resources.clock.advance(3700)
    merger.run("pay")
    prune(resources)
    assert not any("dt=2026-01-01" in name for name in files(folder))
    report = verify(resources)
    assert report.ok, [str(d) for d in report.differences[:5]]


def test_a_merged_hour_goes_whole(resources: Resources, folder: Path) -> None:
    warehouse = resources.warehouse
    assert isinstance(warehouse, LocalWarehouse)
    Merger(resources.tables, warehouse, resources.clock, MergeSettings(files=1)).run("pay")
    assert any("merged-" in name for name in files(folder))
    wholly(resources)
    assert not any("dt=2026-01-01" in name for name in files(folder))
    report = verify(resources)
    assert report.ok, [str(d) for d in report.differences[:5]]


# Settings.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retention.pay.events": 3600}, "must be whole seconds from 86,400 to 10,000,000,000, got 3600"),
        ({"retention.pay.events": "5d"}, "must be whole seconds"),
        ({"retention.pay.events": True}, "must be whole seconds"),
        ({"retention.pay.hits": DAY}, "a retention is of events, verdicts, letters, not of 'hits'"),
        ({"retention.pay.counts": DAY}, "counts have the setting countsRetention"),
        ({"retention.pays.events": DAY}, "no source 'pays'; there are pay"),
        ({"retention.events": DAY}, "no source 'events'"),
    ],
)
def test_a_retention_that_cannot_be_meant_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        check_options(options, {"pay": SOURCE}, "options")


def test_a_retention_is_of_one_table_of_one_source() -> None:
    options = {"retention.pay.events": DAY, "retention.pay.letters": None, "retention.other.verdicts": DAY}
    check_options({k: v for k, v in options.items() if ".other." not in k}, {"pay": SOURCE}, "options")
    assert retention_of("pay", options) == {"events": DAY}
