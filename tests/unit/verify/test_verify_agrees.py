"""`paystorm verify` finds no difference in what the topology made."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from payments_world import PARTITIONS, SOURCE, Picky, Running, batched, payments
from verify_world import opened, rows, verify

from paystorm.resources import Resources
from paystorm.stores.hits import load_hits
from paystorm.stores.letters import all_letters
from paystorm.verify.stored import files_in_place


def test_what_the_topology_made_has_no_difference(resources: Resources) -> None:
    report = verify(resources)
    assert [str(d) for d in report.differences] == []
    assert report.ok
    assert (report.records, report.parked, report.stood_in, report.notes) == (400, 0, 0, [])
    assert report.events + report.letters == 400
    assert report.letters > 10
    assert report.counts > 100
    assert report.verdicts >= 400


def test_the_folder_holds_every_kind_of_thing(resources: Resources) -> None:
    hits = list(load_hits(resources.tables, "pay"))
    assert {h.rule for h in hits} == {rule.name for rule in SOURCE.rules}
    assert {h.status for h in hits} == {"standing", "withdrawn"}
    assert {h.version for h in hits} == {0, 1}
    assert rows(resources, "cells")
    assert rows(resources, "caught_late")
    denied = [
        row
        for file in files_in_place(resources.warehouse, "pay")
        for row in resources.warehouse.read(file).filter(pl.col("verdict") == "denied").iter_rows(named=True)
    ]
    assert {"pay.per_day", "person"} <= {row["verdict_reason"] for row in denied}


def test_a_source_that_never_ran_has_nothing_to_verify(tmp_path: Path) -> None:
    with opened(tmp_path) as resources:
        report = verify(resources)
    assert report.ok
    assert report.notes == ["it has never read a record"]


def test_records_that_the_log_lost_are_stood_in_for(resources: Resources) -> None:
    class Shorter:
        """The log without the first 30 records of each partition."""

        def __getattr__(self, name: str) -> Any:
            return getattr(resources.log, name)

        def start_offset(self, topic: str, partition: int) -> int:
            return 30 if topic == "pay" else resources.log.start_offset(topic, partition)

        def read(self, topic: str, partition: int, offset: int, **options: Any) -> Any:
            assert topic != "pay" or offset >= 30
            return resources.log.read(topic, partition, offset, **options)

    report = verify(replace(resources, log=Shorter()))
    assert [str(d) for d in report.differences] == []
    assert (report.records, report.stood_in) == (400, 90)
    assert report.notes == ["the log no longer holds 90 of the records: stored events and dead letters stood in"]


@pytest.mark.parametrize("seed", range(3))
def test_any_records_in_any_order_of_steps_have_no_difference(tmp_path: Path, seed: int) -> None:
    with opened(tmp_path) as resources:
        resources.log.create_topic("pay", PARTITIONS)
        running = Running(resources, seed=seed)
        for block in batched(payments(240, 100 + seed), 60):
            resources.log.append("pay", block)
            running.driver.run(500)
        running.stop()
        report = verify(resources)
    assert [str(d) for d in report.differences] == []


def test_parked_and_given_up_records_and_ranges_that_fail_have_no_difference(tmp_path: Path) -> None:
    Picky.tries.clear()
    with opened(tmp_path) as resources:
        resources.log.create_topic("pay", PARTITIONS)
        retries = {"retryInitialDelayMs": 500, "retryDelayMultiplier": 2.0, "maxOffsetBehind": 20}
        running = Running(resources, own_bolt=Picky, **retries)
        for block in batched(payments(240, 9), 40):
            resources.log.append("pay", block)
            running.driver.run_until(lambda: False, seconds=1)
        running.driver.run_until(lambda: False, seconds=60)
        running.driver.stop(60)
        report = verify(resources)
        gave_up = [x for x in all_letters(resources.tables, "pay") if x.code == "gave_up"]
    assert [str(d) for d in report.differences] == []
    assert gave_up
    assert report.parked
    assert report.events + report.letters + report.parked == report.records == 240
