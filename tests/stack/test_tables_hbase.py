"""Tables in a real HBase: the contract, several writers, kills of its servers, and errors as one line."""

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import happybase
import pytest
from tests.contract.tables_contract import TablesContract
from tests.stack.hbase_tools import PATIENCE, new_prefix, tables_of
from tests.stack.servers import HBaseServers, RunningServer

from paystorm.errors import TablesError
from paystorm.stack.machine import is_free
from paystorm.tables import hbase_cells, hbase_rows
from paystorm.tables.hbase import HBaseTables
from paystorm.tables.hbase_feeds import HBaseFeeds

_FORK = multiprocessing.get_context("fork")
RECOVERY_SECONDS = 180.0


@pytest.fixture(scope="module")
def shared(hbase_server: HBaseServers) -> Iterator[HBaseTables]:
    with tables_of(hbase_server.host, hbase_server.port) as tables:
        yield tables


@contextlib.contextmanager
def raw(server: HBaseServers) -> Iterator[happybase.Connection]:
    """happybase's own connection, for a moment: one that nobody uses for a minute is closed by the server."""
    connection = happybase.Connection(server.host, server.port, timeout=PATIENCE * 1000)
    yield connection
    connection.close()


class TestHBaseTables(TablesContract):
    @pytest.fixture
    def tables(self, shared: HBaseTables) -> HBaseTables:
        return shared


def test_a_table_is_made_by_the_first_write_or_when_it_is_asked_for_again_and_again(hbase_server: HBaseServers) -> None:
    prefix = new_prefix()
    with tables_of(hbase_server.host, hbase_server.port, prefix) as tables:
        for _ in range(hbase_rows.MISSES - 1):
            assert tables.get("s.control", b"k") is None
        with raw(hbase_server) as connection:
            assert f"{prefix}_s.control".encode() not in connection.tables()
        assert list(tables.scan("s.control")) == []
        tables.put("s.hits", [(b"k", b"v")])
        with raw(hbase_server) as connection:
            assert {f"{prefix}_s.control".encode(), f"{prefix}_s.hits".encode()} <= set(connection.tables())


# Removed rows


def test_old_marks_of_removal_are_swept_by_a_scan_and_the_row_can_be_put_again(
    hbase_server: HBaseServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = new_prefix()
    with tables_of(hbase_server.host, hbase_server.port, prefix) as tables:
        rows = [(b"%02d" % i, b"v") for i in range(20)]
        tables.put_if_absent("s.r", rows)
        tables.put("s.r", [(b"versioned", b"v")], version=3)
        tables.delete("s.r", [key for key, _ in rows[:10]] + [b"versioned"])
        assert len(list(tables.scan("s.r"))) == 10

        def held() -> int:
            with raw(hbase_server) as connection:
                return len(list(connection.table(f"{prefix}_s.r").scan()))

        assert held() == 21, "the marks are young"
        monkeypatch.setattr(hbase_rows, "SWEEP_AGE_MS", -1)
        assert len(list(tables.scan("s.r"))) == 10
        assert held() == 11, "a mark at a version stays"
        assert tables.put_if_absent("s.r", rows) == [True] * 10 + [False] * 10
        assert tables.get_many("s.r", [key for key, _ in rows]) == [b"v"] * 20
        tables.put("s.r", [(b"versioned", b"again")], version=3)
        assert tables.get("s.r", b"versioned") == b"again"


def test_a_row_put_while_its_old_mark_is_swept_stays(
    hbase_server: HBaseServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tables_of(hbase_server.host, hbase_server.port) as tables:
        monkeypatch.setattr(hbase_rows, "SWEEP_AGE_MS", -1)
        keys = [b"%03d" % i for i in range(100)]
        for n in range(5):
            value = b"%d" % n
            tables.put_if_absent("s.r", [(key, value) for key in keys])
            tables.delete("s.r", keys)
            time.sleep(0.002)  # the marks are older than what is put now
            ended = threading.Event()

            def sweep(ended: threading.Event = ended) -> None:
                while not ended.is_set():
                    list(tables.scan("s.r"))

            thread = threading.Thread(target=sweep)
            thread.start()
            put = [tables.put_if_absent("s.r", [(key, value)])[0] for key in keys]
            ended.set()
            thread.join(60)
            assert put == [True] * 100
            assert tables.get_many("s.r", keys) == [value] * 100
            assert len(list(tables.scan("s.r"))) == 100
            tables.delete("s.r", keys)


def test_versions_hold_after_flush_compaction_and_restart(hbase_server: HBaseServers) -> None:
    prefix = new_prefix()
    with tables_of(hbase_server.host, hbase_server.port, prefix) as tables:
        for version in (5, 7, 6):
            tables.put("s.r", [(b"k", b"%d" % version), (b"removed", b"")], version=version)
        assert tables.replace("s.r", b"k", b"7", b"replaced")
        tables.put_if_absent("s.r", [(b"a", b"1"), (b"b", b"1")])
        tables.delete("s.r", [b"b", b"removed"])
        with raw(hbase_server) as connection:
            connection.client.majorCompact(f"{prefix}_s.r".encode())
        hbase_server.tables.stop()  # writes what it has in memory
        hbase_server.start()
        assert _patiently(lambda: tables.get("s.r", b"k")) == b"replaced"
        tables.put("s.r", [(b"k", b"6")], version=6)
        assert list(tables.scan("s.r")) == [(b"a", b"1"), (b"k", b"replaced")]
        tables.put("s.r", [(b"k", b"7 again"), (b"a", b"2")], version=7)
        with raw(hbase_server) as connection:
            connection.client.majorCompact(f"{prefix}_s.r".encode())
        assert tables.get_many("s.r", [b"k", b"a", b"b", b"removed"]) == [b"7 again", b"2", None, None]
        assert tables.put_if_absent("s.r", [(b"b", b"3"), (b"removed", b"3")]) == [True, True]


# Large values


def test_a_value_past_one_cell_is_kept_in_pieces(hbase_server: HBaseServers) -> None:
    large = os.urandom(1000) * 12_000
    with tables_of(hbase_server.host, hbase_server.port) as tables:
        tables.put("s.cells", [(b"k", large), (b"small", b"1")], version=4)
        tables.put("s.cells", [(b"k", b"older")], version=3)
        assert tables.get("s.cells", b"k") == large
        assert list(tables.scan("s.cells")) == [(b"k", large), (b"small", b"1")]
        assert not tables.replace("s.cells", b"k", large[:-1] + b"?", b"new")
        assert tables.replace("s.cells", b"k", large, b"new")
        assert tables.get("s.cells", b"k") == b"new"
        tables.put("s.cells", [(b"k", large[:-5_000])], version=4)
        assert tables.get("s.cells", b"k") == large[:-5_000]
        tables.delete("s.cells", [b"k"])
        assert tables.get("s.cells", b"k") is None


def test_a_value_too_large_for_a_condition_is_refused_by_name(shared: HBaseTables) -> None:
    with pytest.raises(TablesError, match=r"s\.journal: a value of 10000001 bytes.*flushRecords"):
        shared.put_if_absent("s.journal", [(b"k", bytes(10_000_001))])
    with pytest.raises(TablesError, match=r"s\.cells: a value of 67108865 bytes.*more shards"):
        shared.put("s.cells", [(b"k", bytes(hbase_cells.MAX_VALUE + 1))])
    assert shared.put_if_absent("s.journal", [(b"k", bytes(10_000_000))]) == [True]
    assert shared.get("s.journal", b"k") == bytes(10_000_000)


# Several writers


def test_of_many_that_put_one_row_exactly_one_wins(hbase_server: HBaseServers) -> None:
    prefix, writers, rows = new_prefix(), 6, 25
    won: list[list[bool]] = [[] for _ in range(writers)]

    def put(me: int) -> None:
        mine = HBaseTables(hbase_server.host, hbase_server.port, prefix=prefix)
        for i in range(rows):
            won[me] += mine.put_if_absent("s.journal", [(b"%d" % i, bytes([me]))])
        mine.close()

    with tables_of(hbase_server.host, hbase_server.port, prefix) as tables:
        _at_once([lambda me=me: put(me) for me in range(writers)])
        for i in range(rows):
            assert [me for me in range(writers) if won[me][i]] == list(tables.get("s.journal", b"%d" % i))


def test_several_processes_may_make_one_table_at_once(hbase_server: HBaseServers) -> None:
    prefix = new_prefix()

    def work(me: int) -> None:
        tables = HBaseTables(hbase_server.host, hbase_server.port, prefix=prefix)
        tables.put("s.new", [(b"%d" % me, b"v")])
        tables.feed_append("s.feed", [b"%d" % me])
        tables.close()
        os._exit(0)

    with tables_of(hbase_server.host, hbase_server.port, prefix) as tables:
        workers = [_FORK.Process(target=work, args=(me,)) for me in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        assert [worker.exitcode for worker in workers] == [0] * 4
        assert len(list(tables.scan("s.new"))) == 4
        assert sorted(tables.feed_read("s.feed", b"")[0]) == [b"0", b"1", b"2", b"3"]


def test_a_child_process_makes_a_connection_of_its_own(hbase_server: HBaseServers) -> None:
    with tables_of(hbase_server.host, hbase_server.port) as tables:
        tables.put("s.r", [(b"k", b"parent")])

        def work() -> None:
            for i in range(50):
                tables.put("s.r", [(b"child", b"%d" % i)])
            tables.close()

        child = _FORK.Process(target=work)
        child.start()
        for i in range(50):
            tables.put("s.r", [(b"parent", b"%d" % i)])
            assert tables.get("s.r", b"parent") == b"%d" % i
        child.join(60)
        assert child.exitcode == 0
        assert tables.get_many("s.r", [b"child", b"k"]) == [b"49", b"parent"]


def test_a_feed_with_many_writers_loses_nothing_for_its_follower(hbase_server: HBaseServers) -> None:
    prefix, writers, appends = new_prefix(), 4, 20
    wanted = {b"%d:%d" % (me, i) for me in range(writers) for i in range(appends)}
    seen: list[bytes] = []

    def append(me: int) -> None:
        mine = HBaseTables(hbase_server.host, hbase_server.port, prefix=prefix)
        for i in range(appends):
            mine.feed_append("feed", [b"%d:%d" % (me, i)])
        mine.close()

    with tables_of(hbase_server.host, hbase_server.port, prefix) as tables:

        def follow() -> None:
            cursor, ends = b"", time.monotonic() + 60
            while len(seen) < len(wanted) and time.monotonic() < ends:
                items, cursor = tables.feed_read("feed", cursor, limit=3)
                seen.extend(items)

        _at_once([follow, *(lambda me=me: append(me) for me in range(writers))])
        assert sorted(seen) == sorted(wanted), "each once: no reply was lost"


class Sleepy(HBaseFeeds):
    """A writer that others overtake between looking for the end and putting."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.meanwhile: Callable[[], None] | None = None

    def _next(self, table: str) -> int:
        n = super()._next(table)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return n


def test_a_writer_that_slept_comes_behind_the_followers_cursor(shared: HBaseTables) -> None:
    sleepy = Sleepy(shared._rows)
    cursors = []

    def overtake() -> None:
        shared.feed_append("slept", [b"quick"])
        cursors.append(shared.feed_read("slept", b"")[1])

    shared.feed_append("slept", [b"first"])
    sleepy.meanwhile = overtake
    sleepy.append(hbase_cells.feed_table(shared._prefix, "slept"), [b"late"])
    assert shared.feed_read("slept", cursors[0])[0] == [b"late"]
    assert shared.feed_read("slept", b"")[0] == [b"first", b"quick", b"late"]


def test_many_large_items_are_spread_over_rows(shared: HBaseTables) -> None:
    items = [bytes([i]) * 300_000 for i in range(12)]
    shared.feed_append("large", items)
    seen, cursor = [], b""
    while some := shared.feed_read("large", cursor, limit=5):
        if not some[0]:
            break
        seen += some[0]
        cursor = some[1]
    assert seen == items


# Servers that stop


class Steady:
    """A thread that writes whatever happens, and knows what was acknowledged."""

    def __init__(self, tables: HBaseTables) -> None:
        self.tables = tables
        self.acknowledged: dict[str, list[bytes]] = {"conditional": [], "plain": [], "feed": []}
        self.errors: list[TablesError] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        n = 0
        while not self._ended.is_set():
            row = b"%06d" % n
            n += 1
            self._try("conditional", row, lambda row=row: self.tables.put_if_absent("s.journal", [(row, row)]))
            self._try("plain", row, lambda row=row: self.tables.put("s.hits", [(row, row)], version=1))
            self._try("feed", row, lambda row=row: self.tables.feed_append("feed", [row]))

    def _try(self, kind: str, row: bytes, write: Callable[[], Any]) -> None:
        try:
            write()
            self.acknowledged[kind].append(row)
        except TablesError as e:
            self.errors.append(e)
            time.sleep(0.2)

    def wait_for_more(self) -> None:
        """Until some writes of each kind that begin now are acknowledged."""
        before = {kind: len(rows) for kind, rows in self.acknowledged.items()}
        ends = time.monotonic() + RECOVERY_SECONDS
        while any(len(rows) < before[kind] + 5 for kind, rows in self.acknowledged.items()):
            assert time.monotonic() < ends, f"did not go on: {self.errors[-1:]}"
            time.sleep(0.05)

    def end(self) -> None:
        self._ended.set()
        self._thread.join(120)

    def check(self, tables: HBaseTables) -> None:
        for kind, table in (("conditional", "s.journal"), ("plain", "s.hits")):
            rows = self.acknowledged[kind]
            assert tables.get_many(table, rows) == rows, kind
        items, cursor = set(), b""
        while some := tables.feed_read("feed", cursor):
            if not some[0]:
                break
            items |= set(some[0])
            cursor = some[1]
        assert set(self.acknowledged["feed"]) <= items


@pytest.mark.long
@pytest.mark.parametrize("which", ["Thrift server", "master"])
def test_a_killed_server_loses_nothing_acknowledged_and_the_same_object_goes_on(
    hbase_server: HBaseServers, which: str
) -> None:
    with tables_of(hbase_server.host, hbase_server.port) as tables:
        steady = Steady(tables)
        try:
            steady.wait_for_more()
            (hbase_server if which == "Thrift server" else hbase_server.tables).kill()
            time.sleep(0.5)
            hbase_server.start()
            steady.wait_for_more()
        finally:
            steady.end()
        # A Thrift server that is left alone may bridge the master's absence within the time-out of a call.
        assert steady.errors or which == "master", "the kill was felt"
        assert all("\n" not in str(e) and f":{hbase_server.port}, table " in str(e) for e in steady.errors)
        steady.check(tables)


def test_a_conditional_put_after_the_server_hung_up_is_simply_done(hbase_server: HBaseServers) -> None:
    with tables_of(hbase_server.host, hbase_server.port) as tables:
        tables.put("s.r", [(b"k", b"v")])
        _kill_and_start(hbase_server, hbase_server)
        assert tables.put_if_absent("s.r", [(b"k", b"w"), (b"l", b"w")]) == [False, True]


def test_a_server_that_does_not_answer_is_named_within_the_time_out(hbase_server: HBaseServers) -> None:
    with tables_of(hbase_server.host, hbase_server.port) as tables:
        tables.put("s.r", [(b"k", b"v")])
        short = HBaseTables(hbase_server.host, hbase_server.port, prefix=tables._prefix, timeout=1.0)
        assert short.get("s.r", b"k") == b"v"
        hbase_server.kill(signal.SIGSTOP)
        try:
            begin = time.monotonic()
            with pytest.raises(TablesError, match=rf"HBase at .*:{hbase_server.port}, table .*_s\.r: no answer in 1 s"):
                short.replace("s.r", b"k", b"v", b"w")
            with pytest.raises(TablesError, match="no answer in 1 s"):
                short.get("s.r", b"k")
            assert time.monotonic() - begin < 6
        finally:
            hbase_server.kill(signal.SIGCONT)
        assert _patiently(lambda: short.get("s.r", b"k")) in (b"v", b"w")
        short.close()


def test_nobody_at_the_port_is_named(hbase_server: HBaseServers) -> None:
    with socket.create_server((hbase_server.host, 0)) as listener:
        free = listener.getsockname()[1]
    tables = HBaseTables(hbase_server.host, free)
    with pytest.raises(TablesError, match=rf"HBase at .*:{free}, table paystorm_s\.r: cannot connect, Connection ref"):
        tables.get("s.r", b"k")


def _kill_and_start(servers: HBaseServers, killed: RunningServer) -> None:
    """Kill one of the servers; start it again when the kernel has let go of its ports."""
    ports = servers.stack.ports(killed.name).values()
    killed.kill()
    ends = time.monotonic() + 30
    while not all(is_free(killed.host, port) for port in ports):
        assert time.monotonic() < ends
        time.sleep(0.05)
    servers.start()


def _patiently(read: Callable[[], Any]) -> Any:
    ends = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            return read()
        except TablesError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.2)


def _at_once(calls: Sequence[Callable[[], None]]) -> None:
    """Run in a thread each; raises what any of them raised."""
    failures: list[BaseException] = []

    def run(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures, failures
