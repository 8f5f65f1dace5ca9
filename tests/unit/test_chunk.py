"""Chunks as text on Storm's wire, and back."""

import base64
import json
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from paystorm import chunk as chunks
from paystorm.chunk import (
    EventChunk,
    Head,
    Letter,
    LetterChunk,
    RecordChunk,
    Refusal,
    dump,
    frame_from_bytes,
    frame_to_bytes,
    load,
)
from paystorm.log.base import RecordBatch

whole = st.integers(0, 2**63 - 1)
few = st.lists(st.integers(0, 12), max_size=3).map(tuple)
heads = st.builds(
    Head,
    source=st.text(max_size=5),
    topic=st.text(max_size=5),
    partition=st.integers(0, 9),
    first=whole,
    after=whole,
    epoch=st.integers(0, 9),
    generation=st.integers(0, 9),
    committed=whole,
    parked=few,
    left_out=few,
    attempt=st.integers(0, 99),
    read_at=whole,
)
letters = st.builds(
    Letter,
    partition=st.integers(0, 9),
    offset=whole,
    timestamp=st.integers(-(2**40), 2**40),
    field=st.text(max_size=4),
    code=st.text(max_size=4),
    detail=st.text(max_size=4),
    event_id=st.none() | st.text(max_size=4),
    application=st.none() | st.text(max_size=4),
    value=st.binary(max_size=12),
)


def batch_of(values: list[bytes], first: int = 0, after: int | None = None) -> RecordBatch:
    n = len(values)
    return RecordBatch(
        topic="t",
        partition=3,
        offsets=np.arange(first, first + n, dtype=np.int64),
        timestamps=np.arange(n, dtype=np.int64) - 1,
        values=b"".join(v + b"\n" for v in values),
        lengths=np.array([len(v) for v in values], dtype=np.int64),
        next=first + n if after is None else after,
    )


def head_of(first: int, after: int, **more: Any) -> Head:
    return Head(
        source="s", topic="t", partition=3, first=first, after=after, epoch=0, generation=0, committed=0, **more
    )


def same(one: RecordBatch, other: RecordBatch) -> bool:
    plain = [
        (b.topic, b.partition, b.offsets.tolist(), b.timestamps.tolist(), b.values, b.lengths.tolist(), b.next)
        for b in (one, other)
    ]
    return plain[0] == plain[1]


def over_the_wire(chunk: Any) -> Any:
    text = dump(chunk)
    assert text.isascii()
    return load(type(chunk), json.loads(json.dumps(text)))


@given(st.lists(st.binary(max_size=9), max_size=5), st.integers(0, 2**62), st.integers(0, 5), few)
def test_records_come_back_byte_for_byte(values: list[bytes], first: int, gap: int, duplicates: Any) -> None:
    batch = batch_of(values, first, first + len(values) + gap)
    chunk = RecordChunk.of(head_of(first, batch.next), batch, duplicates)
    back = over_the_wire(chunk)
    assert back == chunk
    assert same(back.batch(), batch)
    assert back.batch().all_values() == values


def test_a_chunk_of_one_record_comes_back() -> None:
    batch = batch_of([b'{"a": "\xf0\x9f\xa6\x8a"}'], 7)
    back = over_the_wire(RecordChunk.of(head_of(7, 8), batch))
    assert same(back.batch(), batch)
    assert (len(back.batch()), back.head.covered().ranges()) == (1, [(7, 8)])
    events = pl.DataFrame({"log_offset": [7], "party": ["🦊"]})
    back = over_the_wire(EventChunk(head_of(7, 8), events))
    assert_frame_equal(back.events, events)
    assert len(back.without((7,)).events) == 0


def test_a_chunk_is_no_retry_and_leaves_nothing_out_unless_it_says_so() -> None:
    head = head_of(7, 8)
    assert (head.attempt, head.read_at, head.parked, head.left_out) == (0, 0, (), ())


@given(heads, st.lists(letters, max_size=3).map(tuple))
def test_letters_come_back(head: Head, them: tuple[Letter, ...]) -> None:
    chunk = LetterChunk(head=head, letters=them)
    assert over_the_wire(chunk) == chunk


@given(heads, whole, st.booleans())
def test_a_refusal_comes_back(head: Head, offset: int, lift: bool) -> None:
    chunk = Refusal(head=head, offset=offset, lift=lift)
    assert over_the_wire(chunk) == chunk


@given(heads, st.lists(st.tuples(whole, st.none() | st.text(max_size=6), st.none() | st.integers(0, 10**38 - 1))))
def test_events_come_back_with_types_and_nulls(head: Head, rows: list[Any]) -> None:
    events = pl.DataFrame(
        {
            "log_offset": pl.Series([row[0] for row in rows], dtype=pl.Int64),
            "event_time": pl.Series([row[0] for row in rows], dtype=pl.Int64).cast(pl.Datetime("us")),
            "party": pl.Series([row[1] for row in rows], dtype=pl.String),
            "amount": pl.Series([row[2] for row in rows], dtype=pl.Int128).cast(pl.Decimal(38, 0)),
            "kind": pl.Series([len(rows) % 256] * len(rows), dtype=pl.UInt8),
            "denied": pl.Series([row[1] is None for row in rows], dtype=pl.Boolean),
        }
    )
    back = over_the_wire(EventChunk(head, events))
    assert back.head == head
    assert_frame_equal(back.events, events)
    assert_frame_equal(frame_from_bytes(frame_to_bytes(events)), events)


def test_a_chunk_in_process_is_handed_on_as_it_is() -> None:
    head = head_of(0, 1)
    events = EventChunk(head, pl.DataFrame({"log_offset": [0]}))
    assert load(EventChunk, events) is events
    for chunk in (
        RecordChunk.of(head, batch_of([b""])),
        LetterChunk(head=head, letters=()),
        Refusal(head=head, offset=0),
    ):
        assert load(type(chunk), chunk) is chunk


@given(few, few)
def test_what_is_left_out_is_covered_by_no_sink(before: tuple[int, ...], more: tuple[int, ...]) -> None:
    head = head_of(2, 10, left_out=before)
    events = pl.DataFrame(
        {"log_offset": [o for o in range(2, 10, 2) if o not in before]}, schema={"log_offset": pl.Int64}
    )
    rest = EventChunk(head, events).without(more)
    assert rest.head.left_out == tuple(sorted({*before, *more}))
    covered = {o for first, after in rest.head.covered() for o in range(first, after)}
    assert covered == set(range(2, 10)) - {*before, *more}
    assert rest.events["log_offset"].to_list() == [o for o in range(2, 10, 2) if o in covered]
    assert head.left_out == before, "the chunk itself is as it was"


@pytest.mark.parametrize("value", ["", "not base64", "AAAA", dump(Refusal(head=head_of(0, 1), offset=0))])
def test_what_is_no_chunk_of_the_kind_raises(value: str) -> None:
    for kind in (RecordChunk, EventChunk, LetterChunk):
        with pytest.raises((ValueError, msgspec.MsgspecError)):
            load(kind, value)


def test_columns_that_came_over_the_wire_are_sent_on_as_they_came() -> None:
    first = pl.DataFrame({"log_offset": [1, 2], "party": ["a", "b"]})
    came = over_the_wire(EventChunk(head_of(1, 3), first))
    decided = came.adding(pl.DataFrame({"verdict": ["denied", "accepted"]}))
    assert frame_to_bytes(first) in base64.b64decode(dump(decided))
    back = over_the_wire(over_the_wire(decided).adding(pl.DataFrame({"more": [None, 3]})))
    wanted = {"log_offset": [1, 2], "party": ["a", "b"], "verdict": ["denied", "accepted"], "more": [None, 3]}
    assert back.head == head_of(1, 3)
    assert_frame_equal(back.events, pl.DataFrame(wanted))


APART = pl.DataFrame({"log_offset": [1, 2], "data": ["{}", "[]"], "party": ["a", "b"], "note": ["x", None]})


def test_columns_set_apart_stand_behind_the_others_and_come_back() -> None:
    chunk = EventChunk(head_of(1, 3), APART, apart={"data", "note", "absent"})
    for held in (chunk, over_the_wire(chunk), over_the_wire(over_the_wire(chunk))):
        assert held.columns == ["log_offset", "party", "data", "note"]
        assert_frame_equal(held.events, APART.select("log_offset", "party", "data", "note"))
        assert held.having({"party"}).columns == ["log_offset", "party"]
        assert held.having({"note"}).columns == held.columns, "a part comes whole"
        assert held.having(()).height == 2


def test_a_part_that_nobody_asks_for_is_sent_on_without_being_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    came = over_the_wire(EventChunk(head_of(1, 3), APART, apart={"data", "note"}))
    unpacked: list[list[str]] = []

    def unpack(data: bytes) -> pl.DataFrame:
        frame = frame_from_bytes(data)
        unpacked.append(frame.columns)
        return frame

    monkeypatch.setattr(chunks, "frame_from_bytes", unpack)
    decided = came.adding(pl.DataFrame({"verdict": came.having({"party"})["party"]}))
    sent = dump(decided)
    assert unpacked == [["log_offset", "party"]]
    back = load(EventChunk, sent).events
    assert back.columns == ["log_offset", "party", "data", "note", "verdict"]
    assert back["data"].to_list() == ["{}", "[]"]


@pytest.mark.parametrize("apart", [set(APART.columns), set()])
def test_with_all_columns_or_none_set_apart_a_chunk_is_whole(apart: set[str]) -> None:
    chunk = EventChunk(head_of(1, 3), APART, apart=apart)
    assert_frame_equal(over_the_wire(chunk).events, APART)
    assert chunk.having(()).height == 2


def test_a_column_cannot_be_added_twice() -> None:
    came = over_the_wire(EventChunk(head_of(1, 3), APART, apart={"note"}))
    for name in ("party", "note"):
        with pytest.raises(pl.exceptions.DuplicateError, match=name):
            came.adding(pl.DataFrame({name: ["x", "y"]}))


def test_a_chunk_that_nothing_was_added_to_is_sent_on_byte_for_byte() -> None:
    text = dump(EventChunk(head_of(1, 3), pl.DataFrame({"log_offset": [1, 2]})))
    assert dump(load(EventChunk, text)) == text


def test_a_chunk_with_rows_left_out_is_packed_anew() -> None:
    came = over_the_wire(EventChunk(head_of(1, 3), pl.DataFrame({"log_offset": [1, 2]})))
    rest = over_the_wire(came.without((1,)).adding(pl.DataFrame({"verdict": ["denied"]})))
    assert rest.events.rows() == [(2, "denied")]
