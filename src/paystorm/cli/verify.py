"""`paystorm verify`: computes everything again from the raw records and prints every row that differs."""

from typing import Annotated, Any

import typer

from paystorm.cli.common import (
    DataOption,
    EnvOption,
    Here,
    JsonOption,
    SourcesArgument,
    complain,
    one_line,
    open_here,
    out,
    show_json,
    table,
)
from paystorm.settings import Settings
from paystorm.verify.source import Report, verify_source

DIFFERENCES = 1
"""The exit code where a row differs."""
LIMIT = 100
HOLD_SECONDS = 60.0
COLUMNS = ("source", "records", "events", "dead-lettered", "parked", "counts", "hits", "entries", "verdicts", "result")
FIGURES = ("records", "events", "letters", "parked", "counts", "hits", "entries", "verdicts")


def _verified(here: Here, name: str, limit: int, timeout: float, *, hold: bool) -> Report:
    """Verify one source; where it runs, it holds while its tables are read."""
    return verify_source(
        here.resources,
        here.source(name),
        hold=hold,
        timeout=timeout,
        settings=Settings(here.env.options),
        keep=limit,
    )


def as_plain(report: Report) -> dict[str, Any]:
    """A report as JSON has it."""
    return {
        "source": report.source,
        **{figure: getattr(report, figure) for figure in FIGURES},
        "stood_in": report.stood_in,
        "ok": report.ok,
        "notes": report.notes,
        "differing": dict(report.differing),
        "differences": [
            {
                "table": d.table,
                "key": [str(part) for part in d.key],
                "expected": _text(d.expected),
                "held": _text(d.held),
            }
            for d in report.differences
        ],
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def print_differences(report: Report) -> None:
    """A line for each row that differs, as far as they are kept."""
    for difference in report.differences:
        print(one_line(f"{report.source}: {difference}"))
    more = report.differing.total() - len(report.differences)
    if more:
        by_table = ", ".join(f"{count:,} in {name}" for name, count in sorted(report.differing.items()))
        print(f"{report.source}: {more:,} more rows differ; in all {by_table}")


def _print(reports: list[Report]) -> None:
    """A line for each row that differs, then a table."""
    for report in reports:
        print_differences(report)
    rows = [
        (
            report.source,
            *(getattr(report, figure) for figure in FIGURES),
            "no difference" if report.ok else f"{report.differing.total():,} rows DIFFER",
        )
        for report in reports
    ]
    out().print(table(None, COLUMNS, rows, right=COLUMNS[1:-1]))
    for report in reports:
        for note in report.notes:
            complain(f"{report.source}: {note}")


def verify(
    sources: SourcesArgument = None,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option(min=0, help="Rows printed for each source, at most.")] = LIMIT,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that a running source has to finish what is in flight.")
    ] = HOLD_SECONDS,
) -> None:
    """Compute everything again from the raw records and print every row that differs; exit code 1 where there is one.

    A running source is asked to hold while its tables are read, and goes on by itself.
    """
    with open_here(env, data) as here:
        running = here.running()
        names = dict.fromkeys(sources or here.sources())
        reports = [_verified(here, name, limit, timeout, hold=name in running) for name in names]
    if as_json:
        show_json([as_plain(report) for report in reports])
    else:
        _print(reports)
    if not all(report.ok for report in reports):
        raise typer.Exit(DIFFERENCES)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(verify)
