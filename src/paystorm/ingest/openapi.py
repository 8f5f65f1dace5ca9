"""The description of the end points (OpenAPI 3.1), with the applications of this environment in it."""

from collections.abc import Sequence
from typing import Any

from paystorm import __version__
from paystorm.ingest.envelope import OURS
from paystorm.ingest.problems import KINDS, MEDIA_TYPE
from paystorm.ingest.verdicts_api import ONE, STREAM
from paystorm.source import ID_MAX

Json = dict[str, Any]
_WITH_RETRY = (429, 503)


def document(applications: Sequence[str], *, keys: bool, max_wait: float) -> Json:
    """The document. `keys`: API keys are asked for; `max_wait`: seconds of a long-poll."""
    described: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "paystorm ingest",
            "version": __version__,
            "description": "Events in, verdicts out. docs/ingest.md says more.",
        },
        "paths": _paths(max_wait),
        "components": {"schemas": _schemas(applications), "responses": _problems()},
    }
    if keys:
        described["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"apiKey": []}]
    return described


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Json, media: str = "application/json") -> Json:
    return {media: {"schema": schema}}


def _answers(found: Json, problems: Sequence[int]) -> Json:
    return {**found, **{str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in problems}}


def _paths(max_wait: float) -> Json:
    taken = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503)
    batch_problem = {
        str(status): {
            "description": "The whole batch was refused, or each of its events with this status: then with results.",
            "content": _json({"anyOf": [_ref("Problem"), _ref("RefusedBatch")]}, MEDIA_TYPE),
            **({"headers": _retry()} if status in _WITH_RETRY else {}),
        }
        for status in (400, 403, 409, 413, 422, 429, 503)
    }
    application = _parameter("ApplicationRef", "path", _ref("ApplicationRef"), "The application.")
    wait = _parameter(
        "wait", "query", {"type": "number", "minimum": 0, "maximum": max_wait}, "Seconds to wait while it is pending."
    )
    cursor = {"type": "string", "pattern": "^[0-9]{1,4}:[0-9]{1,15}$"}
    return {
        "/v1/events": {
            "post": {
                "operationId": "postEvent",
                "summary": "Append an event to its source's log.",
                "requestBody": {
                    "required": True,
                    "content": {
                        **_json(_ref("Event")),
                        **_json(_ref("CloudEvent"), "application/cloudevents+json"),
                    },
                },
                "responses": _answers(
                    {"202": {"description": "The log has it, durably.", "content": _json(_ref("Accepted"))}},
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
                        **_json({"type": "array", "items": _ref("Event")}),
                        **_json({"type": "array", "items": _ref("CloudEvent")}, "application/cloudevents-batch+json"),
                        **_json({"type": "string", "description": "An event a line."}, "application/x-ndjson"),
                    },
                },
                "responses": _answers(
                    {
                        "202": {"description": "The log has them all.", "content": _json(_ref("Batch"))},
                        "207": {"description": "The answers differ.", "content": _json(_ref("Batch"))},
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
                    _parameter(
                        "id", "path", {"type": "string", "minLength": 1, "maxLength": ID_MAX}, "The event's id."
                    ),
                    wait,
                ],
                "responses": _answers(
                    {"200": {"description": "What is known.", "content": _json(_ref("Verdict"))}},
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
                    _parameter("from", "query", {"enum": ["start", "end"]}, "Where to begin without a cursor."),
                    _parameter("after", "query", cursor, "The id of the last event seen, as Last-Event-ID."),
                    _parameter("Last-Event-ID", "header", cursor, "The id of the last event seen."),
                ],
                "responses": _answers(
                    {
                        "200": {
                            "description": "Events `ready` (the place to begin at) and `verdict`; comments between.",
                            "content": _json({"type": "string"}, "text/event-stream"),
                        }
                    },
                    (401, 403, 404, 422, 500, 503),
                ),
            }
        },
        "/healthz": _plain("getHealth", "Whether the process answers.", _ref("Status"), ()),
        "/readyz": _plain("getReadiness", "Whether events are taken.", _ref("Status"), (503,)),
        "/metrics": _plain("getMetrics", "Figures for Prometheus.", {"type": "string"}, (), "text/plain"),
        "/openapi.json": _plain("getDescription", "This document.", {"type": "object"}, ()),
    }


def _plain(
    operation: str, summary: str, schema: Json, problems: Sequence[int], media: str = "application/json"
) -> Json:
    answers = _answers({"200": {"description": summary, "content": _json(schema, media)}}, problems)
    return {"get": {"operationId": operation, "summary": summary, "security": [], "responses": answers}}


def _parameter(name: str, where: str, schema: Json, text: str) -> Json:
    return {"name": name, "in": where, "required": where == "path", "schema": schema, "description": text}


def _retry() -> Json:
    return {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait before another try."}}


def _problems() -> Json:
    out: Json = {}
    for status in sorted({kind.status for kind in KINDS.values()}):
        titles = " ".join(kind.title for kind in KINDS.values() if kind.status == status)
        out[f"Problem{status}"] = {
            "description": titles,
            "content": _json(_ref("Problem"), MEDIA_TYPE),
            **({"headers": _retry()} if status in _WITH_RETRY else {}),
        }
    return out


def _object(required: Sequence[str], properties: Json, **more: Any) -> Json:
    return {"type": "object", "required": list(required), "properties": properties, **more}


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
    return _object(["specversion", "id", "type", "data", *required], properties)


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
    results = {"type": "array", "items": {"anyOf": [_object(["status", *place], accepted), _ref("Problem")]}}
    counted = {"accepted": whole, "rejected": whole, "results": results}
    return {
        "ApplicationRef": {"enum": list(applications)},
        "Event": _object(
            ["ApplicationRef", "data"],
            {
                "ApplicationRef": _ref("ApplicationRef"),
                "id": {**event_id, "type": ["string", "null"]},
                "data": {"type": "object", "description": "What the source declares; other fields are kept."},
                **{name: {"type": "null", "description": "Written by paystorm only."} for name in OURS},
            },
            description="Without an id it is given one, and a repeat cannot be told. Other members are kept.",
        ),
        "CloudEvent": {
            "description": "CloudEvents 1.0: `source` is the application, unless `applicationref` names it.",
            "anyOf": [
                _cloud_event(event_id, ["source"], _ref("ApplicationRef"), {"type": "null"}),
                _cloud_event(event_id, ["source", "applicationref"], some, _ref("ApplicationRef")),
            ],
        },
        "Accepted": _object(list(place), place),
        "Batch": _object(list(counted), counted),
        "RefusedBatch": _object([*problem, *counted], problem | counted),
        "Problem": _object(list(problem), problem, description="RFC 9457"),
        "Verdict": _object(
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
        "Status": _object(["status"], {"status": {"type": "string"}}),
    }
