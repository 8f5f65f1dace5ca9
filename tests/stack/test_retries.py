"""Retry settings on the real stack: records that a bolt cannot process, and a sink that is down for two minutes."""

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.stack.deployed import ROOT, Deployed, deploy, until
from tests.stack.servers import Servers

from paystorm.log.base import OutRecord
from paystorm.stores.retry import Parked, all_parked

pytestmark = pytest.mark.long

SOURCE = TOPOLOGY = "purchase"
BOLT = "merchant_category"
"""The example's bolt: it names the payments to merchants that a file does not know."""
INITIAL_MS, MULTIPLIER = 500, 2.0
BEHIND = 40
SECONDS = 300.0
RATE = 200
DOWN_SECONDS = 120.0
SOON_SECONDS = 60.0
"""Until all is committed that came while a sink was down. Its clients wait at most 10 s between two tries, and what
was in flight comes again when its tuples time out, 60 s after they were sent."""


def with_bolt(root: Path) -> None:
    """Put the example's bolt between validation and look-up, in the folder's own copy of the topology."""
    for name in ("src", "topologies"):
        (root / name).unlink()
        (root / name).mkdir()
        for path in (ROOT / name).iterdir():
            if not path.name.startswith(("_", ".")):
                (root / name / path.name).symlink_to(path)
    (root / "src" / f"{BOLT}.py").write_text((ROOT / "examples" / "bolts" / f"{BOLT}.py").read_text())
    topology = root / "topologies" / "purchase.py"
    text = topology.read_text()
    topology.unlink()
    old = "    lookup = BlacklistLookupBolt.spec(inputs={validation: Grouping.SHUFFLE}, par=1)\n"
    new = (
        "    category = MerchantCategoryBolt.spec(inputs={validation: Grouping.SHUFFLE}, par=1)\n"
        "    lookup = BlacklistLookupBolt.spec(inputs={category: Grouping.SHUFFLE}, par=1)\n"
    )
    imported = f"from {BOLT} import MerchantCategoryBolt\n"
    assert text.count(old) == 1
    topology.write_text(text.replace(old, new).replace("from paystorm.rules", f"{imported}from paystorm.rules", 1))


@pytest.fixture(scope="module")
def merchants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the merchants' categories."""
    file = tmp_path_factory.mktemp("merchants") / "merchants.json"
    _know(file, "m1")
    return file


@pytest.fixture(scope="module")
def deployed(servers: Servers, merchants: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The purchases' topology with the bolt; of the retry settings some come from config.json, some from -o."""
    root = tmp_path_factory.mktemp("retries")
    options = {
        "paystorm.hbase.prefix": f"retries{secrets.token_hex(3)}",
        "paystorm.hive.database": "retries",
        "merchants.file": str(merchants),
        "retryInitialDelayMs": INITIAL_MS,
        "maxOffsetBehind": 7,
    }
    made = deploy(root, servers.addresses, options)
    with_bolt(root)
    made.fresh_topics(SOURCE)
    made.submit(TOPOLOGY, f"retryDelayMultiplier={MULTIPLIER}", f"maxOffsetBehind={BEHIND}", "retryDelayMaxMs=4000")
    with made.killed_in_the_end(TOPOLOGY):
        yield made


def _know(file: Path, *names: str) -> None:
    """Let the file know these merchants and no others."""
    aside = file.with_suffix(".new")
    aside.write_text(json.dumps(dict.fromkeys(names, "food")))
    aside.replace(file)


def _pay(deployed: Deployed, *receivers: str) -> list[int]:
    """Append payments to partition 0; those to names with m are to merchants. Their offsets."""
    records = []
    for receiver in receivers:
        data = {"event_time": "2025-06-01T12:00:00Z", "from_party": f"u{secrets.token_hex(4)}", "to_party": receiver}
        kind = {"to_kind": "merchant"} if receiver.startswith("m") else {}
        value = json.dumps({"ApplicationRef": "shop", "data": data | kind}).encode()
        records.append(OutRecord(value, None, 0))
    with deployed.resources() as opened:
        return [offset for _, offset in opened.log.append(SOURCE, records)]


def _parked(deployed: Deployed) -> dict[int, Parked]:
    with deployed.resources() as opened:
        return {row.offset: row for row in all_parked(opened.tables, SOURCE)}


def _totals(deployed: Deployed) -> dict[str, Any]:
    found = deployed.status(SOURCE)
    assert found["adds_up"], found
    return dict(found["totals"])


def _given_up(deployed: Deployed) -> int:
    listed = deployed.paystorm("dead-letters", "list", "--code", "gave_up", "-e", "stack", "--json")
    return int(json.loads(listed)["total"])


def test_named_records_are_parked_retried_given_up_dead_lettered_and_replayed(
    deployed: Deployed, merchants: Path
) -> None:
    shown = deployed.nimbus.configuration(TOPOLOGY)
    assert (shown["retryInitialDelayMs"], shown["retryDelayMultiplier"]) == (INITIAL_MS, MULTIPLIER)
    assert (shown["maxOffsetBehind"], shown["retryDelayMaxMs"]) == (BEHIND, 4000)

    ordinary = [f"v{n}" for n in range(10)]
    known, later, never = _pay(deployed, *ordinary, "m1", "m2", "m3", *ordinary)[10:13]
    totals = deployed.caught_up(SOURCE, SECONDS)["totals"]
    assert (totals["accepted"], totals["parked"], totals["dead_lettered"]) == (21, 2, 0)
    assert known not in _parked(deployed)

    # The schedule: 0.5, 1, 2, 4 s. Ten later records are too few to give one up.
    until(lambda: all(r.attempts >= 5 for r in _parked(deployed).values()), SECONDS, "no retries", every=1.0)
    rows = _parked(deployed)
    assert set(rows) == {later, never}
    for offset, name in ((later, "m2"), (never, "m3")):
        row = rows[offset]
        waited = sum(min(INITIAL_MS * MULTIPLIER**n, 4000) for n in range(row.attempts - 1))
        assert (row.last_failed - row.first_failed) / 1000 >= waited
        assert f"merchant {name} has no category" in row.error

    _know(merchants, "m1", "m2")
    until(lambda: later not in _parked(deployed), SECONDS, "the retry does not succeed", every=1.0)
    assert (_totals(deployed)["accepted"], _totals(deployed)["parked"]) == (22, 1)

    _pay(deployed, *(f"w{n}" for n in range(BEHIND)))
    until(lambda: not _parked(deployed), SECONDS, "it is not given up", every=1.0)
    (letter,) = json.loads(deployed.paystorm("dead-letters", "list", "-e", "stack", "--json"))["letters"]
    assert (letter["letter"], letter["code"]) == (f"{SOURCE}/0/{never}", "gave_up")
    assert letter["attempts"] >= 5
    assert "merchant m3 has no category" in letter["last_error"]
    deployed.caught_up(SOURCE, SECONDS)
    assert _totals(deployed)["dead_lettered"] == 1

    _know(merchants, "m1", "m2", "m3")
    deployed.paystorm("dead-letters", "replay", letter["letter"], "--reason", "m3 has a category now", "-e", "stack")
    totals = deployed.caught_up(SOURCE, SECONDS)["totals"]
    assert totals["accepted"] == 23 + BEHIND
    assert (totals["dead_lettered"], totals["parked"]) == (1, 0)
    view = json.loads(deployed.paystorm("dead-letters", "show", letter["letter"], "-e", "stack", "--json"))
    assert [replay["outcome"] for replay in view["replays"]] == ["accepted"]
    assert deployed.verify(SOURCE)["records"] == totals["end"]


def test_of_what_comes_while_a_sink_is_down_nothing_is_given_up(deployed: Deployed, servers: Servers) -> None:
    gave_up = _given_up(deployed)
    with deployed.fed(SOURCE, rate=RATE) as feeder:
        before = _totals(deployed)["committed"]
        until(lambda: _totals(deployed)["committed"] > before, SECONDS, "nothing is committed", every=1.0)
        servers.stack.kill("hbase-thrift")
        time.sleep(DOWN_SECONDS)
        sent, ends = feeder.sent, feeder.ends()
        servers.stack.up(["hbase-thrift"])
        back = time.monotonic()
        assert sent >= DOWN_SECONDS * RATE / 2

        def done() -> bool:
            committed = {p["partition"]: p["committed"] for p in deployed.status(SOURCE)["partitions"]}
            return all(committed[p] >= end for p, end in ends.items())

        until(done, SECONDS, lambda: f"it does not catch up: {deployed.status(SOURCE)}")
        took = time.monotonic() - back
    print(f"{sent} records sent in {DOWN_SECONDS:g} s without the sink, committed {took:.1f} s after its return")
    totals = deployed.caught_up(SOURCE, SECONDS)["totals"]
    assert totals["parked"] == 0
    assert totals["read"] == totals["end"]
    assert _given_up(deployed) == gave_up
    assert deployed.verify(SOURCE)["records"] == totals["end"]
    assert took <= SOON_SECONDS
