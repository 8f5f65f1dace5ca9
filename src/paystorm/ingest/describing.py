"""What descriptions of end points (OpenAPI 3.1) are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.routing import BaseRoute

from paystorm.ingest.problems import KINDS, MEDIA_TYPE

Json = dict[str, Any]
WITH_RETRY = (429, 503)
"""Statuses whose answers say when to try again."""


@dataclass(frozen=True)
class Part:
    """A part of the service: its routes, and what the description says of them."""

    routes: Sequence[BaseRoute]
    paths: Json = field(default_factory=dict)
    schemas: Json = field(default_factory=dict)


def ref(name: str) -> Json:
    """A schema that is described by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def content(schema: Json, media: str = "application/json") -> Json:
    """A body of a media type."""
    return {media: {"schema": schema}}


def body(schema: Json) -> Json:
    """A request's body, JSON."""
    return {"required": True, "content": content(schema)}


def answers(found: Json, problems: Sequence[int]) -> Json:
    """The answers of an end point: those found, and problem documents of these statuses."""
    return {**found, **{str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in problems}}


def parameter(name: str, where: str, schema: Json, text: str, *, needed: bool = False) -> Json:
    """A parameter; one in the path is always needed."""
    return {"name": name, "in": where, "required": needed or where == "path", "schema": schema, "description": text}


def members(required: Sequence[str], properties: Json, **more: Any) -> Json:
    """An object."""
    return {"type": "object", "required": list(required), "properties": properties, **more}


def retry() -> Json:
    """The header of answers that say when to try again."""
    return {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait before another try."}}


def problems() -> Json:
    """The problem documents, by status: `Problem422`."""
    out: Json = {}
    for status in sorted({kind.status for kind in KINDS.values()}):
        titles = " ".join(kind.title for kind in KINDS.values() if kind.status == status)
        out[f"Problem{status}"] = {
            "description": titles,
            "content": content(ref("Problem"), MEDIA_TYPE),
            **({"headers": retry()} if status in WITH_RETRY else {}),
        }
    return out
