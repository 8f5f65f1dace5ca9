"""Mutates modules of the domain one operator at a time, and runs their tests: by hand, or nightly.

    python mutants/mutate.py [--sample N] [--seed N] [--workers 2] [MODULE...]

A mutation that no test of its module notices is tried against the simulator. What survives both is printed; it is
either explained in mutants/survivors.txt (a line `path: original -> mutated: why nothing differs`), or a test is
missing.
Exit code 1 where a survivor is not explained.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODULES: dict[str, list[str]] = {
    "paystorm/retry.py": ["tests/unit/test_retry.py"],
    "paystorm/intervals.py": ["tests/unit/test_intervals.py"],
    "paystorm/windows/judge.py": ["tests/unit/test_counting.py"],
    "paystorm/windows/tally.py": ["tests/unit/test_counting.py", "tests/unit/test_crossing.py"],
    "paystorm/windows/cells.py": ["tests/unit/test_cells.py", "tests/unit/test_counting.py"],
    "paystorm/windows/crossing.py": ["tests/unit/test_crossing.py"],
    "paystorm/lists.py": ["tests/unit/test_lists.py"],
    "paystorm/list_copy.py": ["tests/unit/test_list_copy.py", "tests/unit/test_bolts_lookup.py"],
    "paystorm/chunk.py": ["tests/unit/test_chunk.py"],
    "paystorm/offsets.py": ["tests/unit/test_offsets.py"],
}
"""What is mutated, and the tests that are to notice."""
SIMULATED = 20
"""Seeds that the simulator has."""
SECONDS = 600.0
COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
}


@dataclass(frozen=True, slots=True)
class Mutation:
    """A module with one operator changed."""

    module: str
    line: int
    before: str
    after: str
    text: str

    def __str__(self) -> str:
        return f"{self.module}: {self.before} -> {self.after}"


def changed(node: ast.AST) -> Iterator[ast.AST]:
    """A node with one thing changed, for each thing that can be."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARE:
        yield ast.Compare(node.left, [COMPARE[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield ast.Constant(node.value + 1)


def mutations(module: str) -> Iterator[Mutation]:
    """Every mutation of a module under src/."""
    text = (ROOT / "src" / module).read_text()
    for node in ast.walk(ast.parse(text)):
        before = ast.get_source_segment(text, node) if isinstance(node, ast.expr) else None
        if before is None or "\n" in before:
            continue
        lines = text.splitlines(keepends=True)
        line = lines[node.lineno - 1].encode()
        for new in changed(node):
            after = f"({ast.unparse(new)})"
            whole = line[: node.col_offset] + after.encode() + line[node.end_col_offset :]
            spoilt = "".join([*lines[: node.lineno - 1], whole.decode(), *lines[node.lineno :]])
            yield Mutation(module, node.lineno, before, after, spoilt)


def survives(mutation: Mutation) -> bool:
    """Whether neither the module's tests nor the simulator notice."""
    with tempfile.TemporaryDirectory(prefix="paystorm-mutation-") as folder:
        copy = Path(folder) / "src"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        (copy / mutation.module).write_text(mutation.text)
        env = {**os.environ, "PYTHONPATH": str(copy), "POLARS_MAX_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        tests = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", f"pythonpath={copy} {ROOT}"]
        seeds = ["simulate", "--seed", "1", "--seeds", str(SIMULATED), "--until-failure", "--workers", "1", "--json"]
        start = ["-c", "import sys; from paystorm.cli.main import main; sys.exit(main())"]
        for command in ([*tests, *MODULES[mutation.module]], [*start, *seeds]):
            try:
                done = subprocess.run(
                    [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, timeout=SECONDS, check=False
                )
            except subprocess.TimeoutExpired:
                return False
            if done.returncode:
                return False
    return True


def main() -> int:
    """Mutate, and print what survives."""
    parser = argparse.ArgumentParser(description="Mutate modules of the domain, and run their tests.")
    parser.add_argument("modules", nargs="*", help="parts of their paths; default: all")
    parser.add_argument("--sample", type=int, help="mutations tried, chosen at random; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    chosen = [m for m in MODULES if not given.modules or any(part in m for part in given.modules)]
    every = [mutation for module in chosen for mutation in mutations(module)]
    if given.sample is not None:
        every = Random(given.seed).sample(every, min(given.sample, len(every)))
    path = HERE / "survivors.txt"
    explained = path.read_text() if path.exists() else ""
    missing = left = 0
    with ThreadPoolExecutor(given.workers) as pool:
        for mutation, survived in zip(every, pool.map(survives, every), strict=True):
            if survived:
                known = f"{mutation}:" in explained
                left += 1
                missing += not known
                print(f"line {mutation.line}: {mutation}{' (explained)' if known else ''}", flush=True)
    print(f"{len(every)} mutations, {left} survived, {missing} of them not explained")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
