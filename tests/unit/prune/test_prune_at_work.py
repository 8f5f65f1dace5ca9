"""`paystorm prune` beside others at work, and killed between any two of its writes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from payments_world import PARTITIONS, Running, payments
from prune_world import COUNTS, DAY, files, in_sight, now, on, opened, prune, settle_letters, verify, wholly

from paystorm.clock import ManualClock
from paystorm.resources import Resources
from paystorm.stores.hours import Hours
from paystorm.verdicts import verdict_topic
from paystorm.warehouse.local import LocalWarehouse
from paystorm.warehouse.merging import Merger, MergeSettings


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
