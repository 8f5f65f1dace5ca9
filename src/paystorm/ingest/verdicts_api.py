"""`GET /v1/verdicts/{ApplicationRef}/{id}` and the stream `GET /v1/verdicts/{ApplicationRef}`."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from paystorm.errors import PaystormError
from paystorm.ingest.problems import Problem
from paystorm.source import ID_MAX

if TYPE_CHECKING:
    from paystorm.ingest.service import Service

ONE = "/v1/verdicts/{ApplicationRef}/{id}"
STREAM = "/v1/verdicts/{ApplicationRef}"


class VerdictsApi:
    """The end points."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    async def route(self, request: Request) -> Response:
        """One or the other: by the parts of the path as it was sent, since names and ids may hold a slash (%2F)."""
        parts = request.scope["raw_path"].partition(b"?")[0].split(b"/")[3:]
        try:
            names = [unquote_to_bytes(part).decode() for part in parts]
        except UnicodeDecodeError:
            raise Problem("invalid_parameter", "the path must be UTF-8") from None
        if not 1 <= len(names) <= 2 or not all(names):
            raise Problem(
                "not_found", "no such resource: /v1/verdicts/{ApplicationRef} or /v1/verdicts/{ApplicationRef}/{id}"
            )
        if len(names) == 2:
            request.scope["paystorm.route"] = ONE
            return await self._one(request, *names)
        request.scope["paystorm.route"] = STREAM
        if request.method == "HEAD":
            raise Problem("method_not_allowed", "a stream has no HEAD", headers=(("Allow", "GET"),))
        return await self._stream(request, names[0])

    async def _one(self, request: Request, application: str, event_id: str) -> Response:
        """The verdict of an event; with `wait`, up to so many seconds later. Raises Problem."""
        service = self._service
        caller = service.caller(request.scope)
        caller.require("ingest", "analyst", "approver")
        caller.require_application(application)
        wait = _wait(request, service.settings.wait_seconds)
        if not 1 <= len(event_id) <= ID_MAX:
            raise Problem("invalid_parameter", f"an id has 1 to {ID_MAX} characters")
        if service.intake.down is not None and not service.started:
            raise Problem("unavailable", service.intake.down, 2)
        try:
            if not wait:
                found = await service.verdicts.of(application, event_id, 0)
            else:
                with self._place():
                    found = await service.verdicts.of(application, event_id, wait)
        except (PaystormError, OSError) as error:
            raise Problem("unavailable", f"verdicts cannot be read: {error}", 2) from error
        return Response(
            msgspec.json.encode(found), media_type="application/json", headers={"Cache-Control": "no-store"}
        )

    async def _stream(self, request: Request, application: str) -> Response:
        """The application's verdicts as server-sent events. Raises Problem."""
        service = self._service
        caller = service.caller(request.scope)
        caller.require("ingest", "analyst", "approver")
        caller.require_application(application)
        begin = _single(request, "from") or "end"
        if begin not in ("start", "end"):
            raise Problem("invalid_parameter", f"from must be start or end, got {begin[:40]!r}")
        cursor = request.headers.get("last-event-id", _single(request, "after"))
        ends = service.monotonic() + service.settings.stream_seconds

        def goes_on() -> bool:
            """A key that is revoked, or whose time is over, reads no more."""
            return service.monotonic() < ends and service.is_caller(request.scope, caller)

        events = await service.verdicts.stream(application, cursor, begin == "start", goes_on)
        place = self._place()
        place.__enter__()

        async def counted() -> AsyncIterator[bytes]:
            try:
                async for event in events:
                    yield event
            finally:
                place.__exit__(None, None, None)

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(counted(), media_type="text/event-stream", headers=headers)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places for those who wait. Raises Problem where none is free."""
        service = self._service
        if service.streams >= service.settings.max_streams:
            raise Problem("unavailable", f"{service.streams} others wait for verdicts already", 5)
        service.streams += 1
        try:
            yield
        finally:
            service.streams -= 1


def _single(request: Request, name: str) -> str | None:
    """A parameter of the query that stands there at most once. Raises Problem."""
    found = request.query_params.getlist(name)
    if len(found) > 1:
        raise Problem("invalid_parameter", f"{name} stands more than once")
    return found[0] if found else None


def _wait(request: Request, longest: float) -> float:
    text = _single(request, "wait")
    if text is None:
        return 0.0
    try:
        wait = float(text)
    except ValueError:
        wait = -1.0
    if not 0 <= wait <= longest:
        raise Problem("invalid_parameter", f"wait must be 0 to {longest:g} seconds, got {text[:40]!r}")
    return wait
