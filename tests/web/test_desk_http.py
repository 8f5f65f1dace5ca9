"""The desk over HTTP: a real service, keys of every role, and what each may do."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.web.served import JSON, Answer, Served, event, make_key, make_project, paystorm, start


class Desk:
    """A service, and a key for each role."""

    def __init__(self, root: Path) -> None:
        self.project = make_project(root)
        config = json.loads((self.project / "config.json").read_text())
        config["approvals"] = {"lists": True}
        (self.project / "config.json").write_text(json.dumps(config))
        roles = ("ingest", "analyst", "approver", "admin")
        self.keys = {role: make_key(self.project, "--all-applications", "--role", role) for role in roles}
        self.keys["some"] = make_key(self.project, "--application", "shop", "--role", "analyst")
        self.served: Served = start(self.project, self.keys["ingest"])

    def get(self, path: str, role: str = "analyst") -> Answer:
        return self.served.request("GET", path, key=self.keys[role])

    def post(self, path: str, body: Any, role: str = "analyst") -> Answer:
        return self.served.request("POST", path, json.dumps(body).encode(), media=JSON, key=self.keys[role])

    def told(self, answer: Answer, status: int = 200) -> Any:
        assert answer.status == status, answer.body
        return answer.json()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("desk"))
    for n in range(40):
        made.served.post(event(f"e{n}", from_party="a/b", to_party=f"m{n % 4}", event_time=f"2026-01-01T00:{n:02}:00Z"))
    made.served.post(event("bad", from_party="u2", amount="-1", currency="EUR"))
    paystorm(made.project, "run", "purchase", "--until-idle")
    yield made
    assert made.served.end() == 0


def test_each_role_may_do_its_own(desk: Desk) -> None:
    for path in ("/v1/dead-letters", "/v1/lists", "/v1/cases", "/v1/lists/proposals", "/v1/lists/breakers"):
        assert [desk.get(path, role).status for role in ("ingest", "some", "analyst", "approver", "admin")] == [
            403,
            403,
            200,
            200,
            200,
        ]
        assert desk.served.request("GET", path, key="").status == 401
    body = {"reason": "x", "kind": "account", "party": "u1"}
    assert desk.post("/v1/lists:add", body, "ingest").status == 403
    assert desk.post("/v1/lists/proposals/x:approve", {"reason": "x"}, "analyst").status == 403
    assert desk.post("/v1/lists/breakers/purchase/x:close", {"reason": "x"}, "analyst").status == 403


def test_a_letter_is_found_mended_and_replayed(desk: Desk) -> None:
    found = desk.told(desk.get("/v1/dead-letters?code=negative&where=source%20%3D%20%27purchase%27"))
    (letter,) = found["letters"]
    (cause,) = desk.told(desk.get("/v1/dead-letters?causes=true"))["causes"]
    assert (found["total"], letter["code"], cause["count"]) == (1, "negative", 1)
    body = {"letters": [letter["letter"]], "reason": "the sign", "set": {"data.amount": 12.25}}
    assert desk.told(desk.post("/v1/dead-letters:mend", {**body, "dry_run": True}))["done"][0]["sent_as"] is None
    assert desk.told(desk.post("/v1/dead-letters:replay", {"all": True, "reason": "try"}))["refused"]
    (done,) = desk.told(desk.post("/v1/dead-letters:mend", body))["done"]
    assert '+    "amount": 12.25' in [line.rstrip(",") for line in done["difference"]]
    view = desk.told(desk.get(f"/v1/dead-letters/{letter['letter']}"))
    assert (view["state"], view["replays"][0]["offset"]) == ("replayed", done["sent_as"])
    assert view["acts"][0]["by"] != ""
    assert desk.told(desk.post("/v1/dead-letters:discard", {"all": True, "reason": "x"}))["done"] == []


def test_a_case_is_decided_with_a_second_person(desk: Desk) -> None:
    (case,) = desk.told(desk.get("/v1/cases?status=open"))["cases"]
    assert case["party"] == "a/b"
    view = desk.told(desk.get("/v1/cases/account/a%2Fb?events=2"))
    assert len(view["newest_events"]) == 2
    assert view["dealt_with"][0]["party"] == "m0"
    body = {"kind": "account", "party": "a/b", "decision": "false_alarm", "reason": "ours", "lift": True}
    proposal = desk.told(desk.post("/v1/cases:decide", body, "approver"))
    assert proposal["state"] == "open"
    where = f"/v1/lists/proposals/{proposal['id']}"
    assert desk.post(f"{where}:approve", {"reason": "me too"}, "approver").status == 409
    assert desk.post(f"{where}:reject", {"reason": "no"}, "analyst").status == 403
    assert desk.told(desk.post(f"{where}:approve", {"reason": "yes"}, "admin"))["state"] == "applied"
    assert desk.told(desk.get("/v1/cases?status=false_alarm"))["total"] == 1
    entries = desk.told(desk.get("/v1/lists?kind=account&party=a%2Fb"))["entries"]
    assert [e["state"] for e in entries] == ["lifted"]
    history = desk.told(desk.get("/v1/lists/history?kind=account&party=a%2Fb"))["history"]
    assert [r["what"] for r in history] == ["hit", "proposed", "approved", "decided", "lifted"]


def test_an_own_proposal_can_be_recalled(desk: Desk) -> None:
    body = {"kind": "account", "party": "u7", "reason": "typo", "expires": "7d"}
    proposal = desk.told(desk.post("/v1/lists:allow", body))
    assert proposal["acts"][0]["expires_at"].endswith("Z")
    assert desk.told(desk.post(f"/v1/lists/proposals/{proposal['id']}:reject", {"reason": "x"}))["state"] == "recalled"
    assert desk.told(desk.get("/v1/lists/proposals"))["proposals"] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/dead-letters/purchase/0/999", 404),
        ("/v1/dead-letters/purchase/0/99999999999999999999", 404),
        ("/v1/dead-letters?limit=x", 422),
        ("/v1/dead-letters?nope=1", 422),
        ("/v1/dead-letters?where=nope", 422),
        ("/v1/dead-letters?state=x", 422),
        ("/v1/dead-letters?since=x", 422),
        ("/v1/cases?sort=x", 422),
        ("/v1/cases/account/nobody", 404),
        ("/v1/cases/account", 404),
        ("/v1/lists?kind=planet", 422),
        ("/v1/lists?party=", 422),
        ("/v1/cases/account/a%2Fb?since=", 422),
        ("/v1/cases/account/a%2Fb?since=0001-01-01T00:00:00%2B14:00", 422),
        ("/v1/lists/history?kind=account", 422),
    ],
)
def test_what_cannot_be_meant_is_a_problem_document(desk: Desk, path: str, status: int) -> None:
    answer = desk.get(path)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/lists:add", {"kind": "account", "party": "u1", "reason": " "}, 422),
        ("/v1/lists:add", {"kind": "account", "party": "u1", "reason": "x", "by": "somebody"}, 422),
        ("/v1/lists:add", {"kind": "account", "party": "", "reason": "x"}, 422),
        ("/v1/lists:lift", {"kind": "account", "party": "nobody", "reason": "x"}, 404),
        ("/v1/lists:lift", {"kind": "account", "party": "u1", "reason": "x", "expires": "7d"}, 422),
        ("/v1/cases:decide", {"kind": "account", "party": "u1", "decision": "guilty", "reason": "x"}, 422),
        ("/v1/cases:decide", {"kind": "account", "party": "u1", "decision": "confirmed", "reason": "x"}, 404),
        ("/v1/dead-letters:replay", {"reason": "x"}, 422),
        ("/v1/dead-letters:mend", {"reason": "x", "all": True}, 422),
        ("/v1/dead-letters:replay", {"reason": "x", "all": True, "max": 0}, 422),
        ("/v1/dead-letters:replay", [], 422),
    ],
)
def test_a_body_that_cannot_be_meant_is_refused(desk: Desk, path: str, body: Any, status: int) -> None:
    assert desk.post(path, body).status == status, desk.post(path, body).body
    assert desk.served.request("POST", path, b"{", media=JSON, key=desk.keys["analyst"]).status == 400
    assert desk.served.request("POST", path, b"{}", media="text/plain", key=desk.keys["analyst"]).status == 415
