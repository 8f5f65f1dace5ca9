"""Verdicts over HTTP: by id, with a wait, as a stream; from a real run of the topology."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paystorm.clock import SystemClock
from paystorm.log.base import OutRecord
from paystorm.log.embedded import EmbeddedLog
from paystorm.verdicts import VerdictLog, verdict_record
from tests.web.served import Served, event, make_key, make_project, paystorm, start


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    project = make_project(tmp_path_factory.mktemp("verdicts"), options={"publishAccepted": False})
    made = start(project, make_key(project))
    yield made
    assert made.end() == 0


def publish(served: Served, answer: dict[str, object], verdict: str, reason: str | None = None) -> OutRecord:
    """A verdict as the warehouse publishes it."""
    record = verdict_record(
        application="shop",
        event_id=str(answer["id"]),
        topic=str(answer["topic"]),
        partition=int(str(answer["partition"])),
        offset=int(str(answer["offset"])),
        verdict=verdict,  # type: ignore[arg-type]
        reason=reason,
        entry=("account", "u1") if verdict == "denied" else None,
    )
    VerdictLog(EmbeddedLog(served.data / "log", SystemClock()), "purchase", "purchase").append([record])
    return record


def until(served: Served, event_id: str, verdict: str) -> dict[str, object]:
    deadline = time.monotonic() + 20
    while (found := served.verdict(event_id).json())["verdict"] != verdict:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return dict(found)


def test_a_run_of_the_topology_gives_every_verdict(own: Served) -> None:
    own.post(event("good", from_party="u2"))
    own.post(event("bad", from_party="u-listed"))
    own.post({"ApplicationRef": "shop", "id": "dead", "data": {"from_party": "u3"}})
    assert own.verdict("good").json()["verdict"] == "pending"
    assert own.verdict("other").json() == {"ApplicationRef": "shop", "id": "other", "verdict": "unknown"}
    paystorm(own.project, "lists", "add", "account", "u-listed", "--reason", "test")
    paystorm(own.project, "run", "purchase", "--until-idle")
    denied = until(own, "bad", "denied")
    assert denied["entry"] == "account:u-listed"
    dead = until(own, "dead", "dead_lettered")
    assert dead["reason"] == "event_time: missing"
    # Accepted verdicts are not published here: it follows from the committed offset.
    assert until(own, "good", "accepted")["reason"] is None


def test_a_verdict_is_found_after_a_restart(own: Served) -> None:
    answer = own.post(event("kept")).json()
    publish(own, answer, "denied", "rule")
    until(own, "kept", "denied")
    own.kill()
    again = start(own.project, own.key)
    own.process, own.port = again.process, again.port
    assert until(own, "kept", "denied")["reason"] == "rule"


def test_a_long_poll_ends_with_the_verdict(own: Served) -> None:
    answer = own.post(event("polled")).json()
    began = time.monotonic()
    assert own.verdict("polled", query="?wait=0.5").json()["verdict"] == "pending"
    assert 0.4 < time.monotonic() - began < 10
    timer = threading.Timer(0.7, lambda: publish(own, answer, "denied"))
    timer.start()
    found = own.verdict("polled", query="?wait=30").json()
    timer.join()
    assert found["verdict"] == "denied"
    assert time.monotonic() - began < 20
    assert own.verdict("polled", query="?wait=61").status == 422


def test_caught_late_is_not_covered_by_accepted(own: Served) -> None:
    answer = own.post(event("late")).json()
    publish(own, answer, "accepted")
    until(own, "late", "accepted")
    publish(own, answer, "caught_late")
    until(own, "late", "caught_late")
    publish(own, answer, "accepted")
    time.sleep(0.5)
    assert own.verdict("late").json()["verdict"] == "caught_late"


class Stream:
    """A client of the stream."""

    def __init__(self, served: Served, query: str = "", last: str | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        headers = {"Authorization": f"Bearer {served.key}"} | ({"Last-Event-ID": last} if last else {})
        self._connection.request("GET", f"/v1/verdicts/shop{query}", headers=headers)
        self.answer = self._connection.getresponse()

    def next(self) -> dict[str, str]:
        """The next event."""
        found: dict[str, str] = {}
        while line := self.answer.readline().decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            found[name] = value
        return found if found and "" not in found else self.next()

    def close(self) -> None:
        """Go away."""
        self._connection.close()


def test_a_stream_is_resumed_where_it_was_left(own: Served) -> None:
    stream = Stream(own)
    assert stream.answer.getheader("content-type", "").startswith("text/event-stream")
    ready = stream.next()
    assert ready["event"] == "ready"
    answers = [own.post(event(f"streamed-{i}", from_party=f"u{i}")).json() for i in range(6)]
    records = [publish(own, answer, "denied") for answer in answers]
    seen = [stream.next() for _ in range(3)]
    stream.close()
    again = Stream(own, last=seen[-1]["id"])
    assert again.next()["event"] == "ready"
    seen += [again.next() for _ in range(3)]
    again.close()
    assert sorted(e["data"] for e in seen) == sorted(r.value.decode() for r in records)
    from_the_first = Stream(own, f"?after={ready['id']}")
    from_the_first.next()
    assert from_the_first.next()["data"] == seen[0]["data"]
    from_the_first.close()
    assert Stream(own, last="nonsense").answer.status == 422


def test_a_reader_that_comes_again_after_a_kill_misses_no_verdict(tmp_path: Path) -> None:
    """The service is killed while a reader reads and verdicts are published; the reader goes on from its last id."""
    project = make_project(tmp_path / "p")
    served = start(project, make_key(project))
    answers = served.batch([event(f"k{i}", from_party=f"u{i}") for i in range(300)]).json()["results"]
    stream = Stream(served)
    last = stream.next()["id"]
    seen: list[str] = []
    published: list[str] = []
    done = threading.Event()

    def publish_all() -> None:
        for answer in answers:
            published.append(publish(served, answer, "denied").value.decode())
            time.sleep(0.005)
        done.set()

    publishing = threading.Thread(target=publish_all)
    publishing.start()
    for stop in (40, 90, 160):
        while len(set(seen)) < stop:
            told = stream.next()
            last = told["id"]
            if told["event"] == "verdict":
                seen.append(told["data"])
        served.kill()
        stream.close()
        served = start(project, served.key)
        stream = Stream(served, last=last)
    publishing.join(120)
    assert done.is_set()
    while len(set(seen)) < len(answers):
        told = stream.next()
        seen += [told["data"]] if told["event"] == "verdict" else []
    stream.close()
    assert served.end() == 0
    assert set(seen) == set(published)
    assert len(seen) == len(published), "an id that was seen is not sent again"


def test_a_stream_ends_with_its_key_and_with_its_time(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", {"streamSeconds": 6})
    served = start(project, make_key(project))
    short, revoked = Stream(served), Stream(served)
    short.next()
    began = time.monotonic()
    assert short.answer.read() == b""
    assert time.monotonic() - began < 30
    revoked.close()
    gone = Stream(served)
    gone.next()
    [row] = json.loads(paystorm(project, "keys", "list", "--json"))
    began = time.monotonic()
    paystorm(project, "keys", "revoke", row["id"])
    assert gone.answer.read() == b""
    assert Stream(served).answer.status == 401
    assert served.end() == 0


def test_a_stream_holds_only_verdicts_of_its_application(own: Served) -> None:
    stream = Stream(own, "?from=start")
    stream.next()
    mine = json.loads(stream.next()["data"])
    assert mine["ApplicationRef"] == "shop"
    stream.close()
    assert own.request("GET", "/v1/verdicts/nobody").status == 422


def test_the_end_of_the_service_ends_the_streams(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", {"maxStreams": 1})
    served = start(project, make_key(project))
    stream = Stream(served)
    stream.next()
    refused = Stream(served)
    assert refused.answer.status == 503
    refused.close()
    began = time.monotonic()
    assert served.end() == 0
    assert time.monotonic() - began < 15
    assert stream.answer.read() == b""
