"""What fuzzing found before, inputs of a fixed seed, and that the targets can find something.

To look for more, guided by coverage, is `make fuzz`: it goes another way each time, so here it is only seen to run.
"""

import importlib.util
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from fuzz import batches, bodies, records
from fuzz.mutating import variants
from fuzz.run import MAX_BYTES, SEED, TARGETS

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "fuzz" / "corpus"
CHECKS = {"records": records.check, "batches": batches.check, "bodies": bodies.check}
VARIANTS = {"records": 20_000, "batches": 400, "bodies": 20_000}
SECONDS = 2
MISSING = importlib.util.find_spec("atheris") is None


@pytest.mark.parametrize(
    ("target", "name"), [(target, path.name) for target in TARGETS for path in sorted((CORPUS / target).iterdir())]
)
def test_an_input_that_is_kept_passes(target: str, name: str) -> None:
    CHECKS[target]((CORPUS / target / name).read_bytes())


def test_an_event_that_the_fast_path_loses_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    true = batches._validator.validate
    monkeypatch.setattr(batches._validator, "validate", lambda batch: (true(batch)[0].slice(1), true(batch)[1]))
    with pytest.raises(AssertionError):
        batches.check((CORPUS / "batches" / "plain").read_bytes())


def test_a_record_that_the_oracle_reads_in_another_way_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paystorm.oracle.literals.time", lambda text, zoneless_utc: 7)
    with pytest.raises(AssertionError):
        records.check((CORPUS / "records" / "plain").read_bytes())


def test_a_body_that_is_read_in_two_ways_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    true = bodies.read_exactly
    monkeypatch.setattr(bodies, "read_exactly", lambda piece, most: ("other", *true(piece, most)[1:]))  # type: ignore[index]
    with pytest.raises(AssertionError):
        bodies.check((CORPUS / "bodies" / "event").read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_made_from_those_that_are_kept_pass(target: str) -> None:
    kept = [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]
    for data in islice(variants(kept, SEED, MAX_BYTES), VARIANTS[target]):
        try:
            CHECKS[target](data)
        except Exception as error:
            raise AssertionError(f"{target}: {data!r}") from error


@pytest.mark.skipif(MISSING and os.environ.get("CI") != "true", reason="atheris is not installed")
@pytest.mark.parametrize("target", TARGETS)
def test_guided_fuzzing_runs(target: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "fuzz" / "run.py"), target, "--seconds", str(SECONDS)]
    done = subprocess.run(
        [*command, "--seed", str(SEED), "--findings", str(tmp_path / "found")],
        capture_output=True,
        timeout=SECONDS + 240,
        check=False,
    )
    told = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, told[-6000:]
    assert f"--seed {SEED}" in told
    executed = int(told.split("stat::number_of_executed_units:")[1].split()[0])
    assert executed > 20, "so few inputs tell nothing"
