"""`paystorm simulate`: the whole system under seeds, each in one thread and virtual time, with everything failing."""

import itertools
import os
import secrets
import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from paystorm.cli.common import JsonOption, complain, show_json
from paystorm.testing.draw import draw
from paystorm.testing.many import FLOOR, Result, Total, run_many
from paystorm.testing.report import report
from paystorm.testing.shrink import Shrinker
from paystorm.testing.simulate import run

FAILED = 1
"""The exit code where a seed failed."""
MOST_SEEDS = 10_000_000
MOST_RECORDS = 100_000
EVERY = 100
"""Seeds between two lines of progress."""
SHOWN = 3
"""Findings shown of each failing seed."""
FIRST_SEEDS = 1 << 40


def _told(total: Total, seconds: float) -> str:
    failing = len(total.failing())
    rate = len(total) / seconds * 60 if seconds else 0.0
    return f"{len(total):,} seeds, {rate:,.0f} a minute, {failing:,} failed"


def _run(seeds: Iterable[int], workers: int, records: int | None, *, until_failure: bool, quiet: bool) -> Total:
    """Run the seeds; say of each that fails what it found, and of all now and then how many they are."""
    total, started = Total(), time.monotonic()
    try:
        for result in run_many(seeds, workers=workers, records=records):
            total.add(result)
            if result.found and not quiet:
                again = f"paystorm simulate --seed {result.seed}{_records(records)}"
                print(f"seed {result.seed} FAILED: {again}", flush=True)
                for line in result.found[:SHOWN]:
                    print(f"  {line.splitlines()[0]}", flush=True)
            if len(total) % EVERY == 0 and not quiet:
                print(_told(total, time.monotonic() - started), flush=True)
            if result.found and until_failure:
                break
    except KeyboardInterrupt:
        complain("stopped")
    if not quiet:
        print(_told(total, time.monotonic() - started))
    return total


def _records(records: int | None) -> str:
    return "" if records is None else f" --records {records}"


def _print_totals(total: Total) -> None:
    medians = ", ".join(f"{value:g} {name}" for name, value in total.medians().items())
    print(f"the median seed: {medians}")
    shares = sorted(total.shares().items(), key=lambda item: -item[1])
    print(f"share of the seeds that came to each (floor {FLOOR:.0%}):")
    for what, share in shares:
        print(f"  {share:6.1%}  {what}{'' if share >= FLOOR else '  BELOW THE FLOOR'}")


def _print_story(result: Result, records: int | None, tries: int) -> None:
    """Shrink a failing seed, and tell it."""
    scenario = draw(result.seed, records=records)
    story = run(scenario)
    if not story.found:
        complain(
            f"seed {result.seed} does not fail again: that is a fault of the simulator, of the machine, or of time"
        )
        return
    if tries:
        scenario, story = Shrinker(tries, told=lambda text: complain(f"shrinking: {text}")).shrink(scenario, story)
    print()
    print(report(scenario, story))


def _plain(total: Total, first: int) -> dict[str, Any]:
    return {
        "first": first,
        "seeds": len(total),
        "failed": [{"seed": r.seed, "found": list(r.found)} for r in total.failing()],
        "medians": total.medians(),
        "shares": total.shares(),
        "digests": {str(r.seed): r.digest for r in total.results},
    }


def simulate(
    seed: Annotated[int | None, typer.Option(min=0, help="The first seed; default: a new one each time.")] = None,
    seeds: Annotated[
        int, typer.Option(min=0, max=MOST_SEEDS, help="How many seeds, one after another; 0: until stopped.")
    ] = 1,
    records: Annotated[
        int | None, typer.Option(min=1, max=MOST_RECORDS, help="Records of each seed; default: as drawn.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes of one thread each; default: one a core.")
    ] = None,
    until_failure: Annotated[bool, typer.Option("--until-failure", help="Stop at the first seed that fails.")] = False,
    shrink: Annotated[
        int, typer.Option(min=0, max=10_000, help="Runs that may be spent on making the first failing seed small.")
    ] = 200,
    as_json: JsonOption = False,
) -> None:
    """Run the whole system in one thread and virtual time, with faults of every kind, and compare it with the oracle.

    A seed and a commit give the same run again, byte for byte. Exit code 1 where a seed failed; the first of them is
    shrunk to a short story.
    """
    first = secrets.randbelow(FIRST_SEEDS) if seed is None else seed
    processes = min(workers or os.cpu_count() or 1, seeds or MOST_SEEDS)
    chosen = itertools.count(first) if seeds == 0 else range(first, first + seeds)
    if not as_json:
        print(f"seeds from {first}, over {processes} processes")
    total = _run(chosen, processes, records, until_failure=until_failure, quiet=as_json)
    if as_json:
        show_json(_plain(total, first))
    elif seeds == 1 and total.results and not total.failing():
        (result,) = total.results
        print(f"{result.records} records, {result.chunks} chunks, {result.writes} writes, {result.faults} faults")
        print(f"digest {result.digest}")
        print("reached: " + ", ".join(sorted(result.reached)))
    elif total.results:
        _print_totals(total)
    if total.failing():
        if not as_json and total.failing()[0].digest:
            _print_story(total.failing()[0], records, shrink)
        raise typer.Exit(FAILED)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(simulate)
