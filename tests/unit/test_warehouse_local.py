"""The embedded warehouse: Parquet in Hive's folders, queried with DuckDB."""

import errno
import os
from pathlib import Path

import polars as pl
import pytest

from paystorm.errors import TablesError, UsageError
from paystorm.warehouse.base import EventFile
from paystorm.warehouse.local import LocalWarehouse

FILE = EventFile("purchase", "2026-01-02T03", "00000-a")


def events(*offsets: int, **more: object) -> pl.DataFrame:
    frame = pl.DataFrame({"log_offset": offsets, "data": [f'{{"n":{o}}}' for o in offsets]})
    return frame.with_columns(event_time=pl.lit(1_767_225_600_000_000).cast(pl.Datetime("us")), **more)


@pytest.fixture
def warehouse(tmp_path: Path) -> LocalWarehouse:
    return LocalWarehouse(tmp_path / "warehouse")


def offsets_of(warehouse: LocalWarehouse, table: str = "purchase") -> list[int]:
    return [row[0] for row in warehouse.query(f"SELECT log_offset FROM {table} ORDER BY 1")[1]]


def test_a_staged_file_can_be_read_but_not_queried(warehouse: LocalWarehouse) -> None:
    warehouse.stage(FILE, events(1, 2))
    assert warehouse.read(FILE).equals(events(1, 2))
    assert offsets_of(warehouse) == []
    assert warehouse.folders("purchase") == []


def test_a_placed_file_stands_in_the_folder_of_its_hour(warehouse: LocalWarehouse, tmp_path: Path) -> None:
    warehouse.stage(FILE, events(1, 2))
    warehouse.place([FILE])
    hour = tmp_path / "warehouse/purchase/dt=2026-01-02/hr=03"
    assert [p.name for p in hour.iterdir()] == ["00000-a.parquet"]
    assert warehouse.folders("purchase") == [hour]
    assert warehouse.read(FILE).equals(events(1, 2))
    assert warehouse.query("SELECT dt, hr, count(*) AS n FROM purchase GROUP BY ALL") == (
        ["dt", "hr", "n"],
        [("2026-01-02", "03", 2)],
    )


def test_placing_again_changes_nothing(warehouse: LocalWarehouse) -> None:
    warehouse.stage(FILE, events(1))
    warehouse.place([FILE])
    warehouse.place([FILE, FILE])
    assert offsets_of(warehouse) == [1]


def test_placing_what_is_nowhere_is_an_error_that_names_the_file(warehouse: LocalWarehouse) -> None:
    with pytest.raises(TablesError, match=r"00000-a .*neither staged nor in place"):
        warehouse.place([FILE])
    with pytest.raises(TablesError, match="no file 00000-a"):
        warehouse.read(FILE)


def test_discarding_spares_what_is_kept_and_what_other_tasks_staged(warehouse: LocalWarehouse) -> None:
    files = [EventFile("purchase", FILE.hour, name) for name in ("00000-a", "00000-b", "00001-a")]
    for file in files:
        warehouse.stage(file, events(1))
    warehouse.discard_staged("purchase", ["00000-b"], prefix="00000-")
    warehouse.place(files[1:])
    with pytest.raises(TablesError):
        warehouse.place(files[:1])
    warehouse.discard_staged("refund", [])


def test_columns_that_some_files_lack_are_null_there(warehouse: LocalWarehouse) -> None:
    other = EventFile("purchase", "2026-01-02T04", "00000-b")
    warehouse.stage(FILE, events(1))
    warehouse.stage(other, events(2, shop=pl.lit("m1")))
    warehouse.place([FILE, other])
    assert warehouse.query("SELECT shop FROM purchase ORDER BY log_offset")[1] == [(None,), ("m1",)]


def test_a_source_with_a_dash_is_a_table_with_an_underscore(warehouse: LocalWarehouse) -> None:
    file = EventFile("customer-service", FILE.hour, FILE.name)
    warehouse.stage(file, events(7))
    warehouse.place([file])
    assert offsets_of(warehouse, "customer_service") == [7]


@pytest.mark.parametrize(
    "sql",
    [
        "SELEC 1",
        "SELECT * FROM nowhere",
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY (SELECT 1) TO '/tmp/paystorm-should-not-be-here.csv'",
        "SELECT 1; SELECT 2",
        "",
        "SET threads = 8",
        "SELECT * FROM a\nWHERE",
    ],
)
def test_a_bad_query_is_a_usage_error_in_one_line(warehouse: LocalWarehouse, sql: str) -> None:
    with pytest.raises(UsageError) as caught:
        warehouse.query(sql)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("query: ")


def test_a_table_is_found_in_any_case(warehouse: LocalWarehouse) -> None:
    warehouse.stage(FILE, events(1))
    warehouse.place([FILE])
    assert offsets_of(warehouse, '"Purchase"') == offsets_of(warehouse, "PURCHASE") == [1]


def test_a_query_with_too_many_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="more than 10 rows"):
        LocalWarehouse(tmp_path, query_rows=10).query("SELECT * FROM range(11)")


def test_a_query_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    endless = "SELECT sum(a.range * b.range) FROM range(9000000) a, range(900000) b"
    with pytest.raises(UsageError, match=r"stopped after 0\.1 s"):
        LocalWarehouse(tmp_path, query_seconds=0.1).query(endless)


def test_a_full_disk_is_one_line_with_the_folder_and_leaves_nothing_staged(
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


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "a\0b"])
def test_a_name_cannot_lead_out_of_the_folder(warehouse: LocalWarehouse, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        warehouse.stage(EventFile("purchase", FILE.hour, name), events(1))
