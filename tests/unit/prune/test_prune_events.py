"""`paystorm prune`: events over their retention go and nothing else; what is left is right."""

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from payments_world import PARTITIONS, Running, payment
from prune_world import (
    COUNTS,
    DAY,
    START,
    drop_log,
    files,
    in_sight,
    now,
    on,
    opened,
    prune,
    settle_letters,
    verify,
    wholly,
)

from paystorm.clock import SECOND, ManualClock
from paystorm.log.base import OutRecord
from paystorm.resources import Resources
from paystorm.stores.index import IndexRow
from paystorm.stores.letters import all_letters
from paystorm.stores.lists import load_party_facts
from paystorm.stores.pruned import PrunedEvents, pruned_events
from paystorm.stores.retry import Parked, put_parked
from paystorm.verdicts import verdict_topic
from paystorm.windows.effects import load_caught_late


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
