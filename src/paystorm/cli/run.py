"""`paystorm run`: the topologies of sources in this process, until they are idle or somebody ends it."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from paystorm.cli.common import (
    DataOption,
    EnvOption,
    Here,
    JsonOption,
    SourcesArgument,
    complain,
    err,
    one_line,
    open_here,
    show_json,
    table,
)
from paystorm.cli.running import Runner, SourceProgress, log_to, parse_options
from paystorm.errors import PaystormError

LOOK = 0.05
"""Seconds between two looks at whether all is idle."""
DRAW = 0.25
TELL = 5.0
"""Seconds between two pictures on a terminal; between two lines elsewhere."""
WATCH = 1.0
"""Seconds between two looks at whether every source gets on."""
STOP_SECONDS = 30.0
INTERRUPTED = 130


class StuckError(PaystormError):
    """Sources do not get on, and no waiting mends it."""


class OneLiners(logging.Handler):
    """Warnings and errors of components as one line each, without traces, and not the same one again and again."""

    MOST = 50

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._seen: dict[str, int] = {}
        self.last_error = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line that has not been shown yet."""
        text = one_line(record.getMessage().split("\n", 1)[0])[:500]
        if record.levelno >= logging.ERROR:
            self.last_error = text
        if text in self._seen or len(self._seen) > self.MOST:
            return
        self._seen[text] = 1
        self._console.print(f"{record.levelname.lower()}: {text}", markup=False)


class Rates:
    """Records a second by source, over the time since the last look but a few."""

    KEPT = 12

    def __init__(self) -> None:
        self._looks: list[tuple[float, dict[str, int]]] = []

    def note(self, now: float, progress: Mapping[str, SourceProgress]) -> None:
        """Take in a look."""
        self._looks = [*self._looks[-self.KEPT :], (now, {name: p.read for name, p in progress.items() if p.opened})]

    def of(self, source: str) -> float:
        """Records a second that were committed."""
        looks = [(at, read[source]) for at, read in self._looks if source in read]
        if len(looks) < 2:
            return 0.0
        (first, before), (last, after) = looks[0], looks[-1]
        return (after - before) / (last - first)


class Display:
    """What is shown while it runs: a table that moves on a terminal, else a line now and then."""

    def __init__(self, console: Console, now: float) -> None:
        self.console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._rates = Rates()
        self._drawn_at = now

    @contextmanager
    def shown(self) -> Iterator["Display"]:
        """While the display is on."""
        if self._live is None:
            yield self
            return
        with self._live:
            yield self

    def due(self, now: float) -> bool:
        """Whether it is time to show how far things are."""
        return now - self._drawn_at >= (DRAW if self._live is not None else TELL)

    def show(self, now: float, progress: Mapping[str, SourceProgress]) -> None:
        """Show how far things are."""
        self._drawn_at = now
        self._rates.note(now, progress)
        if self._live is not None:
            self._live.update(self._table(progress), refresh=True)
            return
        told = "; ".join(
            f"{name}: {p.read:,} read, {self._rates.of(name):,.0f}/s, lag {p.lag:,}"
            + (f", {p.parked:,} parked" if p.parked else "")
            for name, p in progress.items()
        )
        self.console.print(told, markup=False)

    def _table(self, progress: Mapping[str, SourceProgress]) -> Table:
        columns = ("source", "records/s", "committed", "in flight", "lag", "parked", "problem")
        rows = [
            (name, round(self._rates.of(name)), p.read, p.in_flight, p.lag, p.parked, p.problem or "")
            for name, p in progress.items()
        ]
        return table(None, columns, rows, right=columns[1:6])


@contextmanager
def signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM ask for an orderly end; a second Ctrl-C ends it at once. The list has what came."""
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_topologies(
    here: Here, sources: list[str], options: Mapping[str, object], *, until_idle: bool, came: list[int]
) -> dict[str, SourceProgress]:
    """Run until idle or until a signal came; how far the sources were at the end.

    Raises StuckError where one does not get on (with `until_idle`); everything has been stopped in order then too.
    """
    clock, folder = here.resources.clock, here.embedded()
    runner = Runner(here, sources, options)
    console = err()
    shown = OneLiners(console)
    handlers = log_to(folder, shown)
    display = Display(console, clock.monotonic())
    stuck: dict[str, str] = {}
    try:
        runner.start()
        frozen, watched_at = False, clock.monotonic()
        with display.shown():
            while not came:
                clock.sleep(LOOK)
                now = clock.monotonic()
                frozen = frozen or runner.freeze_when_started()
                if display.due(now):
                    display.show(now, runner.progress())
                if now - watched_at >= WATCH:
                    watched_at = now
                    runner.progress()
                    stuck = runner.hopeless(shown.last_error)
                if until_idle and (stuck or runner.idle()):
                    break
        progress = runner.progress()
        _stop(runner)
    finally:
        runner.stop(0)
        for handler in handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
    if stuck and until_idle:
        raise StuckError("; ".join(f"{name}: {why}" for name, why in stuck.items()))
    return progress


def _stop(runner: Runner) -> None:
    for name, report in runner.stop(STOP_SECONDS).items():
        if report.remaining:
            complain(f"{name}: {len(report.remaining)} chunks were not finished; they are read again by the next run")
        for task in report.stuck:
            complain(f"{name}: {task} did not end; nothing of it was acknowledged, it is read again by the next run")


def run(
    sources: SourcesArgument = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End when all is committed and no retry is due.")
    ] = False,
    options: Annotated[
        list[str] | None, typer.Option("-o", "--option", metavar="NAME=VALUE", help="An option, over config.json's.")
    ] = None,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the topologies of sources on this machine: screens what `send` has put into the log.

    Without --until-idle it runs until Ctrl-C or SIGTERM, which lose nothing.
    """
    given = parse_options(options or ())
    with open_here(env, data) as here, signals() as came:
        progress = run_topologies(here, list(sources or ()), given, until_idle=until_idle, came=came)
    if as_json:
        show_json([asdict(p) for p in progress.values()])
    else:
        for name, p in progress.items():
            parked = f", {p.parked:,} parked" if p.parked or until_idle else ""
            print(f"{name}: {p.read:,} read, lag {p.lag:,}{parked}", file=sys.stdout)
    if signal.SIGINT in came:
        raise typer.Exit(INTERRUPTED)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)
