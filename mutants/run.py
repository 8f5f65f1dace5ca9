"""Plants the bugs of this folder, one at a time, in a copy of src/, and lets the simulator look for each.

    python mutants/run.py [--seeds 400] [--workers 2] [--table] [NAME...]

Each *.patch says in its first lines what bug it is; the rest is a unified diff. Exit code 1 where one survives.
`--table` puts what was found into the table of docs/simulator.md.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SEEDS = 400
FIRST = 1
TABLE = ROOT / "docs" / "simulator.md"
ENVIRONMENT = {"POLARS_MAX_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "3"}
"""The seed of hashes: a bug that goes by them is found after the same steps each time, and after few by this one."""
SECONDS = 1800.0
"""A mutant that runs longer counts as not found."""


class DoesNotApplyError(Exception):
    """A patch no longer fits the code that it is to spoil."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted bug."""

    path: Path

    @property
    def name(self) -> str:
        """As the file is called."""
        return self.path.stem

    @property
    def group(self) -> str:
        """The part of the system that it is in."""
        return self.name.split("-")[1]

    @property
    def bug(self) -> str:
        """What it is, in a sentence."""
        return self.path.read_text().split("\n\n")[0].replace("\n", " ")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant."""

    mutant: Mutant
    seeds: int | None
    """Seeds until it was found; None: it survived."""
    found: str
    seconds: float


def mutants(names: list[str] | None = None) -> list[Mutant]:
    """All of them, or those whose names hold one of `names`."""
    every = [Mutant(path) for path in sorted(HERE.glob("*.patch"))]
    return [m for m in every if not names or any(name in m.name for name in names)]


def planted(mutant: Mutant) -> dict[str, str]:
    """The files that it changes, spoilt, by path. Raises DoesNotApplyError."""
    files: dict[str, str] = {}
    path = ""
    for part in re.split(r"(?m)^(?=--- a/|@@ )", mutant.path.read_text()):
        if part.startswith("--- a/"):
            path = part.splitlines()[0].removeprefix("--- a/").strip()
            files[path] = (ROOT / path).read_text()
        elif part.startswith("@@ "):
            lines = part.splitlines(keepends=True)[1:]
            old = "".join(line[1:] for line in lines if line[0] in " -")
            new = "".join(line[1:] for line in lines if line[0] in " +")
            if files[path].count(old) != 1:
                raise DoesNotApplyError(f"{mutant.path.name}: {path} has changed: mend the patch by hand")
            files[path] = files[path].replace(old, new)
    if not files:
        raise DoesNotApplyError(f"{mutant.path.name}: it changes nothing")
    return files


def hunt(mutant: Mutant, seeds: int = SEEDS, first: int = FIRST) -> Outcome:
    """Run seeds with the bug planted, until one fails. Raises DoesNotApplyError."""
    started = time.monotonic()
    files = planted(mutant)
    with tempfile.TemporaryDirectory(prefix="paystorm-mutant-") as folder:
        copy = Path(folder) / "src"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        for path, text in files.items():
            (Path(folder) / path).write_text(text)
        try:
            done = subprocess.run(
                [
                    *(sys.executable, "-c", "import sys; from paystorm.cli.main import main; sys.exit(main())"),
                    *("simulate", "--seed", str(first), "--seeds", str(seeds)),
                    *("--until-failure", "--workers", "1", "--json"),
                ],
                env={**os.environ, "PYTHONPATH": str(copy), **ENVIRONMENT},
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(mutant, None, f"no end after {SECONDS:g} s", time.monotonic() - started)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{mutant.name}: the simulator itself failed\n{done.stderr[-2000:]}")
    told = json.loads(done.stdout)
    if not told["failed"]:
        return Outcome(mutant, None, "", time.monotonic() - started)
    (failed,) = told["failed"]
    return Outcome(mutant, failed["seed"] - first + 1, failed["found"][0].splitlines()[0], time.monotonic() - started)


def put_into_table(outcome: Outcome, seeds: int) -> None:
    """Write into the table of docs/simulator.md how many seeds a mutant took. Raises ValueError where it has no row."""
    name, bug = outcome.mutant.name.split("-", 1)[1], outcome.mutant.bug
    row = f"| `{name}`: {bug} | {outcome.seeds or f'more than {seeds}'} |"
    text, rows = re.subn(rf"(?m)^\| `{name}`: .*$", lambda _: row, TABLE.read_text())
    if rows != 1:
        raise ValueError(f"{TABLE}: {rows} rows of `{name}`, one is needed")
    TABLE.write_text(text)


def main() -> int:
    """Hunt all, and print a table."""
    parser = argparse.ArgumentParser(description="Let the simulator look for planted bugs.")
    parser.add_argument("names", nargs="*", help="parts of their names; default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first", type=int, default=FIRST)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--table", action="store_true", help="put what was found into docs/simulator.md")
    given = parser.parse_args()
    survivors = 0
    with ThreadPoolExecutor(given.workers) as pool:
        hunts = [pool.submit(hunt, m, given.seeds, given.first) for m in mutants(given.names)]
        for outcome in (future.result() for future in as_completed(hunts)):
            survivors += outcome.seeds is None
            if given.table:
                put_into_table(outcome, given.seeds)
            seeds = "SURVIVED" if outcome.seeds is None else f"{outcome.seeds} seeds"
            print(f"{outcome.mutant.name:42} {seeds:>10} {outcome.seconds:6.0f} s  {outcome.found[:110]}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
