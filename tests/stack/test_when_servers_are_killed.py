"""Real servers and processes killed while records flow; and a topic that is deleted and made again. The last to run."""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.stack.deployed import ROOT, Deployed, deploy, until
from tests.stack.servers import SECOND_SUPERVISOR, Servers

from paystorm.chaos.faults import FAULTS

SOURCE = TOPOLOGY = "purchase"
IN_CI = 4
"""Faults of the test that is always run."""
RATE = 100
SECONDS = 300.0
FAULT_SECONDS = 300.0
"""That one fault of a campaign may take, with its recovery and its verify."""
EACH = "PAYSTORM_CHAOS_EACH"
"""How often `make chaos` does every fault."""
RESULTS = ROOT / "docs" / "chaos-results.md"
FLUSH_MS = 1000
"""Few files: verify reads each of them more than once."""
DISK = "256m"


@pytest.fixture(scope="module")
def deployed(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The purchases' topology on two supervisors, its warehouse on a small disk of its own where that can be had."""
    stack = servers.stack
    stack.up([SECOND_SUPERVISOR])
    root = tmp_path_factory.mktemp("chaos")
    options = {
        "paystorm.hbase.prefix": f"chaos{secrets.token_hex(3)}",
        "paystorm.hive.database": "chaos",
        "flushMs": FLUSH_MS,
    }
    with small_disk(root / "warehouse"):
        made = deploy(root, servers.addresses, options, more={"stack": {"folder": str(stack.folder), "supervisors": 2}})
        made.fresh_topics(SOURCE)
        made.submit(TOPOLOGY)
        with made.killed_in_the_end(TOPOLOGY):
            yield made


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system in memory at the folder, which a test may fill; none where this user may not mount one."""
    folder.mkdir(parents=True)
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    mount = [*as_root, "mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0777", "none", str(folder)]
    may = (not as_root or shutil.which("sudo") is not None) and subprocess.run(mount, check=False).returncode == 0
    try:
        yield
    finally:
        if may:
            subprocess.run([*as_root, "umount", "--lazy", str(folder)], check=True)


def _chaos(deployed: Deployed, faults: int, *arguments: str) -> list[dict[str, Any]]:
    """What `paystorm chaos` found of each of so many faults; all of them must have ended well."""
    command = ["chaos", "-e", "stack", "--rate", str(RATE), "--json", *arguments]
    text = deployed.paystorm(*command, check=False, timeout=faults * FAULT_SECONDS)
    assert text.startswith("{"), text
    found: dict[str, Any] = json.loads(text)
    outcomes: list[dict[str, Any]] = found["outcomes"]
    for outcome in outcomes:
        print({key: value for key, value in outcome.items() if key != "problems"})
        assert outcome["problems"] == [], outcome
        assert outcome["caught_up"] is not None, outcome
    return outcomes


def test_four_faults_drawn_by_a_seed_leave_nothing_lost_and_nothing_twice(deployed: Deployed) -> None:
    seed = os.environ.get("PAYSTORM_SEED") or str(secrets.randbelow(2**31))
    print(f"PAYSTORM_SEED={seed}")
    outcomes = _chaos(deployed, IN_CI, "--seed", seed, "--count", str(IN_CI))
    assert len({outcome["fault"] for outcome in outcomes}) == IN_CI
    found = deployed.caught_up(SOURCE, SECONDS)
    assert found["adds_up"]
    assert found["totals"]["read"] == found["totals"]["end"] >= outcomes[-1]["sent"]


@pytest.mark.long
@pytest.mark.skipif(EACH not in os.environ, reason="hours of work: make chaos does it")
def test_every_fault_again_and_again_leaves_nothing_lost_and_nothing_twice(deployed: Deployed) -> None:
    each = int(os.environ[EACH])
    outcomes = _chaos(deployed, each * len(FAULTS), "--each", str(each), "--report", str(RESULTS))
    left_out = {name for name in FAULTS if name not in {outcome["fault"] for outcome in outcomes}}
    assert left_out <= {"disk"}
    assert len(outcomes) == each * (len(FAULTS) - len(left_out))


@pytest.mark.long
def test_a_topic_made_anew_stops_the_source_until_it_is_reset(deployed: Deployed) -> None:
    with deployed.fed(SOURCE, rate=RATE):
        until(lambda: deployed.status(SOURCE)["totals"]["committed"] > 0, SECONDS, "nothing is committed", every=1.0)
    before = deployed.caught_up(SOURCE, SECONDS)["totals"]
    with deployed.resources() as opened:
        opened.log.delete_topic(SOURCE)
        opened.log.create_topic(SOURCE, 4)
    with deployed.fed(SOURCE, rate=RATE, seed=2) as feeder:
        until(lambda: "made anew" in str(deployed.status(SOURCE)["problems"]), SECONDS, "it does not stop", every=1.0)
        (problem,) = deployed.status(SOURCE)["problems"]
        assert "offsets of the former one are gone" in problem
        assert f"paystorm reset {SOURCE}" in problem
        assert deployed.status(SOURCE)["totals"]["committed"] == before["committed"]
        assert "is running" in deployed.paystorm("reset", SOURCE, "--yes", "-e", "stack", check=False)
        deployed.kill(TOPOLOGY)
        assert "nothing was changed" in deployed.paystorm("reset", SOURCE, "-e", "stack")
        assert "start it again" in deployed.paystorm("reset", SOURCE, "--yes", "-e", "stack")
        deployed.submit(TOPOLOGY)
        until(
            lambda: deployed.status(SOURCE)["totals"]["committed"] > before["committed"], SECONDS, "it does not go on"
        )
    found = deployed.caught_up(SOURCE, SECONDS)
    assert found["adds_up"]
    assert found["problems"] == []
    assert found["totals"]["read"] >= before["read"] + feeder.sent
    assert deployed.verify(SOURCE)["records"] == found["totals"]["read"]
