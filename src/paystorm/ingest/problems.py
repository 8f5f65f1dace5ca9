"""Errors as problem documents (RFC 9457), and the closed list of them (docs/ingest.md)."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: its code (the last part of `type`), its status, its title."""

    code: str
    status: int
    title: str


KINDS = {
    kind.code: kind
    for kind in (
        Kind("not_json", 400, "The body is not strict JSON."),
        Kind("bad_request", 400, "The request cannot be read."),
        Kind("unauthorized", 401, "An API key is needed."),
        Kind("forbidden", 403, "The API key does not allow this."),
        Kind("not_found", 404, "There is nothing here."),
        Kind("method_not_allowed", 405, "The method is not one of this resource."),
        Kind("request_timeout", 408, "The body did not arrive in time."),
        Kind("conflict", 409, "It does not go with what is there."),
        Kind("too_large", 413, "The content is too large."),
        Kind("too_deep", 413, "The content is nested too deeply."),
        Kind("unsupported_media_type", 415, "The media type is not taken here."),
        Kind("invalid_envelope", 422, "The envelope is not valid."),
        Kind("unknown_application", 422, "No such application is configured."),
        Kind("invalid_parameter", 422, "A parameter is not valid."),
        Kind("rate_limited", 429, "Too many events."),
        Kind("internal", 500, "The service failed."),
        Kind("unavailable", 503, "The service cannot take this now."),
    )
}
"""Every problem that the service answers with, by code."""


@dataclass(eq=False)
class Problem(Exception):  # noqa: N818  it is an answer before it is an error
    """One problem, as an answer or as the result of one record of a batch."""

    code: str
    detail: str
    retry_after: int | None = None
    """Seconds after which another try makes sense."""
    headers: tuple[tuple[str, str], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return KINDS[self.code].status

    def document(self) -> dict[str, Any]:
        """The members of the problem document."""
        kind = KINDS[self.code]
        return {
            "type": f"urn:paystorm:problem:{kind.code}",
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
            **self.extra,
        }

    def encode(self) -> bytes:
        """The document as JSON."""
        return msgspec.json.encode(self.document())

    def header_list(self) -> list[tuple[bytes, bytes]]:
        """Headers that go with it, the media type first."""
        out = [(b"content-type", MEDIA_TYPE.encode())]
        if self.retry_after is not None:
            out.append((b"retry-after", str(self.retry_after).encode()))
        out.extend((name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in self.headers)
        return out
