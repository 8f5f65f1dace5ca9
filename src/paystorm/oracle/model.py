"""What the oracle is given, what it computes and what it says of a difference (docs/oracle.md).

Times are whole microseconds since 1970-01-01 UTC; `interval_start` is whole seconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

Key = tuple[int, int]
"""Partition and offset: what a record is known by within a topic."""
CellKey = tuple[str, str, str, int, str]
"""Rule, kind, party, interval_start, currency."""
Value = str | int | Decimal | None
"""A declared field's value: text; whole number or time in microseconds; amount; absent."""

SHOWN = 200
"""Characters of a value that a difference shows, so that one line stays one line."""


class OracleError(ValueError):
    """What the oracle was given cannot be meant: a record out of order, a rule without a limit."""


@dataclass(frozen=True, slots=True)
class Given:
    """All that the computation rests on.

    source: the declaration as plain data. versions: the versions of the source, ascending; none means version 0 with
    the declaration's rules and the default settings. records: `(partition, offset, timestamp_ms, value)`, ascending
    within a partition. parked, gave_up: records that are in no count; the latter are dead letters.
    """

    source: Mapping[str, Any]
    topic: str
    records: Iterable[tuple[int, int, int, bytes]]
    versions: Sequence[Mapping[str, Any]] = ()
    parked: AbstractSet[Key] = frozenset()
    gave_up: AbstractSet[Key] = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a record is valid, and else what is wrong with it; `id` is None where the envelope could not be read."""

    partition: int
    offset: int
    id: str | None
    valid: bool
    field: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class EventRow:
    """A valid record as it stands in the warehouse; `values` are the declared fields, None where absent."""

    partition: int
    offset: int
    id: str
    application: str
    received_at: int
    event_time: int
    values: Mapping[str, Value]
    data: str


@dataclass(frozen=True, slots=True)
class Count:
    """The figure of a rule's measure for a party in an interval; `currency` is empty except for sums."""

    rule: str
    kind: str
    party: str
    interval_start: int
    currency: str
    value: int | Decimal

    @property
    def key(self) -> CellKey:
        """What the row is known by."""
        return self.rule, self.kind, self.party, self.interval_start, self.currency


@dataclass(frozen=True, slots=True)
class Hit:
    """A standing hit, of the earliest version that holds; `value` is the figure now over that version's epochs."""

    rule: str
    kind: str
    party: str
    interval_start: int
    currency: str
    version: int
    value: int | Decimal

    @property
    def key(self) -> CellKey:
        """What the hit is known by: there is at most one."""
        return self.rule, self.kind, self.party, self.interval_start, self.currency


@dataclass(frozen=True, slots=True)
class Change:
    """A row of the lists' history, which is only ever added to.

    `what` and the keys of `detail`:

    - `hit`: `hit` (its key as one text), `rule`, `action`, `expires_after` (seconds or None), `since` (microseconds,
      default: `at` of the first row of this hit)
    - `withdrawn`: `hit`
    - `lift`, `confirm`: `hits`, the ones that the act names
    - `add`: `list` (`blacklist` or `allowlist`), `entry` (default ""), `expires` (microseconds or None)
    - `remove`: `list`, `entry` (default "")
    - `expire`: `hit`, or `list` and `entry`
    - `breaker_open`, `breaker_closed`: `rule`; kind and party are empty
    """

    at: int
    kind: str
    party: str
    what: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Denied:
    """An event stored as denied, with its parties (kind, id), the time of the decision and the entry it names."""

    partition: int
    offset: int
    parties: Sequence[tuple[str, str]]
    decided_at: int
    entry: str | None = None


@dataclass(frozen=True, slots=True)
class Crossing:
    """A hit as the system holds it, with what its shard had applied up to and including the crossing record.

    before: ranges `[first, next)` of offsets by partition.
    """

    rule: str
    kind: str
    party: str
    interval_start: int
    currency: str
    before: Mapping[int, Sequence[Sequence[int]]]

    @property
    def key(self) -> CellKey:
        """What the hit is known by."""
        return self.rule, self.kind, self.party, self.interval_start, self.currency


@dataclass(frozen=True, slots=True)
class Stored:
    """The verdict of a stored event (`accepted` or `denied`) and the time of its decision."""

    verdict: str
    decided_at: int


@dataclass(frozen=True, slots=True)
class Held:
    """What the system holds. `withdrawn` are the keys of hits that are no longer standing."""

    outcomes: Iterable[Outcome]
    events: Iterable[EventRow]
    counts: Iterable[Count]
    hits: Iterable[Hit]
    withdrawn: Iterable[CellKey] = ()


class Words(str):
    """What the oracle says in its own words, told apart from a text of the data: it is shown as it is."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that differs; `expected` or `held` is None where there is no such row."""

    table: str
    key: tuple[object, ...]
    expected: object
    held: object

    def __str__(self) -> str:
        """One line for people."""
        key = "/".join(_shown(part) for part in self.key)
        return f"{self.table} {key}: expected {_shown(self.expected)}, held {_shown(self.held)}"


def _shown(value: object) -> str:
    """A value on one line; texts and whatever holds texts by repr, which escapes line ends and what cannot be seen."""
    if value is None:
        return "nothing"
    text = str(value) if isinstance(value, int | Decimal | Words) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"
