"""`paystorm rebuild`: counts and standing hits computed anew, beside those of the running state."""

from typing import Annotated

import typer

from paystorm.cli.common import DataOption, EnvOption, JsonOption, complain, open_here, out, show_json, table
from paystorm.cli.verify import DIFFERENCES, HOLD_SECONDS, LIMIT, as_plain, print_differences
from paystorm.settings import Settings
from paystorm.verify.source import verify_source

COLUMNS = ("source", "records", "from log", "from warehouse", "counts", "hits", "result")


def rebuild(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The source.")],
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option(min=0, help="Rows that differ which are printed, at most.")] = LIMIT,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that a running source has to finish what is in flight.")
    ] = HOLD_SECONDS,
) -> None:
    """Compute counts and standing hits anew from log and warehouse, and show what differs from the running state.

    Nothing is changed. A running source holds while its tables are read; exit code 1 where a row differs.
    """
    with open_here(env, data) as here:
        report = verify_source(
            here.resources,
            here.source(source),
            hold=source in here.running(),
            timeout=timeout,
            settings=Settings(here.env.options),
            keep=limit,
            figures_only=True,
        )
    if as_json:
        show_json(as_plain(report))
    else:
        print_differences(report)
        result = "no difference" if report.ok else f"{report.differing.total():,} rows DIFFER"
        records, stood_in = report.records, report.stood_in
        row = (report.source, records, records - stood_in, stood_in, report.counts, report.hits, result)
        out().print(table(None, COLUMNS, [row], right=COLUMNS[1:-1]))
        for note in report.notes:
            complain(f"{report.source}: {note}")
    if not report.ok:
        raise typer.Exit(DIFFERENCES)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(rebuild)
