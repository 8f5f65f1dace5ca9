"""Verdict records: one by one and by columns the same bytes."""

import json

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from paystorm.clock import ManualClock
from paystorm.log.base import OutRecord
from paystorm.testing.log import MemoryLog
from paystorm.verdicts import VerdictLog, verdict_record, verdict_records

SCHEMA = {
    "log_topic": pl.String,
    "log_partition": pl.Int32,
    "log_offset": pl.Int64,
    "application": pl.String,
    "event_id": pl.String,
    "verdict": pl.String,
    "verdict_reason": pl.String,
    "entry_kind": pl.String,
    "entry_party": pl.String,
    "would_deny": pl.Boolean,
}
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
maybe = st.none() | texts
rows = st.tuples(
    st.just("pur-chase"),
    st.just(3),
    st.integers(0, 2**62),
    maybe,
    maybe,
    st.sampled_from(["accepted", "denied"]),
    maybe,
    st.just("account"),
    maybe,
    st.sampled_from([None, True, False]),
)


def one(row: tuple) -> OutRecord:
    topic, partition, offset, application, event_id, verdict, reason, kind, party, would_deny = row
    return verdict_record(
        application=application,
        event_id=event_id,
        topic=topic,
        partition=partition,
        offset=offset,
        verdict=verdict,
        reason=reason,
        entry=None if party is None else (kind, party),
        would_deny=bool(would_deny),
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(rows, max_size=20))
def test_columns_give_the_same_bytes_as_one_by_one(events: list[tuple]) -> None:
    frame = pl.DataFrame(events, schema=SCHEMA, orient="row")
    assert verdict_records(frame, accepted=True) == [one(row) for row in events]
    assert verdict_records(frame, accepted=False) == [one(row) for row in events if row[5] != "accepted"]


def test_every_awkward_character_is_escaped_alike() -> None:
    text = "".join(map(chr, [*range(0x180), 0x2028, 0x2029, 0xFFFD, 0xFFFF, 0x1F600, 0x10FFFF]))
    row = ("t", 0, 1, text, text, "denied", text, "account", text, True)
    (record,) = verdict_records(pl.DataFrame([row], schema=SCHEMA, orient="row"), accepted=True)
    assert record == one(row)
    assert json.loads(record.value)["id"] == text


def test_a_verdict_has_the_keys_of_the_contract() -> None:
    plain = verdict_record(
        application="shop",
        event_id=None,
        topic="purchase",
        partition=2,
        offset=9,
        verdict="caught_late",
        reason="r",
        entry=("account", "u17"),
    )
    assert plain.key == b"purchase/2/9"
    assert plain.partition == 2
    assert json.loads(plain.value) == {
        "ApplicationRef": "shop", "id": None, "topic": "purchase", "partition": 2, "offset": 9,
        "verdict": "caught_late", "reason": "r", "entry": "account:u17",
    }  # fmt: skip


def test_the_verdict_topic_has_as_many_partitions_as_the_sources_when_it_is_made() -> None:
    log = MemoryLog(ManualClock())
    log.create_topic("purchases", 5)
    verdicts = VerdictLog(log, "purchase", "purchases")
    verdicts.append([])
    assert log.topics() == ["purchases"]
    verdicts.append([OutRecord(b"x", b"k", 4)])
    assert log.partitions("purchase-verdicts") == 5


def test_verdicts_of_a_topic_that_has_grown_go_to_the_partitions_there_are() -> None:
    log = MemoryLog(ManualClock())
    log.create_topic("purchases", 2)
    VerdictLog(log, "purchase", "purchases").append([OutRecord(b"x", b"k", 1)])
    log.add_partitions("purchases", 5)
    VerdictLog(log, "purchase", "purchases").append([OutRecord(b"y", b"l", 4)])
    assert [log.end_offset("purchase-verdicts", p) for p in range(2)] == [1, 1]
