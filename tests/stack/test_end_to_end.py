"""The four topologies on real Storm, Kafka, HBase and Hive: the demo's data and generated purchases, then verify."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.stack.deployed import Deployed, deploy
from tests.stack.servers import Servers

TOPOLOGIES = {
    "purchase": "purchase",
    "refund": "refund",
    "customer-service": "customer_service",
    "browser": "browser",
}
"""Topologies' files by source."""
FILES = {
    "purchase": ["purchase-online-retail.ndjson.gz", "purchase-ethereum.ndjson.gz"],
    "refund": ["refund-online-retail.ndjson.gz"],
    "customer-service": ["customer-service-complaints.ndjson.gz"],
    "browser": ["browser-weblog.ndjson.gz"],
}
GENERATED = 500_000
SECONDS = 600.0


@pytest.fixture(scope="module")
def deployed(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The four topologies, submitted, with everything sent and screened."""
    made = deploy(tmp_path_factory.mktemp("end-to-end"), servers.addresses, {"paystorm.hbase.prefix": "endtoend"})
    with made.killed_in_the_end(*TOPOLOGIES.values()):
        for source, files in FILES.items():
            paths = [f"examples/data/{name}" for name in files]
            made.paystorm("send", source, *paths, "-e", "stack", *(["--merge"] if len(paths) > 1 else []))
        for topology in TOPOLOGIES.values():
            made.submit(topology)
        generated = made.root / "generated.ndjson"
        generated.write_text(made.paystorm("generate", str(GENERATED)), errors="surrogateescape")
        made.paystorm("send", "purchase", str(generated), "-e", "stack", timeout=SECONDS)
        for source in TOPOLOGIES:
            made.caught_up(source, SECONDS)
        yield made


def _rows(deployed: Deployed, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(deployed.paystorm("query", sql, "-e", "stack", "--json"))
    return found


def test_the_oracle_finds_no_difference_while_the_topologies_run(deployed: Deployed) -> None:
    reports = json.loads(deployed.paystorm("verify", "-e", "stack", "--json", timeout=SECONDS))
    assert {report["source"] for report in reports} == set(TOPOLOGIES)
    assert all(report["ok"] for report in reports), [report["differences"][:5] for report in reports]
    assert sum(report["records"] for report in reports) > GENERATED


def test_hive_counts_what_the_index_counts(deployed: Deployed) -> None:
    for source in TOPOLOGIES:
        totals = deployed.status(source)["totals"]
        table = source.replace("-", "_")
        found = _rows(deployed, f"SELECT verdict, count(*) AS n FROM {table} GROUP BY verdict ORDER BY verdict")
        counted = {row["verdict"]: row["n"] for row in found}
        assert counted == {v: totals[v] for v in ("accepted", "denied") if totals[v]}


def test_every_record_has_an_outcome(deployed: Deployed) -> None:
    for source in TOPOLOGIES:
        found = deployed.status(source)
        assert found["adds_up"], found
        totals = found["totals"]
        assert totals["read"] == totals["accepted"] + totals["denied"] + totals["dead_lettered"] == totals["end"]


def test_storm_says_that_no_tuple_failed(deployed: Deployed) -> None:
    for topology in TOPOLOGIES.values():
        for component in deployed.nimbus.components(topology):
            assert (component.failed, component.errors) == (0, ()), component


def test_what_the_storm_ui_shows_to_everybody_has_no_secret(deployed: Deployed, tmp_path: Path) -> None:
    shown = deployed.nimbus.configuration("purchase")
    assert shown["paystorm.source"]["name"] == "purchase"
    assert not [name for name in shown if "password" in name.lower() and shown[name] and name.startswith("paystorm")]
