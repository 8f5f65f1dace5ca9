"""Fuzzes for a while: `python fuzz/run.py [TARGET...] [--seconds 20] [--seed N]`.

Begins with the seeds of fuzz/corpus and, where `--corpus` names a folder, with what was found there before; new inputs
are kept there. What fails is written to `--findings` and can be run again by `python fuzz/run.py TARGET --input FILE`.
Needs atheris (Linux, macOS). Exit code 1 where something was found.
"""

import argparse
import importlib
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("records", "batches", "bodies")
SEED = 20260101
SHARE = 0.5
"""Of the inputs that are changed as JSON, and of those that libFuzzer changes byte by byte."""
MAX_BYTES = 4096
"""Of an input: more than the targets take as a record."""
MEMORY_MB = 2048


def fuzz(target: str, options: list[str]) -> None:
    """Fuzz in this process, which ends with it; libFuzzer takes the options."""
    import atheris  # noqa: PLC0415  not everywhere

    with atheris.instrument_imports(include=["paystorm.validity", "paystorm.ingest", "paystorm.oracle"]):
        check = importlib.import_module(f"fuzz.{target}").check
    changed = importlib.import_module("fuzz.mutating").changed

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < SHARE:
            data = changed(data, rng)[:most]
        return bytes(atheris.Mutate(data, most)) if rng.random() < SHARE else data

    atheris.Setup([sys.argv[0], *options], check, custom_mutator=mutate)
    atheris.Fuzz()


def run(target: str, seconds: float, seed: int, corpus: Path, findings: Path) -> int:
    """Fuzz in a process of its own; its exit code."""
    again = f"python fuzz/run.py {target} --seconds {seconds:g} --seed {seed}"
    print(f"{target}: {seconds:g} s with seed {seed}: {again}", flush=True)
    command = [
        *(sys.executable, str(Path(__file__)), target, "--libfuzzer"),
        *(str(corpus), str(ROOT / "fuzz" / "corpus" / target)),
        *(f"-max_total_time={seconds:g}", f"-seed={seed}", f"-max_len={MAX_BYTES}", f"-rss_limit_mb={MEMORY_MB}"),
        *(f"-dict={ROOT / 'fuzz' / 'json.dict'}", f"-artifact_prefix={findings}/{target}-", "-timeout=30"),
        *("-print_final_stats=1", "-verbosity=1"),
    ]
    alone = {**os.environ, "POLARS_MAX_THREADS": "1"}  # batches are small: more threads only wait for each other
    return subprocess.run(command, timeout=seconds + 300, check=False, env=alone).returncode


def main() -> int:
    """The exit code."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
    if "--libfuzzer" in sys.argv:
        fuzz(sys.argv[1], sys.argv[sys.argv.index("--libfuzzer") + 1 :])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=20, help="for each target")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--corpus", type=Path, help="a folder of inputs to begin with, and to keep new ones in")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="where failing inputs are written")
    parser.add_argument("--input", type=Path, help="run one input instead")
    given = parser.parse_args()
    targets = given.targets or list(TARGETS)
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"no target {sorted(unknown)[0]}; there are {', '.join(TARGETS)}")
    if given.input is not None:
        for target in targets:
            importlib.import_module(f"fuzz.{target}").check(given.input.read_bytes())
        return 0
    given.findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="paystorm-fuzz-") as made:
        codes = []
        for target in targets:
            corpus = (given.corpus or Path(made)) / target
            corpus.mkdir(parents=True, exist_ok=True)
            codes.append(run(target, given.seconds, given.seed, corpus, given.findings))
    if not any(given.findings.iterdir()):
        given.findings.rmdir()
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())
