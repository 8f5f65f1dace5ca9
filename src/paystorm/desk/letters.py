"""Dead letters: finding them, grouping them by cause, and looking at one."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import nsmallest

import numpy as np
import polars as pl

from paystorm.desk.base import YEAR_10000, Desk, utc
from paystorm.desk.mending import shown_value
from paystorm.desk.where import Where, opened
from paystorm.errors import NotThereError, UsageError
from paystorm.exports import DEAD_LETTERS
from paystorm.source import Source
from paystorm.stores.index_tail import IndexTail
from paystorm.stores.letters import (
    DeadLetter,
    LetterAct,
    LetterState,
    acts_by_letter,
    acts_on,
    all_letters,
    claims_on,
    letter_at,
    state_after,
)
from paystorm.stores.retry import load_parked

MAX_PAGE = 10_000
BLOCK_LETTERS = 5_000
BLOCK_BYTES = 16 << 20
"""What a `--where` is evaluated over at once."""
STATES: tuple[LetterState, ...] = ("open", "replaying", "replayed", "discarded")
NAMED_OTHERWISE = {"partition": "log_partition", "offset": "log_offset"}
"""Columns that have the warehouse's names in a `--where`: `offset` is a word of SQL's own."""
COLUMNS = tuple(NAMED_OTHERWISE.get(n, n) for n in DEAD_LETTERS if n not in ("topic", "value_base64"))
"""What a `--where` can speak of."""
LETTER = r"([^/]+)/([0-9]{1,9})/([0-9]{1,18})"
"""The name of a dead letter."""
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, order=True)
class LetterName:
    """What names a dead letter: `purchase/2/417`."""

    source: str
    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> "LetterName":
        """The name in a text. Raises UsageError."""
        match = re.fullmatch(LETTER, text)
        if match is None:
            raise UsageError(f"a dead letter is named source/partition/offset, such as purchase/2/417, got {text!r}")
        return cls(match[1], int(match[2]), int(match[3]))

    def __str__(self) -> str:
        return f"{self.source}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant: those that fit everything that is said. Times in µs."""

    sources: tuple[str, ...] = ()
    """Of these sources; none: of all."""
    names: tuple[LetterName, ...] = ()
    """These letters only."""
    reason: str | None = None
    """`code`, `field` or `field: code`."""
    since: int | None = None
    until: int | None = None
    """Dead-lettered at or after `since`, and before `until`."""
    states: frozenset[LetterState] = frozenset()
    where: str | None = None
    """A condition in SQL over `COLUMNS`."""

    def is_everything(self) -> bool:
        """Whether nothing is said."""
        return self == Selection()


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter, with what people did with it."""

    source: str
    letter: DeadLetter
    acts: tuple[LetterAct, ...]

    @property
    def name(self) -> LetterName:
        """Its name."""
        return LetterName(self.source, self.letter.partition, self.letter.offset)

    @property
    def state(self) -> LetterState:
        """What has become of it."""
        return state_after(self.acts)

    @property
    def reason(self) -> str:
        """`field: code`, as in its verdict."""
        return f"{self.letter.field}: {self.letter.code}"

    @property
    def appended(self) -> datetime | None:
        """The log's own time; None where that is no time of this era."""
        return utc(self.letter.timestamp * 1000) if 0 <= self.letter.timestamp < YEAR_10000 // 1000 else None

    @property
    def cause(self) -> str:
        """The reason, and of a record given up what it failed of, with every figure as #: letters of one cause."""
        if self.letter.last_error is None:
            return self.reason
        error = self.letter.last_error.strip().split("\n")[0][:200]
        return f"{self.reason}: {_DIGITS.sub('#', error)}"


@dataclass(frozen=True, slots=True)
class LetterPage:
    """Letters, newest first."""

    letters: tuple[Found, ...]
    total: int
    """How many there are of the selection."""
    skipped: int


@dataclass(frozen=True, slots=True)
class Cause:
    """The letters of a source that have one cause."""

    source: str
    cause: str
    count: int
    states: Mapping[LetterState, int]
    first: int
    last: int
    """When the first and the last of them were dead-lettered, µs."""
    example: LetterName


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay of a letter, and what became of it."""

    partition: int
    offset: int
    counts: bool | None
    """Whether it is the one that counts; None: no spout has read it yet."""
    outcome: str
    """accepted, denied, dead-lettered, parked, or waiting: not processed yet."""
    reason: str | None = None
    """Of a dead-lettered one."""


@dataclass(frozen=True, slots=True)
class LetterView:
    """A letter with everything that is known of it."""

    found: Found
    replays: tuple[Replay, ...]


def select(desk: Desk, selection: Selection) -> Iterator[Found]:
    """The letters of a selection, by source, partition, offset. Raises UsageError for names and conditions."""
    for wanted in selection.sources:
        desk.source(wanted)
    if selection.names:
        yield from _filtered(_named(desk, selection), selection)
        return
    for source in desk.some(selection.sources):
        acts = acts_by_letter(desk.tables, source.name)
        found = (
            Found(source.name, letter, tuple(acts.get((letter.partition, letter.offset), ())))
            for letter in all_letters(desk.tables, source.name)
        )
        yield from _filtered(found, selection)


def page(desk: Desk, selection: Selection, *, limit: int = 100, skip: int = 0) -> LetterPage:
    """One page of a selection, newest first."""
    if not 1 <= limit <= MAX_PAGE or not 0 <= skip <= 100 * MAX_PAGE:
        raise UsageError(f"a page has 1 to {MAX_PAGE:,} letters, got {limit:,} behind {skip:,}")
    total = 0

    def counted() -> Iterator[Found]:
        nonlocal total
        for found in select(desk, selection):
            total += 1
            yield found

    newest = nsmallest(skip + limit, counted(), key=lambda f: (-f.letter.dead_at, f.name))
    return LetterPage(tuple(newest[skip:]), total, skip)


def causes(desk: Desk, selection: Selection) -> list[Cause]:
    """The letters of a selection grouped by source and cause, the most frequent first."""
    groups: dict[tuple[str, str], Cause] = {}
    for found in select(desk, selection):
        name, at = (found.source, found.cause), found.letter.dead_at
        held = groups.get(name)
        if held is None:
            groups[name] = Cause(*name, 1, {found.state: 1}, at, at, found.name)
            continue
        states = {**held.states, found.state: held.states.get(found.state, 0) + 1}
        example = found.name if at >= held.last else held.example
        groups[name] = Cause(*name, held.count + 1, states, min(held.first, at), max(held.last, at), example)
    return sorted(groups.values(), key=lambda c: (-c.count, c.source, c.cause))


def show(desk: Desk, name: LetterName) -> LetterView:
    """A letter with its acts and replays. Raises UsageError where there is none of the name."""
    source = desk.source(name.source)
    found = load(desk, name)
    (claim,) = claims_on(desk.tables, source.name, source.topic, [(name.partition, name.offset)])
    offsets = dict.fromkeys(act.sent_as for act in found.acts if act.sent_as is not None)
    if claim is not None:
        offsets[claim] = None
    return LetterView(found, tuple(_fate(desk, source, name.partition, o, claim) for o in sorted(offsets)))


def load(desk: Desk, name: LetterName) -> Found:
    """A letter by its name. Raises UsageError where there is none."""
    desk.source(name.source)
    letter = letter_at(desk.tables, name.source, name.partition, name.offset)
    if letter is None:
        raise NotThereError(f"{name}: there is no such dead letter; paystorm dead-letters list shows those there are")
    return Found(name.source, letter, tuple(acts_on(desk.tables, name.source, name.partition, name.offset)))


def _fate(desk: Desk, source: Source, partition: int, offset: int, claim: int | None) -> Replay:
    counts = None if claim is None else claim == offset
    verdict = int(IndexTail(desk.tables, source.name).verdicts(partition, np.array([offset], dtype=np.int64))[0])
    if verdict >= 0:
        return Replay(partition, offset, counts, "denied" if verdict else "accepted")
    letter = letter_at(desk.tables, source.name, partition, offset)
    if letter is not None:
        return Replay(partition, offset, counts, "dead-lettered", f"{letter.field}: {letter.code}")
    parked = load_parked(desk.tables, source.name, partition, offset)
    if parked is not None:
        return Replay(partition, offset, counts, "parked", parked.error)
    return Replay(partition, offset, counts, "waiting")


# Filters.


def _named(desk: Desk, selection: Selection) -> Iterator[Found]:
    for name in dict.fromkeys(selection.names):
        if not selection.sources or name.source in selection.sources:
            yield load(desk, name)


def _filtered(letters: Iterator[Found], selection: Selection) -> Iterator[Found]:
    plain = (found for found in letters if _fits(found, selection))
    if selection.where is None:
        yield from plain
        return
    with opened(selection.where) as where:
        block: list[Found] = []
        size = 0
        for found in plain:
            block.append(found)
            size += len(found.letter.value)
            if len(block) >= BLOCK_LETTERS or size >= BLOCK_BYTES:
                yield from _where(where, block)
                block, size = [], 0
        yield from _where(where, block)  # also of none: a condition that cannot be meant is refused


def _fits(found: Found, selection: Selection) -> bool:
    letter, reason = found.letter, selection.reason
    return (
        (selection.since is None or letter.dead_at >= selection.since)
        and (selection.until is None or letter.dead_at < selection.until)
        and (not selection.states or found.state in selection.states)
        and (reason is None or reason in (found.reason, letter.code, letter.field))
    )


def _where(where: Where, block: Sequence[Found]) -> list[Found]:
    return [block[row] for row in where.holds(frame(block))]


def frame(letters: Sequence[Found]) -> pl.DataFrame:
    """Letters with `COLUMNS`; times are UTC without a zone, as in `query`."""
    rows = [
        {
            "source": found.source,
            "log_partition": x.partition,
            "log_offset": x.offset,
            "timestamp": found.appended,
            "dead_at": utc(x.dead_at),
            "field": x.field,
            "code": x.code,
            "detail": x.detail,
            "id": x.event_id,
            "application": x.application,
            "state": found.state,
            "attempts": x.attempts,
            "last_error": x.last_error,
            "value": shown_value(x.value),
        }
        for found in letters
        for x in [found.letter]
    ]
    kinds = {NAMED_OTHERWISE.get(name, name): kind for name, kind in DEAD_LETTERS.items()}
    made = pl.DataFrame(rows, schema={name: kinds[name] for name in COLUMNS})
    return made.with_columns(pl.col("timestamp", "dead_at").dt.replace_time_zone(None))
