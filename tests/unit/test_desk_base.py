"""What the desk's acts share: who, when, and whose acts take a second person."""

from collections.abc import Mapping
from typing import Any, cast

import pytest
from tests.unit.hosted import SOURCE

from paystorm.clock import SECOND, ManualClock
from paystorm.desk import Desk
from paystorm.desk.base import ago, ahead, approvals_of
from paystorm.errors import ConfigError, UsageError
from paystorm.resources import Resources
from paystorm.source import Source
from paystorm.tables.memory import MemoryTables
from paystorm.testing.log import MemoryLog
from paystorm.warehouse.base import Warehouse


class MemoryDesk(Desk):
    """A desk over memory, with the source `pay` of two partitions. Nothing is in its warehouse."""

    tables: MemoryTables  # type: ignore[assignment]
    log: MemoryLog  # type: ignore[assignment]
    clock: ManualClock  # type: ignore[assignment]

    def __init__(
        self,
        *,
        log: type[MemoryLog] = MemoryLog,
        source: Source = SOURCE,
        approvals: frozenset[str] = frozenset(),
        warehouse: Warehouse | None = None,
    ) -> None:
        clock = ManualClock()
        made = log(clock)
        made.create_topic(source.topic, 2)
        resources = Resources(clock=clock, log=made, tables=MemoryTables(), warehouse=cast(Warehouse, warehouse))
        super().__init__(resources, {source.name: source}, {}, approvals)


def test_times_are_lengths_or_points() -> None:
    assert ahead("90s", 5) == 90 * SECOND + 5
    assert ago("2w", 14 * 86_400 * SECOND, "--since") == 0
    assert ahead("1970-01-01T00:00:01+01:00", 0) == -3_599 * SECOND
    assert ahead("1970-01-02", 0) == 86_400 * SECOND
    assert ahead(None, 0) is ago(None, 0, "--since") is None
    for bad in ("7x", "", "0d", "tomorrow"):
        with pytest.raises(UsageError, match="--since must be a length such as 30m, 12h, 7d, or an ISO time"):
            ago(bad, 0, "--since")
    with pytest.raises(UsageError, match="after the year 9999"):
        ahead("999999w", 0)


def test_approvals_are_asked_for_by_the_file_or_the_environment() -> None:
    assert approvals_of({}, {}) == frozenset()
    assert approvals_of({"approvals": {"lists": True}}, {}) == {"lists"}
    assert approvals_of({"approvals": {"lists": True}}, {"approvals": {"lists": False}}) == frozenset()
    assert approvals_of({}, {"approvals": {"lists": True}}) == {"lists"}


@pytest.mark.parametrize("config", [{"approvals": []}, {"approvals": {"lists": "yes"}}, {"approvals": {"cases": True}}])
def test_approvals_that_cannot_be_meant_are_refused(config: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"config.json: approvals"):
        approvals_of(config, {})
