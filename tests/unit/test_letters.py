"""Dead letters: stored once with the raw bytes, their verdicts published."""

import json
from collections.abc import Sequence

import msgspec
import pytest
from tests.unit.hosted import Hosted

from bolts.dead_letters import DeadLettersBolt
from paystorm.chunk import Head, Letter, LetterChunk
from paystorm.clock import ManualClock
from paystorm.log.base import OutRecord
from paystorm.stores.letters import (
    DeadLetter,
    LetterAct,
    acts_by_letter,
    acts_on,
    all_letters,
    bury,
    letter_at,
    letters_below,
    put_acts,
    put_pruned,
    state_after,
    store_letters,
)
from paystorm.tables.memory import MemoryTables
from paystorm.testing.log import MemoryLog
from paystorm.verdicts import VerdictLog


class KeepingLog(MemoryLog):
    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.create_topic("purchases", 4)
        self.records: list[OutRecord] = []

    def append(self, topic: str, records: Sequence[OutRecord]) -> list[tuple[int, int]]:
        self.records += records
        return super().append(topic, records)


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
    return VerdictLog(log, "purchase", "purchases")


def test_a_letter_is_kept_with_its_bytes_and_its_verdict_published(
    tables: MemoryTables, verdicts: VerdictLog, log: KeepingLog
) -> None:
    store_letters(tables, "purchase", verdicts, [DeadLetter.of(letter(7), dead_at=11)])
    stored = letter_at(tables, "purchase", 1, 7)
    assert stored is not None
    assert (stored.value, stored.dead_at, stored.attempts) == (b"\xff\n", 11, 0)
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


def test_whoever_stores_a_letter_late_covers_none_that_died_before_and_publishes_that(
    tables: MemoryTables, verdicts: VerdictLog, log: KeepingLog
) -> None:
    for dead_at, code in ((20, "second"), (10, "first"), (30, "third")):
        store_letters(tables, "purchase", verdicts, [DeadLetter.of(letter(7, code=code), dead_at)])
    assert letter_at(tables, "purchase", 1, 7) == DeadLetter.of(letter(7, code="first"), 10)
    assert [json.loads(r.value)["reason"] for r in log.records] == ["amount: second", "amount: first", "amount: first"]


def test_of_letters_stored_at_once_each_has_its_own_time(
    tables: MemoryTables, verdicts: VerdictLog, log: KeepingLog
) -> None:
    several = [DeadLetter.of(letter(offset), dead_at) for offset, dead_at in ((5, 20), (6, 10), (7, 20))]
    store_letters(tables, "purchase", verdicts, several)
    assert list(all_letters(tables, "purchase")) == several
    assert [r.key for r in log.records] == [b"purchases/1/5", b"purchases/1/6", b"purchases/1/7"]


def test_nothing_comes_back_to_a_letter_that_was_pruned(tables: MemoryTables, verdicts: VerdictLog) -> None:
    whole = DeadLetter.of(letter(7), dead_at=10)
    store_letters(tables, "purchase", verdicts, [whole])
    pruned = msgspec.structs.replace(whole, value=b"", pruned=True)
    put_pruned(tables, "purchase", pruned)
    for dead_at in (1, 10, 99):
        store_letters(tables, "purchase", verdicts, [msgspec.structs.replace(whole, dead_at=dead_at)])
    assert letter_at(tables, "purchase", 1, 7) == pruned


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


def act(n: int, what: str = "replay", by: str = "eve") -> LetterAct:
    return LetterAct(partition=1, offset=7, n=n, act=what, at=n, by=by, reason="why")  # type: ignore[arg-type]


def test_of_two_acts_with_one_number_the_first_stands(tables: MemoryTables) -> None:
    assert put_acts(tables, "purchase", [act(0)]) == [True]
    assert put_acts(tables, "purchase", [act(0, "discard", "bob"), act(1, "sent")]) == [False, True]
    assert acts_on(tables, "purchase", 1, 7) == [act(0), act(1, "sent")]
    assert acts_by_letter(tables, "purchase") == {(1, 7): [act(0), act(1, "sent")]}


def test_what_has_become_of_a_letter_follows_from_its_last_act() -> None:
    assert state_after([]) == "open"
    assert state_after([act(0)]) == "replaying"
    assert state_after([act(0, "mend"), act(1, "sent")]) == "replayed"
    assert state_after([act(0), act(1, "sent"), act(2, "discard")]) == "discarded"


def test_the_bolt_stores_before_it_acknowledges(tables: MemoryTables, verdicts: VerdictLog, log: KeepingLog) -> None:
    hosted = Hosted(DeadLettersBolt, tables=tables, clock=ManualClock())
    hosted.host.component._verdicts = verdicts
    acks: list[int] = []
    hosted.ack = lambda *_: acks.append(len(log.records))  # type: ignore[method-assign]
    head = Head(source="pay", topic="pay", partition=1, first=0, after=9, epoch=0, generation=0, committed=0)
    hosted.give(LetterChunk(head=head, letters=(letter(2), letter(3))))
    assert acks == [2]
    assert letters_below(tables, "pay", 1, 9) == 2
