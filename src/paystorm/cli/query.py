"""`paystorm query`: SQL over the warehouse."""

import csv
import sys
from typing import Annotated

import typer

from paystorm.cli.common import (
    DataOption,
    EnvOption,
    JsonOption,
    open_here,
    out,
    plain,
    say_pruned,
    show_json,
    table,
)
from paystorm.errors import UsageError
from paystorm.source import Source
from paystorm.validity.frame import event_schema
from paystorm.warehouse.base import Columns
from paystorm.warehouse.writer import FIRST_COLUMNS

SHOWN = 200
"""Rows in a table for people; a machine gets all."""


def stored_columns(source: Source) -> Columns:
    """The columns that a source's events are stored with."""
    declared = event_schema(source)
    rest = {name: kind for name, kind in declared.items() if name not in FIRST_COLUMNS and name != "data"}
    return {**FIRST_COLUMNS, **rest, "data": declared["data"]}


def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT; a source's table has its name, - as _.")],
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
) -> None:
    """Run a query over the stored events of all sources."""
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other")
    with open_here(env, data) as here:
        known = {name: stored_columns(source) for name, source in here.project.sources().items()}
        names, rows = here.resources.warehouse.query(sql, known)
        say_pruned(here, [name for name in known if name.replace("-", "_").lower() in sql.lower()])
    twice = [name for name in names if names.count(name) > 1]
    if as_json and twice:
        raise UsageError(f"query: two columns are called {twice[0]!r}: tell them apart with AS")
    if as_json:
        show_json([dict(zip(names, row, strict=True)) for row in rows])
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([[_cell(value) for value in row] for row in rows])
    else:
        numbers = [n for i, n in enumerate(names) if rows and isinstance(rows[0][i], int | float)]
        out().print(table(None, names, rows[:SHOWN], right=numbers))
        if len(rows) > SHOWN:
            print(f"{SHOWN} of {len(rows):,} rows; --csv or --json gives all")


def _cell(value: object) -> object:
    return value if value is None or isinstance(value, int | float | str) else plain(value)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(query)
