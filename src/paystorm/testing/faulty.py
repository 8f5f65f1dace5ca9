"""Storage that fails as it is told: before a write, after it, in the middle of it, or with its writer dying of it.

Every durable write of a component passes through one `Faults`, which numbers it and asks a plan what becomes of it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from paystorm.clock import ManualClock
from paystorm.errors import LogError, PaystormError, TablesError
from paystorm.testing.undoable import UndoableTables

When = Literal["before", "after", "half"]
"""before: nothing is written; after: all is, and the reply is lost; half: the first half of the rows is."""
What = Literal["error", "kill", "crash", "slow", "stop"]
"""error: the call raises; kill: the component dies, and is replaced; crash: the whole process dies; slow: none of
these, it only takes its time; stop: the component stands still there while it is replaced, and goes on later."""
GROUP = "tables.together"
"""The end of a group of writes, which is when they become durable."""


class ComponentKilledError(SystemExit):
    """The component dies here. No Exception: none of its own handlers may catch it, as none catches `kill -9`."""


class ProcessCrashedError(BaseException):
    """The whole process dies here: it leaves the driver, which is thrown away."""


@dataclass(frozen=True, slots=True)
class Write:
    """A write that is about to be done."""

    number: int
    """Counted from 1, over all storage of the world."""
    what: str
    """Such as `tables.put_if_absent`, `log.append`, `warehouse.stage`."""
    name: str
    """The table, feed, topic, or source of a file."""
    rows: int

    def __str__(self) -> str:
        return f"write {self.number}: {self.what} {self.name} ({self.rows} rows)"


@dataclass(frozen=True, slots=True)
class WriteFault:
    """What becomes of a write. `stall`: seconds that pass before it, or in it where its writer stands still."""

    when: When = "before"
    what: What = "error"
    stall: float = 0.0

    def kind(self) -> str:
        """What it is counted as."""
        return "slow write" if self.what == "slow" else f"{self.what} {self.when} write"

    def __str__(self) -> str:
        after = f", after {self.stall:g} s" if self.stall else ""
        done = {"before": "not done", "after": "done", "half": "half done"}[self.when]
        if self.what == "stop":
            return f"{done}, and the component stands still for {self.stall:g} s, and is replaced"
        what = {"error": "and it fails", "kill": "and the component dies", "crash": "and the process dies"}
        return f"slow: {self.stall:g} s" if self.what == "slow" else f"{done}, {what[self.what]}{after}"


Plan = Callable[[Write], WriteFault | None]
"""Asked for each write."""
ReadPlan = Callable[[int, str, str], bool]
"""Asked for each read (number, what, name): whether it fails."""
Watch = Callable[[Write, Any], None]
"""Told of each write just before it is done: the write, and its rows or items."""
Done = Callable[[Write, Any, list[bool]], None]
"""Told of each write that was done, of a group at its end: the write, its rows or items, and which of them were put."""


class Faults:
    """The numbering of writes and reads, the plans, and what is down."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.plan: Plan | None = None
        self.read_plan: ReadPlan | None = None
        self.random = Random(0)
        """Decides which writes of a group that failed are left."""
        self.watches: list[Watch] = []
        self.done: list[Done] = []
        self.got: list[Callable[[str, list[bytes | None]], None]] = []
        """Told of the values that `get_many` gave, of which table."""
        self.down: Callable[[str, str, bool], bool] = lambda what, name, write: False
        """Whether a call (what, name, whether it writes) fails now because its storage cannot be reached."""
        self.writes = self.reads = 0
        self.log: list[str] = []
        """What was inflicted, for the story of a failed run."""
        self.kinds: Counter[str] = Counter()
        """How often each kind of fault was inflicted."""
        self.stop: Callable[[float], bool] = lambda seconds: False
        """Lets what runs stand still for so long, while all else goes on; False: it cannot."""
        self.woken = False
        """Whether what runs now is a task that was replaced."""
        self.woken_writes = 0
        self._stop_behind = 0.0
        """How long the writer of the group stands still at its end."""
        self._group: list[tuple[Write, Sequence[Any], Any]] | None = None
        """What a group has written so far: others are told of it at its end."""

    def note(self, kind: str, text: str) -> None:
        """Put down that something was inflicted."""
        self.kinds[kind] += 1
        self.log.append(f"{self.clock.monotonic():.3f} s  {text}")

    def read(self, what: str, name: str) -> None:
        """Before a read. Raises TablesError or LogError where the storage is down, or the plan says so."""
        self.reads += 1
        if self.down(what, name, False):
            raise _error(what, f"{what} {name}: it cannot be reached (simulated)")
        if self.read_plan is not None and self.read_plan(self.reads, what, name):
            self.note("failed read", f"read {self.reads}: {what} {name}: it fails")
            raise _error(what, f"{what} {name}: read {self.reads} failed (simulated)")

    def write(self, what: str, name: str, rows: Sequence[Any], do: Callable[[Sequence[Any]], Any]) -> Any:
        """Do a write as the plan wants it. `do` writes some of the rows."""
        if self.down(what, name, True):
            raise _error(what, f"{what} {name}: it cannot be reached (simulated)")
        write, fault = self._next(what, name, len(rows))
        if fault is None or fault.what == "slow":
            return self._do(write, rows, do)
        if fault.what == "stop" and rows:
            return self._stopped(write, fault, rows, do)
        if fault.when == "after":
            self._do(write, rows, do)
        elif fault.when == "half" and len(rows) > 1:
            self._do(write, rows[: len(rows) // 2], do)
        raise _raised(write, fault)

    def _stopped(self, write: Write, fault: WriteFault, rows: Sequence[Any], do: Callable[[Sequence[Any]], Any]) -> Any:
        """Before, between or behind the rows the writer stands still; behind its group, of which nobody sees a half."""
        first = {"before": 0, "after": len(rows), "half": len(rows) // 2}[fault.when]
        halves = [self._do(write, some, do) for some in (rows[:first],) if some]
        if self._group is not None:
            self._stop_behind = fault.stall
        else:
            self._stand_still(fault.stall)
            self.woken_writes += self.woken and first < len(rows)
        halves += [self._do(write, some, do) for some in (rows[first:],) if some]
        return [done for half in halves for done in half] if isinstance(halves[0], list) else halves[0]

    def _stand_still(self, seconds: float) -> None:
        self.woken = self.stop(seconds) or self.woken

    @contextmanager
    def together(self, tables: UndoableTables) -> Iterator[None]:
        """A group of writes: where it fails, all, none or the first of them are left, as databases leave them."""
        if self._group is not None:
            yield
            return
        group: list[tuple[Write, Sequence[Any], Any]] = []
        self._group = group
        tables.begin()
        self._stop_behind = 0.0
        kept: list[bool] | None = None
        over = False
        try:
            yield
            over = True
            if group:
                write, fault = self._next(GROUP, group[0][0].name, len(group))
                if fault is not None and fault.what == "stop":
                    self._stop_behind = fault.stall
                elif fault is not None and fault.what != "slow":
                    kept = {"before": [False] * len(group), "after": None, "half": self._left(group)}[fault.when]
                    raise _raised(write, fault)
        except BaseException:
            if not over and group and self.random.random() < 0.7:
                kept = self._left(group)
                self.note("torn group", f"of the {len(group)} writes of a group that failed, {sum(kept)} are left")
            raise
        finally:
            self._group = None
            # Every write to tables is one entry of both lists; others in the block (to the log) stay.
            numbers = [write.number for write, _, _ in group]
            gone = {n for n, keep in zip(numbers, kept or [True] * len(numbers), strict=True) if not keep}
            gone = tables.end(gone)
            for write, rows, result in group:
                if write.number not in gone:
                    self._tell(write, rows, result)
        if self._stop_behind:
            self._stand_still(self._stop_behind)

    def _left(self, group: Sequence[tuple[Write, Sequence[Any], Any]]) -> list[bool]:
        """Which writes of a failed group are left: the first ones (HBase), or those of the first files (SQLite)."""
        files = list(dict.fromkeys(_file(write.name) for write, _, _ in group))
        if self.random.random() < 0.5:
            first = files[: self.random.randint(0, len(files) - 1)]
            return [_file(write.name) in first for write, _, _ in group]
        upto = self.random.randint(0, len(group))
        return [place < upto for place in range(len(group))]

    def _next(self, what: str, name: str, rows: int) -> tuple[Write, WriteFault | None]:
        self.writes += 1
        self.woken_writes += self.woken
        write = Write(self.writes, what, name, rows)
        fault = self.plan(write) if self.plan is not None else None
        if fault is not None:
            self.note(fault.kind(), f"{write}: {fault}")
            if fault.stall and fault.what != "stop":
                self.clock.advance(fault.stall)
        return write, fault

    def _do(self, write: Write, rows: Sequence[Any], do: Callable[[Sequence[Any]], Any]) -> Any:
        for watch in self.watches:
            watch(write, rows)
        result = do(rows)
        if self._group is None:
            self._tell(write, rows, result)
        else:
            self._group.append((write, rows, result))
        return result

    def _tell(self, write: Write, rows: Sequence[Any], result: Any) -> None:
        conditional = write.what in ("tables.put_if_absent", "tables.replace", "tables.delete_if")
        put = (result if isinstance(result, list) else [result]) if conditional else [True] * len(rows)
        for done in self.done:
            done(write, rows, put)


def _file(name: str) -> str:
    """The database file of a table: one a source, and one shared."""
    source, dot, _ = name.partition(".")
    return source if dot else ""


def _raised(write: Write, fault: WriteFault) -> BaseException:
    if fault.what == "crash":
        return ProcessCrashedError(str(write))
    if fault.what == "kill":
        return ComponentKilledError(str(write))
    return _error(write.what, f"{write}: failed {fault.when} it was done (simulated)")


def _error(what: str, text: str) -> PaystormError:
    return LogError(text) if what.startswith("log.") else TablesError(text)


class FaultyTables:
    """Tables whose writes pass through `Faults`."""

    def __init__(self, inner: UndoableTables, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def get(self, table: str, key: bytes) -> bytes | None:
        """As `Tables.get`."""
        self._faults.read("tables.get", table)
        return self._inner.get(table, key)

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `Tables.get_many`."""
        self._faults.read("tables.get_many", table)
        values = self._inner.get_many(table, keys)
        for got in self._faults.got:
            got(table, values)
        return values

    def scan(
        self,
        table: str,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        """As `Tables.scan`."""
        self._faults.read("tables.scan", table)
        return self._inner.scan(table, start, stop, limit=limit, reverse=reverse)

    def together(self) -> AbstractContextManager[None]:
        """As `Tables.together`: a fault can come between any two writes of the group, or at its end."""
        return self._faults.together(self._inner)

    def put(self, table: str, rows: Sequence[tuple[bytes, bytes]], *, version: int = 0) -> None:
        """As `Tables.put`."""
        self._write("tables.put", table, rows, lambda some: self._inner.put(table, some, version=version))

    def put_if_absent(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        """As `Tables.put_if_absent`."""
        put: list[bool] = self._write(
            "tables.put_if_absent", table, rows, lambda some: self._inner.put_if_absent(table, some)
        )
        return put

    def replace(self, table: str, key: bytes, expected: bytes, value: bytes) -> bool:
        """As `Tables.replace`."""
        do = self._inner.replace
        return bool(self._write("tables.replace", table, [(key, value)], lambda _: do(table, key, expected, value)))

    def delete(self, table: str, keys: Sequence[bytes]) -> None:
        """As `Tables.delete`."""
        rows = [(key, b"") for key in keys]
        self._write("tables.delete", table, rows, lambda some: self._inner.delete(table, [key for key, _ in some]))

    def delete_if(self, table: str, key: bytes, expected: bytes) -> bool:
        """As `Tables.delete_if`."""
        rows = [(key, expected)]
        return bool(self._write("tables.delete_if", table, rows, lambda _: self._inner.delete_if(table, key, expected)))

    def feed_append(self, feed: str, items: Sequence[bytes]) -> None:
        """As `Tables.feed_append`."""
        self._faults.write(
            "tables.feed_append",
            feed,
            items,
            lambda some: self._inner.remembered_feed(self._faults.writes, feed, some),
        )

    def _write(self, what: str, table: str, rows: Sequence[tuple[bytes, bytes]], do: Callable[[Any], Any]) -> Any:
        return self._faults.write(
            what,
            table,
            rows,
            lambda some: self._inner.remembered(self._faults.writes, table, [key for key, _ in some], lambda: do(some)),
        )

    def feed_read(self, feed: str, cursor: bytes, *, limit: int = 10_000) -> tuple[list[bytes], bytes]:
        """As `Tables.feed_read`."""
        self._faults.read("tables.feed_read", feed)
        return self._inner.feed_read(feed, cursor, limit=limit)

    def feed_end(self, feed: str) -> bytes:
        """As `Tables.feed_end`."""
        self._faults.read("tables.feed_end", feed)
        return self._inner.feed_end(feed)

    def close(self) -> None:
        """The inner tables outlive their users."""
