"""`paystorm chaos`: kills real servers while records flow, and checks after each that nothing is wrong."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from paystorm.chaos.campaign import Campaign, Outcome
from paystorm.chaos.checks import check
from paystorm.chaos.faults import FAULTS, Target
from paystorm.chaos.feeder import Feeder
from paystorm.chaos.plan import plan
from paystorm.chaos.report import COLUMNS, markdown, rows
from paystorm.chaos.watch import Watch
from paystorm.cli.common import Here, JsonOption, complain, open_here, out, show_json, table
from paystorm.cli.stack import open_stack
from paystorm.connections import Connections
from paystorm.errors import UsageError
from paystorm.resources import Resources, open_resources
from paystorm.settings import Settings

WRONG = 1
"""The exit code where something was wrong after a fault."""
SOURCE = "purchase"
"""The source that is fed: what is sent are purchases."""
RATE, MAX_RATE = 200, 20_000
MINUTES = 10.0
WATCH_SECONDS = 5
"""Time-out of the look from beside."""
FIRST_SEEDS = 1 << 32

FaultsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[FAULT]...", help=f"Faults: {', '.join(FAULTS)}; default: all.")
]


def chaos(
    faults: FaultsArgument = None,
    seed: Annotated[int | None, typer.Option(min=0, help="What the faults are drawn by; default: a new one.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help=f"No fault is begun after this time. Default {MINUTES:g}.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="So many faults, different ones first; no limit of time.")
    ] = None,
    each: Annotated[int | None, typer.Option("--each", min=1, help="Each fault so often; no limit of time.")] = None,
    rate: Annotated[int, typer.Option(min=5, max=MAX_RATE, help="Records sent in a second.")] = RATE,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the table of results as Markdown.")
    ] = None,
    env: Annotated[str, typer.Option("-e", "--env", metavar="ENV", help="An environment with a section stack.")] = (
        "stack"
    ),
    as_json: JsonOption = False,
) -> None:
    """Kill, halt and fill what the topology purchase runs on, while made-up purchases flow; verify after each fault.

    The servers must be those of paystorm stack, and the topology must have been submitted. What was killed is started
    again. Exit code 1 where a row differed, a record was missing, or the topology did not recover.
    """
    names = _chosen(faults or ())
    seed = secrets.randbelow(FIRST_SEEDS) if seed is None else seed
    complain(f"seed {seed}, {rate} records a second")
    with open_here(env, None) as here:
        target = _target(here, env)
        for name, why in _missing(names, target).items():
            complain(f"{name} is left out: {why}")
            names.remove(name)
        if not names:
            raise UsageError("none of these faults can be done here")
        steps = plan(names, seed=seed, each=each, count=count)
        seconds = None if each or count else (MINUTES if minutes is None else minutes) * 60
        outcomes: list[Outcome] = []
        with _running(here, target, rate, seed) as campaign:
            for outcome in campaign.run(steps, seconds=seconds):
                outcomes.append(outcome)
                if report is not None:  # after each: a campaign of hours may be broken off
                    report.write_text(markdown(outcomes))
    if as_json:
        show_json({"seed": seed, "outcomes": [asdict(outcome) for outcome in outcomes]})
    else:
        out().print(table(None, COLUMNS, rows(outcomes), right=COLUMNS[1:]))
    if not all(outcome.ok for outcome in outcomes):
        _complain_of(outcomes)
        raise typer.Exit(WRONG)


def _chosen(names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in FAULTS:
            raise UsageError(f"no fault {name!r}; there are {', '.join(FAULTS)}")
    return list(dict.fromkeys(names or FAULTS))


def _target(here: Here, env: str) -> Target:
    warehouse = here.env.options.get("paystorm.warehouse")
    if here.folder is not None or not warehouse:
        raise UsageError(f"envs.{env} names no servers: name an environment with nimbus and stack, such as stack")
    stack = open_stack(env, None)
    stopped = [status.server for status in stack.status() if status.state != "running"]
    if stopped:
        raise UsageError(f"{', '.join(stopped)} does not run: paystorm stack up -e {env}")
    target = Target(stack, here.nimbus(), here.project.topology_names()[SOURCE], Path(warehouse))
    target.topology_id()
    return target


def _missing(names: Sequence[str], target: Target) -> dict[str, str]:
    found = {name: FAULTS[name].missing(target) for name in names}
    return {name: why for name, why in found.items() if why is not None}


@contextmanager
def _running(here: Here, target: Target, rate: int, seed: int) -> Iterator[Campaign]:
    """A campaign whose sender and watch run; they have connections of their own."""
    source, clock = here.source(SOURCE), here.resources.clock
    sending, watching = _open(here), _open(here, **{"paystorm.timeout": WATCH_SECONDS})
    feeder = Feeder(sending.log, source.topic, clock, rate=rate, seed=seed)
    watch = Watch(watching.tables, source.name, source.topic, feeder, clock, rate=rate)
    settings = Settings(here.env.options)
    feeder.start()
    watch.start()
    try:
        yield Campaign(
            target,
            feeder,
            watch,
            clock,
            check=lambda: check(here.resources, source, settings, feeder.ends),
            tell=complain,
        )
    finally:
        feeder.stop()
        watch.stop()
        sending.close()
        watching.close()


def _open(here: Here, **options: int) -> Resources:
    return open_resources(Connections({**here.env.options, **options}))


def _complain_of(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        for problem in outcome.problems:
            complain(f"{outcome.fault} ({outcome.what}): {problem}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(chaos)
