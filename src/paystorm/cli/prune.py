"""`paystorm prune`: removes what is over its retention."""

from dataclasses import asdict
from typing import Annotated

import typer

from paystorm.cli.common import (
    DataOption,
    EnvOption,
    JsonOption,
    SourcesArgument,
    iso,
    open_here,
    out,
    show_json,
    table,
)
from paystorm.retention.events import GRACE
from paystorm.retention.prune import prune_source
from paystorm.retention.report import Went

MINUTE = 60
DAY = 24 * 60
COLUMNS = ("source", "table", "kept for", "gone", "", "left since")


def prune(
    names: SourcesArgument = None,
    env: EnvOption = "local",
    data: DataOption = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Change nothing, and say what would go.")] = False,
    keep: Annotated[
        int,
        typer.Option(
            "--keep",
            metavar="MINUTES",
            min=0,
            max=DAY,
            help="Keep files out of sight so long, for those who read them.",
        ),
    ] = round(GRACE / MINUTE),
    as_json: JsonOption = False,
) -> None:
    """Remove what is over its retention (docs/settings.md), beside a running topology or not. Safe to repeat.

    What has no retention is kept for ever.
    """
    with open_here(env, data) as here:
        done = [
            went
            for source in here.sources(names).values()
            for went in prune_source(here.resources, source, here.env.options, grace=keep * MINUTE, dry=dry)
        ]
    if as_json:
        show_json([_plain(went) for went in done])
    else:
        _show(done, dry=dry)


def _plain(went: Went) -> dict[str, object]:
    return {**asdict(went), "since": None if went.since is None else iso(went.since)}


def _show(done: list[Went], *, dry: bool) -> None:
    if not done:
        print("nothing has a retention: everything is kept for ever; docs/settings.md says how to set one")
        return
    rows = [
        (w.source, w.table, _duration(w.retention), w.went, w.unit, None if w.since is None else iso(w.since))
        for w in done
    ]
    out().print(table("what would go" if dry else None, COLUMNS, rows, right=COLUMNS[2:4]))
    for went in done:
        for note in went.notes:
            print(f"{went.source} {went.table}: {note}")


def _duration(seconds: int) -> str:
    days = seconds / 86_400
    return f"{days:,.4g} d"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(prune)
