"""The heads of batches, from which the pykafka driver tells what pykafka cannot read."""

import struct

import pytest

from paystorm.errors import LogError
from paystorm.log.kafka_pykafka_wire import BatchHead, Heads, check_readable


def _batch(first: int, last: int, attributes: int = 0, body: bytes = b"r" * 9) -> bytes:
    """A batch of the newer form."""
    after_length = struct.pack("!ibihiqqqhii", 0, 2, 0, attributes, last, 1, 2, -1, -1, -1, last + 1) + body
    return struct.pack("!qi", first, len(after_length)) + after_length


def _old(offset: int, attributes: int, body: bytes = b"r" * 70) -> bytes:
    """A message of the older form."""
    after_length = struct.pack("!ibb", 0, 1, attributes) + body
    return struct.pack("!qi", offset, len(after_length)) + after_length


def _answer(records: bytes | None, error: int = 0, end: int = 99, aborted: int = -1) -> bytes:
    topic = b"purchase"
    head = struct.pack(f"!iih{len(topic)}siihqqi", 0, 1, len(topic), topic, 1, 0, error, end, end, aborted)
    head += b"\x00" * 16 * max(0, aborted)
    return head + struct.pack("!i", -1 if records is None else len(records)) + (records or b"") + b"junk"


def _plain(first: int, after: int, size: int, records: int | None) -> BatchHead:
    return BatchHead(first, after, size, records, 0, transactional=False, append_time=False)


def test_each_batch_is_found_with_its_offsets() -> None:
    one, two = _batch(5, 3), _batch(20, 0, body=b"r" * 100)
    heads = Heads.parse(_answer(one + two, end=42))
    assert (heads.error, heads.end) == (0, 42)
    assert heads.batches == (_plain(5, 9, len(one), 4), _plain(20, 21, len(two), 1))


def test_a_batch_that_is_cut_off_behind_its_head_is_found() -> None:
    one, two = _batch(0, 0), _batch(1, 6, attributes=0x10)
    assert [h.after for h in Heads.parse(_answer(one + two[:-3])).batches] == [1, 8]
    cut = Heads.parse(_answer(one + two[:30])).batches[1]
    assert (cut.after, cut.records, cut.transactional) == (8, None, True)
    assert len(Heads.parse(_answer(one + two[:26])).batches) == 1


@pytest.mark.parametrize("records", [None, b"", b"\x00" * 20])
def test_an_answer_without_batches_has_none(records: bytes | None) -> None:
    assert Heads.parse(_answer(records)).batches == ()


def test_an_error_and_aborted_transactions_are_read_over() -> None:
    heads = Heads.parse(_answer(_batch(7, 0), error=1, aborted=3))
    assert heads.error == 1
    assert [h.first for h in heads.batches] == [7]


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        (0x04, "t/0: offset 7 is compressed with zstd, which pykafka cannot read: use the driver confluent"),
        (0x10, "t/0: offset 7 was written in a transaction"),
        (0x30, "t/0: offset 7 was written in a transaction"),
        (0x20, "t/0: offset 7 was written in a transaction"),
    ],
)
def test_what_pykafka_would_read_wrong_is_refused(attributes: int, text: str) -> None:
    (head,) = Heads.parse(_answer(_batch(7, 0, attributes))).batches
    with pytest.raises(LogError, match=text):
        check_readable(head, "t/0")


@pytest.mark.parametrize("attributes", [0, 1, 8, 9])
def test_what_pykafka_reads_right_is_let_through(attributes: int) -> None:
    (head,) = Heads.parse(_answer(_batch(7, 0, attributes))).batches
    check_readable(head, "t/0")
    assert head.append_time == (attributes >= 8)


def test_older_messages_are_found_too() -> None:
    heads = Heads.parse(_answer(_old(3, 0) + _old(4, 1))).batches
    assert [(h.after, h.codec, h.transactional) for h in heads] == [(4, 0, False), (5, 1, False)]
