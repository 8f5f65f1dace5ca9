"""The embedded warehouse: Parquet in Hive's folders, queried with DuckDB."""

import errno
import os
from pathlib import Path

import pytest
from tests.contract.warehouse_contract import Make, WarehouseContract, events, file_of, placed, rows_of

from paystorm.errors import TablesError, UsageError
from paystorm.warehouse.base import EventFile
from paystorm.warehouse.local import LocalWarehouse

FILE = file_of("purchase")


class TestLocalWarehouse(WarehouseContract):
    @pytest.fixture
    def make(self) -> Make:
        return LocalWarehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> LocalWarehouse:
    return LocalWarehouse(tmp_path / "warehouse")


def test_a_source_with_a_dash_is_a_table_with_an_underscore(warehouse: LocalWarehouse) -> None:
    placed(warehouse, "customer-service", events(7))
    assert warehouse.query("SELECT log_offset FROM customer_service")[1] == [(7,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY (SELECT 1) TO '/tmp/paystorm-should-not-be-here.csv'",
    ],
)
def test_a_query_reads_and_writes_nothing_outside_of_the_folder(warehouse: LocalWarehouse, sql: str) -> None:
    with pytest.raises(UsageError):
        warehouse.query(sql)


def test_a_query_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    endless = "SELECT sum(a.range * b.range) FROM range(9000000) a, range(900000) b"
    with pytest.raises(UsageError, match=r"stopped after 0\.1 s"):
        LocalWarehouse(tmp_path, query_seconds=0.1).query(endless)


def test_a_disk_that_fails_at_the_sync_leaves_nothing_staged(
    warehouse: LocalWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.stage(FILE, events(1))
    other = EventFile("purchase", FILE.hour, "00000-b")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TablesError, match=r"warehouse: cannot write: No space.*free some space") as caught:
            warehouse.stage(other, events(2))
    assert "\n" not in str(caught.value)
    assert [p.stem for p in (tmp_path / "warehouse/purchase/.staging").iterdir()] == ["00000-a"]


def test_another_process_sees_what_is_placed(warehouse: LocalWarehouse, tmp_path: Path) -> None:
    placed(warehouse, "purchase", events(1))
    assert rows_of(LocalWarehouse(tmp_path / "warehouse"), "purchase") == [1]
