"""Any bytes as a record, an event or a dead letter out: the exact path and the oracle say the same of it."""

from typing import Any

import msgspec

from paystorm.oracle import validity as oracle
from paystorm.source import Field, Source
from paystorm.validity import Event, ExactValidator, Invalid, ValiditySettings

NOON_MS = 1_767_268_800_000  # 2026-01-01T12:00:00Z
LIMITS = ValiditySettings(max_record_bytes=2000, counts_retention=30 * 86_400)
SOURCE = Source(
    name="pay",
    topic="pay",
    enforces=True,
    own_id="order",
    parties=(),
    one_of=(("customer", "region"),),
    fields=(
        Field(name="order", type="id"),
        Field(name="event_time", type="time", required=True),
        Field(name="kind", type="choice", values=("account", "merchant")),
        Field(name="amount", type="amount"),
        Field(name="fee", type="amount", integer_digits=3, fraction_digits=0),
        Field(name="currency", type="currency"),
        Field(name="message", type="text"),
        Field(name="count", type="integer"),
        Field(name="seen", type="time", zoneless_utc=True),
        Field(name="customer", type="id"),
        Field(name="region", type="id"),
    ),
)
_NAMES = [field.name for field in SOURCE.fields if field.name != SOURCE.event_time]
_oracle_source: dict[str, Any] = {
    "name": SOURCE.name,
    "topic": SOURCE.topic,
    "enforces": True,
    "own_id": SOURCE.own_id,
    "one_of": SOURCE.one_of,
    "fields": tuple(msgspec.to_builtins(field) for field in SOURCE.fields),
    "parties": (),
}
_oracle_limits = oracle.Settings(max_record_bytes=LIMITS.max_record_bytes, counts_retention=LIMITS.counts_retention)
_exact = ExactValidator(SOURCE, SOURCE.topic, LIMITS)


def check(data: bytes) -> None:
    """Raises AssertionError where the two differ; whatever else is raised is a finding too."""
    word = _exact.check(0, 1000, NOON_MS, data)
    found = oracle.Checker(_oracle_source, SOURCE.topic).check(0, 1000, NOON_MS, data, _oracle_limits)
    assert _told(word) == _told_by_oracle(found), (data, word, found)


def _told(word: Event | Invalid) -> Any:
    if isinstance(word, Invalid):
        return word.field, word.code.value
    _, event_id, application, received, at, *values, data = word
    return event_id, application, received, at, dict(zip(_NAMES, values, strict=True)), data


def _told_by_oracle(found: oracle.Event | oracle.Invalid) -> Any:
    if isinstance(found, oracle.Invalid):
        return found.field, found.code
    values = {name: found.values[name] for name in _NAMES}
    return found.id, found.application, found.received_at, found.event_time, values, found.data
