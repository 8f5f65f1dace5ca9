"""`paystorm stack`: real servers on this machine, started, looked at and stopped."""

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from paystorm.cli.common import JsonOption, complain, err, iso, out, show_json, table
from paystorm.project import Project
from paystorm.stack import ServerStatus, Stack, standard
from paystorm.stack.config import read_stack
from paystorm.stack.kafka import VERSIONS, Kafka
from paystorm.stack.state import load, version_key

ServersArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SERVER]...", help=f"Servers: {', '.join(s.name for s in standard())}; default: all."),
]
StackEnvOption = Annotated[
    str, typer.Option("-e", "--env", metavar="ENV", help="The environment of config.json, with a section stack.")
]
FolderOption = Annotated[
    Path | None, typer.Option("--folder", metavar="DIR", help="The stack's folder, in the place of config.json's.")
]
MIB = 1024 * 1024
MAX_LINES = 100_000
FOLLOW_SECONDS = 0.3

app = typer.Typer(no_args_is_help=True, help="Start, look at and stop real servers on this machine.")


def open_stack(env: str, folder: Path | None, kafka: str | None = None) -> Stack:
    """The stack of an environment. `kafka`: the version to run, default config.json's, or a newer one's that wrote
    the data that is there. Raises ConfigError, StackError."""
    config = read_stack(Project.load(), env)
    at = folder if folder is not None else config.folder
    version = kafka or max(config.kafka, load(at).versions.get(Kafka.kind, ""), key=version_key)
    servers = standard(
        version,
        config.addresses,
        slots=config.slots,
        worker_heap=config.worker_heap_mb,
        supervisors=config.supervisors,
        storm=config.storm,
    )
    console = err()
    return Stack(at, servers, tell=lambda text: console.print(text, markup=False))


@app.command()
def up(
    servers: ServersArgument = None,
    kafka: Annotated[
        str | None, typer.Option("--kafka", metavar="VERSION", help=f"Kafka's version: {' or '.join(VERSIONS)}.")
    ] = None,
    env: StackEnvOption = "stack",
    folder: FolderOption = None,
) -> None:
    """Start servers and what they need, and wait until they are ready. What runs is left alone.

    Java 17 and Maven must be installed; Maven fetches the servers once.
    """
    stack = open_stack(env, folder, kafka)
    began = time.monotonic()
    started = stack.up(servers or ())
    for name in stack.needed(servers or ()):
        print(f"{name} {stack.address(name)}")
    seconds = time.monotonic() - began
    complain(f"{len(started)} servers started in {seconds:.0f} s" if started else "all of them ran already")


@app.command()
def down(
    servers: ServersArgument = None,
    env: StackEnvOption = "stack",
    folder: FolderOption = None,
) -> None:
    """Stop servers and what they have started, such as Storm's workers. Data stays in the folder."""
    stopped = open_stack(env, folder).down(servers or ())
    print(f"stopped: {', '.join(stopped) or 'nothing, none of them ran'}")


@app.command()
def status(
    servers: ServersArgument = None,
    env: StackEnvOption = "stack",
    folder: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how servers are: running, starting, stopped or died, with process, ports, memory and log."""
    found = open_stack(env, folder).status(servers or ())
    if as_json:
        show_json([_plain(each) for each in found])
        return
    columns = ("server", "state", "pid", "ports", "MiB", "children", "since", "log")
    rows = [
        (
            each.server,
            each.state,
            str(each.pid or "–"),
            " ".join(f"{name}:{port}" for name, port in each.ports.items()),
            each.memory // MIB or None,
            each.children or None,
            iso(each.since // 1_000_000 * 1_000_000) if each.since else None,
            str(each.log) if each.log.exists() else None,
        )
        for each in found
    ]
    out().print(table(None, columns, rows, right=columns[4:6]))


def _plain(each: ServerStatus) -> dict[str, object]:
    return {
        "server": each.server,
        "state": each.state,
        "pid": each.pid,
        "ports": dict(each.ports),
        "memory": each.memory,
        "children": each.children,
        "since": iso(each.since) if each.since else None,
        "log": str(each.log),
    }


@app.command()
def logs(
    servers: ServersArgument = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is logged, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", metavar="N", min=0, max=MAX_LINES, help="Lines of each log.")] = 20,
    env: StackEnvOption = "stack",
    folder: FolderOption = None,
) -> None:
    """Show the last lines of servers' logs; the supervisor's are those of Storm's workers too."""
    stack = open_stack(env, folder)
    follower = Follower()
    for name, path in stack.logs(servers or ()).items():
        print(f"==> {name}: {path} <==")
        for line in last_lines(path, lines):
            print(line)
        follower.skip(path)
    while follow:
        for name, path in stack.logs(servers or ()).items():
            for line in follower.news(path):
                print(f"{name} | {line}", flush=True)
        time.sleep(FOLLOW_SECONDS)


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log. Logs are bounded, so all of it is read."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return [_shown(line) for line in deque(file, maxlen=count)]


class Follower:
    """How far logs have been shown."""

    def __init__(self) -> None:
        self._at: dict[Path, int] = {}

    def skip(self, path: Path) -> None:
        """Take what is there for shown."""
        self._at[path] = path.stat().st_size

    def news(self, path: Path) -> Iterator[str]:
        """The whole lines since; all of a log that is new or was begun anew."""
        at = self._at.get(path, 0)
        try:
            with path.open("rb") as file:
                if file.seek(0, 2) < at:
                    at = 0
                file.seek(at)
                data = file.read()
        except FileNotFoundError:  # moved aside at this moment
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._at[path] = at + len(whole)
        for line in whole.decode(errors="replace").splitlines():
            yield _shown(line)


def _shown(line: str) -> str:
    """The line without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in line.rstrip("\n"))


def register(into: typer.Typer) -> None:
    """Add the commands."""
    into.add_typer(app, name="stack")
