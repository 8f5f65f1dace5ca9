"""The validation bolt, and the base of an operator's own bolts, each driven as the embedded runner does."""

import json
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from tests.unit.hosted import RULES, SOURCE, Hosted
from tests.unit.test_touches import frame_of

from bolts.validation import ValidationBolt
from paystorm.chunk import EventChunk, Head, RecordChunk
from paystorm.clock import ManualClock
from paystorm.log.base import RecordBatch
from paystorm.named import CannotProcess, TransformBolt
from paystorm.settings import Settings
from paystorm.stores.retry import retry_table
from paystorm.stores.versions import Version, add_version
from paystorm.tables.memory import MemoryTables
from paystorm.touches import columns_read

NOW_MS = 1_767_225_600_000


@pytest.fixture
def tables() -> MemoryTables:
    return MemoryTables()


def add(tables: MemoryTables, number: int = 0, **validity: Any) -> None:
    settings = {**Settings({}).validity(), **validity}
    version = Version(number=number, rules=RULES, validity=settings, partitions=1, shards=8, made_at=0)
    assert add_version(tables, "pay", version)


def head(first: int = 0, after: int = 10, **changes: Any) -> Head:
    plain: dict[str, Any] = {
        "source": "pay", "topic": "pay", "partition": 3, "first": first, "after": after, "epoch": 0, "generation": 0,
        "committed": 0,
    }  # fmt: skip
    return Head(**{**plain, **changes})


def record(**data: Any) -> bytes:
    return json.dumps({"ApplicationRef": "shop", "data": {"event_time": "2026-01-01T00:00:00Z", **data}}).encode()


def records(*values: bytes, **changes: Any) -> RecordChunk:
    n = len(values)
    batch = RecordBatch(
        topic="pay",
        partition=3,
        offsets=np.arange(n, dtype=np.int64) * 2,
        timestamps=np.full(n, NOW_MS, dtype=np.int64),
        values=b"".join(value + b"\n" for value in values),
        lengths=np.array([len(value) for value in values], dtype=np.int64),
        next=2 * n,
    )
    return RecordChunk.of(head(0, 2 * n, **changes), batch)


def test_events_go_on_and_the_rest_goes_to_the_dead_letters(tables: MemoryTables) -> None:
    add(tables)
    bolt = Hosted(ValidationBolt, tables=tables, clock=ManualClock())
    sent = bolt.give(records(record(payer="u1"), b"{", record()))
    assert [(s.stream, s.partition) for s in sent] == [("default", 3), ("invalid", 3)]
    assert sent[0].chunk.events["log_offset"].to_list() == [0]
    letters = sent[1].chunk.letters
    assert [(x.partition, x.offset, x.timestamp, x.field, x.code, x.value) for x in letters] == [
        (3, 2, NOW_MS, "record", "not_json", b"{"),
        (3, 4, NOW_MS, "payer", "missing", record()),
    ]
    assert (letters[1].event_id, letters[1].application) == ("pay/3/4", "shop")
    assert (bolt.acked, bolt.failed) == (1, 0)


def test_a_chunk_goes_on_even_where_no_event_is_in_it(tables: MemoryTables) -> None:
    add(tables)
    bolt = Hosted(ValidationBolt, tables=tables, clock=ManualClock())
    for chunk in (records(), records(b"")):
        sent = bolt.give(chunk)
        assert sent[0].chunk.events.height == 0
        assert sent[0].chunk.head == chunk.head
    assert len(sent) == 2


def test_what_a_lookup_does_not_read_goes_apart_from_what_it_reads(tables: MemoryTables) -> None:
    add(tables)
    bolt = Hosted(ValidationBolt, tables=tables, clock=ManualClock())
    (sent,) = bolt.give(records(record(payer="u1")))
    read = {"log_offset", "event_id", "application", "event_time", "payer", "payee", "payee_kind", "device"}
    measured = {"amount", "currency"}
    assert set(sent.chunk.having(()).columns) == read | measured == columns_read(SOURCE, RULES)
    assert set(sent.chunk.columns) == read | measured | {"received_at", "data"}


def test_records_are_judged_by_the_version_that_they_belong_to(tables: MemoryTables) -> None:
    add(tables)
    add(tables, 1, maxRecordBytes=10)
    bolt = Hosted(ValidationBolt, tables=tables, clock=ManualClock())
    assert len(bolt.give(records(record(payer="u1"), epoch=0, generation=1))) == 1
    sent = bolt.give(records(record(payer="u1"), epoch=1, generation=1))
    assert sent[1].chunk.letters[0].code == "too_large"


def test_a_version_that_is_not_known_yet_is_looked_for_and_else_the_tuple_fails(tables: MemoryTables) -> None:
    add(tables)
    bolt = Hosted(ValidationBolt, tables=tables, clock=ManualClock())
    bolt.give(records(record(payer="u1")))
    assert bolt.give(records(record(payer="u1"), epoch=1, generation=1)) == []
    assert (bolt.acked, bolt.failed) == (0, 1)
    add(tables, 1)
    assert len(bolt.give(records(record(payer="u1"), epoch=1, generation=1))) == 1


def test_a_chunk_of_a_spout_that_has_been_replaced_is_refused(tables: MemoryTables) -> None:
    add(tables)
    add(tables, 1)
    bolt = Hosted(ValidationBolt, tables=tables, clock=ManualClock())
    assert bolt.give(records(record(payer="u1"))) == []
    assert bolt.failed == 1


class Picky(TransformBolt):
    """Cannot process two payers; one of them it notices only once the other is gone."""

    def transform(self, events: pl.DataFrame) -> pl.DataFrame:
        for payer in ("first", "second"):
            bad = events.filter(pl.col("payer") == payer)["log_offset"].to_list()
            if bad:
                raise CannotProcess(dict.fromkeys(bad, f"{payer} is refused"))
        return events.with_columns(pl.lit("x").alias("mark"))


class ByRow(TransformBolt):
    def transform_row(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["payer"] == "first":
            raise KeyError("no such country")
        return {**row, "payer": row["payer"].upper(), "length": len(row["payer"])}


class Losing(TransformBolt):
    def transform(self, events: pl.DataFrame) -> pl.DataFrame:
        return events.head(1)


def payers(*names: str, **changes: Any) -> EventChunk:
    events = frame_of([{"payer": name, "verdict": "accepted"} for name in names])
    return EventChunk(head(0, 3 * len(names), **changes), events.drop("verdict"))


def parked(tables: MemoryTables) -> list[tuple[int, str]]:
    rows = [msgspec.msgpack.decode(value) for _, value in tables.scan(retry_table("pay"))]
    return [(row["offset"], row["error"]) for row in rows]


def test_named_records_are_parked_and_the_rest_goes_on(tables: MemoryTables) -> None:
    bolt = Hosted(Picky, tables=tables, clock=ManualClock())
    (sent,) = bolt.give(payers("a", "second", "first", "b"))
    assert sent.chunk.events.select("payer", "mark").rows() == [("a", "x"), ("b", "x")]
    assert sent.chunk.head.left_out == (3, 6)
    assert not sent.chunk.head.covered().touches(3, 4)
    assert parked(tables) == [(3, "second is refused"), (6, "first is refused")]
    assert (bolt.acked, bolt.failed) == (1, 0)


def test_a_chunk_of_which_every_record_is_parked_still_goes_on(tables: MemoryTables) -> None:
    bolt = Hosted(Picky, tables=tables, clock=ManualClock())
    (sent,) = bolt.give(payers("first"))
    assert sent.chunk.events.height == 0
    assert sent.chunk.head.left_out == (0,)


def test_an_exception_in_transform_row_names_its_record(tables: MemoryTables) -> None:
    bolt = Hosted(ByRow, tables=tables, clock=ManualClock())
    (sent,) = bolt.give(payers("a", "first", "bc"))
    assert sent.chunk.events.select("log_offset", "payer", "length").rows() == [(0, "A", 1), (6, "BC", 2)]
    assert sent.chunk.events.schema.items() >= payers("a").events.schema.items()
    assert parked(tables) == [(3, "KeyError: 'no such country'")]


def test_a_transform_that_loses_records_fails_the_tuple(tables: MemoryTables) -> None:
    bolt = Hosted(Losing, tables=tables, clock=ManualClock())
    assert bolt.give(payers("a", "b")) == []
    assert (bolt.acked, bolt.failed) == (0, 1)
    assert parked(tables) == []
