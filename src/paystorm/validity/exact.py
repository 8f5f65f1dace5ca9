"""One record at a time, by the letter of docs/validity.md: what every other path is measured against."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paystorm.source import CURRENCY_MAX, ID_MAX, TEXT_MAX, Field, Source
from paystorm.validity.codes import Code
from paystorm.validity.envelope import Envelope, Fault, Record, id_fault, read_envelope, show, type_name
from paystorm.validity.scalars import read_amount, read_integer, read_time
from paystorm.validity.settings import ValiditySettings
from paystorm.validity.strict import Members, Number

Event = tuple[Any, ...]
"""A valid record: its values in the order of `frame.event_schema`.

Times are int, microseconds since 1970-01-01 UTC; amounts Decimal; integers int; all else str; absent is None.
"""

SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Invalid:
    """A record to be dead-lettered, and why. `code` is of the closed list in docs/validity.md."""

    offset: int
    raw: bytes
    field: str
    code: Code
    detail: str
    """More for people; no part of any promise."""
    id: str | None
    """The client's id, or `topic/partition/offset` where it gave none; None where it cannot be read."""
    application: str | None = None
    """`ApplicationRef`, where it can be read."""


class ExactValidator:
    """Validates records of one source and topic, one by one."""

    def __init__(self, source: Source, topic: str, settings: ValiditySettings) -> None:
        self._topic = topic
        self._settings = settings
        self._event_time = source.event_time
        self._own_id = source.own_id
        self._names = frozenset(f.name for f in source.fields)
        # The event time has a column of its own before the others.
        self._columns = [f.name for f in source.fields if f.name != source.event_time]
        groups: dict[str, list[tuple[str, ...]]] = {}
        for group in source.one_of:
            groups.setdefault(group[0], []).append(group)
        self._checks = [(f, _READERS[f.type], groups.get(f.name, [])) for f in source.fields]

    def check(
        self, partition: int, offset: int, timestamp_ms: int, value: bytes, duplicate: bool = False
    ) -> Event | Invalid:
        """The event that a record is, or what is wrong with it. Never raises, whatever the bytes.

        timestamp_ms: the log's own time of the record, milliseconds since 1970-01-01 UTC; duplicate: a record of a
        lower offset has claimed the same `replay_of`.
        """
        envelope = read_envelope(Record(self._topic, partition, offset, timestamp_ms, value), self._settings)
        fault = envelope.fault
        if fault is None and duplicate and envelope.replay_of is not None:
            fault = Fault("replay_of", Code.DUPLICATE_REPLAY, "a record of a lower offset has replayed it")
        if fault is None:
            event = self._fields(envelope, f"{self._topic}/{partition}/{offset}", offset)
            if not isinstance(event, Fault):
                return event
            fault = event
        return Invalid(offset, value, fault.field, fault.code, fault.detail, envelope.id, envelope.application)

    def _fields(self, envelope: Envelope, fallback_id: str, offset: int) -> Event | Fault:
        raw: dict[str, Any] = dict(envelope.data)
        repeated = self._repeated(envelope.data) if len(raw) < len(envelope.data) else frozenset()
        read: dict[str, Any] = {}
        for field, reader, groups in self._checks:
            name = field.name
            if name in repeated:
                return Fault(name, Code.REPEATED, "stands more than once in data")
            value = raw.get(name)
            if value is None:
                if field.required:
                    return Fault(name, Code.MISSING, "is required in data")
                for group in groups:
                    if not any(key in group and found is not None for key, found in envelope.data):
                        return Fault(name, Code.MISSING, f"one of {', '.join(group)} is required in data")
                continue
            found = reader(field, value)
            if isinstance(found, Fault):
                return found
            if name == self._event_time:
                fault = self._limits(found, envelope.received_at)
                if fault is not None:
                    return fault
            read[name] = found
        event_time = read[self._event_time]
        kept = self._settings.counts_retention
        if kept is not None and event_time < envelope.received_at - kept * SECOND:
            return Fault(self._event_time, Code.TOO_OLD, f"more than {kept} s before received_at")
        event_id = envelope.id or fallback_id
        if self._own_id is not None:
            read.setdefault(self._own_id, event_id)
        columns = [read.get(name) for name in self._columns]
        head = (offset, event_id, envelope.application, envelope.received_at, event_time)
        return (*head, *columns, envelope.data_text)

    def _repeated(self, members: Members) -> frozenset[str]:
        seen: set[str] = set()
        twice: set[str] = set()
        for key, _ in members:
            (twice if key in seen else seen).add(key)
        return self._names & twice

    def _limits(self, event_time: int, received_at: int) -> Fault | None:
        if event_time < self._settings.earliest:
            return Fault(self._event_time, Code.TOO_EARLY, "before the earliest time that the source takes")
        if event_time > received_at + self._settings.max_ahead * SECOND:
            return Fault(self._event_time, Code.TOO_LATE, f"more than {self._settings.max_ahead} s after received_at")
        return None


def _id(field: Field, value: Any) -> str | Fault:
    return id_fault(field.name, value, ID_MAX) or value


def _currency(field: Field, value: Any) -> str | Fault:
    return id_fault(field.name, value, CURRENCY_MAX) or value


def _text(field: Field, value: Any) -> str | Fault:
    if type(value) is not str:
        return Fault(field.name, Code.WRONG_TYPE, f"must be a string, got {type_name(value)}")
    if len(value) > TEXT_MAX:
        return Fault(field.name, Code.TOO_LONG, f"must have at most {TEXT_MAX} characters, got {len(value)}")
    return value


def _choice(field: Field, value: Any) -> str | Fault:
    if type(value) is not str:
        return Fault(field.name, Code.WRONG_TYPE, f"must be a string, got {type_name(value)}")
    if value not in field.values:
        return Fault(field.name, Code.NOT_ALLOWED, f"must be one of {', '.join(field.values)}, got {show(value)}")
    return value


def _time(field: Field, value: Any) -> int | Fault:
    if type(value) is not str:
        return Fault(field.name, Code.WRONG_TYPE, f"must be a string, got {type_name(value)}")
    moment = read_time(value, field.zoneless_utc)
    return Fault(field.name, moment, show(value)) if isinstance(moment, Code) else moment


def _amount(field: Field, value: Any) -> Any:
    if type(value) is not str and type(value) is not Number:
        return Fault(field.name, Code.WRONG_TYPE, f"must be a string or a number, got {type_name(value)}")
    amount = read_amount(value, field.integer_digits, field.fraction_digits)
    return Fault(field.name, amount, show(value)) if isinstance(amount, Code) else amount


def _integer(field: Field, value: Any) -> int | Fault:
    if type(value) is not Number:
        return Fault(field.name, Code.WRONG_TYPE, f"must be a number, got {type_name(value)}")
    figure = read_integer(value)
    return Fault(field.name, figure, show(value)) if isinstance(figure, Code) else figure


_READERS: dict[str, Callable[[Field, Any], Any]] = {
    "id": _id,
    "text": _text,
    "choice": _choice,
    "time": _time,
    "amount": _amount,
    "currency": _currency,
    "integer": _integer,
}
