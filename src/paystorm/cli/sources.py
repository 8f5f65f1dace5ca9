"""`paystorm sources`: what each source is: its fields, parties and rules, as this environment has them."""

from typing import Any

import typer

from paystorm.cli.common import EnvOption, JsonOption, SourcesArgument, out, show_json, table
from paystorm.errors import UsageError
from paystorm.project import Project
from paystorm.rules import Rule
from paystorm.settings import with_options
from paystorm.source import Field, Source


def condition(rule: Rule) -> str:
    """When a rule is a hit, in words."""
    if rule.is_growth:
        return f"≥ ×{rule.factor} the one before, from {_figures(rule.baseline)}"
    return f"> {_figures(rule.limit)}"


def _figures(given: Any) -> str:
    if isinstance(given, dict):
        return ", ".join(f"{text} {currency}" for currency, text in given.items())
    return f"{given:,}"


def _type(field: Field) -> str:
    return " | ".join(field.values) if field.type == "choice" else field.type


def sources(names: SourcesArgument = None, env: EnvOption = "local", as_json: JsonOption = False) -> None:
    """Show the sources: fields, parties, rules with the limits in force."""
    project = Project.load()
    options = project.env(env).options
    known = project.sources()
    for name in names or ():
        if name not in known:
            raise UsageError(f"no source {name!r}; there are {', '.join(known)}")
    chosen = [with_options(source, options) for name, source in known.items() if not names or name in names]
    if as_json:
        show_json([source.to_dict() for source in chosen])
        return
    for source in chosen:
        _show(source)


def _show(source: Source) -> None:
    console = out()
    does = "enforces: denies events of listed parties" if source.enforces else "watches: denies nothing"
    console.print(f"[bold]{source.name}[/bold]  topic {source.topic}; {does}")
    console.print(source.doc, markup=False)
    if source.applications:
        console.print(f"Sent by {', '.join(source.applications)}.", markup=False)
    fields = [(f.name + " *" * f.required, _type(f), f.doc) for f in source.fields]
    console.print(table(None, ("field (* required)", "type", "what it is"), fields))
    parties = [
        (p.field, p.role, p.kind if p.kind_field is None else f"{p.kind}, or what {p.kind_field} says")
        for p in source.parties
    ]
    console.print(table(None, ("party in", "role", "kind"), parties))
    rules = [
        (r.name, f"{r.kind}/{r.role}", r.measured().measure, r.interval, condition(r), r.acts) for r in source.rules
    ]
    console.print(table(None, ("rule", "of", "measure", "interval", "a hit", "action"), rules))
    console.print()


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sources)
