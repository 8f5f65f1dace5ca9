"""`paystorm new-source`: one topology file, its requirements and a test with a sample; nothing else has to know."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from paystorm.cli.common import complain, err
from paystorm.errors import PaystormError, UsageError
from paystorm.project import Project
from paystorm.scaffold.draft import (
    FIELD_FORM,
    PARTY_FORM,
    RULE_FORM,
    Draft,
    check_name,
    example_records,
    known_sources,
    parse_field,
    parse_party,
    parse_rule,
)
from paystorm.scaffold.guess import guess
from paystorm.scaffold.sample import Sample, read_sample
from paystorm.scaffold.write import files_of, write_files
from paystorm.source import ID_MAX, Field, Party, Source

MOST = 200
"""Fields, parties or rules that a dialogue asks for, at most."""
Part = TypeVar("Part")


def _mapped(project: Project) -> dict[str, str]:
    """The source of each application, in any environment: one that is wrong elsewhere is no matter here."""
    mapped = {application: name for name, s in known_sources(project).items() for application in s.applications}
    envs = project.config.get("envs")
    sections = [project.config, *(envs.values() if isinstance(envs, dict) else ())]
    for section in sections:
        found = section.get("applications") if isinstance(section, dict) else None
        mapped.update({name: str(to) for name, to in found.items()} if isinstance(found, dict) else {})
    return mapped


def _applications(name: str, wanted: Sequence[str], sample: Sample | None, project: Project) -> tuple[str, ...]:
    """The applications of the source: those wanted, else those of the sample, else its name. Raises UsageError."""
    taken = _mapped(project)
    for application in wanted:
        if not 1 <= len(application) <= ID_MAX:
            raise UsageError(f"--application must have 1 to {ID_MAX} characters, got {application[:60]!r}")
        if application in taken:
            raise UsageError(f"--application {application}: it sends to source {taken[application]}: choose another")
    found = tuple(wanted) or tuple(a for a in (sample.applications if sample else ()) if len(a) <= ID_MAX)
    free = tuple(dict.fromkeys(a for a in found if a not in taken)) or (name,)
    if free[0] in taken:
        raise UsageError(f"application {free[0]!r} sends to source {taken[free[0]]}: name another with --application")
    return free


def _declared(name: str, topic: str, fields: list[Field], event_time: str | None) -> Draft:
    """The source of the fields given."""
    times = [f.name for f in fields if f.type == "time"]
    chosen = event_time or ("event_time" if "event_time" in times or not times else times[0])
    if all(f.name != chosen for f in fields):
        fields = [Field(name=chosen, type="time", required=True), *fields]
    fields = [msgspec.structs.replace(f, required=True) if f.name == chosen else f for f in fields]
    source = Source(
        name=name,
        topic=topic,
        enforces=False,
        fields=tuple(fields),
        parties=(),
        event_time=chosen,
        doc=f"Records of {name}.",
    )
    return Draft(source)


def _overridden(draft: Draft, event_time: str | None, fields: list[Field], changes: dict[str, Any]) -> Draft:
    """The draft with what was given in the place of guesses."""
    declared = {f.name: f for f in draft.source.fields} | {f.name: f for f in fields}
    if event_time is not None and event_time in declared:
        declared[event_time] = msgspec.structs.replace(declared[event_time], required=True)
        changes = {**changes, "event_time": event_time}
    kinds = {"parties": "party", "rules": "rule"}
    for what in [kinds[key] for key in changes if key in kinds]:
        draft.guesses = {key: why for key, why in draft.guesses.items() if key[0] != what}
    for name in (*(f.name for f in fields), *(["event_time"] if event_time else [])):
        draft.guesses.pop(("field", name), None)
        draft.guesses.pop(("source", name), None)
        draft.left_out.pop(name, None)
    if "parties" in changes and "rules" not in changes:
        known = {party.kind for party in changes["parties"]}
        changes = {**changes, "rules": tuple(rule for rule in draft.source.rules if rule.kind in known)}
    draft.source = msgspec.structs.replace(draft.source, fields=tuple(declared.values()), **changes)
    return draft


class Dialogue:
    """Asks for a source, part by part; what cannot be used is asked for again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.fields: list[Field] = []
        self.parties: list[Party] = []

    def ask(self) -> tuple[Draft, dict[str, Any]]:
        """The draft, and whatever else was answered."""
        name = self._name
        doc = typer.prompt("What is a record of it, in a sentence", default=f"Records of {name}", err=True)
        topic = typer.prompt("Topic", default=name, err=True)
        event_time = typer.prompt("Field with the time of the event", default="event_time", err=True)
        err().print(f"Fields: {FIELD_FORM}; an empty line ends them.", markup=False)
        self.fields = self._parts("Field", parse_field)
        draft = _declared(name, topic, self.fields, event_time)
        err().print(f"Parties: {PARTY_FORM}; an empty line ends them.", markup=False)
        parties = self._parts("Party", lambda text: self._party(draft, text))
        draft.source = msgspec.structs.replace(draft.source, parties=tuple(parties))
        err().print(f"Rules: {RULE_FORM}; an empty line ends them.", markup=False)
        rules = self._parts("Rule", lambda text: self._rule(draft, text))
        application = typer.prompt("Application that sends them", default=name, err=True)
        enforces = typer.confirm("Does it deny events of listed parties", default=False, err=True)
        doc = doc if doc.endswith(".") else f"{doc}."
        return draft, {"doc": doc, "rules": tuple(rules), "applications": (application,), "enforces": enforces}

    @staticmethod
    def _party(draft: Draft, text: str) -> Party:
        party = parse_party(text)
        msgspec.structs.replace(draft.source, parties=(party,))
        return party

    @staticmethod
    def _rule(draft: Draft, text: str) -> Any:
        rule = parse_rule(text)
        msgspec.structs.replace(draft.source, rules=(rule,))
        return rule

    @staticmethod
    def _parts(what: str, parse: Callable[[str], Part]) -> list[Part]:
        found: list[Part] = []
        while len(found) < MOST:
            text = typer.prompt(what, default="", show_default=False, err=True).strip()
            if not text:
                break
            try:
                found.append(parse(text))
            except PaystormError as error:
                complain(str(error))
        return found


def new_source(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The source: of its file, class, topic, run and submit.")],
    sample: Annotated[
        str | None, typer.Option("--from", metavar="FILE", help="A sample to guess from: NDJSON or CSV, .gz too.")
    ] = None,
    fields: Annotated[
        list[str] | None, typer.Option("--field", metavar=FIELD_FORM, help="A declared field; a choice is choice=a,b.")
    ] = None,
    parties: Annotated[
        list[str] | None, typer.Option("--party", metavar=PARTY_FORM, help="A field that is a party.")
    ] = None,
    event_time: Annotated[
        str | None, typer.Option("--event-time", metavar="FIELD", help="The field with the time of the event.")
    ] = None,
    rules: Annotated[
        list[str] | None, typer.Option("--rule", metavar="RULE", help="Such as 'per_day: account count 1d >30 deny'.")
    ] = None,
    applications: Annotated[
        list[str] | None, typer.Option("--application", metavar="REF", help="An ApplicationRef; default: NAME.")
    ] = None,
    topic: Annotated[str | None, typer.Option("--topic", metavar="TOPIC", help="Default: NAME.")] = None,
    own_id: Annotated[str | None, typer.Option("--own-id", metavar="FIELD", help="The record's own id.")] = None,
    doc: Annotated[str | None, typer.Option("--doc", metavar="TEXT", help="What a record of it is.")] = None,
    enforces: Annotated[
        bool, typer.Option("--enforces", help="Deny events of listed parties; without it the source only watches.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the files; write nothing.")] = False,
) -> None:
    """Write a new source: a topology file, its requirements, and a test with a sample that passes.

    Without --from and --field a dialogue asks for it. With --from types, times, parties and rules are guessed, and what
    is given replaces its guess. All files are written or none, and none over another; `paystorm run NAME` and
    `sparse submit -n NAME` work at once. Removing the topology file removes the source.
    """
    project = Project.load()
    check_name(name, topic or name, project)
    changes: dict[str, Any] = {}
    found = read_sample(sample) if sample is not None else None
    declared = [parse_field(text) for text in fields or ()]
    if found is not None:
        draft = guess(name, topic or name, found)
    elif declared:
        draft = _declared(name, topic or name, declared, event_time)
    elif sys.stdin is not None and sys.stdin.isatty():
        draft, changes = Dialogue(name).ask()
        check_name(name, draft.source.topic, project)
        applications = [*(applications or ()), *changes.pop("applications")]
    else:
        raise UsageError(
            f"new-source {name}: name a sample with --from or fields with --field; a dialogue needs a terminal"
        )
    if parties:
        changes["parties"] = tuple(parse_party(text) for text in parties)
    if rules:
        changes["rules"] = tuple(parse_rule(text) for text in rules)
    changes |= {key: value for key, value in (("own_id", own_id), ("doc", doc)) if value}
    changes["applications"] = _applications(name, applications or (), found, project)
    changes.setdefault("enforces", enforces)
    draft = _overridden(draft, event_time, declared if found is not None else [], changes)
    draft.records = draft.records or example_records(draft.source)
    files = files_of(draft, project)
    for note in draft.notes:
        complain(note)
    if dry_run:
        _show(files)
        return
    write_files(project.root, files)
    _tell(draft, found, files)


def _show(files: dict[Path, str]) -> None:
    for path, text in files.items():
        print(f"# {path}")
        print(text)


def _tell(draft: Draft, sample: Sample | None, files: dict[Path, str]) -> None:
    """What was written, and what to do next."""
    name = draft.source.name
    for path in files:
        print(f"written: {path}")
    if draft.guesses:
        print(f"Guesses are marked as such in {list(files)[-1]}: check them.")
    test = next(path for path in files if path.suffix == ".py" and path.name.startswith("test_"))
    file, maps = "FILE", ""
    if sample is not None:
        file = sample.file
        maps = "".join(f" --map {field}={_quoted(column)}" for field, column in sample.renamed.items())
    print(f"next: pytest {test}; paystorm send {name} {_quoted(file)}{maps}; paystorm run {name}")


def _quoted(text: str) -> str:
    return text if text.replace("/", "").replace(".", "").replace("-", "").replace("_", "").isalnum() else f"'{text}'"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("new-source")(new_source)
