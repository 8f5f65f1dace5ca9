"""Dead letters against a small model: people, a spout and a log that fails act in any order."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.test_desk_base import MemoryDesk

from paystorm.clock import SECOND
from paystorm.desk import Who
from paystorm.desk.letters import LetterName, Selection, load, select
from paystorm.desk.replays import RESUME_AFTER, Mend, discard, replay
from paystorm.errors import LogError
from paystorm.log.base import OutRecord
from paystorm.reading.partition_reader import lost_claims
from paystorm.stores.letters import DeadLetter, LetterAct, store_letters
from paystorm.testing.log import MemoryLog
from paystorm.validity import ReplayOf, replay_claims
from paystorm.verdicts import VerdictLog

RECORD = b'{"ApplicationRef":"shop","data":{"event_time":"2025-01-01T00:00:00Z","payer":"u1","amount":"%s"}}'
GOOD, BAD, BROKEN = RECORD % b"1", RECORD % b"-1", b"{"
PARTITIONS = st.integers(0, 1)
CHOICE = st.integers(0, 30)


class ShakyLog(MemoryLog):
    """A log that fails, before or behind the write, when it is told to."""

    fails: str | None = None

    def append(self, topic: str, records: Sequence[OutRecord]) -> list[tuple[int, int]]:
        fails = self.fails if topic == "pay" else None
        if fails == "before":
            raise LogError("no broker")
        placed = super().append(topic, records)
        if fails == "behind":
            raise LogError("no reply")
        return placed


class LettersMachine(RuleBasedStateMachine):
    """The model: for each letter its state, since when it is under way, its acts, and the replay that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = MemoryDesk(log=ShakyLog)
        self.state: dict[LetterName, str] = {}
        self.bytes: dict[LetterName, bytes] = {}
        self.begun: dict[LetterName, int] = {}
        self.acts: dict[LetterName, tuple[LetterAct, ...]] = {}
        self.read = {0: 0, 1: 0}
        self.counts: dict[ReplayOf, int] = {}
        self.appended: dict[ReplayOf, list[int]] = {}

    @rule(partition=PARTITIONS, value=st.sampled_from([GOOD, BAD, BROKEN]))
    def bury(self, partition: int, value: bytes) -> None:
        """A record is appended, read, and dead-lettered."""
        ((_, offset),) = self.desk.log.append("pay", [OutRecord(value, partition=partition)])
        now = self.desk.clock.now()
        letter = DeadLetter(
            partition=partition, offset=offset, timestamp=now // 1000, dead_at=now, field="amount", code="negative",
            detail="", event_id=None, application=None, value=value,
        )  # fmt: skip
        for _ in range(2):  # a repeated tuple
            store_letters(self.desk.tables, "pay", VerdictLog(self.desk.log, "pay", "pay"), [letter])
        name = LetterName("pay", partition, offset)
        self.state[name], self.bytes[name], self.acts[name] = "open", value, ()

    def some(self, choice: int) -> LetterName:
        names = sorted(self.state)
        return names[choice % len(names)]

    @precondition(lambda self: self.state)
    @rule(
        choice=CHOICE,
        mended=st.sampled_from([None, "1", "-1"]),
        force=st.booleans(),
        anyway=st.booleans(),
        fails=st.sampled_from([None, None, None, "before", "behind"]),
    )
    def replays(self, choice: int, mended: str | None, force: bool, anyway: bool, fails: str | None) -> None:
        """Somebody replays a letter, as it is or mended, and the log may fail."""
        name = self.some(choice)
        expected = self.expected(name, mended, force, anyway)
        mend = None if mended is None else Mend({"data.amount": f'"{mended}"'})
        ends = {p: self.desk.log.end_offset("pay", p) for p in (0, 1)}
        self.desk.log.fails = fails  # type: ignore[attr-defined]
        who, chosen = Who("eve", "test"), Selection(names=(name,))
        try:
            acted = replay(self.desk, chosen, who, mend=mend, force=force, anyway=anyway)
        except LogError:
            assert expected == "send"
            assert fails is not None
            if self.state[name] != "replaying" or mended is not None:
                self.begun[name] = self.desk.clock.now()
            self.state[name] = "replaying"
        else:
            assert [bool(acted.done), bool(acted.refused)] == [expected != "refuse", expected == "refuse"], acted
            if expected != "refuse":
                self.state[name] = "replayed"
        finally:
            self.desk.log.fails = None  # type: ignore[attr-defined]
        self.note_appended(name, ends, expected == "send" and fails != "before")

    def expected(self, name: LetterName, mended: str | None, force: bool, anyway: bool) -> str:
        """refuse, finish (the spout has seen it) or send."""
        state, value = self.state[name], self.bytes[name]
        claimed = ReplayOf("pay", name.partition, name.offset) in self.counts
        if state == "replaying" and mended is None:
            if claimed:
                return "finish"
            if self.desk.clock.now() - self.begun[name] < RESUME_AFTER:
                return "refuse"
            value = self.acts[name][-1].value or value
        elif state != "open" and not force:
            return "refuse"
        elif mended is not None and value != BROKEN:
            value = RECORD % mended.encode()
        if value == BROKEN:
            return "refuse"
        wrong = b'"-1"' in value or claimed
        return "refuse" if wrong and not anyway else "send"

    def note_appended(self, name: LetterName, ends: dict[int, int], sent: bool) -> None:
        """One record was appended to the letter's own partition, or none at all."""
        more = {p: self.desk.log.end_offset("pay", p) - end for p, end in ends.items()}
        assert more == {p: int(sent and p == name.partition) for p in more}
        if sent:
            batch = self.desk.log.read("pay", name.partition, ends[name.partition], max_records=1, max_bytes=10**6)
            assert batch is not None
            value = json.loads(batch.value(0))
            replayed = ReplayOf("pay", name.partition, name.offset)
            assert value.pop("replay_of") == replayed._asdict()
            last = self.acts_of(name)[-1 if self.state[name] == "replaying" else -2]
            if last.act == "replay":
                assert value == json.loads(self.bytes[name])
            else:
                assert last.value == batch.value(0)
            self.appended.setdefault(replayed, []).append(int(batch.offsets[0]))

    @precondition(lambda self: self.state)
    @rule(choice=CHOICE, force=st.booleans())
    def discards(self, choice: int, force: bool) -> None:
        name = self.some(choice)
        acted = discard(self.desk, Selection(names=(name,)), Who("bob", "junk"), force=force)
        state = self.state[name]
        if state == "open" or (force and state != "discarded"):
            self.state[name] = "discarded"
            assert acted.done
        else:
            assert acted.refused

    @rule(partition=PARTITIONS)
    def spout_reads(self, partition: int) -> None:
        """The spout reads on, and puts down which replay counts: the one of the lowest offset."""
        first = self.read[partition]
        batch = self.desk.log.read("pay", partition, first, max_records=10, max_bytes=10**6)
        if batch is None:
            return
        claims = replay_claims(batch)
        lost = lost_claims(self.desk.tables, "pay", claims)
        for offset, replayed in claims:
            assert (offset in lost) == (self.counts.setdefault(replayed, offset) != offset)
        self.read[partition] = batch.next

    @rule(seconds=st.sampled_from([1, 30, RESUME_AFTER // SECOND]))
    def waits(self, seconds: int) -> None:
        self.desk.clock.advance(seconds)

    def acts_of(self, name: LetterName) -> tuple[LetterAct, ...]:
        return load(self.desk, name).acts

    @invariant()
    def what_is_said_is_what_was_done(self) -> None:
        found = {f.name: f for f in select(self.desk, Selection())}
        assert {name: f.state for name, f in found.items()} == self.state
        for name, f in found.items():
            assert f.letter.value == self.bytes[name]
            assert f.acts[: len(self.acts[name])] == self.acts[name], "an act was changed"
            assert [a.n for a in f.acts] == list(range(len(f.acts)))
            self.acts[name] = f.acts

    @invariant()
    def a_replayed_letter_has_a_replay_in_the_log(self) -> None:
        for name, acts in self.acts.items():
            offsets = self.appended.get(ReplayOf("pay", name.partition, name.offset), [])
            assert {a.sent_as for a in acts if a.act == "sent"} <= set(offsets)
        for replayed, offset in self.counts.items():
            assert offset == min(self.appended[replayed])


LettersMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLetters = pytest.mark.filterwarnings("ignore")(LettersMachine.TestCase)
