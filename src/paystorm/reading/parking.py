"""The parked records of one partition: their retries, and giving up (SEMANTICS.md §6)."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from paystorm import retry
from paystorm.chunk import Head, RecordChunk, Refusal
from paystorm.clock import SECOND
from paystorm.log.base import RecordBatch
from paystorm.reading.parked_rows import ParkedRows, Surroundings
from paystorm.stores.retry import Parked, delete_answers, load_answers, scan_parked

REFUSALS = "refusals"
"""The stream of the questions to the sinks."""
Step = Literal["retry", "ask", "lift", "settle_retry", "give_up", "settle_ask", "settle_lift"]
_SETTLES: dict[Step, Step] = {"retry": "settle_retry", "ask": "settle_ask", "lift": "settle_lift"}


@dataclass(frozen=True, slots=True)
class Emission:
    """A tuple to emit; `stream` None is the default one."""

    chunk: RecordChunk | Refusal
    tuple_id: str
    stream: str | None = None


@dataclass(slots=True, eq=False)
class _Entry:
    """What is remembered of a parked record; its row is read again whenever something is decided by it."""

    offset: int
    attempts: int
    held: bool
    base: int
    step: Step = "retry"
    """What is to be sent next (retry, ask, lift), or what is to be done in the tables next (the others)."""
    due: float = 0.0
    """Monotonic time at which the next tuple may be sent."""
    fails: int = 0
    """Failures of its tuples without a name in a row."""
    unsure: bool = False
    """A retry failed without a name, so it may have reached a sink."""
    flying: bool = False


class ParkedRecords:
    """The records parked below the committed offset of a partition. They do not hold it back."""

    def __init__(
        self,
        here: Surroundings,
        partition: int,
        *,
        new_id: Callable[[int, int], str],
        head: Callable[[int, int, int], Head],
        duplicates: Callable[[RecordBatch], tuple[int, ...]],
    ) -> None:
        """`new_id(first, after)` makes a tuple id, `head(first, after, attempt)` a chunk's head."""
        self._here = here
        self._source = here.source.name
        self._partition = partition
        self.rows = ParkedRows(here, partition)
        self._new_id = new_id
        self._head = head
        self._duplicates = duplicates
        self._entries: dict[int, _Entry] = {}
        self._flights: dict[str, _Entry] = {}
        self._to_do: dict[int, _Entry] = {}
        self._retries: list[tuple[float, int]] = []
        self._questions: list[tuple[float, int]] = []
        self._offsets: tuple[int, ...] | None = ()

    def __len__(self) -> int:
        return len(self._entries)

    def offsets(self) -> tuple[int, ...]:
        """The parked offsets, ascending."""
        if self._offsets is None:
            self._offsets = tuple(sorted(self._entries))
        return self._offsets

    @property
    def held(self) -> tuple[int, ...]:
        """The offsets that a sink holds: retried for as long as it takes."""
        return tuple(sorted(e.offset for e in self._all() if e.held))

    @property
    def in_flight(self) -> int:
        """Tuples under way."""
        return len(self._flights)

    def settled(self) -> bool:
        """Nothing is under way, and no retry failed without telling how far it came."""
        return not self._flights and not self._to_do and not any(e.unsure for e in self._all())

    def due(self, mono: float) -> bool:
        """Whether anything is to be sent or done now."""
        return bool(self._to_do) or any(not e.flying and e.due <= mono for e in self._all())

    def _all(self) -> list[_Entry]:
        # A copy, made in one step: the embedded runner asks from another thread.
        return list(self._entries.values())

    # Learning of records.

    def scan(self, committed: int, read: int) -> None:
        """Take in what the retry table has below `committed`; `read` is the count of records there."""
        found: set[int] = set()
        for row in list(scan_parked(self._here.tables, self._source, self._partition, 0, committed)):
            found.add(row.offset)
            entry = self._entries.get(row.offset)
            if entry is not None:
                if entry.step == "retry" and not entry.flying and not _fits(entry, row):
                    self._plan(entry, row)
            elif not self.rows.finish_buried(row):
                # Found by a restart, or parked by a tuple that came late.
                known = self.rows.fill(row, None, base=read)
                if known is not None:
                    self.add(known)
        for entry in [e for e in self._entries.values() if e.offset not in found and not e.flying]:
            self._forget(entry)

    def add(self, row: Parked) -> None:
        """Remember a filled row whose offset is below the committed one (or about to be)."""
        entry = _Entry(row.offset, row.attempts, row.state == "held", row.base)
        self._entries[row.offset] = entry
        self._offsets = None
        self._plan(entry, row)

    def consider(self, read: int) -> None:
        """Begin to give up those that may be; `read` is the count of records below the committed offset."""
        for later_parked, offset in enumerate(reversed(self.offsets())):
            entry = self._entries[offset]
            if entry.step == "retry" and not entry.flying and not entry.held:
                # A later record that is parked itself is not complete.
                later = read - entry.base - later_parked
                if retry.may_give_up(entry.attempts, later, self._here.settings):
                    self._do(entry, "give_up")

    # Sending.

    def next_retry(self, mono: float, *, unsure_only: bool = False) -> Emission | None:
        """The next retry that is due. `unsure_only`: only one that was sent and failed without a name."""
        if unsure_only:
            entry = next((e for e in self._entries.values() if e.unsure and not e.flying and e.due <= mono), None)
        else:
            entry = self._pop(self._retries, mono)
        if entry is None:
            return None
        try:
            return self._send_retry(entry)
        except Exception:
            self._later(entry, mono)
            raise

    def next_question(self, mono: float) -> Emission | None:
        """The next question to the sinks, or answer taken back, that is due."""
        entry = self._pop(self._questions, mono)
        if entry is None:
            return None
        refusal = Refusal(
            head=self._head(entry.offset, entry.offset + 1, entry.attempts),
            offset=entry.offset,
            lift=entry.step == "lift",
        )
        return Emission(refusal, self._fly(entry), REFUSALS)

    def acked(self, tuple_id: str) -> bool:
        """A tuple tree is complete; False: it is none of these."""
        entry = self._flights.pop(tuple_id, None)
        if entry is None:
            return False
        entry.flying = False
        self._do(entry, _SETTLES[entry.step])
        return True

    def failed(self, tuple_id: str, mono: float) -> bool:
        """A tuple failed without a name; False: it is none of these."""
        entry = self._flights.pop(tuple_id, None)
        if entry is None:
            return False
        entry.flying = False
        entry.unsure = entry.step == "retry"
        self._later(entry, mono)
        return True

    # What follows in the tables.

    def work(self, read: int) -> None:
        """Do what acks have made due. Raises TablesError, LogError; what is not done then is done at the next call."""
        while self._to_do:
            offset, entry = next(iter(self._to_do.items()))
            row = self.rows.load(offset)
            if row is None:
                self._forget(entry)
                continue
            if entry.step == "settle_retry":
                self._settle_retry(entry, row)
            elif entry.step == "give_up":
                self._begin_to_give_up(entry, row)
            elif entry.step == "settle_ask":
                self._settle_question(entry, row)
            else:
                self._settle_lift(entry, row)
            self._to_do.pop(offset, None)
            if not self._to_do:
                self.consider(read)  # those whose retry failed just now

    def _settle_retry(self, entry: _Entry, row: Parked) -> None:
        if _fits(entry, row):  # no bolt has put another attempt down: it succeeded
            self.rows.delete(row)
            self._forget(entry)
        else:
            self._plan(entry, row)

    def _begin_to_give_up(self, entry: _Entry, row: Parked) -> None:
        if _fits(entry, row):
            new = msgspec.structs.replace(row, state="giving_up")
            self.rows.replace(row, new)
            row = new
        self._plan(entry, row)

    def _settle_question(self, entry: _Entry, row: Parked) -> None:
        if row.state != "giving_up":
            self._plan(entry, row)
            return
        answers = load_answers(self._here.tables, self._source, self._partition, entry.offset)
        if not answers:
            self._here.warn(
                f"{self._source}: no sink answered whether it holds {self._partition}/{entry.offset}; it is asked "
                f"again: is the stream {REFUSALS!r} connected to every sink?"
            )
            entry.step = "ask"
            self._later(entry, self._here.clock.monotonic())
        elif any(answers.values()):
            # The row leaves `giving_up` before the lift is sent: see stores.retry.still_asked.
            new = msgspec.structs.replace(row, state="held", refused=True)
            self.rows.replace(row, new)
            self._plan(entry, new)
        else:
            self.rows.bury(row)
            self._forget(entry)

    def _settle_lift(self, entry: _Entry, row: Parked) -> None:
        delete_answers(self._here.tables, self._source, self._partition, entry.offset)
        new = msgspec.structs.replace(row, refused=False)
        self.rows.replace(row, new)
        self._plan(entry, new)

    # Bookkeeping.

    def _send_retry(self, entry: _Entry) -> Emission | None:
        row = self.rows.load(entry.offset)
        if row is not None:
            row = self.rows.fill(row, None, base=entry.base)
        if row is None:
            self._forget(entry)
            return None
        if not _fits(entry, row):
            self._plan(entry, row)
            return None
        batch = self.rows.as_batch(row)
        head = self._head(row.offset, row.offset + 1, row.attempts)
        chunk = RecordChunk.of(head, batch, self._duplicates(batch))
        return Emission(chunk, self._fly(entry))

    def _plan(self, entry: _Entry, row: Parked) -> None:
        """Bring an entry to its row: what is to be sent next, and when."""
        entry.attempts, entry.held, entry.base = row.attempts, row.state == "held", row.base
        entry.unsure = False
        clock = self._here.clock
        now = clock.now()
        entry.due, entry.fails = clock.monotonic(), 0
        if row.state == "giving_up":
            entry.step = "ask"
        elif row.refused:
            entry.step = "lift"
        else:
            entry.step = "retry"
            due = retry.due(row.attempts, row.last_failed, now, self._here.settings)
            entry.due += max(due - now, 0) / SECOND
        self._queue(entry)

    def _later(self, entry: _Entry, mono: float) -> None:
        entry.fails += 1
        entry.due = mono + retry.backoff(entry.fails, self._here.settings)
        self._queue(entry)

    def _queue(self, entry: _Entry) -> None:
        heapq.heappush(self._retries if entry.step == "retry" else self._questions, (entry.due, entry.offset))

    def _pop(self, heap: list[tuple[float, int]], mono: float) -> _Entry | None:
        """The entry of the heap that is due, if any; what is out of date in the heap is dropped."""
        while heap and heap[0][0] <= mono:
            due, offset = heapq.heappop(heap)
            entry = self._entries.get(offset)
            if entry is None or entry.flying or entry.due != due:
                continue
            if entry.step in (("retry",) if heap is self._retries else ("ask", "lift")):
                return entry
        return None

    def _fly(self, entry: _Entry) -> str:
        tuple_id = self._new_id(entry.offset, entry.offset + 1)
        entry.flying = True
        self._flights[tuple_id] = entry
        return tuple_id

    def _do(self, entry: _Entry, step: Step) -> None:
        entry.step = step
        self._to_do[entry.offset] = entry

    def _forget(self, entry: _Entry) -> None:
        self._entries.pop(entry.offset, None)
        self._to_do.pop(entry.offset, None)
        self._offsets = None


def _fits(entry: _Entry, row: Parked) -> bool:
    """Whether the row still is what the entry's retry was, or is to be, sent for."""
    state = "held" if entry.held else "waiting"
    return row.attempts == entry.attempts and row.state == state and not row.refused
