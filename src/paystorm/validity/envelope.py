"""The envelope of a record: steps 1 to 6 of docs/validity.md, and what the later steps need of it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from paystorm.source import ID_MAX
from paystorm.validity.codes import Code
from paystorm.validity.scalars import INT64_MAX, INT64_MIN, read_integer, read_time
from paystorm.validity.settings import ValiditySettings
from paystorm.validity.strict import Member, Members, NotJsonError, Number, read_outermost

_REPLAY_KEYS = ("topic", "partition", "offset")


class ReplayOf(NamedTuple):
    """The record that another one replays."""

    topic: str
    partition: int
    offset: int


class Record(NamedTuple):
    """One record of a log; its time is the log's own, in milliseconds since 1970-01-01 UTC."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    value: bytes


class Fault(NamedTuple):
    """The first check that failed."""

    field: str
    code: Code
    detail: str


@dataclass(frozen=True, slots=True)
class Envelope:
    """What could be read of an envelope; `fault` says what is wrong with it, if anything."""

    fault: Fault | None
    id: str | None = None
    """The client's id, or `topic/partition/offset` where it is absent; None where it cannot be read."""
    application: str | None = None
    received_at: int = 0
    """Microseconds since 1970-01-01 UTC."""
    data: Members = ()
    data_text: str = ""
    """The literal text of the value of `data`."""
    replay_of: ReplayOf | None = None


def show(value: Any) -> str:
    """A value as a detail shows it: what it is, cut where it is long."""
    text = repr(str(value)) if isinstance(value, str) else type_name(value)
    return text if len(text) <= 80 else text[:77] + "…'"


def type_name(value: Any) -> str:
    """The JSON type of a value that `strict` read."""
    names = {tuple: "an object", list: "an array", str: "a string", Number: "a number", bool: "a boolean"}
    return names.get(type(value), "null")


def id_fault(field: str, value: Any, limit: int = ID_MAX) -> Fault | None:
    """What is wrong with a value that must be a string of 1 to `limit` characters, or None."""
    if type(value) is not str:
        return Fault(field, Code.WRONG_TYPE, f"must be a string, got {type_name(value)}")
    if not value:
        return Fault(field, Code.EMPTY, "must not be empty")
    if len(value) > limit:
        return Fault(field, Code.TOO_LONG, f"must have at most {limit} characters, got {len(value)}")
    return None


def read_envelope(record: Record, settings: ValiditySettings) -> Envelope:
    """Check a record as far as its envelope goes. Never raises, whatever the bytes."""
    value = record.value
    if len(value) > settings.max_record_bytes:
        return Envelope(Fault("record", Code.TOO_LARGE, f"{len(value)} bytes, at most {settings.max_record_bytes}"))
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        return Envelope(Fault("record", Code.NOT_UTF8, f"{error.reason} at byte {error.start}"))
    try:
        members = read_outermost(text)
    except NotJsonError as error:
        return Envelope(Fault("record", Code.NOT_JSON, str(error)[:200]))
    if members is None:
        return Envelope(Fault("envelope", Code.WRONG_TYPE, "the record must be an object"))
    keys: dict[str, Member] = {}
    repeated: set[str] = set()
    for member in members:
        if member.key in keys:
            repeated.add(member.key)
        keys[member.key] = member
    return _check(record, text, keys, repeated)


def _check(record: Record, text: str, keys: dict[str, Member], repeated: set[str]) -> Envelope:
    topic, partition, offset, timestamp_ms, _ = record
    application = _readable(keys, repeated, "ApplicationRef", None)
    event_id = _readable(keys, repeated, "id", f"{topic}/{partition}/{offset}")

    def faulty(field: str, code: Code, detail: str) -> Envelope:
        return Envelope(Fault(field, code, detail), event_id, application)

    # A log's timestamp may be any 64-bit figure; as microseconds it must still be one.
    received_at = min(max(timestamp_ms * 1000, INT64_MIN), INT64_MAX)
    data: Member | None = None
    replay_of: ReplayOf | None = None
    for name in ("ApplicationRef", "data", "id", "received_at", "replay_of"):
        if name in repeated:
            return faulty(name, Code.REPEATED, "stands more than once in the envelope")
        member = keys.get(name)
        value = None if member is None else member.value
        if value is None:
            if name in ("ApplicationRef", "data"):
                return faulty(name, Code.MISSING, "is required in the envelope")
            continue
        if name in ("ApplicationRef", "id"):
            fault = id_fault(name, value)
            if fault is not None:
                return faulty(*fault)
        elif name == "received_at":
            if type(value) is not str:
                return faulty(name, Code.WRONG_TYPE, f"must be a string, got {type_name(value)}")
            moment = read_time(value, zoneless_utc=False)
            if isinstance(moment, Code):
                return faulty(name, moment, show(value))
            received_at = moment
        elif type(value) is not tuple:
            return faulty(name, Code.WRONG_TYPE, f"must be an object, got {type_name(value)}")
        elif name == "data":
            data = member
        else:
            replay_of = _replay(value)
            if replay_of is None or replay_of[:2] != (topic, partition) or replay_of.offset >= offset:
                return faulty(name, Code.WRONG_REPLAY, "must name an earlier record of this topic and partition")
    assert data is not None
    literal = text[data.start : data.end]
    return Envelope(None, event_id, application, received_at, data.value, literal, replay_of)


def _readable(keys: dict[str, Member], repeated: set[str], name: str, absent: str | None) -> str | None:
    """The valid id under `name`; `absent` where there is none; None where it is invalid."""
    if name in repeated:
        return None
    value = keys[name].value if name in keys else None
    if value is None:
        return absent
    return value if id_fault(name, value) is None else None


def _replay(members: Members) -> ReplayOf | None:
    """The record named; None where the object is not exactly that."""
    named = dict(members)
    if len(members) != len(_REPLAY_KEYS) or any(key not in named for key in _REPLAY_KEYS):
        return None
    topic, partition, offset = (named[key] for key in _REPLAY_KEYS)
    if type(topic) is not str or type(partition) is not Number or type(offset) is not Number:
        return None
    partition_read, offset_read = read_integer(partition), read_integer(offset)
    if isinstance(partition_read, Code) or isinstance(offset_read, Code) or offset_read < 0:
        return None
    return ReplayOf(topic, partition_read, offset_read)
