"""What every log must do. A subclass provides the fixture `log`; what a driver lacks it says by a class attribute."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paystorm.errors import LogError
from paystorm.log.base import ColumnLog, Log, OutRecord, RecordBatch

# Each example uses a topic of its own; and each subclass runs the same test.
_ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]


def read_all(
    log: Log, topic: str, partition: int = 0, *, max_records: int = 1000, max_bytes: int = 1 << 20, keys: bool = False
) -> list[RecordBatch]:
    """Everything that a partition holds now."""
    batches: list[RecordBatch] = []
    offset = log.start_offset(topic, partition)
    while True:
        batch = log.read(topic, partition, offset, max_records=max_records, max_bytes=max_bytes, keys=keys)
        if batch is None:
            return batches
        batches.append(batch)
        offset = batch.next


def values_of(log: Log, topic: str, partition: int = 0) -> list[bytes]:
    """The values that a partition holds now."""
    return [value for batch in read_all(log, topic, partition) for value in batch.all_values()]


class LogContract:
    """The contract of `paystorm.log.base.Log`."""

    tells_topic_ids = True

    @pytest.fixture
    def topic(self, log: Log) -> str:
        name = f"t-{uuid.uuid4().hex[:12]}"
        log.create_topic(name, 1)
        return name

    def test_an_empty_partition_gives_nothing_to_read(self, log: Log, topic: str) -> None:
        assert (log.start_offset(topic, 0), log.end_offset(topic, 0)) == (0, 0)
        assert log.read(topic, 0, 0, max_records=10, max_bytes=1000) is None

    def test_records_are_read_in_the_order_in_which_they_were_appended(self, log: Log, topic: str) -> None:
        sent = [b"%d" % i for i in range(250)]
        places = [p for i in range(0, 250, 50) for p in log.append(topic, [OutRecord(v) for v in sent[i : i + 50]])]
        assert places == [(0, i) for i in range(250)]
        assert values_of(log, topic) == sent
        assert log.end_offset(topic, 0) == 250

    def test_a_read_starts_at_any_offset_and_keeps_to_max_records(self, log: Log, topic: str) -> None:
        for i in range(0, 90, 30):
            log.append(topic, [OutRecord(b"%d" % n) for n in range(i, i + 30)])
        for offset in (0, 1, 29, 30, 31, 60, 89):
            batch = log.read(topic, 0, offset, max_records=35, max_bytes=1 << 20)
            assert batch is not None
            assert 1 <= len(batch) <= 35
            assert batch.offsets.tolist() == list(range(offset, offset + len(batch)))
            assert batch.all_values() == [b"%d" % n for n in batch.offsets.tolist()]
            assert batch.next == offset + len(batch)

    def test_a_read_keeps_to_max_bytes_but_gives_at_least_one_record(self, log: Log, topic: str) -> None:
        log.append(topic, [OutRecord(b"x" * 100) for _ in range(10)])
        for most, expected in ((1, 1), (100, 1), (199, 1), (200, 2), (1000, 10)):
            batch = log.read(topic, 0, 0, max_records=100, max_bytes=most)
            assert batch is not None
            assert len(batch) == expected

    def test_values_hold_each_record_followed_by_a_newline(self, log: Log, topic: str) -> None:
        log.append(topic, [OutRecord(b'{"a":1}'), OutRecord(b""), OutRecord(b"x")])
        (batch,) = read_all(log, topic)
        assert batch.values == b'{"a":1}\n\nx\n'
        assert batch.lengths.tolist() == [7, 0, 1]

    @settings(max_examples=40, deadline=None, suppress_health_check=_ALLOWED)
    @given(
        sent=st.lists(
            st.lists(st.tuples(st.binary(max_size=30), st.none() | st.binary(max_size=8)), min_size=1, max_size=8),
            min_size=1,
            max_size=5,
        ),
        most=st.integers(1, 12),
        size=st.integers(0, 60),
    )
    def test_any_bytes_round_trip_as_values_and_keys(
        self, log: Log, sent: list[list[tuple[bytes, bytes | None]]], most: int, size: int
    ) -> None:
        topic = f"t-{uuid.uuid4().hex[:12]}"
        log.create_topic(topic, 1)
        for group in sent:
            log.append(topic, [OutRecord(value, key) for value, key in group])
        got = read_all(log, topic, max_records=most, max_bytes=size, keys=True)
        pairs = [p for b in got for p in zip(b.all_values(), b.keys or (), strict=True)]
        assert pairs == [pair for group in sent for pair in group]
        log.delete_topic(topic)

    def test_values_with_newlines_and_nuls_round_trip(self, log: Log, topic: str) -> None:
        sent = [b"\n", b"\x00", b"", b"a\nb\x00\n", b"\xff" * 3, b""]
        log.append(topic, [OutRecord(v) for v in sent])
        assert values_of(log, topic) == sent

    def test_keys_are_given_only_when_asked_for(self, log: Log, topic: str) -> None:
        log.append(topic, [OutRecord(b"1", b"k"), OutRecord(b"2")])
        assert read_all(log, topic)[0].keys is None
        assert read_all(log, topic, keys=True)[0].keys == (b"k", None)

    def test_records_of_one_key_go_to_one_partition(self, log: Log) -> None:
        topic = f"t-{uuid.uuid4().hex[:12]}"
        log.create_topic(topic, 4)
        places = log.append(topic, [OutRecord(b"%d" % i, b"key%d" % (i % 10)) for i in range(100)])
        for k in range(10):
            mine = places[k::10]
            assert len({p for p, _ in mine}) == 1
            assert [o for _, o in mine] == sorted(o for _, o in mine)
        assert len({p for p, _ in places}) > 1

    def test_a_record_goes_to_the_partition_that_it_names(self, log: Log) -> None:
        topic = f"t-{uuid.uuid4().hex[:12]}"
        log.create_topic(topic, 3)
        records = [OutRecord(b"%d" % i, b"k", partition=i % 3) for i in range(9)]
        assert log.append(topic, records) == [(i % 3, i // 3) for i in range(9)]
        assert values_of(log, topic, 2) == [b"2", b"5", b"8"]

    def test_records_without_key_are_spread(self, log: Log) -> None:
        topic = f"t-{uuid.uuid4().hex[:12]}"
        log.create_topic(topic, 3)
        for _ in range(30):
            log.append(topic, [OutRecord(b"x") for _ in range(10)])
        assert len({p for p in range(3) if log.end_offset(topic, p)}) > 1
        assert sum(log.end_offset(topic, p) for p in range(3)) == 300

    def test_each_of_many_writers_is_told_where_its_records_are(self, log: Log) -> None:
        """Four threads, two to a partition; the records are in several batches on their way."""
        topic = f"t-{uuid.uuid4().hex[:12]}"
        log.create_topic(topic, 2)
        told: dict[tuple[int, int], bytes] = {}

        def write(writer: int) -> None:
            for turn in range(10):
                values = [b"%d %d %d " % (writer, turn, i) + b"x" * 1000 for i in range(1000)]
                if isinstance(log, ColumnLog) and turn % 2:
                    lengths = np.array(list(map(len, values)), dtype=np.int64)
                    joined = b"\n".join([*values, b""])
                    offsets = log.append_keyed(topic, writer % 2, joined, lengths, [b""] * 1000)
                    places = [(writer % 2, offset) for offset in offsets.tolist()]
                else:
                    places = log.append(topic, [OutRecord(value, None, writer % 2) for value in values])
                told.update(zip(places, values, strict=True))

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(write, range(4)))
        held = {
            (p, offset): value
            for p in range(2)
            for batch in read_all(log, topic, p)
            for offset, value in zip(batch.offsets.tolist(), batch.all_values(), strict=True)
        }
        assert len(held) == 40_000
        wrong = [place for place, value in held.items() if told.get(place) != value]
        assert not wrong[:5]

    def test_timestamps_never_go_back_in_a_partition(self, log: Log, topic: str) -> None:
        for _ in range(5):
            log.append(topic, [OutRecord(b"x")])
        stamps = [t for b in read_all(log, topic) for t in b.timestamps.tolist()]
        assert len(stamps) == 5
        assert stamps == sorted(stamps)
        assert stamps[0] > 1_500_000_000_000

    def test_an_offset_past_the_end_is_refused(self, log: Log, topic: str) -> None:
        log.append(topic, [OutRecord(b"x")])
        assert log.read(topic, 0, 1, max_records=1, max_bytes=1) is None
        with pytest.raises(LogError, match="past the end"):
            log.read(topic, 0, 2, max_records=1, max_bytes=1)

    def test_what_does_not_exist_is_named_in_the_error(self, log: Log, topic: str) -> None:
        missing = f"no-{uuid.uuid4().hex}"
        for call in (log.partitions, log.topic_id):
            if call == log.topic_id and not self.tells_topic_ids:
                continue
            with pytest.raises(LogError, match=missing):
                call(missing)
        with pytest.raises(LogError, match=missing):
            log.append(missing, [OutRecord(b"x")])
        with pytest.raises(LogError):
            log.append(topic, [OutRecord(b"x", partition=7)])

    def test_making_a_topic_twice_changes_nothing(self, log: Log, topic: str) -> None:
        log.append(topic, [OutRecord(b"x")])
        log.create_topic(topic, 5)
        assert log.partitions(topic) == 1
        assert values_of(log, topic) == [b"x"]
        assert topic in log.topics()
        assert log.topics() == sorted(log.topics())

    def test_a_topic_made_anew_has_another_id_and_no_records(self, log: Log, topic: str) -> None:
        log.append(topic, [OutRecord(b"x")])
        before = log.topic_id(topic)
        log.delete_topic(topic)
        assert topic not in log.topics()
        log.create_topic(topic, 2)
        assert log.end_offset(topic, 0) == 0
        assert log.partitions(topic) == 2
        if self.tells_topic_ids:
            assert log.topic_id(topic) not in (before, None)
        with pytest.raises(LogError):
            log.read(topic, 0, 1, max_records=1, max_bytes=1)

    def test_threads_append_and_read_at_once(self, log: Log, topic: str) -> None:
        failures: list[BaseException] = []

        def append(name: int) -> None:
            try:
                for i in range(10):
                    log.append(topic, [OutRecord(b"%d:%d" % (name, i * 3 + n)) for n in range(3)])
            except BaseException as e:
                failures.append(e)

        threads = [threading.Thread(target=append, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        seen: list[bytes] = []
        while any(t.is_alive() for t in threads) or len(seen) < log.end_offset(topic, 0):
            batch = log.read(topic, 0, len(seen), max_records=7, max_bytes=1000)
            seen += batch.all_values() if batch else []
        assert not failures
        assert len(seen) == 120
        for name in range(4):
            assert [v for v in seen if v.startswith(b"%d:" % name)] == [b"%d:%d" % (name, i) for i in range(30)]
