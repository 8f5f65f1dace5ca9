"""Dead letters: stored once with the raw bytes, their verdicts published."""

import io
import json
from types import SimpleNamespace

import pytest
from tests.unit.test_verdicts import StubLog

from bolts.dead_letters import DeadLettersBolt
from paystorm.chunk import Head, Letter, LetterChunk
from paystorm.log.base import OutRecord
from paystorm.stores.letters import (
    DeadLetter,
    all_letters,
    bury,
    change_letter,
    letter_at,
    letters_below,
    store_letters,
)
from paystorm.tables.memory import MemoryTables
from paystorm.verdicts import VerdictLog


class KeepingLog(StubLog):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[OutRecord] = []

    def partitions(self, topic: str) -> int:
        return 4

    def append(self, topic: str, records: list[OutRecord]) -> list[tuple[int, int]]:
        self.records += records
        return []


def letter(offset: int, partition: int = 1, **other: object) -> Letter:
    fields = {
        "partition": partition, "offset": offset, "timestamp": 5, "field": "amount", "code": "negative",
        "detail": "-1", "event_id": f"e{offset}", "application": "shop", "value": b"\xff\n",
    }  # fmt: skip
    return Letter(**{**fields, **other})


@pytest.fixture
def tables() -> MemoryTables:
    return MemoryTables()


@pytest.fixture
def log() -> KeepingLog:
    return KeepingLog()


@pytest.fixture
def verdicts(log: KeepingLog) -> VerdictLog:
    return VerdictLog(log, "purchase", "purchases")  # type: ignore[arg-type]


def test_a_letter_is_kept_with_its_bytes_and_its_verdict_published(
    tables: MemoryTables, verdicts: VerdictLog, log: KeepingLog
) -> None:
    store_letters(tables, "purchase", verdicts, [DeadLetter.of(letter(7), dead_at=11)])
    stored = letter_at(tables, "purchase", 1, 7)
    assert stored is not None
    assert (stored.value, stored.dead_at, stored.state, stored.attempts) == (b"\xff\n", 11, "open", 0)
    (record,) = log.records
    assert (record.key, record.partition) == (b"purchases/1/7", 1)
    said = json.loads(record.value)
    assert (said["id"], said["verdict"], said["reason"], said["entry"]) == (
        "e7", "dead_lettered", "amount: negative", None,
    )  # fmt: skip


def test_a_replay_keeps_the_first_letter_and_repeats_its_verdict(
    tables: MemoryTables, verdicts: VerdictLog, log: KeepingLog
) -> None:
    store_letters(tables, "purchase", verdicts, [DeadLetter.of(letter(7), dead_at=11)])
    changed = [letter(6), letter(7, code="too_many_digits", value=b"x")]
    store_letters(tables, "purchase", verdicts, [DeadLetter.of(x, dead_at=99) for x in changed])
    stored = letter_at(tables, "purchase", 1, 7)
    assert stored == DeadLetter.of(letter(7), dead_at=11)
    assert log.records[0] == log.records[2]
    assert log.records[1].key == b"purchases/1/6"


def test_letters_are_counted_below_an_offset_of_their_partition(tables: MemoryTables, verdicts: VerdictLog) -> None:
    rows = [letter(o, p) for p in (0, 1, 2) for o in (3, 5, 300)]
    store_letters(tables, "purchase", verdicts, [DeadLetter.of(x, 1) for x in rows])
    assert [letters_below(tables, "purchase", 1, below) for below in (0, 3, 4, 300, 301)] == [0, 0, 1, 2, 3]
    assert [(x.partition, x.offset) for x in all_letters(tables, "purchase", 1)] == [(1, 3), (1, 5), (1, 300)]
    assert len(list(all_letters(tables, "purchase"))) == 9
    assert letters_below(tables, "refund", 1, 300) == 0


def test_a_record_given_up_is_a_letter_with_attempts_and_error(
    tables: MemoryTables, verdicts: VerdictLog, log: KeepingLog
) -> None:
    bury(
        tables, "purchase", verdicts, partition=0, offset=4, timestamp=1, value=b"{}", event_id=None, application=None,
        attempts=6, last_error="ValueError: no", now=77,
    )  # fmt: skip
    stored = letter_at(tables, "purchase", 0, 4)
    assert stored is not None
    assert (stored.field, stored.code, stored.attempts, stored.last_error, stored.dead_at) == (
        "record", "gave_up", 6, "ValueError: no", 77,
    )  # fmt: skip
    assert json.loads(log.records[0].value)["reason"] == "record: gave_up"


def test_of_two_changes_of_a_letter_one_wins(tables: MemoryTables, verdicts: VerdictLog) -> None:
    old = DeadLetter.of(letter(7), dead_at=11)
    store_letters(tables, "purchase", verdicts, [old])
    new = DeadLetter(**{f: getattr(old, f) for f in old.__struct_fields__ if f != "state"}, state="discarded")
    assert change_letter(tables, "purchase", old, new)
    assert not change_letter(tables, "purchase", old, new)
    assert letter_at(tables, "purchase", 1, 7) == new


def test_the_bolt_stores_before_it_acknowledges(tables: MemoryTables, verdicts: VerdictLog, log: KeepingLog) -> None:
    bolt = DeadLettersBolt(input_stream=io.BytesIO(), output_stream=io.BytesIO(), rdb_signal=None)
    bolt.component_name = "dead_letters"
    acks: list[tuple[str, int]] = []
    bolt.ack = lambda tup: acks.append((tup.id, len(log.records)))  # type: ignore[method-assign]
    bolt.tables, bolt._verdicts = tables, verdicts
    bolt.source = SimpleNamespace(name="purchase")
    bolt.clock = SimpleNamespace(now=lambda: 5)
    head = Head(source="purchase", topic="purchases", partition=1, first=0, after=9, epoch=0, generation=0, committed=0)
    chunk = LetterChunk(head=head, letters=(letter(2), letter(3)))
    bolt.process(SimpleNamespace(id="t1", values=[1, chunk], stream="invalid"))
    assert acks == [("t1", 2)]
    assert letters_below(tables, "purchase", 1, 9) == 2
