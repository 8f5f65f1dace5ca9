"""Events over HTTP: accepted once, answered from the log, refused with reasons."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.web.served import NDJSON, Served, event, make_key

CLOUD, CLOUD_BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"


def of(served: Served, event_id: str, topic: str = "purchase") -> list[dict[str, object]]:
    return [r for r in served.records(topic) if r.get("id") == event_id]


def test_an_accepted_event_is_in_the_log_with_id_and_time(served: Served) -> None:
    answer = served.post(event("in-the-log", amount=1.50))
    assert answer.status == 202
    [record] = of(served, "in-the-log")
    assert answer.json() == {
        "id": "in-the-log",
        "topic": "purchase",
        "partition": record["partition"],
        "offset": record["offset"],
    }
    assert str(record["received_at"]).endswith("Z")
    assert record["data"] == event("", amount=1.50)["data"]


def test_an_event_without_an_id_is_given_one(served: Served) -> None:
    first, second = (served.post(event(None)).json() for _ in range(2))
    assert first["id"] != second["id"]
    assert len(of(served, first["id"])) == 1


def test_the_application_decides_the_source(served: Served) -> None:
    refund = {"ApplicationRef": "refunds", "id": "a-refund", "data": {"event_time": "2026-01-01T00:00:00Z"}}
    assert served.post(refund).json()["topic"] == "refund"
    assert served.post(event("by-wallet", "wallet")).json()["topic"] == "purchase"


def test_the_same_event_again_gives_the_first_answer_and_no_second_record(served: Served) -> None:
    first = served.post(event("again"))
    assert served.post(event("again")).body == first.body
    [result] = served.batch([event("again")]).json()["results"]
    assert {**first.json(), "status": 202} == result
    assert len(of(served, "again")) == 1


def test_the_same_id_of_another_application_is_another_event(served: Served) -> None:
    assert served.post(event("two-apps", "shop")).json() != served.post(event("two-apps", "wallet")).json()
    assert len(of(served, "two-apps")) == 2


def test_the_same_id_with_other_content_is_a_conflict(served: Served) -> None:
    served.post(event("conflict", amount="1"))
    answer = served.post(event("conflict", amount="2"))
    assert answer.status == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert [r["status"] for r in served.batch([event("conflict"), event("no-conflict")]).json()["results"]] == [
        409,
        202,
    ]
    assert len(of(served, "conflict")) == 1


def test_white_space_and_order_of_members_make_no_other_content(served: Served) -> None:
    first = served.post(b'{"ApplicationRef":"shop","id":"spaced","data":{"a":1,"b":{"c":2,"d":[1]}}}')
    again = served.post(b'{ "data" : {"b": {"d": [1], "c": 2},\n "a": 1}, "id": "spaced", "ApplicationRef": "shop" }')
    assert (again.status, again.body) == (202, first.body)
    assert served.post(b'{"ApplicationRef":"shop","id":"spaced","data":{"a":1.0,"b":{"c":2,"d":[1]}}}').status == 409


def test_the_same_id_twice_in_one_batch_is_one_record(served: Served) -> None:
    results = served.batch([event("twice"), event("twice"), event("twice", amount="9")]).json()["results"]
    assert results[0] == results[1]
    assert [r["status"] for r in results] == [202, 202, 409]
    assert len(of(served, "twice")) == 1


def test_the_same_id_from_many_connections_at_once_is_one_record(served: Served) -> None:
    def send(_: int) -> bytes:
        return served.post(event("at-once")).body

    with ThreadPoolExecutor(16) as threads:
        assert len(set(threads.map(send, range(48)))) == 1
    assert len(of(served, "at-once")) == 1


@pytest.mark.parametrize("media", ["application/json", NDJSON])
def test_a_batch_is_answered_record_by_record_in_its_order(served: Served, media: str) -> None:
    ids = [f"batch-{media}-{i}" for i in range(2500)]
    answer = served.batch([event(i, from_party=f"u{n}") for n, i in enumerate(ids)], media=media)
    assert answer.status == 202
    assert (answer.json()["accepted"], answer.json()["rejected"]) == (2500, 0)
    places = {r["id"]: (r["partition"], r["offset"]) for r in served.records()}
    results = answer.json()["results"]
    assert [r["id"] for r in results] == ids
    assert all(places[r["id"]] == (r["partition"], r["offset"]) for r in results)


def test_a_list_larger_than_what_is_read_at_once_is_streamed(served: Served) -> None:
    long = "é" * 3000
    events = [event(f"large-{i}", message=f"{long}[{{\\", from_party=f"u{i}") for i in range(600)]
    body = json.dumps(events, ensure_ascii=False).encode()
    assert len(body) > 3_000_000
    answer = served.request("POST", "/v1/events:batch", body, media="application/json")
    assert (answer.status, answer.json()["accepted"]) == (202, 600)


def test_a_list_that_breaks_off_late_tells_what_was_taken(served: Served) -> None:
    events = ",".join(json.dumps(event(f"broken-{i}", message="x" * 5000)) for i in range(400))
    answer = served.request("POST", "/v1/events:batch", f"[{events}, nonsense".encode(), media="application/json")
    results = answer.json()["results"]
    assert answer.status == 207
    assert [r["status"] for r in results] == [202] * 400 + [400]


def test_a_small_list_that_is_no_json_is_refused_as_a_whole(served: Served) -> None:
    body = json.dumps([event("none-of-it")])[:-1] + ",}]"
    answer = served.request("POST", "/v1/events:batch", body.encode(), media="application/json")
    assert answer.status == 400
    assert not of(served, "none-of-it")


def test_records_of_a_batch_fail_one_by_one(served: Served) -> None:
    lines = [json.dumps(event("fine")), "nonsense", "", json.dumps(event("lost", "nobody")), json.dumps([1])]
    answer = served.batch("\r\n".join(lines).encode(), media=NDJSON)
    assert answer.status == 207
    assert [r["status"] for r in answer.json()["results"]] == [202, 400, 422, 422]


def test_a_batch_refused_alike_has_that_status(served: Served) -> None:
    answer = served.batch(b"nonsense\n{", media=NDJSON)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.json()["results"]) == 2


def test_an_empty_batch_is_taken(served: Served) -> None:
    assert served.batch([]).json() == {"accepted": 0, "rejected": 0, "results": []}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "not_json"),
        (b"{", 400, "not_json"),
        (b'{"ApplicationRef":"shop","data":{"x":NaN}}', 400, "not_json"),
        (b'{"ApplicationRef":"shop","data":{"x":"\xff"}}', 400, "not_json"),
        (b'{"ApplicationRef":"shop","data":{"x":"\\ud800"}}', 400, "not_json"),
        (b"[]", 422, "invalid_envelope"),
        (b'{"data":{}}', 422, "invalid_envelope"),
        (b'{"ApplicationRef":"shop"}', 422, "invalid_envelope"),
        (b'{"ApplicationRef":"shop","data":[]}', 422, "invalid_envelope"),
        (b'{"ApplicationRef":7,"data":{}}', 422, "invalid_envelope"),
        (b'{"ApplicationRef":"shop","id":"","data":{}}', 422, "invalid_envelope"),
        (b'{"ApplicationRef":"shop","id":1,"data":{}}', 422, "invalid_envelope"),
        (b'{"ApplicationRef":"shop","data":{},"data":{}}', 422, "invalid_envelope"),
        (b'{"ApplicationRef":"shop","data":{},"received_at":"2026-01-01T00:00:00Z"}', 422, "invalid_envelope"),
        (b'{"ApplicationRef":"shop","data":{},"replay_of":{"topic":"t"}}', 422, "invalid_envelope"),
        (b'{"ApplicationRef":"nobody","data":{}}', 422, "unknown_application"),
        (b'{"ApplicationRef":"shop","data":' + b'{"a":' * 70 + b"1" + b"}" * 70 + b"}", 413, "too_deep"),
        (b'{"ApplicationRef":"shop","data":{"a":"' + b"x" * 1_048_576 + b'"}}', 413, "too_large"),
        (b'{"ApplicationRef":"shop","data":{"a":"' + b"x" * 2_000_000 + b'"}}', 413, "too_large"),
    ],
)
def test_what_is_no_event_is_a_problem_document(served: Served, body: bytes, status: int, code: str) -> None:
    answer = served.post(body)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert (problem["type"], problem["status"]) == (f"urn:paystorm:problem:{code}", status)
    assert problem["title"]
    assert problem["detail"]


def test_what_the_topology_judges_is_taken_here(served: Served) -> None:
    assert served.post({"ApplicationRef": "shop", "id": "empty", "data": {}}).status == 202


def test_other_members_of_the_envelope_are_kept(served: Served) -> None:
    assert served.post({**event("kept"), "trace": {"span": [1, "\n"]}}).status == 202
    assert of(served, "kept")[0]["trace"] == {"span": [1, "\n"]}


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
def test_another_media_type_is_refused(served: Served, media: str) -> None:
    assert served.post(event("media"), media=media).status == 415


def test_other_methods_and_paths_are_problem_documents(served: Served) -> None:
    wrong = served.request("PUT", "/v1/events")
    assert (wrong.status, wrong.headers["allow"], wrong.json()["status"]) == (405, "POST", 405)
    assert served.request("GET", "/v2").json()["status"] == 404


def cloud(event_id: str, **more: object) -> dict[str, object]:
    return {"specversion": "1.0", "id": event_id, "source": "shop", "type": "t", "data": event("")["data"], **more}


def test_cloud_events_are_taken_single_and_in_batches(served: Served) -> None:
    first = served.post(cloud("cloudy"), media=CLOUD)
    assert first.json()["id"] == "cloudy"
    assert served.post(event("cloudy")).body == first.body, "the same event in the other form"
    named = cloud("cloudy-2", source="/a/b", applicationref="wallet", time="2026-01-01T00:00:00Z")
    answer = served.batch([cloud("cloudy"), named, cloud("cloudy-3", specversion="0.3")], media=CLOUD_BATCH)
    assert [r["status"] for r in answer.json()["results"]] == [202, 202, 422]
    assert of(served, "cloudy-2")[0]["ApplicationRef"] == "wallet"


def test_a_key_is_needed_and_is_for_its_applications_and_role_only(served: Served) -> None:
    for path in ("/v1/events", "/v1/events:batch"):
        answer = served.request("POST", path, b"{}", media="application/json", key="")
        assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="paystorm"')
    assert served.post(event("x"), key="ps_wrong").status == 401
    shop = make_key(served.project, "--application", "shop")
    analyst = make_key(served.project, "--all-applications", "--role", "analyst")
    time.sleep(1.2)
    assert served.post(event("scoped"), key=shop).status == 202
    assert served.post(event("scoped", "wallet"), key=shop).status == 403
    assert served.verdict("scoped", "wallet", key=shop).status == 403
    assert [r["status"] for r in served.batch([event("s1"), event("s2", "web")], key=shop).json()["results"]] == [
        202,
        403,
    ]
    assert served.post(event("scoped"), key=analyst).status == 403
    assert served.verdict("scoped", key=analyst).status == 200


def test_a_slash_in_an_id_or_a_name_is_sent_percent_encoded(served: Served) -> None:
    served.post(event("a/b?c"))
    assert served.verdict("a%2Fb%3Fc").json()["verdict"] == "pending"
    assert served.verdict("never").json()["verdict"] == "unknown"
    assert served.verdict("never?wait=abc").status == 422


def test_figures_and_description_are_open(served: Served) -> None:
    served.post(event("counted"))
    figures = served.request("GET", "/metrics", key="")
    assert figures.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'paystorm_ingest_events_total{source="purchase",status="202"}' in figures.body
    assert served.request("GET", "/healthz", key="").status == 200
    assert served.request("GET", "/openapi.json", key="").json()["openapi"] == "3.1.0"


def test_the_access_log_holds_no_content_and_no_key(served: Served) -> None:
    served.post(event("secret-id", message="secret-text"))
    served.verdict("secret-id")
    time.sleep(1.2)
    text = (served.data / "logs" / "ingest.log").read_text()
    assert '"route":"/v1/events"' in text
    assert "secret" not in text
    assert served.key not in text
