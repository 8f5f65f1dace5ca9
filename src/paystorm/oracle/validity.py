"""One record's bytes to what it is: valid with these values, or wrong in this field with this code.

The checks, their order and their codes are those of docs/validity.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from paystorm.oracle import literals
from paystorm.oracle.literals import SECOND, WrongError
from paystorm.oracle.model import OracleError, Value
from paystorm.oracle.strict_json import Member, NotJsonError, Number, parse

ID_MAX = 256
CURRENCY_MAX = 16
TEXT_MAX = 65_536
EARLIEST = 946_684_800 * SECOND
"""2000-01-01T00:00:00Z."""

Reader = Callable[[Any], Value]
"""From a JSON value that is not null to the field's value; raises WrongError."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that decide validity: earliest in microseconds, the ages in seconds."""

    earliest: int = EARLIEST
    max_ahead: int = 3600
    max_record_bytes: int = 1_048_576
    counts_retention: int | None = None

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Settings":
        """From the settings of a version of the source, under the names that operators know."""
        names = {
            "earliest": "earliest",
            "maxAhead": "max_ahead",
            "maxRecordBytes": "max_record_bytes",
            "countsRetention": "counts_retention",
        }
        return cls(**{ours: plain[theirs] for theirs, ours in names.items() if theirs in plain})


@dataclass(frozen=True, slots=True)
class Event:
    """What a valid record says."""

    id: str
    application: str
    received_at: int
    event_time: int
    values: dict[str, Value]
    data: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """What is wrong with a record; `id` is None where the envelope could not be read."""

    id: str | None
    field: str
    code: str


class _FieldError(Exception):
    """The first check that fails; `id` is None until the envelope is read."""

    def __init__(self, field: str, code: str, event_id: str | None = None) -> None:
        super().__init__(field, code)
        self.invalid = Invalid(event_id, field, code)


@dataclass(frozen=True, slots=True)
class _Declared:
    name: str
    required: bool
    read: Reader
    groups: tuple[tuple[str, ...], ...]
    """The alternatives whose first field this is."""


@dataclass(frozen=True, slots=True)
class _Envelope:
    id: str
    application: str
    received_at: int
    data: tuple[tuple[str, Any], ...]
    data_text: str
    replayed: int | None


class Checker:
    """Checks the records of one source, in the order of their offsets within a partition."""

    def __init__(self, source: Mapping[str, Any], topic: str) -> None:
        self._topic = topic
        self._event_time: str = source.get("event_time", "event_time")
        self._own_id: str | None = source.get("own_id")
        groups = [tuple(group) for group in source.get("one_of", ())]
        self._fields = [
            _Declared(
                field["name"],
                field.get("required", False),
                _reader(field),
                tuple(group for group in groups if group and group[0] == field["name"]),
            )
            for field in source["fields"]
        ]
        self._claims: set[tuple[int, int]] = set()

    def check(
        self, partition: int, offset: int, timestamp_ms: int, value: bytes, settings: Settings
    ) -> Event | Invalid:
        """What the record is. A record with a valid `replay_of` claims it, whatever becomes of the record."""
        try:
            envelope = self._envelope(partition, offset, timestamp_ms, value, settings)
        except _FieldError as error:
            return error.invalid
        try:
            self._claim(partition, envelope)
            return self._event(envelope, settings)
        except _FieldError as error:
            return replace(error.invalid, id=envelope.id)

    def _envelope(self, partition: int, offset: int, timestamp_ms: int, value: bytes, settings: Settings) -> _Envelope:
        members = _members(value, settings.max_record_bytes)
        by_key = {member.key: member for member in members}
        keys = [member.key for member in members] if len(by_key) != len(members) else []

        def read(key: str, required: bool, reader: Reader) -> Any:
            if keys and keys.count(key) > 1:
                raise _FieldError(key, "repeated")
            member = by_key.get(key)
            return _field(key, None if member is None else member.value, required, reader)

        application: str = read("ApplicationRef", True, _id)
        data = read("data", True, _object)
        own_id: str | None = read("id", False, _id)
        received_at: int | None = read("received_at", False, _zoned_time)
        replay_of = read("replay_of", False, _object)
        event_id = f"{self._topic}/{partition}/{offset}" if own_id is None else own_id
        replayed = None
        if replay_of is not None:
            replayed = self._replayed(replay_of, partition, offset)
            if replayed is None:
                raise _FieldError("replay_of", "wrong_replay", event_id)
        return _Envelope(
            id=event_id,
            application=application,
            received_at=timestamp_ms * 1000 if received_at is None else received_at,
            data=data,
            data_text=by_key["data"].text,
            replayed=replayed,
        )

    def _replayed(self, pairs: tuple[tuple[str, Any], ...], partition: int, offset: int) -> int | None:
        """The offset that a `replay_of` names, or None where it is not exactly what it must be."""
        named = dict(pairs)
        if len(pairs) != 3 or named.keys() != {"topic", "partition", "offset"}:
            return None
        if type(named["topic"]) is not str or named["topic"] != self._topic:
            return None
        try:
            its_partition = _integer(named["partition"])
            its_offset = _integer(named["offset"])
        except WrongError:
            return None
        return its_offset if its_partition == partition and 0 <= its_offset < offset else None

    def _claim(self, partition: int, envelope: _Envelope) -> None:
        if envelope.replayed is None:
            return
        claim = (partition, envelope.replayed)
        if claim in self._claims:
            raise _FieldError("replay_of", "duplicate_replay")
        self._claims.add(claim)

    def _event(self, envelope: _Envelope, settings: Settings) -> Event:
        given = dict(envelope.data)
        keys = [key for key, _ in envelope.data] if len(given) != len(envelope.data) else []
        values: dict[str, Value] = {}
        event_time = 0
        for declared in self._fields:
            name = declared.name
            if keys and keys.count(name) > 1:
                raise _FieldError(name, "repeated")
            for group in declared.groups:
                if not any(key in group and value is not None for key, value in envelope.data):
                    raise _FieldError(name, "missing")
            value = _field(name, given.get(name), declared.required, declared.read)
            if name == self._event_time:
                if not isinstance(value, int):
                    raise OracleError(f"source: event time {name} must be a required field of type time")
                event_time = value
                if event_time < settings.earliest:
                    raise _FieldError(name, "too_early")
                if event_time > envelope.received_at + settings.max_ahead * SECOND:
                    raise _FieldError(name, "too_late")
            values[name] = value
        retention = settings.counts_retention
        if retention is not None and event_time < envelope.received_at - retention * SECOND:
            raise _FieldError(self._event_time, "too_old")
        if self._own_id is not None and values[self._own_id] is None:
            values[self._own_id] = envelope.id
        return Event(
            id=envelope.id,
            application=envelope.application,
            received_at=envelope.received_at,
            event_time=event_time,
            values=values,
            data=envelope.data_text,
        )


def _members(value: bytes, most: int) -> list[Member]:
    if len(value) > most:
        raise _FieldError("record", "too_large")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _FieldError("record", "not_utf8") from error
    try:
        members = parse(text)
    except NotJsonError as error:
        raise _FieldError("record", "not_json") from error
    if members is None:
        raise _FieldError("envelope", "wrong_type")
    return members


def _field(name: str, value: Any, required: bool, reader: Reader) -> Value:
    if value is None:
        if required:
            raise _FieldError(name, "missing")
        return None
    try:
        return reader(value)
    except WrongError as error:
        raise _FieldError(name, error.code) from error


def _text(value: Any) -> str:
    # A Number is a str too, but not of exactly this type.
    if type(value) is not str:
        raise WrongError("wrong_type")
    return value


def _filled(value: Any, most: int) -> str:
    text = _text(value)
    if not text:
        raise WrongError("empty")
    if len(text) > most:
        raise WrongError("too_long")
    return text


def _id(value: Any) -> str:
    return _filled(value, ID_MAX)


def _currency(value: Any) -> str:
    return _filled(value, CURRENCY_MAX)


def _free_text(value: Any) -> str:
    text = _text(value)
    if len(text) > TEXT_MAX:
        raise WrongError("too_long")
    return text


def _object(value: Any) -> Any:
    if type(value) is not tuple:
        raise WrongError("wrong_type")
    return value


def _zoned_time(value: Any) -> int:
    return literals.time(_text(value), zoneless_utc=False)


def _zoneless_time(value: Any) -> int:
    return literals.time(_text(value), zoneless_utc=True)


def _integer(value: Any) -> int:
    if type(value) is not Number:
        raise WrongError("wrong_type")
    return literals.integer(value)


def _reader(field: Mapping[str, Any]) -> Reader:
    """How the values of a declared field are read. Raises OracleError for a type that there is not."""
    kind = field["type"]
    if kind == "choice":
        values = frozenset(field.get("values", ()))

        def choice(value: Any) -> str:
            if _text(value) not in values:
                raise WrongError("not_allowed")
            return str(value)

        return choice
    if kind == "amount":
        whole = field.get("integer_digits", 20)
        fraction = field.get("fraction_digits", 18)

        def amount(value: Any) -> Value:
            if not isinstance(value, str):
                raise WrongError("wrong_type")
            return literals.amount(value, whole, fraction)

        return amount
    if kind == "time":
        return _zoneless_time if field.get("zoneless_utc", False) else _zoned_time
    simple: dict[str, Reader] = {"id": _id, "text": _free_text, "currency": _currency, "integer": _integer}
    if kind not in simple:
        raise OracleError(f"source: field {field['name']}: no type {kind}")
    return simple[kind]
