"""Coverage-guided fuzzing for a while (`make fuzz`); what was found before, and that the targets can find something."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import batches, bodies, records
from fuzz.run import SEED, TARGETS

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "fuzz" / "corpus"
CHECKS = {"records": records.check, "batches": batches.check, "bodies": bodies.check}
SECONDS = 15
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


@pytest.mark.skipif(MISSING and os.environ.get("CI") != "true", reason="atheris is not installed")
@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_for_a_while_finds_nothing(target: str, tmp_path: Path) -> None:
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
