"""The web application: routes, errors as problem documents, limits and the access log around them."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paystorm.ingest import metrics
from paystorm.ingest.describing import Part
from paystorm.ingest.events_api import BatchEvents, SingleEvents
from paystorm.ingest.http import ClientGoneError, answer_problem
from paystorm.ingest.openapi import document
from paystorm.ingest.problems import Problem
from paystorm.ingest.verdicts_api import STREAM, VerdictsApi

if TYPE_CHECKING:
    from paystorm.ingest.service import Service

_logger = logging.getLogger(__name__)
_HEALTHY = {"status": "ok"}


def build_app(service: "Service", more: Sequence[Part] = ()) -> ASGIApp:
    """The application. `more`: other parts (lists, cases, dead letters), behind the same errors and logs.

    Their end points raise Problem, and ask `service.caller(scope)` who sends a request.
    """
    verdicts = VerdictsApi(service)
    wait, keys = service.settings.wait_seconds, service.setup.ask_for_keys
    described = msgspec.json.encode(document(sorted(service.routes), keys=keys, max_wait=wait, more=more))

    async def health(_: Request) -> Response:
        return _json(_HEALTHY)

    async def ready(_: Request) -> Response:
        why = service.not_ready()
        if why is not None:
            raise Problem("unavailable", why, 2)
        return _json({"status": "ready"})

    async def figures(_: Request) -> Response:
        return Response(service.metrics.render(), headers={"Content-Type": metrics.MEDIA_TYPE})

    async def openapi(_: Request) -> Response:
        return Response(described, media_type="application/json")

    routes: list[BaseRoute] = [
        Route("/v1/events", SingleEvents(service), methods=["POST"]),
        Route("/v1/events:batch", BatchEvents(service), methods=["POST"]),
        Route("/v1/verdicts/{rest:path}", verdicts.route, methods=["GET"]),
        Route("/healthz", health, methods=["GET"]),
        Route("/readyz", ready, methods=["GET"]),
        Route("/metrics", figures, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
        *(route for part in more for route in part.routes),
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return _Front(app, service)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json", headers={"Cache-Control": "no-store"})


class _Front:
    """Around every request: how many there may be, problems as documents, the access log, the figures.

    Everything that goes wrong is answered here, so that there is one form of errors; Starlette's own is not used.
    """

    def __init__(self, app: Starlette, service: "Service") -> None:
        self._app = app.router
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        service = self._service
        began = time.perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        # The routes raise HTTPException, instead of answering themselves, where they are part of an application.
        scope["app"] = self
        service.requests += 1
        problem: Problem | None = None
        try:
            if service.requests > service.settings.max_requests:
                raise Problem("unavailable", f"{service.requests - 1} requests are at work already", 1)
            await self._app(scope, receive, sending)
        except Problem as found:
            problem = found
        except HTTPException as error:
            problem = _of_http(error)
        except (ClientGoneError, ClientDisconnect, asyncio.CancelledError):
            status = status or 499
        except Exception:  # whatever it is: the client is told, the log has the trace
            _logger.exception("a request failed")
            problem = Problem("internal", "the service failed; its log says more")
        finally:
            service.requests -= 1
            if problem is not None:
                if not status:
                    await answer_problem(sending, problem)
                else:
                    _logger.warning("an answer was broken off: %s", problem.detail)
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        pattern = scope.get("paystorm.route") or getattr(route, "path", None) or "none"
        service = self._service
        service.metrics.requests.labels(pattern, str(status)).inc()
        if pattern != STREAM:
            service.metrics.seconds.labels(pattern).observe(seconds)
        client = scope.get("client")
        service.access.note(
            method=scope["method"] if len(scope["method"]) <= 16 else "?",
            route=pattern,
            status=status,
            seconds=seconds,
            key=scope.get("paystorm.key"),
            client=client[0] if client else None,
        )


def _of_http(error: HTTPException) -> Problem:
    headers = tuple((error.headers or {}).items())
    if error.status_code == 405:
        return Problem("method_not_allowed", "see the Allow header for those that are", headers=headers)
    if error.status_code == 404:
        return Problem("not_found", "no such resource; /openapi.json tells what there is")
    return Problem("bad_request", str(error.detail), headers=headers)
