"""What a source is: its fields, its parties, its rules. Pure declarations, checked when they are made.

A declaration is plain data: it travels in the topology's configuration (`paystorm.source`) as `Source.to_dict()`.
"""

from typing import Any, Literal

import msgspec

from paystorm.errors import ConfigError
from paystorm.rules import Rule

FieldType = Literal["id", "text", "choice", "time", "amount", "currency", "integer"]

ID_MAX = 256
"""Characters (code points) of an id, at most (SEMANTICS.md §2)."""
TEXT_MAX = 65_536
CURRENCY_MAX = 16

RESERVED = frozenset(
    {
        "log_topic",
        "log_partition",
        "log_offset",
        "event_id",
        "application",
        "received_at",
        "event_time",
        "decided_at",
        "verdict",
        "verdict_reason",
        "entry_kind",
        "entry_party",
        "would_deny",
        "data",
        "source",
        "dt",
        "hr",
    }
)
"""Columns of the warehouse that a declared field may not take; `event_time` only where it is the event time."""


class Field(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A declared field of `data`.

    type: `id` 1 to 256 characters; `text` free text to 65,536 characters; `choice` one of `values`; `time` RFC 3339;
    `amount` a JSON string or number ≥ 0 with at most `integer_digits` and `fraction_digits`; `currency` a code of 1 to
    16 characters; `integer` a JSON integer within 64 bits.
    """

    name: str
    type: FieldType
    doc: str = ""
    required: bool = False
    values: tuple[str, ...] = ()
    integer_digits: int = 20
    fraction_digits: int = 18
    zoneless_utc: bool = False
    """A time without a zone is read as UTC instead of being invalid."""


class Party(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A party of the event: its id stands in `field`, its kind is `kind`, or what `kind_field` says where present."""

    field: str
    role: str
    kind: str
    kind_field: str | None = None


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A kind of data with a topology of its own."""

    name: str
    topic: str
    enforces: bool
    fields: tuple[Field, ...]
    parties: tuple[Party, ...]
    event_time: str = "event_time"
    """The field that holds the time of the event."""
    own_id: str | None = None
    """The field of the source's own id; where it is absent it takes the envelope's id."""
    one_of: tuple[tuple[str, ...], ...] = ()
    """Alternatives: of each group at least one must be present; the first is named where none is."""
    rules: tuple[Rule, ...] = ()
    applications: tuple[str, ...] = ()
    """The ApplicationRefs that send to this source; config.json may map more, and map these elsewhere."""
    doc: str = ""

    def __post_init__(self) -> None:
        for application in self.applications:
            if not 1 <= len(application) <= ID_MAX or self.applications.count(application) > 1:
                raise ConfigError(
                    f"source {self.name}: an application must have 1 to {ID_MAX} characters and be named once, "
                    f"got {application[:60]!r}"
                )
        names = [f.name for f in self.fields]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"source {self.name}: field {name} is declared twice")
            if name in RESERVED and name != self.event_time:
                raise ConfigError(f"source {self.name}: field {name} takes a warehouse column's name")
        time = self.field(self.event_time)
        if time.type != "time" or not time.required:
            raise ConfigError(f"source {self.name}: event time {self.event_time} must be a required field of type time")
        for party in self.parties:
            if self.field(party.field).type != "id":
                raise ConfigError(f"source {self.name}: party field {party.field} must be of type id")
            if party.kind_field is not None and self.field(party.kind_field).type != "choice":
                raise ConfigError(f"source {self.name}: kind field {party.kind_field} must be of type choice")
        for group in self.one_of:
            for name in group:
                self.field(name)
        kinds = self.kinds()
        seen: set[str] = set()
        for rule in self.rules:
            rule.check(self.name)
            if rule.name in seen:
                raise ConfigError(f"source {self.name}: rule {rule.name} is declared twice")
            seen.add(rule.name)
            if rule.kind not in kinds:
                raise ConfigError(f"source {self.name}: rule {rule.name}: no party is of kind {rule.kind}")
            if rule.role != "either" and rule.role not in self.roles(rule.kind):
                raise ConfigError(f"source {self.name}: rule {rule.name}: no {rule.kind} has the role {rule.role}")
            if rule.field is not None:
                wanted = "amount" if rule.measure == "sum" else "id"
                if self.field(rule.field).type != wanted:
                    raise ConfigError(f"source {self.name}: rule {rule.name}: {rule.field} must be of type {wanted}")
            if rule.measure == "sum" and self.currency() is None:
                raise ConfigError(f"source {self.name}: rule {rule.name}: a sum needs a field of type currency")

    def field(self, name: str) -> Field:
        """The declared field. Raises ConfigError where there is none of the name."""
        for field in self.fields:
            if field.name == name:
                return field
        raise ConfigError(f"source {self.name}: no field {name}; declared are {', '.join(f.name for f in self.fields)}")

    def currency(self) -> str | None:
        """The name of the currency field, or None."""
        return next((f.name for f in self.fields if f.type == "currency"), None)

    def kinds(self) -> tuple[str, ...]:
        """The kinds of party that an event can have, in order of declaration."""
        out: dict[str, None] = {}
        for party in self.parties:
            out[party.kind] = None
            if party.kind_field is not None:
                out.update(dict.fromkeys(self.field(party.kind_field).values))
        return tuple(out)

    def roles(self, kind: str) -> tuple[str, ...]:
        """The roles that a party of `kind` can have, in order of declaration."""
        out: dict[str, None] = {}
        for party in self.parties:
            if party.kind == kind or (party.kind_field is not None and kind in self.field(party.kind_field).values):
                out[party.role] = None
        return tuple(out)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the topology's configuration."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Source":
        """The declaration from plain data. Raises ConfigError where it is not one."""
        try:
            return msgspec.convert(plain, cls)
        except msgspec.ValidationError as error:
            raise ConfigError(f"source declaration: {error}") from error
