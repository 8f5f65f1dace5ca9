"""Dead letters at the desk: found, grouped, replayed, mended, discarded; every act kept, and none twice."""

import json
from collections.abc import Sequence
from dataclasses import replace as changed_field

import pytest
from tests.unit.test_desk_base import MemoryDesk

from paystorm.clock import SECOND
from paystorm.desk import Who
from paystorm.desk.letters import LetterName, Selection, causes, load, page, select, show
from paystorm.desk.replays import RESUME_AFTER, Mend, discard, replay
from paystorm.errors import LogError, RecordTooLargeError, UsageError
from paystorm.log.base import OutRecord
from paystorm.reading.partition_reader import lost_claims
from paystorm.stores.letters import DeadLetter, LetterAct, put_acts, store_letters
from paystorm.testing.log import MemoryLog
from paystorm.verdicts import VerdictLog

EVE = Who("eve", "as agreed")
ALL = Selection()
GOOD = b'{"ApplicationRef":"shop","data":{"event_time":"2025-01-01T00:00:00Z","payer":"u1","amount":"1"}}'
NEGATIVE = GOOD.replace(b'"1"', b'"-1"')


@pytest.fixture
def desk() -> MemoryDesk:
    return MemoryDesk()


def bury(
    desk: MemoryDesk,
    value: bytes,
    *,
    code: str = "negative",
    field: str = "amount",
    partition: int = 0,
    last_error: str | None = None,
) -> LetterName:
    """Append a record, and dead-letter it."""
    ((_, offset),) = desk.log.append("pay", [OutRecord(value, partition=partition)])
    letter = DeadLetter(
        partition=partition,
        offset=offset,
        timestamp=desk.clock.now() // 1000,
        dead_at=desk.clock.now(),
        field=field,
        code=code,
        detail="",
        event_id=None,
        application=None,
        value=value,
        attempts=0 if last_error is None else 3,
        last_error=last_error,
    )
    store_letters(desk.tables, "pay", VerdictLog(desk.log, "pay", "pay"), [letter])
    return LetterName("pay", partition, offset)


def one(name: LetterName) -> Selection:
    return Selection(names=(name,))


def sent(desk: MemoryDesk, name: LetterName, offset: int) -> bytes:
    batch = desk.log.read("pay", name.partition, offset, max_records=1, max_bytes=10**6)
    assert batch is not None
    return batch.value(0)


def names(desk: MemoryDesk, selection: Selection) -> list[str]:
    return [str(found.name) for found in select(desk, selection)]


class _ShortLog(MemoryLog):
    """A log that takes no record of 200 bytes."""

    def append(self, topic: str, records: Sequence[OutRecord]) -> list[tuple[int, int]]:
        long = [i for i, record in enumerate(records) if len(record.value) >= 200]
        if long:
            raise RecordTooLargeError("too long", long)
        return super().append(topic, records)


# Finding.


def test_letters_are_selected_by_what_is_said(desk: MemoryDesk) -> None:
    first = bury(desk, NEGATIVE)
    desk.clock.advance(10)
    at = desk.clock.now()
    bury(desk, b"{", code="not_json", field="record", partition=1)
    bury(desk, GOOD, code="gave_up", field="record", last_error="ValueError: 7 is odd")
    assert names(desk, ALL) == ["pay/0/0", "pay/0/1", "pay/1/0"]
    assert names(desk, Selection(reason="not_json")) == ["pay/1/0"]
    assert names(desk, Selection(reason="record")) == ["pay/0/1", "pay/1/0"]
    assert names(desk, Selection(reason="amount: negative")) == names(desk, Selection(until=at)) == ["pay/0/0"]
    assert names(desk, Selection(since=at)) == ["pay/0/1", "pay/1/0"]
    assert names(desk, Selection(names=(first, first))) == ["pay/0/0"]
    with pytest.raises(UsageError, match="pay/0/9: there is no such dead letter"):
        names(desk, one(LetterName("pay", 0, 9)))
    with pytest.raises(UsageError, match="no source 'nope'"):
        names(desk, Selection(sources=("nope",)))


def test_a_condition_speaks_of_every_column_and_of_nothing_else(desk: MemoryDesk) -> None:
    bury(desk, NEGATIVE)
    bury(desk, GOOD, code="gave_up", field="record", last_error="x")
    bury(desk, b"\xff", code="not_utf8", field="record", partition=1)
    for text, expected in [
        ("attempts > 2 AND last_error = 'x'", ["pay/0/1"]),
        ("value->>'$.data.amount' = '-1'", ["pay/0/0"]),
        ("value IS NULL", ["pay/1/0"]),
        ("state = 'open' AND log_partition = 0", ["pay/0/0", "pay/0/1"]),
        ("dead_at < TIMESTAMP '2001-01-01'", []),
        ("log_offset = 1 -- the second", ["pay/0/1"]),
    ]:
        assert names(desk, Selection(where=text)) == expected, text


@pytest.mark.parametrize(
    "text",
    [
        "nope = 1",
        "1=1; DROP TABLE x",
        "1=1) UNION SELECT 1",
        "EXISTS (SELECT * FROM read_text('/etc/hostname'))",
        "EXISTS (FROM glob('/*'))",
        "",
        "log_offset.x.y > 2",
    ],
)
def test_a_condition_that_is_none_is_refused_also_where_there_is_no_letter(desk: MemoryDesk, text: str) -> None:
    for _ in range(2):
        with pytest.raises(UsageError, match="--where"):
            names(desk, Selection(where=text))
        bury(desk, GOOD)


def test_a_page_is_newest_first(desk: MemoryDesk) -> None:
    for n in range(5):
        bury(desk, GOOD, partition=n % 2)
        desk.clock.advance(1)
    found = page(desk, ALL, limit=2, skip=1)
    assert ([str(x.name) for x in found.letters], found.total) == (["pay/1/1", "pay/0/1"], 5)
    with pytest.raises(UsageError, match="a page has 1 to"):
        page(desk, ALL, limit=0)


def test_letters_of_one_cause_are_one_group_whatever_figures_their_errors_name(desk: MemoryDesk) -> None:
    for n in range(3):
        bury(desk, GOOD, code="gave_up", field="record", last_error=f"ValueError: {n} is odd\nmore {n}")
    name = bury(desk, NEGATIVE)
    discard(desk, one(name), EVE)
    first, second = causes(desk, ALL)
    assert (first.cause, first.count, first.states) == ("record: gave_up: ValueError: # is odd", 3, {"open": 3})
    assert (second.cause, second.states, second.example) == ("amount: negative", {"discarded": 1}, name)


# Replaying.


def test_a_replay_goes_to_the_same_partition_with_the_same_bytes_and_is_kept(desk: MemoryDesk) -> None:
    name = bury(desk, GOOD, partition=1)
    acted = replay(desk, one(name), EVE)
    assert ([(d.name, d.sent_as) for d in acted.done], acted.refused) == ([(name, 1)], ())
    assert sent(desk, name, 1) == b'{"replay_of":{"topic":"pay","partition":1,"offset":0},' + GOOD[1:]
    found = load(desk, name)
    assert found.state == "replayed"
    assert [(a.act, a.by, a.reason, a.sent_as) for a in found.acts] == [
        ("replay", "eve", "as agreed", None),
        ("sent", "eve", "as agreed", 1),
    ]


def test_what_would_be_invalid_again_is_refused_and_sent_only_anyway(desk: MemoryDesk) -> None:
    name = bury(desk, NEGATIVE)
    (refused,) = replay(desk, one(name), EVE).refused
    assert refused.why.startswith("it would be dead-lettered again: amount: negative")
    assert load(desk, name).acts == ()
    (done,) = replay(desk, one(name), EVE, anyway=True).done
    assert (done.sent_as, done.warning) == (1, "amount: negative ('-1')")


def test_what_is_no_object_can_only_be_mended_as_a_whole(desk: MemoryDesk) -> None:
    name = bury(desk, b"{", code="not_json", field="record")
    (refused,) = replay(desk, one(name), EVE, anyway=True).refused
    assert "mend it with --value" in refused.why
    (refused,) = replay(desk, one(name), EVE, mend=Mend({"data.x": "1"})).refused
    assert "no JSON object" in refused.why
    (done,) = replay(desk, one(name), EVE, mend=Mend({"data.amount": "7"}, value=GOOD)).done
    assert json.loads(sent(desk, name, 1))["data"]["amount"] == 7
    assert any(line.startswith("+") and "payer" in line for line in done.difference)


def test_a_mended_replay_carries_the_changed_bytes_and_the_act_keeps_them(desk: MemoryDesk) -> None:
    name = bury(desk, NEGATIVE)
    (done,) = replay(desk, one(name), EVE, mend=Mend({"data.amount": "1.10"})).done
    assert [line.strip() for line in done.difference if line[0] in "+-"] == [
        '-    "amount": "-1"',
        '+    "amount": 1.10',
    ]
    assert b'"amount":1.10' in sent(desk, name, 1)
    act = load(desk, name).acts[0]
    assert (act.act, act.value) == ("mend", sent(desk, name, 1))


def test_a_letter_that_was_dealt_with_is_refused_unless_forced(desk: MemoryDesk) -> None:
    gone, dropped = bury(desk, GOOD), bury(desk, GOOD)
    replay(desk, one(gone), EVE)
    discard(desk, one(dropped), EVE)
    first, second = replay(desk, Selection(names=(gone, dropped)), Who("bob", "again")).refused
    assert first.why.startswith("it was replayed by eve at ")
    assert "as offset 2; --force" in first.why
    assert second.why.startswith("it was discarded by eve at ")
    assert len(replay(desk, one(dropped), Who("bob", "again"), force=True).done) == 1
    assert [a.act for a in load(desk, dropped).acts] == ["discard", "replay", "sent"]
    assert "it was replayed by eve" in discard(desk, one(gone), EVE).refused[0].why
    assert len(discard(desk, one(gone), EVE, force=True).done) == 1


def test_a_replay_that_would_lose_to_another_is_told_before(desk: MemoryDesk) -> None:
    name = bury(desk, GOOD)
    replay(desk, one(name), EVE)
    lost_claims(desk.tables, "pay", [(1, ("pay", 0, 0))])
    (refused,) = replay(desk, one(name), EVE, force=True).refused
    assert "replay_of: duplicate_replay (offset 1 counts)" in refused.why
    (done,) = replay(desk, one(name), EVE, force=True, anyway=True).done
    assert [(r.offset, r.counts, r.outcome) for r in show(desk, name).replays] == [
        (1, True, "waiting"),
        (done.sent_as, False, "waiting"),
    ]


def test_a_letter_that_repeats_a_replay_is_not_counted_by_mistake(desk: MemoryDesk) -> None:
    name = bury(desk, GOOD, code="duplicate_replay", field="replay_of")
    (refused,) = replay(desk, one(name), EVE).refused
    assert "repeats a replay that counts already" in refused.why


def test_more_letters_than_allowed_are_refused_before_anything_is_done(desk: MemoryDesk) -> None:
    for _ in range(4):
        bury(desk, GOOD)
    for act in (replay, discard):
        with pytest.raises(UsageError, match="more than 3 dead letters are selected"):
            act(desk, ALL, EVE, most=3)  # type: ignore[operator]
    assert desk.log.end_offset("pay", 0) == 4
    assert [f.state for f in select(desk, ALL)] == ["open"] * 4
    assert len(replay(desk, ALL, EVE, most=4).done) == 4


def test_a_trial_changes_nothing(desk: MemoryDesk) -> None:
    name = bury(desk, GOOD)
    assert len(replay(desk, one(name), EVE, dry=True).done) == len(discard(desk, one(name), EVE, dry=True).done) == 1
    assert (load(desk, name).acts, desk.log.end_offset("pay", 0)) == ((), 1)


def test_an_act_needs_a_reason_and_a_name() -> None:
    with pytest.raises(UsageError, match="a reason is needed"):
        Who("eve", " ").with_reason()
    for by, reason in (("", "x"), ("e" * 257, "x"), ("eve", "x" * 10_001)):
        with pytest.raises(UsageError):
            Who(by, reason)


# What a crash leaves.


class FailingLog(MemoryLog):
    """A log whose appends fail, before or behind the write."""

    fails: str | None = None

    def append(self, topic: str, records: Sequence[OutRecord]) -> list[tuple[int, int]]:
        if self.fails == "before" and topic == "pay":
            raise LogError("no broker")
        placed = super().append(topic, records)
        if self.fails == "behind" and topic == "pay":
            raise LogError("no reply")
        return placed


@pytest.mark.parametrize("fails", ["before", "behind"])
def test_a_replay_that_was_cut_short_is_finished_by_the_next(fails: str) -> None:
    desk = MemoryDesk(log=FailingLog)
    name = bury(desk, NEGATIVE)
    desk.log.fails = fails  # type: ignore[attr-defined]
    mend = Mend({"data.amount": "5"})
    with pytest.raises(LogError, match="the same command finishes them"):
        replay(desk, one(name), EVE, mend=mend)
    desk.log.fails = None  # type: ignore[attr-defined]
    assert load(desk, name).state == "replaying"
    bob = Who("bob", "later")
    assert "was begun by eve" in replay(desk, one(name), bob).refused[0].why
    desk.clock.advance(RESUME_AFTER / SECOND)
    assert "was begun by eve" in replay(desk, one(name), bob, mend=mend).refused[0].why
    (done,) = replay(desk, one(name), bob).done
    assert done.sent_as == (1 if fails == "before" else 2)
    assert {sent(desk, name, o) for o in range(1, (done.sent_as or 0) + 1)} == {load(desk, name).acts[0].value}
    assert [(a.act, a.by) for a in load(desk, name).acts] == [("mend", "eve"), ("sent", "eve")]


def test_a_replay_that_the_spout_has_seen_is_not_sent_again() -> None:
    desk = MemoryDesk(log=FailingLog)
    name = bury(desk, GOOD)
    desk.log.fails = "behind"  # type: ignore[attr-defined]
    with pytest.raises(LogError):
        replay(desk, one(name), EVE)
    desk.log.fails = None  # type: ignore[attr-defined]
    lost_claims(desk.tables, "pay", [(1, ("pay", 0, 0))])
    (done,) = replay(desk, one(name), EVE).done
    assert (done.sent_as, desk.log.end_offset("pay", 0), load(desk, name).state) == (1, 2, "replayed")


def test_of_two_people_at_once_one_replays(desk: MemoryDesk) -> None:
    name = bury(desk, GOOD)

    tables = desk.tables
    put_if_absent = tables.put_if_absent

    def quicker(table: str, rows: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        tables.put_if_absent = put_if_absent  # type: ignore[method-assign]
        act = LetterAct(partition=0, offset=0, n=0, act="discard", at=1, by="bob", reason="mine")
        put_acts(tables, "pay", [act])
        return put_if_absent(table, rows)

    tables.put_if_absent = quicker  # type: ignore[method-assign, assignment]
    acted = replay(desk, one(name), EVE)
    assert (acted.done, acted.refused[0].why) == ((), "somebody else has just done something with it")
    assert desk.log.end_offset("pay", 0) == 1


def test_a_mended_letter_that_fails_again_is_a_letter_of_its_own(desk: MemoryDesk) -> None:
    name = bury(desk, NEGATIVE)
    (done,) = replay(desk, one(name), EVE, mend=Mend({"data.amount": "-2"}), anyway=True).done
    value = sent(desk, name, done.sent_as or 0)
    second = changed_field(name, offset=2)
    assert bury(desk, value) == second
    (again,) = replay(desk, one(second), EVE, mend=Mend({"data.amount": "2"})).done
    assert json.loads(sent(desk, name, again.sent_as or 0))["replay_of"] == {
        "topic": "pay",
        "partition": 0,
        "offset": 2,
    }


def test_a_replay_that_is_longer_than_the_log_takes_is_refused_and_holds_up_no_other(desk: MemoryDesk) -> None:
    short, long = bury(desk, GOOD), bury(desk, GOOD.replace(b'"u1"', b'"' + b"u" * 100 + b'"'))
    desk.resources.log.__class__ = _ShortLog
    made = replay(desk, ALL, EVE)
    assert [d.name for d in made.done] == [short]
    assert [(r.name, r.why.split(":")[0]) for r in made.refused] == [(long, "it is longer than the log takes")]
    mended = replay(desk, one(long), EVE, mend=Mend({"data.payer": "u1"}), force=True)
    assert [d.name for d in mended.done] == [long]
