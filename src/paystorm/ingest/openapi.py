"""The description of the end points (OpenAPI 3.1), with the applications of this environment in it."""

from collections.abc import Sequence

from paystorm import __version__
from paystorm.ingest.describing import (
    WITH_RETRY,
    Json,
    Part,
    answers,
    content,
    members,
    parameter,
    problems,
    ref,
    retry,
)
from paystorm.ingest.envelope import OURS
from paystorm.ingest.problems import MEDIA_TYPE
from paystorm.ingest.verdicts_api import ONE, STREAM
from paystorm.source import ID_MAX

CURSOR: Json = {"type": "string", "pattern": "^[0-9]{1,5}:[0-9]{1,18}(,[0-9]{1,5}:[0-9]{1,18})*$"}
"""A place in a verdict topic: of each partition the next offset."""


def document(applications: Sequence[str], *, keys: bool, max_wait: float, more: Sequence[Part] = ()) -> Json:
    """The document. `keys`: API keys are asked for; `max_wait`: seconds of a long-poll; `more`: other parts."""
    described: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "paystorm",
            "version": __version__,
            "description": "Events and verdicts: docs/ingest.md. Lists, cases, dead letters: docs/investigation.md.",
        },
        "paths": _paths(max_wait) | {path: said for part in more for path, said in part.paths.items()},
        "components": {
            "schemas": _schemas(applications) | {name: said for part in more for name, said in part.schemas.items()},
            "responses": problems(),
        },
    }
    if keys:
        described["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"apiKey": []}]
    return described


def _paths(max_wait: float) -> Json:
    taken = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503)
    batch_problem = {
        str(status): {
            "description": "The whole batch was refused, or each of its events with this status: then with results.",
            "content": content({"anyOf": [ref("Problem"), ref("RefusedBatch")]}, MEDIA_TYPE),
            **({"headers": retry()} if status in WITH_RETRY else {}),
        }
        for status in (400, 403, 409, 413, 422, 429, 503)
    }
    application = parameter("ApplicationRef", "path", ref("ApplicationRef"), "The application.")
    wait = parameter(
        "wait", "query", {"type": "number", "minimum": 0, "maximum": max_wait}, "Seconds to wait while it is pending."
    )
    return {
        "/v1/events": {
            "post": {
                "operationId": "postEvent",
                "summary": "Append an event to its source's log.",
                "requestBody": {
                    "required": True,
                    "content": {
                        **content(ref("Event")),
                        **content(ref("CloudEvent"), "application/cloudevents+json"),
                    },
                },
                "responses": answers(
                    {"202": {"description": "The log has it, durably.", "content": content(ref("Accepted"))}},
                    (*taken, 409),
                ),
            }
        },
        "/v1/events:batch": {
            "post": {
                "operationId": "postEvents",
                "summary": "Append many events; each has an answer of its own.",
                "requestBody": {
                    "required": True,
                    "content": {
                        **content({"type": "array", "items": ref("Event")}),
                        **content({"type": "array", "items": ref("CloudEvent")}, "application/cloudevents-batch+json"),
                        **content({"type": "string", "description": "An event a line."}, "application/x-ndjson"),
                    },
                },
                "responses": answers(
                    {
                        "202": {"description": "The log has them all.", "content": content(ref("Batch"))},
                        "207": {"description": "The answers differ.", "content": content(ref("Batch"))},
                        **batch_problem,
                    },
                    (401, 408, 415, 500),
                ),
            }
        },
        ONE: {
            "get": {
                "operationId": "getVerdict",
                "summary": "The verdict of an event.",
                "parameters": [
                    application,
                    parameter("id", "path", {"type": "string", "minLength": 1, "maxLength": ID_MAX}, "The event's id."),
                    wait,
                ],
                "responses": answers(
                    {"200": {"description": "What is known.", "content": content(ref("Verdict"))}},
                    (401, 403, 404, 422, 500, 503),
                ),
            }
        },
        STREAM: {
            "get": {
                "operationId": "streamVerdicts",
                "summary": "The application's verdicts as they come (server-sent events), at least once each.",
                "parameters": [
                    application,
                    parameter("from", "query", {"enum": ["start", "end"]}, "Where to begin without a cursor."),
                    parameter("after", "query", CURSOR, "The id of the last event seen, as Last-Event-ID."),
                    parameter("Last-Event-ID", "header", CURSOR, "The id of the last event seen."),
                ],
                "responses": answers(
                    {
                        "200": {
                            "description": "Events `ready` (the place to begin at) and `verdict`; comments between.",
                            "content": content(ref("StreamedEvent"), "text/event-stream"),
                        }
                    },
                    (401, 403, 404, 422, 500, 503),
                ),
            }
        },
        "/healthz": _plain("getHealth", "Whether the process answers.", ref("Status"), ()),
        "/readyz": _plain("getReadiness", "Whether events are taken.", ref("Status"), (503,)),
        "/metrics": _plain("getMetrics", "Figures for Prometheus.", {"type": "string"}, (), "text/plain"),
        "/openapi.json": _plain("getDescription", "This document.", {"type": "object"}, ()),
    }


def _plain(
    operation: str, summary: str, schema: Json, problems: Sequence[int], media: str = "application/json"
) -> Json:
    said = answers({"200": {"description": summary, "content": content(schema, media)}}, problems)
    return {"get": {"operationId": operation, "summary": summary, "security": [], "responses": said}}


def _cloud_event(event_id: Json, required: Sequence[str], source: Json, reference: Json) -> Json:
    properties = {
        "specversion": {"const": "1.0"},
        "id": event_id,
        "source": source,
        "applicationref": reference,
        "type": {"type": "string", "minLength": 1},
        "datacontenttype": {"enum": ["application/json", None]},
        "data": {"type": "object"},
    }
    return members(["specversion", "id", "type", "data", *required], properties)


def _schemas(applications: Sequence[str]) -> Json:
    event_id = {"type": "string", "minLength": 1, "maxLength": ID_MAX}
    some: Json = {"type": "string", "minLength": 1}
    whole = {"type": "integer", "minimum": 0}
    place = {"id": {"type": "string"}, "topic": {"type": "string"}, "partition": whole, "offset": whole}
    problem = {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    }
    accepted = {"status": {"const": 202}, **place}
    results = {"type": "array", "items": {"anyOf": [members(["status", *place], accepted), ref("Problem")]}}
    counted = {"accepted": whole, "rejected": whole, "results": results}
    return {
        "ApplicationRef": {"enum": list(applications)},
        "Event": members(
            ["ApplicationRef", "data"],
            {
                "ApplicationRef": ref("ApplicationRef"),
                "id": {**event_id, "type": ["string", "null"]},
                "data": {"type": "object", "description": "What the source declares; other fields are kept."},
                **{name: {"type": "null", "description": "Written by paystorm only."} for name in OURS},
            },
            description="Without an id it is given one, and a repeat cannot be told. Other members are kept.",
        ),
        "CloudEvent": {
            "description": "CloudEvents 1.0: `source` is the application, unless `applicationref` names it.",
            "anyOf": [
                _cloud_event(event_id, ["source"], ref("ApplicationRef"), {"type": "null"}),
                _cloud_event(event_id, ["source", "applicationref"], some, ref("ApplicationRef")),
            ],
        },
        "Accepted": members(list(place), place),
        "Batch": members(list(counted), counted),
        "RefusedBatch": members([*problem, *counted], problem | counted),
        "Problem": members(list(problem), problem, description="RFC 9457"),
        "Verdict": members(
            ["ApplicationRef", "id", "verdict"],
            {
                "ApplicationRef": {"type": "string"},
                **place,
                "verdict": {"enum": ["accepted", "denied", "caught_late", "dead_lettered", "pending", "unknown"]},
                "reason": {"type": ["string", "null"]},
                "entry": {"type": ["string", "null"]},
                "would_deny": {"type": "boolean"},
                "replayed_as": whole,
            },
        ),
        "StreamedEvent": members(
            ["id", "event", "data"],
            {
                "id": CURSOR,
                "event": {"enum": ["ready", "verdict"]},
                "data": {"type": "string", "description": "Of a verdict: JSON, as its topic has it."},
            },
        ),
        "Status": members(["status"], {"status": {"type": "string"}}),
    }
