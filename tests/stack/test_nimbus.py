"""What Nimbus says, and what `status`, `metrics` and `doctor` make of it, on real servers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.stack.deployed import Deployed, deploy, until
from tests.stack.servers import Servers

from paystorm.tables.hbase_calls import ThriftServer, idl

pytestmark = pytest.mark.long

RECORDS = 20_000
SECONDS = 600.0
PREFIX = "seen"


@pytest.fixture(scope="module")
def running(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The topology `purchase`, submitted, with generated payments read."""
    options = {"paystorm.hbase.prefix": PREFIX, "gaugeSeconds": 1}
    made = deploy(tmp_path_factory.mktemp("seen"), servers.addresses, options)
    (made.root / "warehouse").mkdir()
    made.fresh_topics("purchase")
    with made.killed_in_the_end("purchase"):
        generated = made.root / "generated.ndjson"
        generated.write_text(made.paystorm("generate", str(RECORDS), "--malformed", "0"))
        made.paystorm("send", "purchase", str(generated), "-e", "stack")
        made.submit("purchase")
        made.caught_up("purchase", SECONDS)
        yield made


def _doctor(running: Deployed) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(running.paystorm("doctor", "-e", "stack", "--json", check=False)):
        found.setdefault(finding["name"], []).append(finding)
    return found


def test_the_servers_of_the_cluster_are_told(running: Deployed) -> None:
    found = running.nimbus.cluster()
    assert [m.leads for m in found.masters] == [True]
    assert found.masters[0].version == "2.8.2"
    assert [(s.version, s.used) for s in found.supervisors] == [("2.8.2", 1)]


def test_status_has_tasks_and_components(running: Deployed) -> None:
    names = {"spout", "validation", "lookup", "warehouse", "counts", "dead_letters"}

    def told() -> bool:
        found = running.status("purchase")
        return {t["component"] for t in found["tasks"]} == names and {c["name"] for c in found["components"]} == names

    until(told, SECONDS, lambda: f"not all components are told: {running.status('purchase')}")
    found = running.status("purchase")
    assert found["adds_up"]
    assert found["totals"]["read"] == RECORDS
    assert found["topology"].startswith("purchase-")
    assert {t["component"]: t["cpu"] is not None and t["memory"] > 0 for t in found["tasks"]} == dict.fromkeys(
        names, True
    )
    assert len({t["pid"] for t in found["tasks"]}) == len(names)
    text = running.paystorm("status", "purchase", "-e", "stack")
    assert "Components, as Nimbus has them" in text
    assert "Tasks, as they say themselves" in text


def test_metrics_have_tasks_and_components(running: Deployed) -> None:
    text = running.paystorm("metrics", "purchase", "-e", "stack", "--once")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    read = [float(line.split()[-1]) for line in lines if line.startswith("paystorm_records_read_total")]
    assert sum(read) == RECORDS
    assert 'paystorm_up{part="nimbus"} 1.0' in lines
    for name in ("paystorm_storm_acked_total", "paystorm_task_cpu_cores", "paystorm_task_busy_ratio"):
        assert any(line.startswith(f'{name}{{component="lookup"') for line in lines), name


def test_doctor_finds_every_server_well(running: Deployed) -> None:
    found: dict[str, list[dict[str, Any]]] = {}

    def bad() -> list[dict[str, Any]]:
        return [f for each in found.values() for f in each if f["result"] == "failed"]

    def well() -> bool:
        found.clear()
        found.update(_doctor(running))
        return not bad()

    until(well, 120.0, lambda: f"{bad()}")  # a busy machine takes its time for Hive's first session
    assert found["Nimbus"][0]["found"].startswith("Storm 2.8.2 at ")
    assert found["Kafka"][0]["found"].startswith("Kafka 3.9 at ")
    assert found["Hive"][0]["found"].startswith("Hive 4.0.1 at ")
    assert any("purchase runs as purchase-" in f["found"] for f in found["on the cluster"])
    assert any(f["found"].startswith("purchase: 4 partitions") for f in found["topics"])
    assert "of one version" in found["table schemas"][0]["found"]


def test_doctor_names_a_table_that_keeps_more_versions(running: Deployed, servers: Servers) -> None:
    host, _, port = servers.addresses["hbase-thrift"].rpartition(":")
    server = ThriftServer(host, int(port), timeout=30.0, context=None)
    name = f"{PREFIX}_of.another"
    family = idl.ColumnDescriptor(name=b"c:", maxVersions=3)
    server.call(name, lambda client: client.createTable(name.encode(), [family]), repeat=False)
    try:
        (finding,) = [f for f in _doctor(running)["table schemas"] if f["result"] == "failed"]
        assert finding["found"] == f"{name} keeps 3 versions of a cell; 1 is counted on"
        assert "VERSIONS => 1" in finding["mend"]
    finally:
        for call in ("disableTable", "deleteTable"):
            server.ask(name, call, repeat=False)
        server.close()


def test_doctor_goes_on_where_a_server_is_down(running: Deployed, tmp_path: Path) -> None:
    config = json.loads((running.root / "config.json").read_text())
    config["envs"]["stack"]["options"]["paystorm.hive"] = "127.0.0.1:1"
    whole = (running.root / "config.json").read_text()
    (running.root / "config.json").write_text(json.dumps(config))
    try:
        found = _doctor(running)
    finally:
        (running.root / "config.json").write_text(whole)
    assert found["Hive"][0]["result"] == "failed"
    assert found["Nimbus"][0]["result"] == "ok"
    assert found["HBase"][0]["result"] == "ok"
