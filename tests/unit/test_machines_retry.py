"""The retry schedule against a small model: what fails is sent again when it is due, and given up by the rule.

A partition's reader, bolts that name records, sinks that answer, restarts and time-outs, in any order.
"""

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.test_partition_reader import START, World

from paystorm.chunk import Refusal
from paystorm.clock import SECOND, ManualClock
from paystorm.reading.parking import Emission
from paystorm.settings import Settings
from paystorm.stores.letters import all_letters
from paystorm.stores.retry import all_parked
from paystorm.tables.memory import MemoryTables
from paystorm.testing.log import MemoryLog

INITIAL, MULTIPLIER, LONGEST, BEHIND = 2.0, 3.0, 30.0, 3


class MemoryWorld(World):
    """The same world without a disk."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.log = MemoryLog(self.clock)
        self.log.create_topic("t", 1)
        self.tables = MemoryTables()
        self.settings = Settings(
            {
                "chunkRecords": 4,
                "retryInitialDelayMs": int(INITIAL * 1000),
                "retryDelayMultiplier": MULTIPLIER,
                "retryDelayMaxMs": int(LONGEST * 1000),
                "maxOffsetBehind": BEHIND,
            }
        )
        self.firsts = {0: 0}
        self.warnings = []
        self.applied = set()
        self.refused = set()
        self.sent = []
        self.reader = self.start()


class RetryMachine(RuleBasedStateMachine):
    """The model: for each record that was named, how often it was tried, and when it failed last."""

    def __init__(self) -> None:
        super().__init__()
        self.world = MemoryWorld()
        self.bad: set[int] = set()
        self.attempts: dict[int, int] = {}
        self.failed_at: dict[int, int] = {}
        self.written = 0
        self.flying: list[Emission] = []
        self.old: list[Emission] = []
        """Of spout tasks before: their tuples may still arrive."""

    @rule(n=st.integers(1, 9), bad=st.sets(st.integers(0, 8), max_size=2))
    def writes(self, n: int, bad: set[int]) -> None:
        self.bad |= {self.written + i for i in bad if i < n}
        self.world.write(n)
        self.written += n

    @rule(times=st.integers(1, 4))
    def emits(self, times: int) -> None:
        for _ in range(times):
            found = self.world.next()
            if found is None:
                return
            self.check_emission(found)
            self.flying.append(found)

    def check_emission(self, found: Emission) -> None:
        head, now = found.chunk.head, self.world.clock.now()
        if isinstance(found.chunk, Refusal):
            offset = found.chunk.offset
            if not found.chunk.lift:
                assert self.attempts[offset] >= 2, "given up without a retry"
                assert self.later(offset) >= BEHIND, "given up too early"
            return
        if head.attempt:
            assert head.after == head.first + 1, "a retry is of a record alone"
            assert head.attempt == self.attempts[head.first]
            wait = min(INITIAL * MULTIPLIER ** (head.attempt - 1), LONGEST)
            assert now >= self.failed_at[head.first] + wait * SECOND, "a retry before its time"

    def later(self, offset: int) -> int:
        """Records behind one that are complete."""
        return len([o for o in self.world.applied if o > offset])

    @rule(seconds=st.sampled_from([1, 5, 20, 60]), losses=st.integers(0, 999))
    def goes_on(self, seconds: int, losses: int) -> None:
        """Everything is sent and settled for so long; one tuple in ten fails without a name."""
        random = Random(losses)
        end = self.world.clock.monotonic() + seconds
        while self.world.clock.monotonic() < end:
            found = self.world.next()
            if found is None:
                self.world.clock.advance(0.5)
                continue
            self.check_emission(found)
            self.flying.append(found)
            fate = random.choices(["done", "lost before", "lost behind"], [18, 1, 1])[0]
            self.settles_one(random.randrange(len(self.flying)), fate)

    @precondition(lambda self: self.flying)
    @rule(choice=st.integers(0, 9), fate=st.sampled_from(["done", "done", "done", "lost before", "lost behind"]))
    def settles(self, choice: int, fate: str) -> None:
        """A tuple arrives and is acknowledged, or fails without a name, before or behind the sinks."""
        self.settles_one(choice, fate)

    def settles_one(self, choice: int, fate: str) -> None:
        found = self.flying.pop(choice % len(self.flying))
        if fate != "lost before":
            self.deliver(found)
        if fate == "done":
            self.world.reader.acked(found.tuple_id)
        else:
            self.world.reader.failed(found.tuple_id)

    def deliver(self, found: Emission) -> None:
        before = {row.offset: row for row in all_parked(self.world.tables, "s")}
        self.world.deliver(found, self.bad)
        for row in all_parked(self.world.tables, "s"):
            held = before.get(row.offset)
            if held is None or held.attempts != row.attempts:
                if held is not None:
                    assert row.attempts == held.attempts + 1, "a failure counted twice"
                self.attempts[row.offset] = row.attempts
                self.failed_at[row.offset] = self.world.clock.now()

    @rule(tick=st.sampled_from([0.5, 2, 6, 30]))
    def waits(self, tick: float) -> None:
        self.world.clock.advance(tick)

    @rule()
    def restarts(self) -> None:
        """The spout task dies; another begins from the tables."""
        self.old += self.flying
        self.flying = []
        self.world.start()

    @precondition(lambda self: self.old)
    @rule(choice=st.integers(0, 9))
    def an_old_tuple_arrives(self, choice: int) -> None:
        """Of a task that is gone: nobody hears of its ack, but the bolts do their work."""
        found = self.old.pop(choice % len(self.old))
        if isinstance(found.chunk, Refusal) or found.chunk.head.attempt == 0:
            return  # sinks apply no offset twice, which this world's do not know of
        self.deliver(found)
        self.world.reader.acked(found.tuple_id)

    @rule(choice=st.integers(0, 20))
    def heals(self, choice: int) -> None:
        """Whatever kept a record from being processed is over."""
        if self.bad:
            self.bad.discard(sorted(self.bad)[choice % len(self.bad)])

    @invariant()
    def no_record_has_two_outcomes(self) -> None:
        dead = {letter.offset for letter in all_letters(self.world.tables, "s")}
        assert not dead & self.world.applied
        assert all(self.attempts[offset] >= 2 for offset in dead)

    def teardown(self) -> None:
        """Once everything is mended and has had its time, every record has an outcome, and none is left parked."""
        self.bad.clear()
        for found in self.flying:
            self.world.reader.failed(found.tuple_id)
        self.world.run(seconds=200)
        dead = {letter.offset for letter in all_letters(self.world.tables, "s")}
        assert not list(all_parked(self.world.tables, "s"))
        assert dead | self.world.applied == set(range(self.written))
        assert not dead & self.world.applied
        assert self.world.committed == self.written


RetryMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestRetry = RetryMachine.TestCase
