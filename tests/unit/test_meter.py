"""The meter of a task: what it sums up, when it tells of it, and that it is never in the way."""

from dataclasses import dataclass, field

import pytest

from paystorm.clock import ManualClock
from paystorm.errors import TablesError
from paystorm.meter import Meter, Place
from paystorm.stores.gauges import STALE, load_gauges
from paystorm.tables.memory import MemoryTables


@dataclass
class Here:
    tables: MemoryTables = field(default_factory=MemoryTables)
    clock: ManualClock = field(default_factory=ManualClock)

    def meter(self, *, own_process: bool = False, every: float = 10.0) -> Meter:
        return Meter(Place("pay", "lookup", 3, own_process=own_process), self.tables, self.clock, every)


def test_a_gauge_says_what_share_of_the_time_was_worked() -> None:
    here = Here()
    meter = here.meter()
    for _ in range(2):
        since = here.clock.monotonic()
        here.clock.advance(2.0)
        meter.saw(100)
        meter.worked(since)
    here.clock.advance(6.0)
    meter.tell_if_due()
    (gauge,) = load_gauges(here.tables, "pay", here.clock.now())
    assert (gauge.component, gauge.task, gauge.seconds) == ("lookup", 3, 10.0)
    assert gauge.busy == pytest.approx(0.4)
    assert (gauge.tuples, gauge.records, gauge.all_records) == (2, 200, 200)
    assert (gauge.cpu, gauge.memory) == (None, None)


def test_a_flush_at_a_tick_is_work_but_no_tuple() -> None:
    here = Here()
    meter = here.meter()
    since = here.clock.monotonic()
    here.clock.advance(5.0)
    meter.worked(since, tuples=0)
    here.clock.advance(5.0)
    meter.tell_if_due()
    (gauge,) = load_gauges(here.tables, "pay", here.clock.now())
    assert (gauge.busy, gauge.tuples) == (pytest.approx(0.5), 0)


def test_each_gauge_is_of_the_time_since_the_last_one() -> None:
    here = Here()
    meter = here.meter(own_process=True)
    meter.saw(5)
    here.clock.advance(10.0)
    meter.tell_if_due()
    meter.saw(7)
    meter.stored(here.clock.now())
    here.clock.advance(3.0)
    meter.tell_if_due()
    (gauge,) = load_gauges(here.tables, "pay", here.clock.now())
    assert gauge.records == 5
    here.clock.advance(7.0)
    meter.tell_if_due()
    (gauge,) = load_gauges(here.tables, "pay", here.clock.now())
    assert (gauge.records, gauge.all_records) == (7, 12)
    assert gauge.cpu is not None
    assert gauge.memory is not None
    assert gauge.memory > 0


def test_the_slowest_record_is_told() -> None:
    here = Here()
    meter = here.meter()
    read_at = here.clock.now()
    here.clock.advance(1.5)
    meter.stored(read_at)
    meter.stored(here.clock.now())
    here.clock.advance(9.0)
    meter.tell_if_due()
    (gauge,) = load_gauges(here.tables, "pay", here.clock.now())
    assert gauge.slowest_ms == pytest.approx(1500)


def test_nothing_is_told_where_that_is_switched_off() -> None:
    here = Here()
    meter = here.meter(every=0)
    here.clock.advance(1000)
    meter.tell_if_due()
    assert load_gauges(here.tables, "pay", here.clock.now()) == []


def test_a_gauge_of_a_task_that_is_gone_is_left_out() -> None:
    here = Here()
    meter = here.meter()
    here.clock.advance(10)
    meter.tell_if_due()
    assert len(load_gauges(here.tables, "pay", here.clock.now() + STALE)) == 1
    assert load_gauges(here.tables, "pay", here.clock.now() + STALE + 1) == []


def test_tables_that_fail_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Here()
    meter = here.meter()

    def broken(*_: object, **__: object) -> None:
        raise TablesError("full")

    monkeypatch.setattr(here.tables, "put", broken)
    here.clock.advance(10)
    meter.tell_if_due()
    assert load_gauges(here.tables, "pay", here.clock.now()) == []
