"""The way in with a real Kafka behind it, and its tables in a real HBase: what is acknowledged is in the topic once."""

import json
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.stack.deployed import until
from tests.stack.servers import HBaseServers, RunningServer
from tests.web.served import NDJSON, Served, event, make_key, make_project, paystorm, start

from paystorm.connections import Connections
from paystorm.log.kafka_confluent import KafkaLog
from paystorm.resources import open_resources

ENV = ("-e", "real")
APPLICATION = "shop"


@pytest.fixture
def project(tmp_path: Path, kafka_server: RunningServer, hbase_server: HBaseServers) -> Iterator[Path]:
    """A project whose environment `real` has a topic of its own name's making, and its tables under a new prefix."""
    root = make_project(tmp_path / "project")
    config = json.loads((root / "config.json").read_text())
    config["envs"]["real"] = {
        "nimbus": "127.0.0.1:6627",
        "options": {
            "paystorm.kafka.brokers": kafka_server.address,
            "paystorm.kafka.partitions": 2,
            "paystorm.hbase": hbase_server.address,
            "paystorm.hbase.prefix": f"ingest{secrets.token_hex(3)}",
            "paystorm.warehouse": "warehouse",
        },
    }
    (root / "config.json").write_text(json.dumps(config))
    with_log = log_of(root)
    for topic in {"purchase", "purchase-verdicts"} & set(with_log.topics()):
        with_log.delete_topic(topic)
    with_log.create_topic("purchase", 2)
    yield root
    with_log.close()


def log_of(project: Path) -> KafkaLog:
    """The environment's log."""
    options = json.loads((project / "config.json").read_text())["envs"]["real"]["options"]
    opened = open_resources(Connections(options | {"paystorm.warehouse": str(project / "warehouse")}))
    log: Any = opened.log
    return log


def ids_in(log: Any) -> list[str]:
    """The ids in the topic, each as often as it stands there."""
    found: list[str] = []
    for partition in range(log.partitions("purchase")):
        offset = 0
        while (batch := log.read("purchase", partition, offset, max_records=10_000, max_bytes=1 << 24)) is not None:
            found += [json.loads(value)["id"] for value in batch.all_values()]
            offset = batch.next
    return found


@pytest.fixture
def served(project: Path) -> Iterator[list[Served]]:
    """Services that a test starts; all are ended."""
    made: list[Served] = []
    yield made
    for each in made:
        each.end()


def serve(project: Path, served: list[Served], key: str) -> Served:
    """One more."""
    made = start(project, key, *ENV)
    served.append(made)
    return made


def test_events_are_in_the_topic_once_over_repeats_a_kill_and_a_restart(project: Path, served: list[Served]) -> None:
    key = make_key(project, "--all-applications", *ENV)
    service = serve(project, served, key)
    first = service.post(event("one"))
    assert first.status == 202
    assert {"id", "topic", "partition", "offset"} <= first.json().keys()
    batch = service.batch([event(f"b{i}") for i in range(300)], media=NDJSON).json()["results"]
    assert {r["status"] for r in batch} == {202}
    assert service.post(event("one")).json() == first.json()
    service.kill()
    service = serve(project, served, key)
    assert service.post(event("one")).json() == first.json()
    assert service.post(event("one", amount="7")).status == 409
    again = service.batch([event(f"b{i}") for i in range(300)], media=NDJSON).json()["results"]
    assert [(r["partition"], r["offset"]) for r in again] == [(r["partition"], r["offset"]) for r in batch]
    assert service.verdict("one").json()["verdict"] == "pending"
    assert service.verdict("never-sent").json()["verdict"] == "unknown"
    assert sorted(ids_in(log_of(project))) == sorted(["one", *(f"b{i}" for i in range(300))])


def test_a_record_over_the_brokers_limit_is_refused_alone(project: Path, served: list[Served]) -> None:
    paystorm(project, "keys", "list", *ENV)
    service = serve(project, served, make_key(project, "--all-applications", *ENV))
    long = event("long", message="x" * (1_048_576 - 300))
    results = service.batch([event("before"), long, event("behind")]).json()["results"]
    assert [r["status"] for r in results][::2] == [202, 202]
    assert results[1]["status"] in (413, 202)  # the record as it is stored may just fit
    assert {"before", "behind"} <= set(ids_in(log_of(project)))


def test_while_the_broker_is_dead_clients_are_told_to_come_again_and_nothing_acknowledged_is_lost(
    project: Path, served: list[Served], kafka_server: RunningServer
) -> None:
    service = serve(project, served, make_key(project, "--all-applications", *ENV))
    acknowledged: list[str] = []
    refused: list[int] = []
    stop = threading.Event()

    def send() -> None:
        n = 0
        while not stop.is_set():
            name = f"e{n}"
            answer = service.post(event(name), timeout=90)
            if answer.status == 202:
                acknowledged.append(name)
                n += 1
            else:
                refused.append(answer.status)
                assert answer.status == 503
                assert int(answer.headers["retry-after"]) >= 1
                time.sleep(0.2)  # and the same id again

    thread = threading.Thread(target=send)
    thread.start()
    try:
        until(lambda: len(acknowledged) > 50, 60, "nothing is acknowledged")
        kafka_server.kill()
        until(lambda: bool(refused), 120, "it does not say that the log is down")
        kafka_server.start()
        seen = len(acknowledged)
        until(lambda: len(acknowledged) > seen + 50, 120, "it does not go on")
    finally:
        stop.set()
        kafka_server.start()
        thread.join(100)
    found = ids_in(log_of(project))
    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))
