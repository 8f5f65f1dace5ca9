"""What all commands share: the options -e and --data, the project and its resources, how things are printed."""

import getpass
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paystorm.cli.folder import prepare_folder, running_pid
from paystorm.connections import Connections
from paystorm.errors import ConfigError, UsageError
from paystorm.nimbus import NimbusClient
from paystorm.project import Env, Project
from paystorm.resources import Resources, open_embedded, open_resources
from paystorm.settings import with_options
from paystorm.source import Source
from paystorm.stores.pruned import pruned_events

EnvOption = Annotated[str, typer.Option("-e", "--env", metavar="ENV", help="The environment of config.json.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="The embedded data folder, in the place of config.json's.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a machine.")]
SourcesArgument = Annotated[list[str] | None, typer.Argument(metavar="[SOURCE]...", help="Sources; default: all.")]

WIDTH = 160
"""Columns of tables that go to a file or a pipe."""


@dataclass(frozen=True, slots=True)
class Here:
    """A project in one of its environments, with log, tables and warehouse open."""

    project: Project
    env: Env
    folder: Path | None
    """The embedded data folder; None: a cluster."""
    partitions: int
    """Of topics that are made."""
    resources: Resources

    def source(self, name: str) -> Source:
        """The source of that name with the options of the environment. Raises UsageError where there is none."""
        sources = self.project.sources()
        if name not in sources:
            raise UsageError(f"no source {name!r}; there are {', '.join(sources)}")
        return with_options(sources[name], self.env.options, "options")

    def sources(self, names: Sequence[str] | None = None) -> dict[str, Source]:
        """These sources, or all, by name."""
        return {name: self.source(name) for name in names or self.project.sources()}

    def running(self) -> dict[str, int | str]:
        """The sources that run now: by which process of this machine, or as which topology of the cluster (its id).

        One that was deactivated or killed has its workers until Nimbus has forgotten it. Raises ClusterError where
        Nimbus cannot be asked.
        """
        if self.folder is not None:
            pids = {name: running_pid(self.folder, name) for name in self.project.sources()}
            return {name: pid for name, pid in pids.items() if pid is not None}
        there = self.nimbus().topologies()
        files = self.project.topology_names()
        return {name: there[file].id for name, file in files.items() if file in there}

    def nimbus(self) -> NimbusClient:
        """The cluster's Nimbus. Raises UsageError in an embedded environment."""
        if self.env.nimbus is None:
            raise UsageError(f"envs.{self.env.name} is embedded and has no Nimbus: name a cluster with -e")
        return NimbusClient(self.env.nimbus_seeds)

    def embedded(self) -> Path:
        """The embedded data folder. Raises UsageError in a cluster's environment."""
        if self.folder is None:
            raise UsageError(
                f"envs.{self.env.name} names a cluster: sparse submit -n TOPOLOGY -e {self.env.name} starts a "
                "topology there; or name an embedded environment with -e, such as local"
            )
        return self.folder


def find_folder(env: str, data: Path | None) -> tuple[Project, Env, Path]:
    """The project, the environment and the embedded data folder that a command's options name. Raises ConfigError."""
    project = Project.load()
    chosen = project.env(env)
    if chosen.embedded is None:
        raise ConfigError(
            f"config.json: envs.{env} names a cluster (nimbus): name an embedded environment with -e, such as local"
        )
    return project, chosen, data if data is not None else chosen.embedded.data


@contextmanager
def open_here(env: str, data: Path | None) -> Iterator[Here]:
    """What the options name, closed at the end. Raises ConfigError, DataFolderError."""
    project = Project.load()
    chosen = project.env(env)
    if chosen.embedded is None:
        if data is not None:
            raise UsageError(f"config.json: envs.{env} names a cluster, which has no data folder: leave --data out")
        connections = Connections(chosen.options)
        here = Here(project, chosen, None, connections["paystorm.kafka.partitions"], open_resources(connections))
    else:
        folder = data if data is not None else chosen.embedded.data
        prepare_folder(folder)
        here = Here(project, chosen, folder, chosen.embedded.partitions, open_embedded(folder))
    try:
        yield here
    finally:
        here.resources.close()


def out() -> Console:
    """Standard output: as wide as the terminal, or wide enough for a file."""
    return Console(soft_wrap=False, highlight=False, width=None if sys.stdout.isatty() else WIDTH)


def err() -> Console:
    """Standard error, for progress and warnings."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def complain(text: str) -> None:
    """One line on standard error, as errors are shown."""
    print(f"paystorm: {one_line(text)}", file=sys.stderr, flush=True)


def say_pruned(here: Here, names: Iterable[str]) -> None:
    """On standard error, a line for each of these sources whose older events went with their retention."""
    for name in names:
        found = pruned_events(here.resources.tables, name)
        if found is not None:
            complain(f"{name}: events stored before {found.until}:00Z went with their retention")


def one_line(text: str) -> str:
    """The text in one line, without what would move a terminal's cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def show_json(value: Any) -> None:
    """A JSON document on standard output."""
    print(json.dumps(_finite(value), ensure_ascii=False, indent=2, default=plain))


def _finite(value: Any) -> Any:
    """The value with null for what is no number, nor infinity: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def plain(value: Any) -> Any:
    """A value that JSON does not have, as JSON has it."""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return str(value)


def iso(at: datetime | int) -> str:
    """A time (µs since 1970-01-01 UTC, or a datetime, UTC where it has no zone) as ISO text in UTC."""
    if isinstance(at, int):
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)
    if at.tzinfo is not None:
        at = at.astimezone(UTC).replace(tzinfo=None)
    return at.isoformat() + "Z"


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()) -> Table:
    """A Rich table; the columns in `right` are aligned to the right, numbers with thousands separators."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(shown(value) for value in row))
    return made


def shown(value: Any) -> str:
    """A value in a table's cell; what Rich would take for markup is escaped."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return iso(value)
    return escape(str(plain(value) if isinstance(value, bytes) else value))


def user() -> str:
    """The name of the user who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        return "unknown"
