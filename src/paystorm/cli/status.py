"""`paystorm status`: how far each source is, whether every record has an outcome, and how busy what runs it is."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from paystorm.cli.balance import SourceBalance
from paystorm.cli.common import (
    DataOption,
    EnvOption,
    Here,
    JsonOption,
    SourcesArgument,
    complain,
    iso,
    one_line,
    open_here,
    out,
    plain,
    show_json,
    table,
)
from paystorm.cli.looks import Look, Looks
from paystorm.errors import PaystormError

DIFFERENCES = 1
"""The exit code where a balance does not add up."""
EVERY = 2.0
MAX_LOOKS = 1_000_000
MIB = 1024 * 1024
COLUMNS = (
    "source",
    "partition",
    "log end",
    "committed",
    "lag",
    "records/s",
    "ms",
    "read",
    "accepted",
    "denied",
    "dead-lettered",
    "parked",
    "late",
    "caught late",
    "balance",
)
TASK_COLUMNS = (
    "source",
    "component",
    "task",
    "host",
    "pid",
    "busy",
    "CPU",
    "MiB",
    "records/s",
    "tuples/s",
    "ms",
    "age",
)
COMPONENT_COLUMNS = ("source", "component", "tasks", "emitted", "acked", "failed", "latency", "last error")
FIGURES = ("end", "committed", "lag", "read", "accepted", "denied", "dead_lettered", "parked")
POSITION, OUTCOMES = FIGURES[:3], FIGURES[3:]


def as_plain(look: Look) -> dict[str, Any]:
    """A source's status as JSON has it."""
    balance, running = look.balance, look.running
    found = asdict(balance)
    for row, partition in zip(found["partitions"], balance.partitions, strict=True):
        row["missing"] = partition.missing
        row["rate"] = look.rates.get(partition.partition)
    found["totals"] = {figure: balance.total(figure) for figure in FIGURES}
    where: dict[str, Any] = {"pid": running if isinstance(running, int) else None}
    if isinstance(running, str):
        where["topology"] = running
    return {
        **found,
        "adds_up": balance.adds_up,
        "running": running is not None,
        **where,
        "rate": look.rate,
        "slowest_ms": look.slowest_ms,
        "tasks": [_task(gauge) for gauge in look.gauges],
        "components": [asdict(component) for component in look.components],
    }


def _task(gauge: Any) -> dict[str, Any]:
    return {field: getattr(gauge, field) for field in gauge.__struct_fields__}


def rows_of(look: Look, *, each: bool) -> list[tuple[Any, ...]]:
    """The rows of the table: the source's, and with `each` one for each of its partitions."""
    balance = look.balance
    balances = "adds up" if balance.adds_up else f"{balance.total('missing'):+,} MISSING"
    rate = None if look.rate is None else round(look.rate)
    slowest = None if look.slowest_ms is None else round(look.slowest_ms)
    position, outcomes = ([balance.total(f) for f in figures] for figures in (POSITION, OUTCOMES))
    total = (balance.source, "all", *position, rate, slowest, *outcomes, balance.late, balance.caught_late, balances)
    if not each:
        return [total]
    rows = [
        (
            "",
            p.partition,
            *(getattr(p, f) for f in POSITION),
            round(look.rates[p.partition]) if p.partition in look.rates else "",
            "",
            *(getattr(p, f) for f in OUTCOMES),
            "",
            "",
            "" if p.missing == 0 else f"{p.missing:+,} MISSING",
        )
        for p in balance.partitions
    ]
    return [total, *rows]


def task_rows(look: Look, now: int) -> list[tuple[Any, ...]]:
    """A row for each task that has told of itself in the last minute. `now` in µs."""
    return [
        (
            look.source.name,
            g.component,
            str(g.task),
            g.host,
            str(g.pid),
            f"{g.busy:.0%}",
            None if g.cpu is None else f"{g.cpu:.2f}",
            None if g.memory is None else g.memory // MIB,
            round(g.records / g.seconds) if g.seconds > 0 else None,
            round(g.tuples / g.seconds) if g.seconds > 0 else None,
            round(g.slowest_ms) if g.slowest_ms else None,
            f"{max(0, now - g.at) // 1_000_000} s",
        )
        for g in look.gauges
    ]


def component_rows(look: Look) -> list[tuple[Any, ...]]:
    """A row for each component of the source's topology, as Nimbus has it."""
    return [
        (
            look.source.name,
            c.name,
            c.tasks,
            c.emitted,
            c.acked,
            c.failed,
            None if c.latency is None else f"{c.latency:,.0f} ms",
            f"{iso(c.errors[0][0] * 1_000_000)} {one_line(c.errors[0][1])[:120]}" if c.errors else "",
        )
        for c in look.components
    ]


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


class Shown:
    """What is looked at, and how it is shown."""

    def __init__(self, here: Here, looks: Looks, *, partitions: bool, tasks: bool) -> None:
        self._here, self._looks = here, looks
        self._partitions, self._tasks = partitions, tasks
        self.seen: list[Look] = []

    def look(self) -> None:
        """Look again."""
        self.seen = self._looks.look()

    def picture(self) -> list[RenderableType]:
        """Tables and a line of what runs."""
        rows = [row for look in self.seen for row in rows_of(look, each=self._partitions)]
        parts: list[RenderableType] = [table(None, COLUMNS, rows, right=COLUMNS[1:-1])]
        components = [row for look in self.seen for row in component_rows(look)]
        if components:
            parts.append(table("Components, as Nimbus has them", COMPONENT_COLUMNS, components, COMPONENT_COLUMNS[2:7]))
        now = self._here.resources.clock.now()
        tasks = [row for look in self.seen for row in task_rows(look, now)] if self._tasks else []
        if tasks:
            parts.append(table("Tasks, as they say themselves", TASK_COLUMNS, tasks, TASK_COLUMNS[5:]))
        elif self._tasks:
            parts.append(Text("tasks: none has told of itself in the last minute"))
        runs = [_runs(look) for look in self.seen if look.running is not None]
        parts.append(Text(f"running: {', '.join(runs) or 'none'}"))
        return parts

    def remarks(self) -> list[str]:
        """What an operator must know beside the figures."""
        problem = self._looks.cluster.problem
        return [*([problem] if problem else []), *(r for look in self.seen for r in remarks_of(look.balance))]

    def plain(self) -> list[dict[str, Any]]:
        """As JSON has it."""
        return [as_plain(look) for look in self.seen]

    @property
    def code(self) -> int:
        """The exit code."""
        if not all(look.balance.adds_up for look in self.seen):
            return DIFFERENCES
        return PaystormError.exit_code if self._looks.cluster.problem else 0


def _runs(look: Look) -> str:
    return f"{look.source.name} ({'process' if isinstance(look.running, int) else 'topology'} {look.running})"


def status(
    sources: SourcesArgument = None,
    partitions: Annotated[bool, typer.Option("--partitions", help="Show each partition too.")] = False,
    tasks: Annotated[
        bool, typer.Option("--tasks", help="Show how busy each task is, also where it does not run on a cluster.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, max=3600, help="With --watch: seconds between two looks.")] = EVERY,
    looks: Annotated[
        int, typer.Option(min=1, max=MAX_LOOKS, help="With --watch: end after so many looks.")
    ] = MAX_LOOKS,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far each source is, and its balance: read = accepted + denied + dead-lettered + parked.

    Exit code 1 where a balance does not add up; 2 where Nimbus cannot be reached.
    """
    with open_here(env, data) as here:
        followed = Looks(here, here.sources(sources))
        shown = Shown(here, followed, partitions=partitions, tasks=tasks or here.folder is None)
        if watch:
            _watch(shown, every, looks, as_json=as_json)
        else:
            shown.look()
            _show(shown, as_json=as_json)
    if shown.code:
        raise typer.Exit(shown.code)


def _show(shown: Shown, *, as_json: bool) -> None:
    if as_json:
        show_json(shown.plain())
    else:
        for part in shown.picture():
            out().print(part, soft_wrap=isinstance(part, Text))
    for remark in shown.remarks() if not as_json or shown.code == PaystormError.exit_code else ():
        complain(remark)


def _watch(shown: Shown, every: float, looks: int, *, as_json: bool) -> None:
    """Look again and again: drawn anew on a terminal, a block (with JSON a line) each time elsewhere."""
    if as_json:
        for _ in _turns(shown, every, looks):
            print(json.dumps(shown.plain(), ensure_ascii=False, default=plain), flush=True)
    elif sys.stdout.isatty():
        with Live(console=out(), auto_refresh=False, vertical_overflow="visible") as live:
            for _ in _turns(shown, every, looks):
                live.update(
                    Group(*shown.picture(), *(Text(r, style="bold red") for r in shown.remarks())), refresh=True
                )
    else:
        for _ in _turns(shown, every, looks):
            print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
            _show(shown, as_json=False)
            sys.stdout.flush()


def _turns(
    shown: Shown, every: float, looks: int, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Sequence[Look]]:
    """A look at each turn. Looking takes half of the time at most."""
    for n in range(looks):
        begin = time.monotonic()
        shown.look()
        yield shown.seen
        took = time.monotonic() - begin
        if n + 1 < looks:
            sleep(max(every - took, took))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)
