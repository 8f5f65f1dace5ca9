"""The tables in SQLite files: the contract, several processes, and errors as one line."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.contract.tables_contract import TablesContract

from paystorm.errors import DataFolderError, TablesError
from paystorm.tables.base import Tables
from paystorm.tables.sqlite import SqliteTables

_FORK = multiprocessing.get_context("fork")
_SOURCES = str(Path(__file__).parents[2] / "src")


class TestSqliteTables(TablesContract):
    @pytest.fixture
    def tables(self, tmp_path: Path) -> Tables:
        return SqliteTables(tmp_path)


def test_each_source_has_a_file_and_the_rest_is_shared(tmp_path: Path) -> None:
    tables = SqliteTables(tmp_path)
    for name in ("purchase.journal", "purchase.index", "refund.journal", "lists"):
        tables.put(name, [(b"k", b"v")])
    assert sorted(p.name for p in tmp_path.glob("*.sqlite")) == ["purchase.sqlite", "refund.sqlite", "shared.sqlite"]


def test_rows_are_there_after_closing_and_opening_again(tmp_path: Path) -> None:
    tables = SqliteTables(tmp_path)
    tables.put("a.b", [(b"k", b"v")], version=3)
    tables.feed_append("a.f", [b"1"])
    tables.close()
    assert tables.get("a.b", b"k") == b"v"
    other = SqliteTables(tmp_path)
    other.put("a.b", [(b"k", b"older")], version=2)
    assert other.get("a.b", b"k") == b"v"
    assert other.feed_read("a.f", b"")[0] == [b"1"]


def test_a_file_of_a_newer_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    SqliteTables(tmp_path).put("a.b", [(b"k", b"v")])
    connection = sqlite3.connect(tmp_path / "a.sqlite")
    connection.execute("PRAGMA user_version=2")
    connection.close()
    with pytest.raises(DataFolderError, match=r"a\.sqlite: written in format 2.*use a newer paystorm"):
        SqliteTables(tmp_path).get("a.b", b"k")


def test_a_file_locked_past_the_time_out_is_named(tmp_path: Path) -> None:
    tables = SqliteTables(tmp_path, busy_timeout=0.1)
    tables.put("a.b", [(b"k", b"v")])
    holder = sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(TablesError, match=r"a\.sqlite: locked by another process"):
        tables.put("a.b", [(b"k", b"w")])
    assert tables.get("a.b", b"k") == b"v"
    holder.execute("ROLLBACK")
    tables.put("a.b", [(b"k", b"w")])
    holder.close()


def test_a_full_disk_is_named_and_nothing_is_half_written(tmp_path: Path) -> None:
    tables = SqliteTables(tmp_path)
    tables.put("a.b", [(b"k", b"v")])
    connection = tables._connection("a.b")
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages + 2}")  # SQLite then fails as on a full disk
    with pytest.raises(TablesError, match=r"a\.sqlite: the disk is full: free space, then try again"):
        tables.put("a.b", [(b"k", b"w"), (b"big", b"x" * 100_000)])
    with pytest.raises(TablesError, match="full"):
        tables.put("a.new", [(b"big", b"x" * 100_000)])
    connection.execute(f"PRAGMA max_page_count={1 << 30}")
    assert list(tables.scan("a.b")) == [(b"k", b"v")]
    tables.put("a.new", [(b"big", b"x" * 100_000)])
    assert tables.get("a.new", b"big") == b"x" * 100_000


def test_a_file_that_is_not_sqlite_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"something else" * 1000)
    with pytest.raises(TablesError, match=r"a\.sqlite: not an SQLite file"):
        SqliteTables(tmp_path).get("a.b", b"k")


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    tables = SqliteTables(tmp_path / "x")
    (tmp_path / "x").rmdir()
    with pytest.raises(TablesError, match=r"a\.sqlite: cannot be opened"):
        tables.get("a.b", b"k")


def test_a_scan_that_is_left_holds_no_transaction_open(tmp_path: Path) -> None:
    tables = SqliteTables(tmp_path)
    tables.put("a.b", [(b"%d" % i, b"v") for i in range(3000)])
    rows = tables.scan("a.b")
    next(rows)
    connection = tables._connection("a.b")
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0
    assert len(list(rows)) == 2999


def test_one_scan_may_be_begun_by_one_thread_and_ended_by_another(tmp_path: Path) -> None:
    tables = SqliteTables(tmp_path)
    tables.put("a.b", [(b"%d" % i, b"v") for i in range(3000)])
    rows = tables.scan("a.b")
    next(rows)
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(len(list(rows))))
    thread.start()
    thread.join()
    assert seen == [2999]
    tables.close()


def _compete(folder: Path, me: int) -> None:
    tables = SqliteTables(folder)
    for i in range(20):
        if tables.put_if_absent("s.journal", [(b"%d" % i, b"%d" % me)]) == [True]:
            tables.feed_append("s.won", [b"%d:%d" % (i, me)])


def test_of_several_processes_that_put_an_absent_row_exactly_one_wins(tmp_path: Path) -> None:
    workers = [_FORK.Process(target=_compete, args=(tmp_path, me)) for me in range(3)]
    for worker in workers:  # all make the file and the table at once
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    tables = SqliteTables(tmp_path)
    won = sorted(tables.feed_read("s.won", b"")[0])
    assert won == sorted(k + b":" + v for k, v in tables.scan("s.journal"))
    assert len(won) == 20


def _refused(tables: SqliteTables) -> None:
    with pytest.raises(TablesError, match="opened before a fork: open it in the child"):
        tables.put("a.b", [(b"2", b"child")])
    tables.close()


def test_tables_are_not_used_after_a_fork(tmp_path: Path) -> None:
    tables = SqliteTables(tmp_path)
    tables.put("a.b", [(b"1", b"parent")])
    child = _FORK.Process(target=_refused, args=(tables,))
    child.start()
    child.join()
    assert child.exitcode == 0
    tables.put("a.b", [(b"3", b"parent")])
    assert [v for _, v in tables.scan("a.b")] == [b"parent", b"parent"]


_WRITER = """
import sys
from pathlib import Path
from paystorm.tables.sqlite import SqliteTables

tables = SqliteTables(Path(sys.argv[1]))
for i in range(int(sys.argv[2]), 1_000_000):
    tables.put("a.b", [(b"%09d" % i, b"x" * 1000), (b"last", b"%d" % i)])
    print(i, flush=True)
"""


def test_kill_9_of_a_writer_loses_no_acknowledged_row(tmp_path: Path) -> None:
    for start in (0, 1000):
        command = [sys.executable, "-c", _WRITER, str(tmp_path), str(start)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": _SOURCES})
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(20)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        done = [int(line) for line in lines if line.endswith(b"\n")]
        tables = SqliteTables(tmp_path)
        assert None not in tables.get_many("a.b", [b"%09d" % i for i in done])
        last = tables.get("a.b", b"last")
        assert last is not None
        assert int(last) >= done[-1]
        assert tables.get("a.b", b"%09d" % int(last)) is not None
