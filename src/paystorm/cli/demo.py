"""`paystorm demo`: real data through all four topologies, and what an operator wants to know of it."""

import os
import shlex
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from paystorm import exports
from paystorm.cli.balance import balance_of
from paystorm.cli.common import EnvOption, Here, find_folder, one_line, open_here, out, table
from paystorm.cli.folder import folder_error, running_pid
from paystorm.cli.run import run_topologies, signals
from paystorm.cli.send import send_files
from paystorm.errors import DataFolderError, UsageError

FOLDER = Path("demo-data")
MARK = ".made-by-paystorm-demo"
FILES: dict[str, tuple[str, ...]] = {
    "purchase": ("purchase-online-retail.ndjson.gz", "purchase-ethereum.ndjson.gz"),
    "refund": ("refund-online-retail.ndjson.gz",),
    "customer-service": ("customer-service-complaints.ndjson.gz",),
    "browser": ("browser-weblog.ndjson.gz",),
}
"""What is sent, below examples/data; several files of a source in order of event time."""
OPTIONS: dict[str, Any] = {"chunkRecords": 500, "maxPendingRecords": 4000, "flushMs": 50, "refreshMs": 20}
"""Years of data pass in seconds here: with everything in flight at once, each party would be listed after its last
event had passed the look-up. With little in flight events are denied, as they are at the speed of life."""
LARGEST = 10
QUERY = (
    "SELECT entry_party, verdict_reason, count(*) AS denied, min(event_time) AS first, max(event_time) AS last "
    "FROM purchase WHERE verdict = 'denied' GROUP BY ALL ORDER BY denied DESC LIMIT 10"
)


def fresh_folder(folder: Path, sources: list[str]) -> None:
    """Make the folder, or empty it where a demo made it. Raises DataFolderError for anybody else's, or one in use."""
    try:
        if folder.is_dir() and any(folder.iterdir()):
            if not (folder / MARK).is_file():
                raise DataFolderError(
                    f"data folder {folder}: not made by the demo, so not emptied: name another with --data"
                )
            for source in sources:
                pid = running_pid(folder, source)
                if pid is not None:
                    raise DataFolderError(f"data folder {folder}: process {pid} runs {source} in it: stop that first")
            # The mark goes last: a half-emptied folder is still the demo's.
            for entry in folder.iterdir():
                if entry.name != MARK:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            (folder / MARK).unlink()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise folder_error(folder, error) from error


def demo(
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="The folder; emptied if a demo made it.")
    ] = FOLDER,
    env: EnvOption = "local",
) -> None:
    """Send the examples (real data), run all four topologies over them, and show what came of it."""
    began = time.monotonic()
    project, _, _ = find_folder(env, data)
    examples = project.root / "examples" / "data"
    for files in FILES.values():
        for file in files:
            if not (examples / file).is_file():
                raise UsageError(f"{examples / file}: no such file: run the demo where the project's examples are")
    fresh_folder(data, list(FILES))
    with open_here(env, data) as here, signals() as came:
        (data / MARK).touch()
        for name, files in FILES.items():
            paths = [str(examples / file) for file in files]
            sent = send_files(here, name, paths, merge=len(paths) > 1, progress=sys.stderr.isatty())
            print(f"sent {sent.sent:,} records to {name} ({', '.join(files)})", flush=True)
        print("running all four topologies", flush=True)
        started = time.monotonic()
        run_topologies(here, list(FILES), OPTIONS, until_idle=True, came=came)
        if came:
            raise KeyboardInterrupt
        seconds = time.monotonic() - started
        total = report(here)
    command = f'{_program()} query "{QUERY}" --data {shlex.quote(str(data))}'
    rate = f"{total:,} records screened in {seconds:.1f} s ({total / seconds:,.0f} a second)"
    print(f"\n{rate}; {time.monotonic() - began:.1f} s in all.\nAsk the warehouse yourself:\n\n  {command}\n")


def _program() -> str:
    """How this very program is called in the shell."""
    found = shutil.which("paystorm")
    called = Path(sys.argv[0])
    if found is not None and called.exists() and Path(found).samefile(called):
        return "paystorm"
    return shlex.quote(os.path.relpath(called)) if called.name == "paystorm" else "paystorm"


def report(here: Here) -> int:
    """Print what came of it; gives how many records were read."""
    console = out()
    balances = [balance_of(here.resources, here.source(name)) for name in FILES]
    columns = ("source", "read", "accepted", "denied", "dead-lettered", "parked", "late", "caught late", "balance")
    figures = ("read", "accepted", "denied", "dead_lettered", "parked")
    rows: list[tuple[Any, ...]] = [
        (b.source, *(b.total(f) for f in figures), b.late, b.caught_late, "adds up" if b.adds_up else "DOES NOT ADD UP")
        for b in balances
    ]
    console.print()
    console.print(table("Every record has one outcome", columns, rows, right=columns[1:8]))
    console.print(table("What is wrong with the dead letters", *_letters(here), right=("records",)))
    console.print(table("Parties listed or up for review, by rule", *_by_rule(here), right=("parties", "withdrawn")))
    console.print(table(f"The {LARGEST} largest cases", *_cases(here), right=("denied", "caught late", "other events")))
    print(
        "denied: a listed party's event. caught late: accepted before the look-up had heard that its party was listed. "
        "Both stand in the party's case."
    )
    for b in balances:
        for problem in b.problems:
            console.print(f"{b.source}: {one_line(problem)}", markup=False)
    return sum(b.total("read") for b in balances)


def _letters(here: Here) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    counted: Counter[tuple[str, str, str]] = Counter()
    for name in FILES:
        for frame in exports.dead_letters(here.resources, here.source(name)):
            counted.update(frame.select("source", "field", "code").iter_rows())
    return ("source", "field", "code", "records"), [(*what, n) for what, n in counted.most_common()]


def _by_rule(here: Here) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    standing: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    withdrawn: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    for name in FILES:
        for frame in exports.hits(here.resources, here.source(name)):
            for source, rule, action, status, kind, party in frame.select(
                "source", "rule", "action", "status", "kind", "party"
            ).iter_rows():
                what = (source, rule, kind, "listed" if action == "deny" else "review")
                standing.setdefault(what, set())
                (standing if status == "standing" else withdrawn).setdefault(what, set()).add((kind, party))
    rows: list[tuple[Any, ...]] = [
        (*what, len(parties), len(withdrawn.get(what, set()) - parties)) for what, parties in standing.items()
    ]
    order = {name: place for place, name in enumerate(FILES)}
    rows.sort(key=lambda row: (order[row[0]], -row[4], row[1]))
    return ("source", "rule", "kind", "for", "parties", "withdrawn"), rows


def _cases(here: Here) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    frames = exports.cases(here.resources, list(FILES))
    found: list[dict[str, Any]] = [row for frame in frames for row in frame.iter_rows(named=True)]
    found.sort(key=lambda c: (-(c["denied"] + c["caught_late"]), -c["joined"], c["kind"], c["party"]))
    names = ("kind", "party", "source", "cause", "denied", "caught_late", "joined")
    return (
        ("kind", "party", "opened by", "cause", "denied", "caught late", "other events"),
        [tuple(case[name] for name in names) for case in found[:LARGEST]],
    )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)
