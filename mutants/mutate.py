"""Mutates modules of the domain one operator at a time, and runs their tests: by hand, or nightly.

    python mutants/mutate.py [--tests] [--only FILE] [--sample N] [--seed N] [--workers 2] [MODULE...]

A mutation that no test of its module notices is tried against the simulator. What survives both is printed; it is
either explained in mutants/survivors.txt (a line `<mutation>: <why nothing differs>`), or a test is missing. A mutation
is named as `path, function: the line with {before -> after} in it`: it stays the same when lines move.
Exit code 1 where a survivor is not explained, or an explanation is of no survivor, or tests fail without any mutation.
"""

import argparse
import ast
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
EXPLAINED = HERE / "survivors.txt"
MODULES: dict[str, list[str]] = {
    "paystorm/retry.py": ["tests/unit/test_retry.py"],
    "paystorm/intervals.py": ["tests/unit/test_intervals.py"],
    "paystorm/windows/judge.py": [
        "tests/unit/test_judge.py",
        "tests/unit/test_crossing.py",
        "tests/unit/test_counting.py",
    ],
    "paystorm/windows/tally.py": ["tests/unit/test_counting.py", "tests/unit/test_crossing.py"],
    "paystorm/windows/cells.py": ["tests/unit/test_cells.py", "tests/unit/test_counting.py"],
    "paystorm/windows/crossing.py": ["tests/unit/test_crossing.py"],
    "paystorm/lists.py": ["tests/unit/test_lists.py"],
    "paystorm/packed_hits.py": ["tests/unit/test_packed_hits.py"],
    "paystorm/list_copy.py": ["tests/unit/test_list_copy.py", "tests/unit/test_bolts_lookup.py"],
    "paystorm/chunk.py": ["tests/unit/test_chunk.py"],
    "paystorm/offsets.py": ["tests/unit/test_offsets.py"],
}
"""What is mutated, and the tests that are to notice."""
# The same examples each time, never shrunk, and no failure for slowness: a busy machine is to notice nothing.
TESTED = """
import sys
from hypothesis import Phase, settings
phases = (Phase.explicit, Phase.generate)
settings.register_profile("quick", derandomize=True, database=None, deadline=None, phases=phases)
settings.load_profile("quick")
import pytest
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-o", "pythonpath=.", *sys.argv[1:]]))
"""
SIMULATED = """
import sys
from paystorm.cli.main import main
sys.argv += ["simulate", "--seed", "1", "--seeds", "20", "--until-failure", "--shrink", "0", "--workers", "1", "--json"]
sys.exit(main())
"""
SECONDS = 3600.0
"""The longest that a run takes; most that hang are ended sooner, by their CPU time (`Bench`)."""
MEMORY = 4 << 30
"""Bytes that a run may take: some mutations do not end, and gather as they go."""
PAIRS = [
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn), (ast.Is, ast.IsNot)),
    *((ast.Add, ast.Sub), (ast.Mult, ast.FloorDiv), (ast.And, ast.Or)),
]
OTHER: dict[type[ast.AST], type[Any]] = {**dict(PAIRS), **{two: one for one, two in PAIRS}}
"""What each operator is changed to."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """A module with one operator changed."""

    module: str
    line: int
    name: str
    text: str
    """Of the whole module."""


def changed(node: ast.AST) -> Iterator[ast.AST]:
    """A node with one thing changed, for each thing that can be."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
        yield ast.Compare(node.left, [OTHER[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in OTHER:
        yield ast.BinOp(node.left, OTHER[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(OTHER[type(node.op)](), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield ast.Constant(node.value + 1)


def mutations(module: str) -> Iterator[Mutation]:
    """Every mutation of a module under src/."""
    text = (ROOT / "src" / module).read_text()
    lines = text.splitlines(keepends=True)
    tree = ast.parse(text)
    functions: dict[int, str] = {}
    times: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for number in range(node.lineno, (node.end_lineno or 0) + 1):
                functions[number] = f"{functions[number]}.{node.name}" if number in functions else node.name
    for node in ast.walk(tree):
        if not isinstance(node, ast.expr) or node.end_lineno != node.lineno:
            continue
        line = lines[node.lineno - 1].encode()
        first, end = node.col_offset, node.end_col_offset
        left, before, right = line[:first].decode(), line[first:end].decode(), line[end:].decode()
        for new in changed(node):
            after = ast.unparse(new)
            name = f"{module}, {functions.get(node.lineno, '')}: {left.lstrip()}{{{before} -> {after}}}{right.rstrip()}"
            times[name] += 1
            if times[name] > 1:
                name += f" ({times[name]})"
            spoilt = "".join([*lines[: node.lineno - 1], f"{left}({after}){right}", *lines[node.lineno :]])
            yield Mutation(module, node.lineno, name, spoilt)


class Bench:
    """A copy of src/ in which one module after the other is changed, and put back."""

    def __init__(self, folder: Path) -> None:
        self._src = folder / "src"
        shutil.copytree(ROOT / "src", self._src, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        self._env = {**os.environ, "PYTHONPATH": str(self._src), "POLARS_MAX_THREADS": "1", "PYTHONHASHSEED": "0"}
        self._env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)
        self._times = count(1)
        self._allowed: dict[tuple[str, ...], int] = {}

    def survives(self, mutation: Mutation, command: tuple[str, ...]) -> bool:
        """Whether a run that is to notice the mutation ends well all the same."""
        if command not in self._allowed:
            self._allowed[command] = self._cost(command)
        path = self._src / mutation.module
        text = path.read_text()
        try:
            self._write(path, mutation.text)
            return self._passes(command, self._allowed[command])
        finally:
            self._write(path, text)

    def _cost(self, command: tuple[str, ...]) -> int:
        """CPU seconds that a run with a mutation may take: thrice what one without takes. Exits where that fails."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        if not self._passes(command, round(SECONDS)):
            sys.exit(f"these fail without any mutation: {command[1:] or 'the seeds'}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return 10 + round(3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        # Python takes byte code for that of a file of the same size and second: each text gets a second of its own.
        second = next(self._times)
        os.utime(path, (second, second))

    def _passes(self, command: tuple[str, ...], seconds: int) -> bool:
        limited = ["sh", "-c", 'ulimit -t "$0"; exec "$@"', str(seconds), sys.executable, "-c", *command]
        try:
            done = subprocess.run(limited, cwd=ROOT, env=self._env, capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def tests(module: str) -> tuple[str, ...]:
    """Runs the module's tests."""
    return TESTED, *MODULES[module]


def simulator(module: str) -> tuple[str, ...]:
    """Runs the simulator."""
    return (SIMULATED,)


def left_by(what: Callable[[str], tuple[str, ...]], tried: list[Mutation], benches: list[Bench]) -> list[Mutation]:
    """Those of the mutations that `what` does not notice; each is printed when known."""
    free: SimpleQueue[Bench] = SimpleQueue()
    for bench in benches:
        free.put(bench)

    def survives(mutation: Mutation) -> bool:
        bench = free.get()
        try:
            return bench.survives(mutation, what(mutation.module))
        finally:
            free.put(bench)

    left: list[Mutation] = []
    with ThreadPoolExecutor(len(benches)) as pool:
        for number, (mutation, survived) in enumerate(zip(tried, pool.map(survives, tried), strict=True), 1):
            if survived:
                left.append(mutation)
                print(f"line {mutation.line}, left by the {what.__name__}: {mutation.name}", flush=True)
            elif number % 50 == 0:
                print(f"{what.__name__}: {number} of {len(tried)} tried", flush=True)
    return left


def main() -> int:
    """Mutate, and print what survives."""
    parser = argparse.ArgumentParser(description="Mutate modules of the domain, and run their tests.")
    parser.add_argument("modules", nargs="*", help="parts of their paths; default: all")
    parser.add_argument("--tests", action="store_true", help="do not try the simulator on what the tests leave")
    parser.add_argument("--only", type=Path, help="try only the mutations that this text names, such as survivors.txt")
    parser.add_argument("--sample", type=int, help="mutations tried, chosen at random; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    chosen = [m for m in MODULES if not given.modules or any(part in m for part in given.modules)]
    every = [mutation for module in chosen for mutation in mutations(module)]
    explained = [line for line in EXPLAINED.read_text().splitlines() if line and not line.startswith("#")]
    gone = [
        li for li in explained if li.split(",")[0] in chosen and not any(li.startswith(f"{m.name}: ") for m in every)
    ]
    if given.only is not None:
        named = given.only.read_text()
        every = [mutation for mutation in every if mutation.name in named]
    if given.sample is not None:
        every = Random(given.seed).sample(every, min(given.sample, len(every)))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory(prefix="paystorm-mutations-") as folder:
        benches = [Bench(Path(folder) / str(number)) for number in range(given.workers)]
        tested = left_by(tests, every, benches)
        left = tested if given.tests else left_by(simulator, tested, benches)
    known = [m for m in every if any(li.startswith(f"{m.name}: ") for li in explained)]
    missing = [m for m in left if m not in known]
    gone += [m.name for m in known if m not in left]
    simulated = "" if given.tests else f", {len(left)} of them by the simulator too"
    print(f"{len(every)} mutations, {len(tested)} left by the tests{simulated}")
    print(f"{len(missing)} not explained", *(m.name for m in missing), sep="\n")
    print(f"{len(gone)} explained that are none, or are noticed", *gone, sep="\n")
    return 1 if missing or gone else 0


if __name__ == "__main__":
    sys.exit(main())
