"""The embedded log: what the contract says, and what happens to its files when processes die and disks fill up."""

import errno
import fcntl
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.log_contract import LogContract, read_all, values_of

from paystorm.clock import ManualClock, SystemClock
from paystorm.errors import DataFolderError, LogError, RecordTooLargeError
from paystorm.log.base import OutRecord
from paystorm.log.embedded import EmbeddedLog, partition_for
from paystorm.log.segments import HEAD_SIZE, Head

_FORK = multiprocessing.get_context("fork")
_SOURCES = str(Path(__file__).parents[2] / "src")


@pytest.fixture
def log(tmp_path: Path) -> EmbeddedLog:
    made = EmbeddedLog(tmp_path / "log", SystemClock())
    made.create_topic("t", 1)
    return made


def _again(log: EmbeddedLog, **settings: Any) -> EmbeddedLog:
    """The log as another process would open it."""
    return EmbeddedLog(log._folder, SystemClock(), **settings)


def _folder(log: EmbeddedLog) -> Path:
    return log._folder / "t" / "0"


def _segments(log: EmbeddedLog) -> list[Path]:
    return sorted(_folder(log).glob("*.log"))


def _send(log: EmbeddedLog, *values: bytes) -> None:
    log.append("t", [OutRecord(v) for v in values])


class TestContract(LogContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> EmbeddedLog:
        return EmbeddedLog(tmp_path, SystemClock())


class TestContractWithManySegments(LogContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> EmbeddedLog:
        return EmbeddedLog(tmp_path, SystemClock(), segment_bytes=100)


def test_partition_for_is_crc32_modulo_partitions() -> None:
    assert partition_for(b"123456789", 7) == 0xCBF43926 % 7  # the check value of CRC-32


def test_what_was_appended_is_there_after_opening_again(log: EmbeddedLog) -> None:
    _send(log, b"a", b"b")
    other = _again(log)
    assert values_of(other, "t") == [b"a", b"b"]
    _send(other, b"c")
    _send(log, b"d")
    assert values_of(log, "t") == [b"a", b"b", b"c", b"d"]


def test_columns_are_appended_as_records_are(log: EmbeddedLog) -> None:
    values = [b"%d" % i * (i % 5) for i in range(200_000)]
    lengths = np.array([len(v) for v in values])
    _send(log, b"first")
    assert log.append_columns("t", 0, b"".join(v + b"\n" for v in values), lengths) == 1
    got = [v for b in read_all(log, "t", max_records=30_001) for v in b.all_values()]
    assert got == [b"first", *values]
    assert log.append_columns("t", 0, b"", np.array([], dtype=np.int64)) == 200_001


def test_columns_that_do_not_fit_their_lengths_are_refused(log: EmbeddedLog) -> None:
    for values, lengths in ((b"abc\n", [2]), (b"ab\ncd\n", [1, 3]), (b"abcdef", [2, 2])):
        with pytest.raises(LogError, match="do not fit"):
            log.append_columns("t", 0, values, np.array(lengths))


def test_a_key_that_is_too_long_is_refused(log: EmbeddedLog) -> None:
    with pytest.raises(RecordTooLargeError, match="a key of 40000 bytes is too long"):
        log.append("t", [OutRecord(b"x", b"k" * 40_000)])


def test_where_a_record_is_too_long_none_is_appended(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paystorm.log.embedded.MAX_VALUE", 10)
    log.create_topic("two", 2)
    records = [OutRecord(b"x" * n, partition=p) for n, p in ((1, 0), (11, 1), (2, 1), (12, 0))]
    with pytest.raises(RecordTooLargeError, match="a value of 11 bytes is too long: at most 10") as e:
        log.append("two", records)
    assert e.value.records == (1, 3)
    assert [log.end_offset("two", p) for p in (0, 1)] == [0, 0]


def test_a_missing_file_is_named(log: EmbeddedLog) -> None:
    (_folder(log) / "head").unlink()
    with pytest.raises(LogError, match="file head is missing"):
        log.end_offset("t", 0)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "~new-1", "x" * 250, "ä", "a\n"])
def test_a_topic_name_that_is_not_allowed_is_refused(log: EmbeddedLog, name: str) -> None:
    with pytest.raises(LogError, match="1 to 249"):
        log.create_topic(name, 1)
    with pytest.raises(LogError, match="1 to 249"):
        log.read(name, 0, 0, max_records=1, max_bytes=1)


def test_a_folder_of_a_newer_format_is_refused_with_the_way_out(log: EmbeddedLog) -> None:
    path = log._folder / "t" / "topic.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(DataFolderError, match=r"log/t: written in format 2.*use a newer paystorm"):
        _again(log).partitions("t")


def test_timestamps_do_not_go_back_when_the_clock_does(tmp_path: Path) -> None:
    clock = ManualClock()
    log = EmbeddedLog(tmp_path, clock)
    log.create_topic("t", 1)
    _send(log, b"1")
    clock.jump(-3600)
    _send(log, b"2")
    _again(log)
    clock.jump(3601)
    _send(log, b"3")
    stamps = [t for b in read_all(log, "t") for t in b.timestamps.tolist()]
    assert stamps[1] == stamps[0]
    assert stamps[2] == stamps[0] + 1000


# Crashes


def _append_unpublished(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, *values: bytes) -> None:
    """What a process leaves that dies between fdatasync and publishing."""

    class Died(BaseException):
        pass

    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr("paystorm.log.partition.Partition._publish", die)
        with pytest.raises(Died):
            _send(log, *values)


def test_a_reader_sees_nothing_beyond_the_head(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    _send(log, b"a")
    reader = _again(log)
    assert reader.end_offset("t", 0) == 1
    _append_unpublished(log, monkeypatch, b"b")
    assert reader.end_offset("t", 0) == 1
    assert values_of(reader, "t") == [b"a"]


def test_what_was_synced_and_not_published_is_published_by_the_next(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    _send(log, b"a")
    _append_unpublished(log, monkeypatch, b"b", b"c")
    assert values_of(_again(log), "t") == [b"a", b"b", b"c"]
    _append_unpublished(log, monkeypatch, b"d")
    _send(log, b"e")
    assert values_of(log, "t") == [b"a", b"b", b"c", b"d", b"e"]


@pytest.mark.parametrize("segment_bytes", [1 << 20, 10])
def test_a_torn_tail_is_cut_off_wherever_it_is_torn(tmp_path: Path, segment_bytes: int) -> None:
    log = EmbeddedLog(tmp_path / "log", SystemClock(), segment_bytes=segment_bytes)
    log.create_topic("t", 1)
    _send(log, b"a", b"b")
    head = (_folder(log) / "head").read_bytes()
    _send(log, b"torn", b"torn too")
    path = _segments(log)[-1]
    whole = path.read_bytes()
    position = Head.unpack(head).position if segment_bytes > 10 else 0  # type: ignore[union-attr]
    for cut in range(position, len(whole)):
        (_folder(log) / "head").write_bytes(head)
        path.write_bytes(whole[:cut])
        other = _again(log)
        assert values_of(other, "t") == [b"a", b"b"]
        _send(other, b"c")
        assert values_of(other, "t") == [b"a", b"b", b"c"]
        assert values_of(log, "t") == [b"a", b"b", b"c"]


def test_a_tail_with_a_wrong_byte_is_cut_off(log: EmbeddedLog) -> None:
    _send(log, b"a")
    head = (_folder(log) / "head").read_bytes()
    start = _segments(log)[0].stat().st_size
    _send(log, b"torn")
    whole = _segments(log)[0].read_bytes()
    for i in range(start, len(whole)):
        (_folder(log) / "head").write_bytes(head)
        _segments(log)[0].write_bytes(whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :])
        assert values_of(_again(log), "t") == [b"a"]


def test_a_lost_head_is_made_anew_from_the_segments(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log", SystemClock(), segment_bytes=100)
    log.create_topic("t", 1)
    for i in range(10):
        _send(log, b"%d" % i * 20)
    log.drop_before("t", 0, 4)
    head = (_folder(log) / "head").read_bytes()
    for damaged in (b"\x00" * HEAD_SIZE, head[:-1] + b"\x00", b""):
        (_folder(log) / "head").write_bytes(damaged)
        assert _again(log).end_offset("t", 0) == 10
        assert (_folder(log) / "head").read_bytes() == head


def test_an_old_head_as_after_a_power_cut_is_brought_up_over_several_segments(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log", SystemClock(), segment_bytes=100)
    log.create_topic("t", 1)
    _send(log, b"0")
    head = (_folder(log) / "head").read_bytes()
    for i in range(1, 10):
        _send(log, b"%d" % i * 20)
    (_folder(log) / "head").write_bytes(head)
    assert len(values_of(_again(log), "t")) == 10


def test_who_opens_an_old_head_beside_another_that_mends_it_waits_for_that(log: EmbeddedLog) -> None:
    """As two processes after a power cut: one holds the lock and walks over what the head does not say."""
    head = _folder(log) / "head"
    old = head.read_bytes()
    _send(log, b"1", b"2")
    log.close()
    head.write_bytes(old)
    lock = os.open(_folder(log) / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    timer = threading.Timer(0.2, os.close, [lock])
    timer.start()
    assert _again(log).end_offset("t", 0) == 2
    timer.join()


def test_an_empty_segment_left_by_a_process_that_died_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EmbeddedLog(tmp_path / "log", SystemClock(), segment_bytes=50)
    log.create_topic("t", 1)
    _send(log, b"x" * 60)
    _append_unpublished(log, monkeypatch, b"never written")
    assert len(_segments(log)) == 2
    _send(log, b"b")
    assert values_of(_again(log), "t") == [b"x" * 60, b"b"]


def test_damage_in_the_middle_names_file_and_byte(log: EmbeddedLog) -> None:
    _send(log, b"a" * 100)
    position = _segments(log)[0].stat().st_size
    _send(log, b"b" * 100)
    _send(log, b"c" * 100)
    with _segments(log)[0].open("r+b") as file:
        file.seek(position + 60)
        file.write(b"!")
    with pytest.raises(LogError, match=rf"{_segments(log)[0]}: byte {position} does not fit its checksum"):
        values_of(_again(log), "t")
    first = _again(log).read("t", 0, 0, max_records=1, max_bytes=1)
    assert first is not None
    assert first.all_values() == [b"a" * 100]


def test_a_segment_shorter_than_what_was_acknowledged_is_an_error(log: EmbeddedLog) -> None:
    _send(log, b"a")
    _send(log, b"b")
    os.truncate(_segments(log)[0], 50)
    with pytest.raises(LogError, match="shorter than what was acknowledged"):
        _again(log).end_offset("t", 0)


_APPENDER = """
import sys
from pathlib import Path
from paystorm.clock import SystemClock
from paystorm.log.base import OutRecord
from paystorm.log.embedded import EmbeddedLog

log = EmbeddedLog(Path(sys.argv[1]), SystemClock())
for i in range(1_000_000):
    places = log.append("t", [OutRecord(b"%d-%d" % (i, n) * (1 + i % 50)) for n in range(1 + i % 20)])
    print(i, places[0][1], len(places), flush=True)
"""


def test_kill_9_of_an_appender_loses_no_acknowledged_record(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log", SystemClock(), segment_bytes=50_000)
    log.create_topic("t", 1)
    seed = random.Random(1)
    for _ in range(4):
        command = [sys.executable, "-c", _APPENDER, str(log._folder)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": _SOURCES})
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(seed.randrange(5, 60))]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        _send(log, b"between")
        values = values_of(log, "t")
        for line in lines:
            if line.endswith(b"\n"):
                i, first, count = map(int, line.split())
                assert values[first : first + count] == [b"%d-%d" % (i, n) * (1 + i % 50) for n in range(count)]
        assert values[-1] == b"between"
        assert values == values_of(_again(log), "t")


def _append_many(folder: Path, name: int) -> None:
    log = EmbeddedLog(folder, SystemClock())
    for i in range(30):
        log.append("t", [OutRecord(b"%d:%d" % (name, 2 * i + n)) for n in range(2)])


def test_several_processes_append_and_a_reader_follows(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path, SystemClock(), segment_bytes=500)
    log.create_topic("t", 1)
    workers = [_FORK.Process(target=_append_many, args=(tmp_path, name)) for name in range(3)]
    for worker in workers:
        worker.start()
    seen: list[bytes] = []
    while any(w.is_alive() for w in workers) or len(seen) < log.end_offset("t", 0):
        batch = log.read("t", 0, len(seen), max_records=5, max_bytes=1000)
        if batch is not None:
            assert batch.offsets[0] == len(seen)
            seen += batch.all_values()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(seen) == 180
    for name in range(3):
        assert [v for v in seen if v.startswith(b"%d:" % name)] == [b"%d:%d" % (name, i) for i in range(60)]


def test_a_log_may_be_used_after_a_fork(log: EmbeddedLog) -> None:
    _send(log, b"parent")
    child = _FORK.Process(target=_send, args=(log, b"child"))
    child.start()
    child.join()
    _send(log, b"parent again")
    assert values_of(log, "t") == [b"parent", b"child", b"parent again"]


def test_waiting_for_a_lock_that_is_held_ends(log: EmbeddedLog) -> None:
    other = _again(log, lock_timeout=0.05)
    with log._partition("t", 0)._locked(), pytest.raises(LogError, match=r"lock: held for more than 0\.05 s"):
        _send(other, b"x")
    _send(other, b"x")


# Disks


def _failing_once(real: Callable[..., Any], error: int, after: int) -> Callable[..., Any]:
    calls = [0]

    def call(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == after:
            raise OSError(error, os.strerror(error))
        return real(*args)

    return call


@pytest.mark.parametrize(("name", "after"), [("pwrite", 1), ("pwrite", 2), ("fdatasync", 1)])
@pytest.mark.parametrize(("error", "text"), [(errno.ENOSPC, "is full: free space"), (errno.EIO, "Input/output error")])
def test_a_failing_write_leaves_the_log_as_it_was(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, *, name: str, after: int, error: int, text: str
) -> None:
    _send(log, b"a")
    size = _segments(log)[0].stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(os, name, _failing_once(getattr(os, name), error, after))
        with pytest.raises(LogError, match=text) as raised:
            _send(log, b"b")
    assert "\n" not in str(raised.value)
    assert _segments(log)[0].stat().st_size == size
    _send(log, b"c")
    assert values_of(_again(log), "t") == [b"a", b"c"]


def test_a_write_that_stops_in_the_middle_leaves_the_log_as_it_was(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    _send(log, b"a")
    real = os.pwrite

    def half(fd: int, data: bytes, position: int) -> int:
        if len(data) < 40:
            raise OSError(errno.ENOSPC, "no space")
        return real(fd, data[: len(data) // 2], position)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        with pytest.raises(LogError, match="is full"):
            _send(log, b"b" * 1000)
    _send(log, b"c")
    assert values_of(_again(log), "t") == [b"a", b"c"]


# Retention and topics made anew


def test_dropping_removes_whole_segments_and_moves_the_start(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log", SystemClock(), segment_bytes=200)
    log.create_topic("t", 1)
    for i in range(20):
        _send(log, b"%02d" % i * 20)
    follower = _again(log)
    assert len(values_of(follower, "t")) == 20
    start = log.drop_before("t", 0, 11)
    assert 0 < start <= 11
    assert int(_segments(log)[0].stem) == start == follower.start_offset("t", 0)
    assert values_of(follower, "t") == [b"%02d" % i * 20 for i in range(start, 20)]
    with pytest.raises(LogError, match="is gone, the log starts at"):
        follower.read("t", 0, start - 1, max_records=1, max_bytes=1)
    assert log.drop_before("t", 0, 3) == start
    assert log.drop_before("t", 0, 1000) < 20
    assert _again(log).end_offset("t", 0) == 20


def test_an_open_log_follows_a_topic_made_anew_by_another(log: EmbeddedLog) -> None:
    _send(log, b"old", b"old")
    values_of(log, "t")
    other = _again(log)
    before = log.topic_id("t")
    other.delete_topic("t")
    with pytest.raises(LogError, match="topic t: there is none"):
        log.end_offset("t", 0)
    with pytest.raises(LogError, match="topic t: there is none"):
        _send(log, b"x")
    other.create_topic("t", 2)
    assert log.topic_id("t") == other.topic_id("t") != before
    assert log.end_offset("t", 0) == 0
    log.append("t", [OutRecord(b"new", partition=0)])
    assert values_of(other, "t") == [b"new"]
    assert not [p for p in log._folder.iterdir() if p.name.startswith(("~new", "~deleted"))]


def test_threads_read_different_places_of_one_partition(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path, SystemClock(), segment_bytes=2000)
    log.create_topic("t", 1)
    for i in range(0, 3000, 10):
        log.append("t", [OutRecord(b"%d" % n) for n in range(i, i + 10)])
    wrong: list[object] = []

    def read(seed: int) -> None:
        dice = random.Random(seed)
        try:
            for _ in range(150):
                offset = dice.randrange(3000)
                batch = log.read("t", 0, offset, max_records=dice.randrange(1, 100), max_bytes=dice.randrange(500))
                assert batch is not None
                assert batch.all_values() == [b"%d" % (offset + i) for i in range(len(batch))]
        except BaseException as e:
            wrong.append(e)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_checksum_is_of_the_whole_batch(log: EmbeddedLog) -> None:
    _send(log, b"a")
    data = _segments(log)[0].read_bytes()
    assert data[:4] == b"PSB1"
    assert int.from_bytes(data[4:8], "little") == zlib.crc32(data[8:])
