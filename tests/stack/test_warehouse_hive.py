"""The warehouse in a real Hive: what the contract says, and what comes of a server that dies, sleeps, or is new."""

import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.contract.warehouse_contract import (
    HOUR,
    Flushes,
    Make,
    WarehouseContract,
    events,
    file_of,
    placed,
    rows_of,
)
from tests.stack.servers import RunningServer

from paystorm.cli.query import stored_columns
from paystorm.errors import ConfigError, TablesError, UsageError
from paystorm.stores.hours import Hours
from paystorm.tables.memory import MemoryTables
from paystorm.warehouse.hive import HiveWarehouse
from paystorm.warehouse.local import LocalWarehouse
from paystorm.warehouse.merging import Merger, MergeSettings, hour_start

TIMEOUT = 60.0


@pytest.fixture(scope="module")
def server(hive_server: RunningServer) -> RunningServer:
    return hive_server


@pytest.fixture
def make(server: RunningServer) -> Make:
    server.start()

    def made(folder: Path, hours: Hours | None = None, **settings: Any) -> HiveWarehouse:
        return HiveWarehouse(folder, server.host, server.port, hours, **{"timeout": TIMEOUT, **settings})

    return made


class TestHiveWarehouse(WarehouseContract):
    """`make` is the module's."""


@pytest.fixture
def warehouse(make: Make, tmp_path: Path) -> Iterator[Any]:
    made: Any = make(tmp_path / "warehouse")
    yield made
    made.close()


@pytest.fixture
def source() -> str:
    return f"hive-{uuid.uuid4().hex[:12]}"


def test_a_server_killed_between_staging_and_placing_loses_nothing(
    warehouse: Any, server: RunningServer, source: str
) -> None:
    placed(warehouse, source, events(1))
    file = file_of(source, hour="2026-01-02T04")
    warehouse.stage(file, events(2))
    server.kill()
    with pytest.raises(TablesError, match=rf"hive {server.address}: cannot be reached") as caught:
        warehouse.place([file])
    assert "\n" not in str(caught.value)
    assert warehouse.read(file).equals(events(2))
    with pytest.raises(TablesError, match="cannot be reached"):
        rows_of(warehouse, source)
    server.start()
    warehouse.place([file])
    assert rows_of(warehouse, source) == [1, 2]


def test_an_hour_that_hive_knows_takes_files_also_while_hive_is_away(
    warehouse: Any, server: RunningServer, source: str
) -> None:
    placed(warehouse, source, events(1))
    server.kill()
    placed(warehouse, source, events(2))
    server.start()
    assert rows_of(warehouse, source) == [1, 2]


def test_flushes_that_failed_while_hive_was_away_are_stored_once_when_it_is_back(
    warehouse: Any, server: RunningServer, source: str
) -> None:
    flushes = Flushes(warehouse, MemoryTables(), source)
    writer = flushes.writer()
    flushes.flush(writer, 2)
    server.kill()
    flushes.clock.advance(3600)
    for _ in range(2):
        writer = flushes.writer()  # as the bolt does where a flush raises
        writer.gather(flushes.chunk(4, 8))
        with pytest.raises(TablesError, match="hive"):
            writer.flush()
    server.start()
    writer = flushes.writer()
    writer.gather(flushes.chunk(0, 8))
    writer.flush()
    assert rows_of(warehouse, source) == list(range(8))


def test_a_server_that_says_nothing_is_given_up_after_the_time_out(
    make: Make, server: RunningServer, source: str, tmp_path: Path
) -> None:
    warehouse: Any = make(tmp_path, None, timeout=2.0)
    warehouse.stage(file_of(source), events(1))
    server.kill(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(TablesError, match="no answer within 2 s"):
            warehouse.place([file_of(source)])
        assert time.monotonic() - began < 10
        with pytest.raises(TablesError, match="no answer within 2 s"):
            warehouse.query("SELECT 1")
    finally:
        server.kill(signal.SIGCONT)
    warehouse.close()
    patient: Any = make(tmp_path)
    patient.place([file_of(source)])
    assert rows_of(patient, source) == [1]
    patient.close()


def test_a_query_that_takes_too_long_is_stopped(make: Make, source: str, tmp_path: Path) -> None:
    warehouse: Any = make(tmp_path, None, query_seconds=0.2)
    placed(warehouse, source, events(*range(10)))
    with pytest.raises(UsageError, match=r"stopped after 0\.2 s"):
        warehouse.query(f"SELECT count(DISTINCT data) FROM {warehouse.table(source)}")
    warehouse.close()


@pytest.mark.parametrize("first", ["the table is there", "there is no table yet"])
def test_many_that_add_the_same_hour_and_the_same_new_column_at_once_all_succeed(
    make: Make, source: str, tmp_path: Path, first: str
) -> None:
    warehouses: list[Any] = [make(tmp_path) for _ in range(3)]
    there = first == "the table is there"
    if there:
        placed(warehouses[0], source, events(0))
    barrier, failures = threading.Barrier(3), []

    def place(i: int) -> None:
        try:
            barrier.wait(30)
            placed(warehouses[i], source, events(i + 1, shop=pl.lit(f"m{i}")), hour="2026-01-02T05")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=place, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert failures == []
    expected = [(0, None)] * there + [(1, "m0"), (2, "m1"), (3, "m2")]
    assert rows_of(warehouses[0], source, "log_offset, shop") == expected
    for warehouse in warehouses:
        warehouse.close()


def test_hours_stored_before_there_was_a_hive_are_shown_to_it(make: Make, source: str, tmp_path: Path) -> None:
    tables = MemoryTables()
    local = LocalWarehouse(tmp_path, Hours(tables))
    flushes = Flushes(local, tables, source)
    flushes.flush(flushes.writer(), 6)
    flushes.clock.advance(2 * 3600)
    flushes.flush(flushes.writer(), 1)
    assert Merger(tables, local, flushes.clock, MergeSettings(files=3)).run(source).hours == 1
    columns = stored_columns(flushes.source)
    warehouse: Any = make(tmp_path, Hours(tables))
    assert warehouse.show_all(source, columns) == 2
    assert warehouse.show_all(source, columns) == 0
    assert rows_of(warehouse, source) == sorted(range(14), key=repr)
    warehouse.close()


def test_a_swap_that_hive_was_not_told_of_is_told_by_the_next_pass(
    make: Make, server: RunningServer, source: str, tmp_path: Path
) -> None:
    tables = MemoryTables()
    warehouse: Any = make(tmp_path, Hours(tables))
    flushes = Flushes(warehouse, tables, source)
    flushes.flush(flushes.writer(), 6)
    flushes.clock.advance(2 * 3600)
    merger = Merger(tables, warehouse, flushes.clock, MergeSettings(files=3))
    server.kill()
    with pytest.raises(TablesError, match="cannot be reached"):
        merger.run(source)
    hour = Hours(tables).get(source, HOUR)
    assert (hour.folder, hour.shown) == (1, 0)
    server.start()
    assert rows_of(warehouse, source) == sorted(range(12), key=repr)  # the old folder is still there, and whole
    flushes.clock.advance(3600)
    assert merger.run(source).removed == 1
    assert rows_of(warehouse, source) == sorted(range(12), key=repr)
    assert merger.run(source).removed == 0
    warehouse.close()


def test_a_late_file_of_a_merged_hour_is_seen_also_where_hive_was_not_told_of_the_swap(
    make: Make, source: str, tmp_path: Path
) -> None:
    tables = MemoryTables()
    warehouse: Any = make(tmp_path, Hours(tables))
    flushes = Flushes(warehouse, tables, source)
    flushes.flush(flushes.writer(), 6)
    flushes.clock.advance(2 * 3600)
    # Merged by somebody who dies before he tells Hive
    Merger(tables, LocalWarehouse(tmp_path, Hours(tables)), flushes.clock, MergeSettings(files=3)).run(source)
    late = flushes.writer(at=hour_start(HOUR))
    flushes.flush(late, 1)
    assert rows_of(warehouse, source) == sorted(range(14), key=repr)
    warehouse.close()


def test_a_bad_address_or_login_is_refused_before_anything_is_reached(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="auth must be one of NOSASL, NONE, LDAP, CUSTOM, got 'KERBEROS'"):
        HiveWarehouse(tmp_path, "127.0.0.1", 1, auth="KERBEROS")
    with pytest.raises(ConfigError, match="needs PAYSTORM_HIVE_USER and PAYSTORM_HIVE_PASSWORD"):
        HiveWarehouse(tmp_path, "127.0.0.1", 1, auth="LDAP", user="u")
    with pytest.raises(ConfigError, match="no certificate file"):
        HiveWarehouse(tmp_path, "127.0.0.1", 1, tls=True, cafile=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match="Hive takes a folder of letters"):
        HiveWarehouse(tmp_path / "a b", "127.0.0.1", 1)
    with pytest.raises(ConfigError, match="database's name"):
        HiveWarehouse(tmp_path, "127.0.0.1", 1, database="a`b")


def test_nobody_at_the_address_is_one_line(tmp_path: Path, source: str) -> None:
    warehouse = HiveWarehouse(tmp_path, "127.0.0.1", 1, timeout=5)
    warehouse.stage(file_of(source), events(1))
    with pytest.raises(TablesError, match=r"hive 127\.0\.0\.1:1: cannot be reached: Could not connect") as caught:
        warehouse.place([file_of(source)])
    assert "\n" not in str(caught.value)
