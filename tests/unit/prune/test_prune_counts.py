"""`paystorm prune`: counts over their retention go, and are never begun anew."""

from pathlib import Path

import pytest
from payments_world import Running
from prune_world import COUNTS, DAY, START, late, now, on, opened, prune, starts, verify

from bolts.window_count import WindowCountBolt
from paystorm.clock import SECOND
from paystorm.resources import Resources
from paystorm.stores.hits import load_hits
from paystorm.stores.letters import all_letters
from paystorm.stores.pruned import PrunedEvents, counts_floor, note_events, pruned_events, raise_floor
from paystorm.stores.retry import Parked, put_parked


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
