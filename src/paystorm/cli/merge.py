"""`paystorm merge`: one pass over the warehouse that makes few files of many."""

from dataclasses import asdict
from typing import Annotated

import typer

from paystorm.cli.common import DataOption, EnvOption, JsonOption, SourcesArgument, open_here, out, show_json, table
from paystorm.cli.query import stored_columns
from paystorm.errors import UsageError
from paystorm.warehouse.folders import EventFolders
from paystorm.warehouse.merging import Merged, Merger, MergeSettings

DEFAULTS = MergeSettings()
MINUTE = 60
_DAY = 24 * 60


def merge(
    names: SourcesArgument = None,
    env: EnvOption = "local",
    data: DataOption = None,
    files: Annotated[
        int, typer.Option("--files", metavar="N", min=1, help="Merge hours with more small files than this.")
    ] = DEFAULTS.files,
    after: Annotated[
        int,
        typer.Option("--after", metavar="MINUTES", min=0, max=_DAY, help="Leave an hour alone so long after its end."),
    ] = round(DEFAULTS.settle / MINUTE),
    keep: Annotated[
        int,
        typer.Option(
            "--keep", metavar="MINUTES", min=0, max=_DAY, help="Keep old files so long, for those who read them."
        ),
    ] = round(DEFAULTS.grace / MINUTE),
    as_json: JsonOption = False,
) -> None:
    """Merge the small files of past hours, and remove the old ones that nobody reads any more. Safe to repeat."""
    settings = MergeSettings(files=files, settle=after * MINUTE, grace=keep * MINUTE)
    with open_here(env, data) as here:
        warehouse = here.resources.warehouse
        if not isinstance(warehouse, EventFolders):
            raise UsageError("merge: this warehouse keeps no files in folders")
        merger = Merger(here.resources.tables, warehouse, here.resources.clock, settings)
        done = []
        for name, source in here.sources(names).items():
            merged = merger.run(name)
            added = warehouse.show_all(name, stored_columns(source))
            if added:
                merged.notes.append(f"{name}: {added:,} hours were unknown to Hive")
            done.append(merged)
    if as_json:
        show_json([asdict(merged) for merged in done])
        return
    _show(done)


def _show(done: list[Merged]) -> None:
    columns = ("source", "hours", "files", "into", "events", "old folders removed")
    rows = [(m.source, m.hours, m.files, m.into, m.rows, m.removed) for m in done]
    out().print(table(None, columns, rows, right=columns[1:]))
    for note in (note for merged in done for note in merged.notes):
        print(note)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(merge)
