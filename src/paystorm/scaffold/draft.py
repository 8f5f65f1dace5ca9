"""A source as it is drafted: the declaration, and which parts of it are guesses; and its parts from short text."""

import keyword
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, get_args

import msgspec

from paystorm.errors import UsageError
from paystorm.project import Project
from paystorm.rules import Rule
from paystorm.scaffold.sample import NAME
from paystorm.source import Field, FieldType, Party, Source
from paystorm.verdicts import verdict_topic

TYPES = tuple(get_args(FieldType))
FIELD_FORM = "NAME:TYPE[:required][:utc]"
PARTY_FORM = "FIELD:KIND[:ROLE]"
RULE_FORM = "NAME: KIND[/ROLE] MEASURE INTERVAL CONDITION [ACTION]"
SOURCE_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_RULE = re.compile(
    r"(?P<name>\w+)\s*:\s*(?P<kind>[\w-]+)(?:/(?P<role>\w+))?\s+(?P<measure>count|sum\(\w+\)|distinct\(\w+\))\s+"
    r"(?P<interval>\w+)\s+(?:>\s*(?P<limit>\S+)|x(?P<factor>[\d.]+)\s+from\s+(?P<baseline>\S+))"
    r"(?:\s+(?P<action>deny|review))?"
)
USED = frozenset(
    {"Topology", "Grouping", "Rule", "Field", "Party", "Source"}
    | {"BlacklistLookupBolt", "DeadLettersBolt", "ValidationBolt", "WarehouseBolt", "WindowCountBolt", "KafkaSpout"}
)
"""Names that a topology file has already."""


@dataclass(slots=True)
class Draft:
    """A source to be written."""

    source: Source
    guesses: dict[tuple[str, str], str] = field(default_factory=dict)
    """Why, of each part that is a guess: ("field" | "party" | "rule" | "source", name) → reason."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Keys of the sample that are not declared, and why: they stay in the raw text of `data`."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """Valid records for the test."""
    notes: list[str] = field(default_factory=list)
    """What whoever runs the command should know."""


def class_name(name: str) -> str:
    """The name of the Topology class of a source."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def known_sources(project: Project) -> dict[str, Source]:
    """The sources of a project; none where it has no topology yet, as one that is new. Raises ConfigError."""
    folder = project.root / str(project.config.get("topology_specs", ""))
    return project.sources() if any(folder.glob("[!_]*.py")) else {}


def check_name(name: str, topic: str, project: Project) -> None:
    """Raise UsageError where a source cannot have this name and topic: they stand for a file, a class and a view."""
    if SOURCE_NAME.fullmatch(name) is None or name.endswith("_") or "__" in name:
        raise UsageError(
            f"{name!r} cannot be a source: its name is a Python module's, a to z, 0 to 9 and _, at most 40 characters, "
            "such as card_payments"
        )
    if (
        keyword.iskeyword(name)
        or keyword.issoftkeyword(name)
        or class_name(name) in USED
        or keyword.iskeyword(class_name(name))
    ):
        raise UsageError(f"{name!r} cannot be a source: Python or the topology file uses that name: choose another")
    if name in sys.stdlib_module_names or find_spec(name) is not None:
        raise UsageError(f"{name!r} cannot be a source: sparse would import the module {name} for it: choose another")
    if re.fullmatch(r"[A-Za-z0-9._-]{1,200}", topic) is None or topic in (".", ".."):
        raise UsageError(f"topic {topic!r}: Kafka takes letters, digits, . _ and -, at most 200")
    for other in known_sources(project).values():
        if other.name.replace("-", "_") == name:
            raise UsageError(f"source {other.name} is there already: choose another name, or remove its topology file")
        topics = (other.topic, verdict_topic(other.name))
        if topic in topics or verdict_topic(name) in topics:
            raise UsageError(f"topic {topic!r} is one of source {other.name}'s: choose another with --topic")


def parse_field(text: str) -> Field:
    """A field from `name:type[:required][:utc]`, a choice as `name:choice=a,b`. Raises UsageError."""
    name, _, rest = text.partition(":")
    kind, *flags = rest.split(":")
    kind, equals, values = kind.partition("=")
    if NAME.fullmatch(name) is None:
        raise UsageError(f"field {text!r}: a field is {FIELD_FORM}, its name a letter and then letters, digits or _")
    if kind not in TYPES:
        raise UsageError(f"field {text!r}: a field is {FIELD_FORM}; types are {', '.join(TYPES)}")
    if (kind == "choice") != bool(equals and values):
        raise UsageError(f"field {text!r}: a choice names its values, such as {name}:choice=a,b; no other type does")
    unknown = [flag for flag in flags if flag not in ("required", "utc")]
    if unknown or ("utc" in flags and kind != "time"):
        raise UsageError(f"field {text!r}: a field is {FIELD_FORM}; utc is for times that have no zone")
    return Field(
        name=name,
        type=msgspec.convert(kind, FieldType),
        required="required" in flags,
        values=tuple(value.strip() for value in values.split(",")) if values else (),
        zoneless_utc="utc" in flags,
    )


def parse_party(text: str) -> Party:
    """A party from `field:kind[:role]`; the role is the field's name unless given. Raises UsageError."""
    match text.split(":"):
        case [name, kind] if name and kind:
            return Party(field=name, kind=kind, role=name)
        case [name, kind, role] if name and kind and role:
            return Party(field=name, kind=kind, role=role)
    raise UsageError(f"party {text!r}: a party is {PARTY_FORM}, such as from_party:account:sender")


def parse_rule(text: str) -> Rule:
    """A rule from its form, such as `per_day: account count 1d >30 deny`. Raises UsageError."""
    match = _RULE.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"rule {text!r}: a rule is {RULE_FORM}, such as 'per_day: account count 1d >30 deny', "
            "'spent: account/sender sum(amount) 7d >EUR=1000,USD=900' or 'growth: account count 1d x3 from 10 review'"
        )
    measure, _, inner = match["measure"].partition("(")
    plain = {
        "name": match["name"],
        "kind": match["kind"],
        "role": match["role"] or "either",
        "measure": measure,
        "field": inner.rstrip(")") or None,
        "interval": match["interval"],
        "limit": _figures(match["limit"], text),
        "factor": match["factor"],
        "baseline": _figures(match["baseline"], text),
        "action": match["action"],
    }
    return msgspec.convert({key: value for key, value in plain.items() if value is not None}, Rule)


def _figures(given: str | None, text: str) -> int | dict[str, str] | None:
    """A whole number, or figures by currency."""
    if given is None:
        return None
    if given.isdigit():
        return int(given)
    figures: dict[str, str] = {}
    for part in given.split(","):
        currency, equals, figure = part.partition("=")
        if not (currency and equals and figure):
            raise UsageError(f"rule {text!r}: {given!r} is neither a whole number nor figures such as EUR=100,USD=90")
        figures[currency] = figure
    return figures


def example_records(source: Source) -> list[dict[str, Any]]:
    """Three records that are valid for a source, made of its declaration alone."""
    return [{f.name: _example(f, source, n) for f in source.fields} for n in range(3)]


def _example(given: Field, source: Source, n: int) -> Any:
    examples: Mapping[str, Any] = {
        "id": f"{given.name}-{n if given.name == source.own_id else 1}",
        "text": f"an example of {given.name}",
        "choice": given.values[n % len(given.values)] if given.values else "",
        "time": f"2026-01-01T10:0{n}:00Z",
        "amount": f"{n + 1}.50" if given.fraction_digits > 1 else str(n + 1),
        "currency": "EUR",
        "integer": n,
    }
    return examples[given.type]
