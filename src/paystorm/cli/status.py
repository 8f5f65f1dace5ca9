"""`paystorm status`: how far each source is, and whether every record has an outcome."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from paystorm.cli.balance import SourceBalance, balance_of
from paystorm.cli.common import (
    DataOption,
    EnvOption,
    JsonOption,
    SourcesArgument,
    complain,
    open_here,
    out,
    show_json,
    table,
)

DIFFERENCES = 1
"""The exit code where a balance does not add up."""
COLUMNS = (
    "source",
    "partition",
    "log end",
    "committed",
    "lag",
    "read",
    "accepted",
    "denied",
    "dead-lettered",
    "parked",
    "late",
    "caught late",
    "balance",
)
FIGURES = ("end", "committed", "lag", "read", "accepted", "denied", "dead_lettered", "parked")


def as_plain(balance: SourceBalance, running: int | str | None) -> dict[str, Any]:
    """A source's status as JSON has it; `running`: its process, or its topology's id."""
    plain = asdict(balance)
    for row, partition in zip(plain["partitions"], balance.partitions, strict=True):
        row["missing"] = partition.missing
    plain["totals"] = {figure: balance.total(figure) for figure in FIGURES}
    where: dict[str, Any] = {"pid": running if isinstance(running, int) else None}
    if isinstance(running, str):
        where["topology"] = running
    return {**plain, "adds_up": balance.adds_up, "running": running is not None, **where}


def rows_of(balance: SourceBalance, *, each: bool) -> list[tuple[Any, ...]]:
    """The rows of the table: the source's, and with `each` one for each of its partitions."""
    balances = "adds up" if balance.adds_up else f"{balance.total('missing'):+,} MISSING"
    total = (balance.source, "all", *(balance.total(f) for f in FIGURES), balance.late, balance.caught_late, balances)
    if not each:
        return [total]
    rows = [
        (
            "",
            p.partition,
            *(getattr(p, f) for f in FIGURES),
            "",
            "",
            "" if p.missing == 0 else f"{p.missing:+,} MISSING",
        )
        for p in balance.partitions
    ]
    return [total, *rows]


def remarks_of(balance: SourceBalance) -> list[str]:
    """What an operator must know beside the figures."""
    name = balance.source
    told = [f"{name}: the spout has a problem: {problem}" for problem in balance.problems]
    told += [
        f"{name}: the breaker of rule {rule} is OPEN: what it would deny is accepted and marked would_deny; once "
        f"the rule is right: paystorm lists close-breaker {name} {rule}"
        for rule in balance.breakers
    ]
    if balance.held:
        told.append(f"{name}: {balance.held:,} parked records are held by a sink: they are retried until they succeed")
    for p in balance.partitions:
        if p.missing:
            told.append(
                f"{name}: partition {p.partition} does NOT add up: {p.read:,} read, but {p.accepted:,} accepted + "
                f"{p.denied:,} denied + {p.dead_lettered:,} dead-lettered + {p.parked:,} parked = "
                f"{p.read - p.missing:,} below offset {p.committed:,}: run paystorm verify {name}"
            )
    return told


def status(
    sources: SourcesArgument = None,
    partitions: Annotated[bool, typer.Option("--partitions", help="Show each partition too.")] = False,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far each source is, and its balance: read = accepted + denied + dead-lettered + parked.

    Exit code 1 where a balance does not add up.
    """
    with open_here(env, data) as here:
        balances = [balance_of(here.resources, source) for source in here.sources(sources).values()]
        running = here.running()
    if as_json:
        show_json([as_plain(balance, running.get(balance.source)) for balance in balances])
    else:
        rows = [row for balance in balances for row in rows_of(balance, each=partitions)]
        out().print(table(None, COLUMNS, rows, right=COLUMNS[1:12]))
        runs = [
            f"{name} ({'process' if isinstance(where, int) else 'topology'} {where})"
            for name, where in running.items()
            if name in {balance.source for balance in balances}
        ]
        print(f"running: {', '.join(runs) or 'none'}")
        for balance in balances:
            for remark in remarks_of(balance):
                complain(remark)
    if not all(balance.adds_up for balance in balances):
        raise typer.Exit(DIFFERENCES)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)
