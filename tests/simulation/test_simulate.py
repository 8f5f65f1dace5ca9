"""The simulator itself: a seed replays, seeds come to what they are for, a failure becomes a short story."""

import hashlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from paystorm.clock import ManualClock
from paystorm.errors import TablesError
from paystorm.local import faults as messages
from paystorm.testing.draw import draw
from paystorm.testing.faulty import GROUP, Faults, FaultyTables, WriteFault
from paystorm.testing.many import Total, run_many
from paystorm.testing.report import report
from paystorm.testing.scenario import Act, Named, Scenario, Send
from paystorm.testing.shrink import Shrinker
from paystorm.testing.simulate import Story, run, simulate
from paystorm.testing.undoable import UndoableTables
from paystorm.testing.workload import Writer

ROOT = Path(__file__).resolve().parents[2]
SEEDS = int(os.environ.get("PAYSTORM_SEEDS", "500"))
"""Seeds that are run, new ones for every change of the code; PAYSTORM_SEED names the first of others."""
SECONDS = 360.0
"""Those that are not run by then are left out."""
ENOUGH = 100
"""Seeds that a busy machine must get to in that time, or all."""


def test_new_seeds_find_nothing_and_come_to_all_that_they_are_for() -> None:
    named = os.environ.get("PAYSTORM_SEED")
    first = _of_this_code() if named is None else int(named.partition("-")[0])
    total, until = Total(), time.monotonic() + SECONDS
    for result in run_many(range(first, first + SEEDS), workers=2):
        total.add(result)
        if time.monotonic() > until:
            break
    word = f"{len(total)} of {SEEDS} seeds from {first} were run in {SECONDS - (until - time.monotonic()):.0f} s"
    print(word)
    assert not [f"paystorm simulate --seed {r.seed}: {r.found[0]}" for r in total.failing()], word
    assert not total.short(), word
    assert len(total) >= min(SEEDS, ENOUGH), f"{word}: the machine is too busy"


def _of_this_code() -> int:
    """A first seed that follows from the code: every change is tried by new seeds, and its failures come again."""
    code = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*.py")):
        code.update(path.read_bytes())
    return int.from_bytes(code.digest()[:5], "big") * SEEDS


def test_a_seed_gives_the_same_run_again_byte_for_byte_in_another_process() -> None:
    digests = {simulate(5).digest}
    for hashes in ("0", "7"):
        script = "from paystorm.testing.simulate import simulate; print(simulate(5).digest)"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_workers_end_when_who_asked_for_them_is_killed() -> None:
    script = (
        "from paystorm.testing.many import run_many\n"
        "for result in run_many(range(9999), workers=2): print(result.seed, flush=True)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    assert parent.stdout.readline()
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert len(children) >= 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_another_seed_is_another_run() -> None:
    assert simulate(1, records=30).digest != simulate(2, records=30).digest


def test_what_is_written_does_not_depend_on_how_much_is_taken_at_once() -> None:
    once = list(islice(Writer(Random(3), "pay", 2), 50))
    writer = Writer(Random(3), "pay", 2)
    assert [*islice(writer, 20), *islice(writer, 30)] == once


def test_the_faults_of_a_run_named_one_by_one_give_the_same_run() -> None:
    scenario = draw(4, records=80)
    first = run(scenario)
    assert first.inflicted > 3
    assert run(replace(scenario, spoilt=first.spoilt)).digest == first.digest


def _values(scenario: Scenario) -> list[bytes]:
    return [record.value for stage in scenario.stages if isinstance(stage, Send) for record in stage.records]


def test_a_failing_scenario_is_shrunk_to_what_the_failure_needs() -> None:
    """It needs one certain record and one certain fault, and a person's act somewhere."""
    scenario = draw(4)
    culprit = _values(scenario)[77]
    fault = WriteFault("half", "kill")
    spoilt = Named({n: WriteFault() for n in range(30)} | {500: fault}, frozenset(range(9)), {3: messages.Drop()})

    def fails(tried: Scenario) -> Story:
        needed = isinstance(tried.spoilt, Named) and tried.spoilt.writes.get(500) == fault
        acts = any(isinstance(stage, Act) for stage in tried.stages)
        return Story(4, found=["broken"] if needed and acts and culprit in _values(tried) else [], spoilt=spoilt)

    small, story = Shrinker(600, runs=fails).shrink(scenario, fails(replace(scenario, spoilt=spoilt)))
    assert story.found
    assert _values(small) == [culprit]
    assert small.spoilt == Named({500: fault})
    assert sum(isinstance(stage, Act) for stage in small.stages) == 1
    assert len(small.source.rules) <= 2
    text = report(small, story)
    assert f"is sent: {culprit.decode()[:40]}" in text
    assert "a person changes the lists" in text
    assert len(text.splitlines()) < 20


@pytest.mark.parametrize(("when", "left"), [("before", []), ("after", [b"1", b"2"])])
def test_a_group_of_writes_fails_as_a_whole_where_its_end_does(when: str, left: list[bytes]) -> None:
    faults, tables = Faults(ManualClock()), UndoableTables()
    told: list[str] = []
    faults.done.append(lambda write, rows, put: told.append(write.what))
    faults.plan = lambda write: WriteFault(when, "error") if write.what == GROUP else None  # type: ignore[arg-type]
    faulty = FaultyTables(tables, faults)

    def write() -> None:
        with faulty.together():
            faulty.put("s.a", [(b"1", b"x")])
            faulty.put_if_absent("s.a", [(b"2", b"y")])
            faulty.feed_append("f", [b"z"])

    with pytest.raises(TablesError):
        write()
    assert [key for key, _ in tables.scan("s.a")] == left
    assert tables.feed_read("f", b"")[0] == ([b"z"] if left else [])
    assert len(told) == (3 if left else 0)


def test_a_group_that_ends_well_is_told_of_at_its_end() -> None:
    faults, tables = Faults(ManualClock()), UndoableTables()
    told: list[str] = []
    faults.done.append(lambda write, rows, put: told.append(write.name))
    faulty = FaultyTables(tables, faults)
    with faulty.together():
        faulty.put("s.a", [(b"1", b"x")])
        assert not told
        assert faulty.get("s.a", b"1") == b"x"
    assert told == ["s.a"]


def test_verify_agrees(tmp_path: Path) -> None:
    for seed in (3, 8):
        assert not simulate(seed, folder=tmp_path / str(seed)).found
