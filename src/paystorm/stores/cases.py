"""Cases: what is opened for a party when one of its events is denied or a rule asks for a review.

A case's events are not copied here: they are the warehouse's rows whose `entry_kind` and `entry_party` name the party,
and the caught-late rows of the journals.

`cases`, key (kind, party) → `Case`; of several the one opened first stands. `cases.decisions`, key (kind, party, n) →
`Decision`, put where absent and never changed: what a case has come to follows from its last decision and from what
came after it.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Literal

import msgspec

from paystorm.tables.base import MAX_VERSION, Tables
from paystorm.tables.keys import key, under

TABLE = "cases"
DECISIONS = "cases.decisions"
Verdict = Literal["confirmed", "false_alarm", "inconclusive", "reopened"]
"""confirmed: it was fraud; false_alarm: it was not; inconclusive: nobody can tell; reopened: look at it again."""


MAX_REMEMBERED = 100_000
"""Open cases that a task remembers."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A party under investigation."""

    kind: str
    party: str
    opened_at: int
    """µs since 1970-01-01 UTC."""
    source: str
    """The source whose event or rule opened it."""
    cause: str
    """What opened it: a rule's name, or `person`."""


def open_cases(tables: Tables, cases: Iterable[Case]) -> None:
    """Open a case for each party that has none; the others join the one they have."""
    first: dict[bytes, Case] = {}
    for case in sorted(cases, key=lambda case: case.opened_at):
        first.setdefault(key(case.kind, case.party), case)
    # The earlier, the higher the version. Conditions would do it too, but each of them costs HBase a call.
    for at, opened in groupby(first.items(), key=lambda row: row[1].opened_at):
        tables.put(TABLE, [(k, msgspec.msgpack.encode(case)) for k, case in opened], version=MAX_VERSION - at)


class CaseOpener:
    """Opens cases, and remembers which are open: a listed party's next event costs the tables nothing.

    For one thread. Where a group of writes (`Tables.together`) is undone, `forget` what was opened in it.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._open: set[tuple[str, str]] = set()

    def is_open(self, kind: str, party: str) -> bool:
        """Whether the party's case is remembered as open; False where that is not known."""
        return (kind, party) in self._open

    def open(self, cases: Iterable[Case]) -> None:
        """As `open_cases`. A case is never deleted, so that one that was open once is open."""
        fresh = [c for c in cases if not self.is_open(c.kind, c.party)]
        open_cases(self._tables, fresh)
        if len(self._open) + len(fresh) > MAX_REMEMBERED:
            self._open.clear()
        self._open.update((c.kind, c.party) for c in fresh)

    def forget(self) -> None:
        """Take nothing for open."""
        self._open.clear()


def all_cases(tables: Tables) -> list[Case]:
    """Every case, in order of kind and party."""
    return [msgspec.msgpack.decode(value, type=Case) for _, value in tables.scan(TABLE)]


def case_of(tables: Tables, kind: str, party: str) -> Case | None:
    """A party's case, or None."""
    value = tables.get(TABLE, key(kind, party))
    return None if value is None else msgspec.msgpack.decode(value, type=Case)


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a person found of a case."""

    id: str
    """Unique: the proposal that it came by."""
    kind: str
    party: str
    at: int
    """µs since 1970-01-01 UTC."""
    by: str
    verdict: Verdict
    reason: str
    events: int
    """The case's denied and other stored events that the person could see, and those caught late."""
    caught_late: int
    newest_hit: int
    """When the newest hit was made that the person could see, µs; 0: none."""
    did: tuple[str, ...] = ()
    """What it did to the lists, in words."""


def put_decision(tables: Tables, decision: Decision) -> None:
    """Keep a decision as the next of its case, unless it is there already."""
    while True:
        held = decisions_on(tables, decision.kind, decision.party)
        if any(d.id == decision.id for d in held):
            return
        row_key = key(decision.kind, decision.party, len(held))
        if tables.put_if_absent(DECISIONS, [(row_key, msgspec.msgpack.encode(decision))])[0]:
            return


def decisions_on(tables: Tables, kind: str, party: str) -> list[Decision]:
    """The decisions on a case, oldest first."""
    start, stop = under(kind, party)
    return [msgspec.msgpack.decode(value, type=Decision) for _, value in tables.scan(DECISIONS, start, stop)]


def last_decisions(tables: Tables) -> dict[tuple[str, str], Decision]:
    """The last decision on each case that has one, by (kind, party)."""
    decoded = (msgspec.msgpack.decode(value, type=Decision) for _, value in tables.scan(DECISIONS))
    return {(d.kind, d.party): d for d in decoded}
