"""Kills, restarts, a log that is gone, limits: services of their own."""

import http.client
import json
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.web.served import NDJSON, Served, event, free_port, make_key, make_project, paystorm, start


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project", {"maxIds": 40, "eventBurst": 30, "eventsPerSecond": 1})


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return make_project(tmp_path / "plain")


@pytest.fixture
def running() -> Iterator[list[Served]]:
    made: list[Served] = []
    yield made
    for served in made:
        served.end()


def test_repeats_are_known_after_a_kill_and_after_an_orderly_restart(plain: Path, running: list[Served]) -> None:
    key = make_key(plain)
    served = start(plain, key)
    running.append(served)
    first = [served.post(event("one")).json(), *served.batch([event(f"b{i}") for i in range(700)]).json()["results"]]
    served.kill()
    # A record with the same id that no service took: somebody used `send`.
    lines = plain / "sent.ndjson"
    lines.write_text(json.dumps(event("by-send")) + "\n")
    paystorm(plain, "send", "purchase", str(lines))
    served = start(plain, key)
    running.append(served)
    results = served.batch([event("b5"), event("one"), event("one", amount="7"), event("by-send")]).json()["results"]
    assert results[:2] == [first[6], {**first[0], "status": 202}]
    assert [r["status"] for r in results[2:]] == [409, 202]
    assert served.end() == 0
    served = start(plain, key)
    running.append(served)
    assert served.post(event("one")).json() == first[0]
    assert served.verdict("one").json()["offset"] == first[0]["offset"]
    records = served.records()
    assert len([r for r in records if r["id"] == "one"]) == 1
    assert len(records) == 701 + 2


def test_what_was_acknowledged_before_a_kill_is_in_the_log_once(plain: Path, running: list[Served]) -> None:
    key = make_key(plain)
    served = start(plain, key)
    running.append(served)
    acknowledged: list[dict[str, object]] = []
    stopped = threading.Event()

    def send(worker: int) -> None:
        for i in range(10_000):
            try:
                answer = served.batch([event(f"{worker}-{i}-{n}") for n in range(50)], media=NDJSON)
            except OSError:
                break
            acknowledged.extend(answer.json()["results"])
        stopped.set()

    threads = [threading.Thread(target=send, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 30
    while len(acknowledged) < 1000 and time.monotonic() < until:
        time.sleep(0.01)
    served.kill()
    for thread in threads:
        thread.join(30)
    places = {}
    for record in served.records():
        assert record["id"] not in places
        places[record["id"]] = (record["partition"], record["offset"])
    assert len(acknowledged) >= 1000
    assert all(places[r["id"]] == (r["partition"], r["offset"]) for r in acknowledged)
    again = start(plain, key)
    running.append(again)
    results = again.batch([event(str(r)) for r in places]).json()["results"]
    assert {r["id"]: (r["partition"], r["offset"]) for r in results} == places


def test_a_second_service_on_the_same_store_is_refused(plain: Path, running: list[Served]) -> None:
    running.append(start(plain, make_key(plain)))
    said = paystorm(plain, "serve", "--port", str(free_port()), code=2)
    assert "one instance owns an application" in said
    elsewhere = paystorm(plain, "serve", "--port", str(free_port()), "--store", str(plain / "other"), code=2)
    assert "--take-over" in elsewhere
    assert running[0].post(event("still")).status == 202


def test_an_application_taken_over_is_served_by_the_new_store_only(plain: Path, running: list[Served]) -> None:
    key = make_key(plain)
    old = start(plain, key)
    running.append(old)
    first = old.post(event("moved")).json()
    new = start(plain, key, "--store", str(plain / "other"), "--take-over")
    running.append(new)
    assert new.post(event("moved")).json() == first, "its ids are read from the log"
    until = time.monotonic() + 20
    while old.post(event("moved")).status != 503:
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_full_store_and_an_empty_bucket_refuse_and_forget_nothing(project: Path, running: list[Served]) -> None:
    key = make_key(project)
    served = start(project, key)
    running.append(served)
    results = served.batch([event(f"f{i}") for i in range(45)]).json()["results"]
    assert [r["status"] for r in results] == [202] * 40 + [503] * 5
    limited = served.post(event("f1"))
    assert limited.status == 429
    assert 1 <= int(limited.headers["retry-after"]) <= 20
    assert served.request("GET", "/readyz").status == 503
    other = make_key(project)
    time.sleep(1.2)
    assert served.post(event("f1"), key=other).json()["offset"] == results[1]["offset"]
    full = served.post(event("new"), key=other)
    assert (full.status, full.json()["type"]) == (503, "urn:paystorm:problem:unavailable")
    assert int(full.headers["retry-after"]) > 0


def test_ids_older_than_their_hours_are_new_again(plain: Path, running: list[Served]) -> None:
    key = make_key(plain)
    served = start(plain, key)
    running.append(served)
    served.end()
    yesterday = (datetime.now(UTC) - timedelta(hours=25)).isoformat()
    today = (datetime.now(UTC) - timedelta(hours=23)).isoformat()
    lines = [{**event("old"), "received_at": yesterday}, {**event("young"), "received_at": today}]
    (plain / "x.ndjson").write_text("\n".join(map(json.dumps, lines)))
    paystorm(plain, "send", "purchase", str(plain / "x.ndjson"))
    served = start(plain, key)
    running.append(served)
    served.batch([event("old"), event("young")])
    counts = [r["id"] for r in served.records()]
    assert (counts.count("old"), counts.count("young")) == (2, 1)


def test_without_the_log_events_are_refused_until_it_is_back(plain: Path, running: list[Served]) -> None:
    served = start(plain, make_key(plain))
    running.append(served)
    first = served.post(event("before")).json()
    topic = served.data / "log" / "purchase"
    topic.rename(topic.with_name("~away"))
    refused = served.post(event("meanwhile"))
    assert refused.status == 503
    assert refused.headers["retry-after"] == "2"
    assert served.request("GET", "/readyz").status == 503
    assert served.request("GET", "/healthz").status == 200
    topic.with_name("~away").rename(topic)
    served.wait_until_ready()
    assert served.post(event("meanwhile")).status == 202
    assert served.post(event("before")).json() == first
    assert sorted(r["id"] for r in served.records()) == ["before", "meanwhile"]


def test_sigterm_finishes_what_is_being_sent(plain: Path, running: list[Served]) -> None:
    served = start(plain, make_key(plain))
    running.append(served)
    begun, ended = threading.Event(), []

    def chunks() -> Iterator[bytes]:
        for i in range(1200):
            if i == 600:
                begun.set()
                time.sleep(1.0)
            yield json.dumps(event(f"slow-{i}")).encode() + b"\n"

    def send() -> None:
        ended.append(served.request("POST", "/v1/events:batch", chunks(), media=NDJSON))

    thread = threading.Thread(target=send)
    thread.start()
    assert begun.wait(30)
    assert served.end() == 0
    thread.join(30)
    assert (ended[0].status, ended[0].json()["accepted"]) == (202, 1200)
    assert len(served.records()) == 1200


def test_a_revoked_key_is_refused_and_none_is_stored_readably(plain: Path, running: list[Served]) -> None:
    key = make_key(plain)
    served = start(plain, key)
    running.append(served)
    [row] = json.loads(paystorm(plain, "keys", "list", "--json"))
    assert served.post(event("a")).status == 202
    paystorm(plain, "keys", "revoke", row["id"])
    until = time.monotonic() + 5
    while served.post(event("a")).status != 401:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert "revoked already" in paystorm(plain, "keys", "revoke", row["id"], code=2)
    served.end()
    secret = key.rsplit("_", 1)[-1].encode()
    for path in served.data.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path


def test_an_access_log_that_cannot_be_written_any_more_keeps_no_key_alive(plain: Path, running: list[Served]) -> None:
    key = make_key(plain)
    folder = plain / "access"
    served = start(plain, key, "--access-log", str(folder / "x.log"))
    running.append(served)
    shutil.rmtree(folder)
    folder.write_text("a file is in the way")
    assert served.post(event("a")).status == 202
    until = time.monotonic() + 20
    while not any("housekeeping" in line for line in served.lines):
        assert time.monotonic() < until
        time.sleep(0.1)
    [row] = json.loads(paystorm(plain, "keys", "list", "--json"))
    paystorm(plain, "keys", "revoke", row["id"])
    until = time.monotonic() + 20
    while served.post(event("a")).status != 401:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert served.end() == 0


def test_over_tls_only_those_with_a_certificate_where_it_is_asked_for(plain: Path, running: list[Served]) -> None:
    certificate, key_file = plain / "cert.pem", plain / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key_file, "-out", certificate,
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
        timeout=60,
    )  # fmt: skip
    key = make_key(plain)
    served = start(
        plain, key, "--tls-cert", str(certificate), "--tls-key", str(key_file), "--tls-client-ca", str(certificate)
    )
    running.append(served)
    context = ssl.create_default_context(cafile=certificate)

    def health() -> int:
        connection = http.client.HTTPSConnection("127.0.0.1", served.port, context=context, timeout=20)
        connection.request("GET", "/healthz")
        return connection.getresponse().status

    with pytest.raises((ssl.SSLError, ConnectionError)):
        health()
    context.load_cert_chain(certificate, key_file)
    assert health() == 200
    with pytest.raises((OSError, Exception)):
        served.request("GET", "/healthz")


def test_bad_usage_is_told_in_one_line(plain: Path) -> None:
    (plain / "cert.pem").touch()
    assert "--tls-key nofile: no such file" in paystorm(
        plain, "serve", "--tls-cert", str(plain / "cert.pem"), "--tls-key", "nofile", code=2
    )
    assert "--tls-cert and --tls-key" in paystorm(plain, "serve", "--tls-cert", "x", code=2)
    assert "everybody could send" in paystorm(plain, "serve", "--host", "0.0.0.0", "--without-keys", code=2)
    assert "not configured" in paystorm(plain, "keys", "add", "x", "--application", "nobody", code=2)
    config = json.loads((plain / "config.json").read_text())
    config["ingest"] = {"maxIds": 0}
    (plain / "config.json").write_text(json.dumps(config))
    assert "config.json: ingest.maxIds must be a whole number >= 1, got 0" in paystorm(plain, "serve", code=2)
    config["ingest"], config["approvals"] = {}, {"lists": "yes"}
    (plain / "config.json").write_text(json.dumps(config))
    (told,) = paystorm(plain, "serve", code=2).splitlines()
    assert "approvals.lists must be true or false" in told
