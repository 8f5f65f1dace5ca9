"""The service does what its description says: schemathesis finds nothing, and every route is described."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from paystorm.desk import openapi
from paystorm.desk.http import routes
from paystorm.ingest.app import build_app
from paystorm.ingest.describing import Part
from paystorm.ingest.openapi import document
from paystorm.ingest.problems import KINDS
from paystorm.ingest.service import Service
from paystorm.ingest.settings import IngestSettings
from paystorm.ingest.verdicts_api import ONE, STREAM
from tests.web.served import Served, event, make_key, make_project, paystorm, start

MISSING = importlib.util.find_spec("schemathesis") is None

CASE = "/v1/cases/{kind}/{party}"
CONFIG = """
# Each event of a batch is answered by itself: 207 tells of those that were refused.
[checks.negative_data_rejection]
expected-statuses = [207, 400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]

# What a schema cannot say: a condition in SQL, a choice of letters, an expiry that lies ahead, what fits a decision.
[[operations]]
include-path = ["/v1/dead-letters", "/v1/dead-letters:replay", "/v1/dead-letters:mend", "/v1/dead-letters:discard",
                "/v1/lists:add", "/v1/lists:allow", "/v1/cases:decide"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422", "5xx"]

# A header whose pattern has groups: schemathesis sends 0 as one that fits it.
[[operations]]
include-path = "/v1/verdicts/{ApplicationRef}"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422", "5xx"]
"""


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Served]:
    """A service with letters, cases and lists, whose long-polls and streams are over soon."""
    project = make_project(tmp_path / "project", {"waitSeconds": 0.2, "streamSeconds": 0.2})
    made = start(project, make_key(project, "--all-applications", "--role", "admin"))
    times = [f"2026-01-01T00:{n:02}:00Z" for n in range(40)]
    events = [event(f"e{n}", from_party="u/1", to_party=f"m{n % 4}", event_time=at) for n, at in enumerate(times)]
    made.batch([*events, event("bad", from_party="u2", amount="-1", currency="EUR")])
    paystorm(project, "run", "purchase", "--until-idle")
    yield made
    assert made.end() == 0


@pytest.mark.skipif(MISSING and os.environ.get("CI") != "true", reason="schemathesis is not installed")
def test_schemathesis_finds_nothing(quick: Served) -> None:
    (quick.project / "schemathesis.toml").write_text(CONFIG)
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{quick.port}/openapi.json",
        "--header", f"Authorization: Bearer {quick.key}", "--checks", "all", "--max-examples", "10",
        "--request-timeout", "30", "--seed", "1", "--no-color", "--workers", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=600, check=False, cwd=quick.project)
    assert done.returncode == 0, done.stdout.decode()[-12_000:] + done.stderr.decode()[-2000:]


def described(served: Served) -> dict[str, Any]:
    """The description."""
    return dict(served.request("GET", "/openapi.json").json())


def test_every_problem_is_described(served: Served) -> None:
    found = described(served)
    assert set(found["components"]["responses"]) == {f"Problem{kind.status}" for kind in KINDS.values()}
    assert set(found["components"]["schemas"]["ApplicationRef"]["enum"]) >= {"shop", "wallet", "refunds"}


def test_every_path_is_a_route_and_every_route_is_described() -> None:
    parts = [Part(routes(cast(Any, None), cast(Any, None)), openapi.paths())]
    document_of = document(["shop"], keys=True, max_wait=1, more=parts)
    told = {(path, method.upper()) for path, methods in document_of["paths"].items() for method in methods}
    service = Service.__new__(Service)
    service.setup = cast(Any, SimpleNamespace(ask_for_keys=True))
    service.settings, service.routes = IngestSettings(), {}
    made = cast(Any, build_app(service, parts))._app.routes
    there = {(pattern, m) for route in made for pattern in patterns(route) for m in route.methods - {"HEAD"}}
    assert there == told


def patterns(route: Any) -> list[str]:
    """A route's path as the description has it."""
    if route.path.endswith("{rest:path}"):  # by its parts as they were sent
        return {"/v1/verdicts/": [ONE, STREAM], "/v1/cases/": [CASE]}[route.path.removesuffix("{rest:path}")]
    return [re.sub(r":int}", "}", route.path)]


@pytest.mark.parametrize("path", sorted(openapi.paths()))
def test_every_end_point_of_the_desk_asks_for_a_key(served: Served, path: str) -> None:
    (method,) = openapi.paths()[path]
    sent = re.sub(r"{(partition|offset)}", "1", path).replace("{", "").replace("}", "")
    assert served.request(method.upper(), sent, b"{}", media="application/json", key="").status == 401
    assert served.request("DELETE", sent).status == 405


def test_the_answers_of_the_desk_have_the_members_that_are_described(quick: Served) -> None:
    schemas = described(quick)["components"]["schemas"]

    def check(name: str, value: Any) -> None:
        assert set(value) == set(schemas[name]["properties"]), name

    def get(path: str) -> Any:
        answer = quick.request("GET", path)
        assert answer.status == 200, answer.body
        return answer.json()

    def post(path: str, **body: Any) -> Any:
        answer = quick.request("POST", path, json.dumps({"reason": "x", **body}).encode(), media="application/json")
        assert answer.status == 200, answer.body
        return answer.json()

    party = {"kind": "account", "party": "u/1"}
    proposal = post("/v1/lists:confirm", **party)
    check("Proposal", proposal)
    check("Act", {**proposal["acts"][0], "type": "act"})
    check("Decision", post("/v1/cases:decide", **party, decision="confirmed")["decision"])
    case = get("/v1/cases/account/u%2F1")
    check("Case", case)
    for name, members in (("Entry", "entries"), ("Hit", "hits"), ("Count", "counts"), ("DealtWith", "dealt_with")):
        check(name, case[members][0])
    check("Decision", case["decisions"][0])
    check("CaseRow", get("/v1/cases")["cases"][0])
    check("HistoryRow", get("/v1/lists/history?kind=account&party=u%2F1")["history"][0])
    check("Entry", get("/v1/lists")["entries"][0])
    (letter,) = get("/v1/dead-letters")["letters"]
    check("LetterRow", letter)
    check("Letter", get(f"/v1/dead-letters/{letter['letter']}"))
    check("Cause", get("/v1/dead-letters?causes=true")["causes"][0])
    check("Acted", post("/v1/dead-letters:discard", letters=[letter["letter"]]))
