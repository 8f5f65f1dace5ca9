"""The text of a new source's files, as `ruff format` has it."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from paystorm.errors import UsageError
from paystorm.rules import Rule
from paystorm.scaffold.draft import Draft, class_name
from paystorm.source import Field, Party, Source
from paystorm.validity.exact import Event, ExactValidator, Invalid
from paystorm.validity.settings import ValiditySettings

WIDTH = 120
TEST_RECORDS = 20
"""Records of the sample that the test keeps, at most."""
_ENCODER = msgspec.json.Encoder(decimal_format="number")
NEEDED = ("msgspec", "numpy", "polars", "streamparse")
MAX_RULE_TEST = 200
"""A limit up to which the test sends one event more."""

TOPOLOGY = '''\
"""{doc}{enforces}{guessed}"""

from typing import Any

from streamparse import Grouping, Topology

from bolts.blacklist_lookup import BlacklistLookupBolt
from bolts.dead_letters import DeadLettersBolt
from bolts.validation import ValidationBolt
from bolts.warehouse import WarehouseBolt
from bolts.window_count import WindowCountBolt
{imports}
from paystorm.storm import topology_config
from spouts.kafka import KafkaSpout

{source}

OPTIONS: dict[str, Any] = {{}}
"""Settings and Storm's options of this topology alone (docs/settings.md); those of config.json are over them."""


class {class_name}(Topology):
    """Log → validation → look-up → warehouse and counts; what is not valid goes to the dead letters."""

    config = topology_config(SOURCE, OPTIONS)
    spout = KafkaSpout.spec(par=1)
    validation = ValidationBolt.spec(inputs={{spout: Grouping.SHUFFLE}}, par=1)
    lookup = BlacklistLookupBolt.spec(inputs={{validation: Grouping.SHUFFLE}}, par=1)
    warehouse = WarehouseBolt.spec(
        inputs={{lookup: Grouping.fields("partition"), spout["refusals"]: Grouping.fields("partition")}}, par=1
    )
    counts = WindowCountBolt.spec(
        inputs={{lookup["shards"]: Grouping.fields("route"), spout["refusals"]: Grouping.ALL}}, par=1
    )
    dead_letters = DeadLettersBolt.spec(inputs={{validation["invalid"]: Grouping.fields("partition")}}, par=1)
'''

TEST = '''\
"""The source {name}: its sample comes to what it should, whatever happens on the way (docs/testing.md)."""

import json
from pathlib import Path
from typing import Any

import pytest

from paystorm.project import Project
from paystorm.testing import Kit

HERE = Path(__file__).parent
NAME = "{name}"
PROJECT = Project.load(HERE)
NOW = "{now}"
"""Just behind the sample: a time that lies ahead is invalid."""

pytestmark = pytest.mark.skipif(NAME not in PROJECT.sources(), reason=f"the source {{NAME}} has been removed")


def kit(**options: Any) -> Kit:
    """The topology at work, with these options."""
    return Kit(PROJECT.topologies()[NAME], now=NOW, options=options)


def sample() -> list[dict[str, Any]]:
    """The records of the sample."""
    return [json.loads(line) for line in (HERE / f"{{NAME}}.ndjson").read_text().splitlines()]


def test_every_record_of_the_sample_is_an_event() -> None:
    with kit() as world:
        world.feed(sample())
        world.verify()
        assert world.dead_letters() == []
        assert len(world.events()) == len(sample())


def test_a_record_without_its_time_is_dead_lettered() -> None:
    with kit() as world:
        world.feed([{{**sample()[0], "{event_time}": None}}])
        world.verify()
        assert [(row["field"], row["code"]) for row in world.dead_letters()] == [("{event_time}", "missing")]


def test_a_kill_loses_and_repeats_nothing() -> None:
    with kit(chunkRecords=3) as world:
        world.feed(sample())
        world.advance(0.2)
        world.kill()
        world.restart()
        world.verify()
        assert len(world.events()) == len(sample())
'''

RULE_TEST = """

def test_one_event_more_than_its_limit_is_a_hit_of_{rule}() -> None:
    rule = next(rule for rule in PROJECT.sources()[NAME].rules if rule.name == "{rule}")
    assert isinstance(rule.limit, int)
    record = next(record for record in sample() if record.get("{field}"))
    with kit(chunkRecords=1000) as world:
        world.feed([record] * rule.limit)
        world.run_until_idle()
        assert "{rule}" not in [hit["rule"] for hit in world.hits()]
        world.feed([record])
        world.verify()
        assert ("{rule}", record["{field}"]) in [(hit["rule"], hit["party"]) for hit in world.hits()]
"""


def topology_text(draft: Draft) -> str:
    """The topology file."""
    source = draft.source
    guessed = ""
    if draft.guesses or draft.left_out:
        lines = ["Drawn from a sample: what a comment calls a guess is one. Check it, then take the comment away."]
        if draft.left_out:
            lines.append("Not declared, and kept as they are in the raw text of `data`:")
            for name, why in draft.left_out.items():
                lines += textwrap.wrap(f"- {_safe(name)}: {why}", WIDTH, subsequent_indent="  ")
        guessed = "\n\n" + "\n".join(lines) + "\n"
    imports = ["from paystorm.rules import Rule"] if source.rules else []
    imports.append(f"from paystorm.source import Field, {'Party, ' if source.parties else ''}Source")
    return TOPOLOGY.format(
        doc=_safe(source.doc),
        enforces=" Denies." if source.enforces else " Watches.",
        guessed=guessed,
        imports="\n".join(imports),
        source=_source(draft),
        class_name=class_name(source.name),
    )


def _source(draft: Draft) -> str:
    source = draft.source
    parts = [
        f"    name={_text(source.name)},",
        f"    topic={_text(source.topic)},",
        f"    enforces={source.enforces},",
        f"    applications={_tuple(source.applications)},",
        f"    doc={_text(source.doc)},",
    ]
    if source.event_time != "event_time":
        parts += [*_comment(draft, "source", "event_time", 4), f"    event_time={_text(source.event_time)},"]
    if source.own_id is not None:
        parts += [*_comment(draft, "source", "own_id", 4), f"    own_id={_text(source.own_id)},"]
    parts += _group("fields", [(_comment(draft, "field", f.name, 8), _field(f)) for f in source.fields])
    parts += _group("parties", [(_comment(draft, "party", p.field, 8), _party(p)) for p in source.parties])
    if source.rules:
        parts += _group("rules", [(_comment(draft, "rule", r.name, 8), _rule(r)) for r in source.rules])
    return "\n".join(["SOURCE = Source(", *parts, ")"])


def _group(name: str, items: Sequence[tuple[list[str], str]]) -> list[str]:
    if not items:
        return [f"    {name}=(),"]
    if len(items) == 1 and not items[0][0] and "\n" not in items[0][1]:
        line = f"    {name}=({items[0][1].strip()}),"
        if len(line) <= WIDTH:
            return [line]
    lines = [f"    {name}=("]
    for comment, text in items:
        lines += [*comment, text]
    return [*lines, "    ),"]


def _comment(draft: Draft, what: str, name: str, indent: int) -> list[str]:
    why = draft.guesses.get((what, name))
    return [] if why is None else [f"{' ' * indent}# a guess: {_safe(why)}"]


def _field(field: Field) -> str:
    given: dict[str, str] = {"name": _text(field.name), "type": _text(field.type)}
    if field.required:
        given["required"] = "True"
    if field.values:
        given["values"] = _tuple(field.values)
    if field.zoneless_utc:
        given["zoneless_utc"] = "True"
    if field.doc:
        given["doc"] = _text(field.doc)
    return _call("Field", given)


def _party(party: Party) -> str:
    return _call("Party", {"field": _text(party.field), "role": _text(party.role), "kind": _text(party.kind)})


def _rule(rule: Rule) -> str:
    given: dict[str, str] = {"name": _text(rule.name), "kind": _text(rule.kind)}
    if rule.role != "either":
        given["role"] = _text(rule.role)
    if rule.measure != "count":
        given["measure"] = _text(rule.measure)
        given["field"] = _text(rule.field or "")
    given["interval"] = _text(rule.interval)
    for name, figure in (("limit", rule.limit), ("factor", rule.factor), ("baseline", rule.baseline)):
        if figure is not None:
            given[name] = _figure(figure)
    if rule.action is not None:
        given["action"] = _text(rule.action)
    return _call("Rule", given)


def _figure(figure: int | str | Mapping[str, str]) -> str:
    if isinstance(figure, Mapping):
        return "{" + ", ".join(f"{_text(code)}: {_text(value)}" for code, value in figure.items()) + "}"
    return str(figure) if isinstance(figure, int) else _text(figure)


def _call(name: str, given: Mapping[str, str]) -> str:
    """A call as an item of a tuple: in one line where it fits, else an argument a line."""
    inner = [f"{key}={value}" for key, value in given.items()]
    line = f"        {name}({', '.join(inner)}),"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"        {name}(", *(f"            {text}," for text in inner), "        ),"])


def _tuple(values: Iterable[str]) -> str:
    texts = [_text(value) for value in values]
    return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"


def _text(value: str) -> str:
    """A string literal with the quotes that `ruff format` prefers."""
    if '"' in value and "'" not in value:
        return "'" + json.dumps(value, ensure_ascii=False)[1:-1].replace('\\"', '"') + "'"
    return json.dumps(value, ensure_ascii=False)


def _safe(text: str) -> str:
    """Text that can stand in a comment or a docstring."""
    return " ".join(text.replace("\\", "/").replace('"', "'").split())


# The test, its sample, and what a worker needs.


def test_text(draft: Draft, records: Sequence[Mapping[str, Any]]) -> str:
    """The test of the source, for these records of its sample."""
    source = draft.source
    times = [_moment(source, record) for record in records]
    text = TEST.format(name=source.name, now=_iso(max(times) + 60_000_000), event_time=source.event_time)
    for rule in source.rules:
        field = _field_of(source, rule)
        tested = rule.measure == "count" and isinstance(rule.limit, int) and rule.limit <= MAX_RULE_TEST
        if tested and field is not None and any(record.get(field) for record in records):
            return text + RULE_TEST.format(rule=rule.name, field=field)
    return text


def _field_of(source: Source, rule: Rule) -> str | None:
    """The field of a party that a rule counts."""
    for party in source.parties:
        if party.kind == rule.kind and party.kind_field is None and rule.role in ("either", party.role):
            return party.field
    return None


def test_records(draft: Draft) -> list[dict[str, Any]]:
    """The first valid records of the sample, bare. Raises UsageError where none is valid.

    The draft's notes tell how many of the sample would be dead-lettered, and why.
    """
    source = draft.source
    validator = ExactValidator(source, source.topic, ValiditySettings())
    kept: list[dict[str, Any]] = []
    refused: dict[str, int] = {}
    for offset, record in enumerate(draft.records):
        found = _checked(validator, record, offset)
        if isinstance(found, str):
            reason = found
            refused[reason] = refused.get(reason, 0) + 1
        elif len(kept) < TEST_RECORDS:
            kept.append(record)
    if refused:
        told = ", ".join(f"{count:,} × {reason}" for reason, count in refused.items())
        draft.notes.append(f"of {len(draft.records):,} records {sum(refused.values()):,} are not valid: {told}")
    if not kept:
        raise UsageError(f"source {source.name}: no record of the sample is valid: {', '.join(refused)}")
    return kept


_FAR_MS = 253_370_764_800_000
"""The log's time of the sample's records when they are checked: none of them lies ahead of it."""


def _checked(validator: ExactValidator, record: Mapping[str, Any], offset: int = 0) -> Event | str:
    """The event that a record is, or why it is none."""
    try:
        value = json_bytes({"ApplicationRef": "test", "data": record})
    except ValueError as error:
        return f"record: {error}"
    found = validator.check(0, offset, _FAR_MS, value)
    return f"{found.field}: {found.code}" if isinstance(found, Invalid) else found


def _moment(source: Source, record: Mapping[str, Any]) -> int:
    """The event time of a valid record, µs since 1970-01-01 UTC."""
    found = _checked(ExactValidator(source, source.topic, ValiditySettings()), record)
    assert not isinstance(found, str), found
    moment: int = found[4]
    return moment


def _iso(us: int) -> str:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us - us % 1_000_000)
    return at.replace(tzinfo=None).isoformat() + "Z"


def json_bytes(value: Any) -> bytes:
    """JSON with decimals as the numbers that they were read from. Raises ValueError for what JSON cannot hold."""
    try:
        return _ENCODER.encode(value)
    except (UnicodeEncodeError, OverflowError) as error:
        raise ValueError(str(error)) from error


def sample_text(records: Iterable[Mapping[str, Any]]) -> str:
    """The sample that the test reads: NDJSON, bare objects."""
    return "".join(json_bytes(record).decode() + "\n" for record in records)


def requirements_text(folder: Path) -> str:
    """What a worker needs: as the project's other topologies have it, else what is installed here."""
    for path in sorted(folder.glob("*.txt")):
        return path.read_text()
    lines = [f"{name}=={version(name)}" for name in NEEDED]
    lines.insert(-1, "setuptools<81  # streamparse imports pkg_resources")
    first = "# What a worker needs for this topology; sparse installs it over ssh where use_virtualenv is true."
    return "\n".join([first, *lines, ""])
