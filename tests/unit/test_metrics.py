"""`metrics`: the figures of `status` as Prometheus reads them, within a bounded time."""

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from paystorm.cli.common import open_here
from paystorm.cli.looks import Look, Looks
from paystorm.cli.main import main
from paystorm.cli.metrics import COUNTER, METRICS, Exporter, families_of
from paystorm.errors import TablesError
from paystorm.nimbus import ComponentState, TopologyState
from paystorm.stores.gauges import Gauge
from paystorm.stores.lists import open_breaker

Captured = pytest.CaptureFixture[str]
SCRAPE_SECONDS = 60.0


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics")
    data = folder / "data"
    lines = [
        json.dumps({"event_time": "2025-01-01T00:00:00Z", "from_party": f"u{n}", "to_party": "v"}) for n in range(9)
    ]
    (folder / "x.ndjson").write_text("\n".join([*lines, "{"]) + "\n")
    assert main(["send", "purchase", str(folder / "x.ndjson"), "--data", str(data)]) == 0
    assert main(["run", "purchase", "--until-idle", "--data", str(data)]) == 0
    return data


def values(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """By sample's name: label values in their order, and the value."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_once_prints_what_status_says(screened: Path, capsys: Captured) -> None:
    assert main(["metrics", "--once", "--data", str(screened)]) == 0
    found = values(capsys.readouterr().out)
    assert main(["status", "purchase", "--json", "--data", str(screened)]) == 0
    (status,) = json.loads(capsys.readouterr().out)
    assert sum(found["paystorm_records_read_total"].values()) == status["totals"]["read"] == 10
    outcomes: dict[str, float] = {"accepted": 0, "denied": 0, "dead-lettered": 0}
    for labels, value in found["paystorm_records_total"].items():
        (outcome,) = set(labels) & outcomes.keys()
        outcomes[outcome] += value
    assert outcomes == {"accepted": 9, "denied": 0, "dead-lettered": 1}
    assert sum(found["paystorm_lag_records"].values()) == 0
    assert found["paystorm_running"] == {(name,): 0.0 for name in ("browser", "customer-service", "purchase", "refund")}
    assert found["paystorm_up"] == {("tables",): 1.0}
    assert set(found["paystorm_missing_records"].values()) == {0.0}


def test_an_open_breaker_is_told(screened: Path) -> None:
    with open_here("local", screened) as here:
        open_breaker(here.resources.tables, source="refund", rule="account_per_week", now=1, by="test", share=0.5)
        exporter = Exporter(Looks(here, {"refund": here.source("refund")}), cluster=False, patience=SCRAPE_SECONDS)
        found = values(exporter.text().decode())["paystorm_breaker_open"]
    assert {name for labels, value in found.items() for name in labels if value} == {"account_per_week", "refund"}


def _whole(here: Any) -> Look:
    """A look that has everything that a look can have."""
    (look,) = Looks(here, {"purchase": here.source("purchase")}).look()
    gauge = Gauge(
        component="lookup",
        task=1,
        host="a",
        pid=7,
        at=0,
        seconds=10.0,
        busy=0.25,
        cpu=0.5,
        memory=1 << 20,
        tuples=20,
        records=500,
        all_records=900,
        slowest_ms=1500.0,
    )
    component = ComponentState("lookup", False, 1, 1, 10, 9, 1, 12.0, ((17, "broke"),))
    topology = TopologyState("purchase-1-2", "purchase", "ACTIVE", 60, 6, 6, 1)
    return replace(look, gauges=(gauge,), components=(component,), topology=topology)


def test_every_metric_that_is_declared_is_told_with_its_labels(screened: Path) -> None:
    with open_here("local", screened) as here:
        made = families_of([_whole(here)], 2_000_000).all()
    of_reading = {"paystorm_up", "paystorm_reading_seconds", "paystorm_reading_timestamp_seconds"}
    assert {family.name for family in made} == METRICS.keys() - of_reading
    for family in made:
        declared = METRICS[family.name]
        assert family.type == declared.kind
        for sample in family.samples:
            assert tuple(sample.labels) == declared.labels
            assert sample.name == family.name + ("_total" if declared.kind == COUNTER else "")
    by_name = {family.name: family.samples[0].value for family in made}
    assert by_name["paystorm_task_records_per_second"] == 50
    assert by_name["paystorm_task_slowest_seconds"] == 1.5
    assert by_name["paystorm_task_age_seconds"] == 2
    assert by_name["paystorm_storm_latency_seconds"] == 0.012


# How it reads.


def test_a_scrape_does_not_wait_for_a_reading_that_takes_long(screened: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_here("local", screened) as here:
        looks = Looks(here, {"purchase": here.source("purchase")})
        exporter = Exporter(looks, cluster=False, fresh=0.0, patience=SCRAPE_SECONDS)
        first = values(exporter.text().decode())
        going_on, looked = threading.Event(), looks.look

        def slow() -> Any:
            going_on.wait(SCRAPE_SECONDS)
            return looked()

        monkeypatch.setattr(looks, "look", slow)
        monkeypatch.setattr(exporter, "_patience", 0.1)
        begin = time.monotonic()
        again = values(exporter.text().decode())
        assert time.monotonic() - begin < SCRAPE_SECONDS / 2
        assert again == first
        reading = exporter._reading
        assert reading is not None
        exporter.text()
        assert exporter._reading is reading  # a second scrape begins no second reading
        going_on.set()
        reading.join(SCRAPE_SECONDS)
        monkeypatch.setattr(exporter, "_patience", SCRAPE_SECONDS)
        at = "paystorm_reading_timestamp_seconds"
        assert values(exporter.text().decode())[at][()] > first[at][()]


def test_many_scrapes_make_one_reading(screened: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_here("local", screened) as here:
        looks = Looks(here, {"purchase": here.source("purchase")})
        exporter = Exporter(looks, cluster=False, fresh=SCRAPE_SECONDS, patience=SCRAPE_SECONDS)
        texts = [exporter.text() for _ in range(3)]
    assert len(set(texts)) == 1


def test_tables_that_cannot_be_read_are_told_and_read_again(screened: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_here("local", screened) as here:
        looks = Looks(here, {"purchase": here.source("purchase")})
        exporter = Exporter(looks, cluster=False, fresh=0.0, patience=SCRAPE_SECONDS)

        def broken() -> Any:
            raise TablesError("gone")

        with monkeypatch.context() as patched:
            patched.setattr(looks, "look", broken)
            found = values(exporter.text().decode())
            assert found["paystorm_up"] == {("tables",): 0.0}
            assert "paystorm_records_total" not in found
            assert exporter.problem == "gone"
        assert values(exporter.text().decode())["paystorm_up"] == {("tables",): 1.0}


def test_it_answers_over_http_until_it_is_ended(screened: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = "import sys; from paystorm.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "metrics", "purchase", "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen([*command, "--data", str(screened)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert f"http://127.0.0.1:{port}/metrics" in process.stdout.readline()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SCRAPE_SECONDS) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain")
                found = values(answer.read().decode())
            assert sum(found["paystorm_records_read_total"].values()) == 10
        finally:
            process.terminate()
            assert process.wait(SCRAPE_SECONDS) == 0


def test_an_address_that_is_taken_is_refused_in_one_line(screened: Path, capsys: Captured) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["metrics", "--listen", address, "--data", str(screened)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--listen {address}: Address already in use: name another HOST:PORT" in line
