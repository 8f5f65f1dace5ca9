"""What the end points share: reading bodies within limits, sending answers, knowing who asks."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from starlette.types import Receive, Scope, Send

from paystorm.ingest.problems import Problem

JSON = (b"content-type", b"application/json")
MAX_HEADER = 4096
"""Characters of an Authorization header or a cursor, at most."""
READ_OVER_BYTES = 16 * 1024 * 1024
READ_OVER_SECONDS = 2.0
"""How much of a body that is too large is read before it is refused, so that the client hears of it; what comes after
that meets a closed connection."""


class ClientGoneError(Exception):
    """The client went away before its body had come."""


def header(scope: Scope, name: bytes) -> str | None:
    """A request's header, or None; of several the first."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


def media_type(scope: Scope, taken: Mapping[str, str]) -> str:
    """What the content type stands for in `taken`. Raises Problem for another one."""
    given = header(scope, b"content-type") or ""
    name, _, parameters = given.partition(";")
    found = taken.get(name.strip().lower())
    charset = parameters.lower().replace('"', "").replace(" ", "")
    if found is None or ("charset=" in charset and "charset=utf-8" not in charset):
        raise Problem("unsupported_media_type", f"Content-Type {given[:100]!r}; taken are {', '.join(taken)}, in UTF-8")
    if header(scope, b"content-encoding") not in (None, "identity"):
        raise Problem("unsupported_media_type", "a Content-Encoding is not taken here")
    return found


async def body_chunks(scope: Scope, receive: Receive, limit: int, seconds: float) -> AsyncIterator[bytes]:
    """The body as it comes. Raises Problem where it is longer than `limit` or stays away; ClientGoneError."""
    announced = header(scope, b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > limit:
        await _read_over(receive)
        raise too_large(limit)
    size = 0
    while True:
        try:
            message = await asyncio.wait_for(receive(), seconds)
        except TimeoutError:
            raise Problem(
                "request_timeout", f"no byte of the body for {seconds:g} s", headers=(("Connection", "close"),)
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            if message.get("more_body", False):
                await _read_over(receive)
            raise too_large(limit)
        if chunk:
            yield chunk
        if not message.get("more_body", False):
            return


async def _read_over(receive: Receive) -> None:
    """Take some more of a body that is refused: a client that is still sending would not read the answer."""
    size, ends = 0, asyncio.get_running_loop().time() + READ_OVER_SECONDS
    while size < READ_OVER_BYTES:
        try:
            left = ends - asyncio.get_running_loop().time()
            message = await asyncio.wait_for(receive(), max(left, 0.0))
        except TimeoutError:
            return
        size += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return


def too_large(limit: int) -> Problem:
    """The answer to a body over its limit."""
    return Problem("too_large", f"the body may have {limit:,} bytes at most", headers=(("Connection", "close"),))


async def whole_body(scope: Scope, receive: Receive, limit: int, seconds: float) -> bytes:
    """The body at once; raises as `body_chunks`."""
    parts = [chunk async for chunk in body_chunks(scope, receive, limit, seconds)]
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Send a whole answer."""
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def answer_problem(send: Send, problem: Problem) -> None:
    """Send a problem document."""
    await answer(send, problem.status, problem.encode(), problem.header_list())
