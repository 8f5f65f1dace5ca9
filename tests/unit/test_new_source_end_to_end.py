"""From nothing to a source that runs, is verified and is gone again; while another source runs and is not touched."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from streamparse.util import get_topology_definition, get_topology_from_file

from paystorm.project import Project

CONFIG = {
    "serializer": "json",
    "topology_specs": "topologies/",
    "virtualenv_specs": "virtualenvs/",
    "envs": {"local": {"embedded": {"data": "data", "partitions": 2}}},
}
PROGRAM = Path(sys.executable).parent / "paystorm"
WAIT = 120


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a config.json, and a sample."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    rides = [
        {
            "ride": f"r{n}",
            "event_time": f"2026-02-0{1 + n % 3}T10:{n % 60:02}:00Z",
            "customer": f"c{n % 5}",
            "price": f"{n}.50",
            "currency": "EUR",
        }
        for n in range(90)
    ]
    (tmp_path / "sample.ndjson").write_text("".join(json.dumps(ride) + "\n" for ride in rides))
    return tmp_path


def paystorm(root: Path, *arguments: str, code: int = 0) -> str:
    """What a command prints."""
    done = subprocess.run(
        [PROGRAM, *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=WAIT,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_source_is_made_from_a_sample_runs_beside_another_and_is_gone_with_its_file(root: Path) -> None:
    paystorm(root, "new-source", "first", "--field", "who:id:required", "--party", "who:account")
    other = subprocess.Popen([PROGRAM, "run", "first"], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        lock = root / "data" / "locks" / "first.lock"
        _wait_for(lambda: lock.exists() and lock.read_text().strip() == str(other.pid))

        # Made while the other runs, tested, fed, run, verified.
        told = paystorm(root, "new-source", "rides", "--from", "sample.ndjson")
        assert "Guesses are marked as such in topologies/rides.py" in told
        test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/sources/test_source_rides.py"]
        done = subprocess.run(test, cwd=root, capture_output=True, text=True, timeout=WAIT, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "4 passed" in done.stdout
        paystorm(root, "send", "rides", "sample.ndjson")
        assert "rides: 90 read, lag 0, 0 parked" in paystorm(root, "run", "rides", "--until-idle")
        assert "no difference" in paystorm(root, "verify", "rides")
        listed = {each["name"]: each for each in json.loads(paystorm(root, "sources", "--json"))}
        assert set(listed) == {"first", "rides"}
        assert [party["field"] for party in listed["rides"]["parties"]] == ["customer"]
        assert {rule["name"] for rule in listed["rides"]["rules"]} == {"account_per_day", "customer_price_per_day"}
        assert "Sent by rides." in paystorm(root, "sources", "rides")

        # The other has not been stopped, nor started again, and still works.
        assert other.poll() is None
        assert lock.read_text().strip() == str(other.pid)
        (root / "one.ndjson").write_text('{"event_time": "2026-02-01T10:00:00Z", "who": "u1"}\n')
        paystorm(root, "send", "first", "one.ndjson")
        _wait_for(
            lambda: json.loads(paystorm(root, "query", "SELECT count(*) AS n FROM first", "--json")) == [{"n": 1}]
        )

        # One file less, one source less.
        (root / "topologies" / "rides.py").unlink()
        assert "no source 'rides'; there are first" in paystorm(root, "run", "rides", code=2)
        assert [each["name"] for each in json.loads(paystorm(root, "sources", "--json"))] == ["first"]
        assert other.poll() is None
        done = subprocess.run(test, cwd=root, capture_output=True, text=True, timeout=WAIT, check=False)
        assert "4 skipped" in done.stdout, done.stdout + done.stderr
    finally:
        other.send_signal(signal.SIGTERM)
        assert other.wait(WAIT) == 0


def _wait_for(done: Any) -> None:
    end = time.monotonic() + WAIT
    while not done():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.2)


def test_sparse_finds_the_topology_and_its_requirements_by_the_same_name(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paystorm(root, "new-source", "rides_by_sparse", "--from", "sample.ndjson")
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name, file = get_topology_definition("rides_by_sparse")
    topology = get_topology_from_file(os.path.abspath(file))
    assert (name, topology.__name__) == ("rides_by_sparse", "RidesBySparse")
    assert topology.thrift_topology.bolts.keys() == {"validation", "lookup", "warehouse", "counts", "dead_letters"}
    assert (root / "virtualenvs" / f"{name}.txt").is_file()
    assert Project.load(root).sources()[name].topic == name
