"""`POST /v1/events` and `POST /v1/events:batch`."""

import asyncio
import os
import tempfile
from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from starlette.types import Receive, Scope, Send

from paystorm.ingest.envelope import Prepared
from paystorm.ingest.http import JSON, answer, body_chunks, media_type, whole_body
from paystorm.ingest.intake import Accepted, Answer
from paystorm.ingest.keys import Caller
from paystorm.ingest.problems import Problem
from paystorm.ingest.splitting import Items, Lines, Splitter

if TYPE_CHECKING:
    from paystorm.ingest.service import Service

EVENT_TYPES = {"application/json": "event", "application/cloudevents+json": "cloud"}
BATCH_TYPES = {
    "application/json": "list",
    "application/x-ndjson": "lines",
    "application/ndjson": "lines",
    "application/jsonl": "lines",
    "application/cloudevents-batch+json": "cloud",
}
BLOCK_RECORDS = 1000
BLOCK_BYTES = 256 << 10
BLOCKS_IN_FLIGHT = 4
"""Blocks of one batch that wait for the log; then its body is read on."""
SPOOL_BYTES = 1 << 20
"""Results of one batch in memory; more go to a temporary file."""
_COPY_BYTES = 256 << 10
_quoted = msgspec.json.Encoder().encode


class SingleEvents:
    """The end point for one event."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Problem."""
        service = self._service
        caller = service.caller(scope)
        caller.require("ingest")
        cloud = media_type(scope, EVENT_TYPES) == "cloud"
        service.rates.check(caller.id, service.monotonic())
        # The envelope around the record may take some room of its own.
        limit = service.max_record_bytes + 4096
        body = await whole_body(scope, receive, limit, service.settings.body_seconds)
        service.rates.spend(caller.id, 1, service.monotonic())
        [event] = service.preparer.prepare([body], service.now_text(), caller.applications, cloud=cloud)
        if isinstance(event, Problem):
            service.count("", event.status)
            raise event
        try:
            [result] = await service.intake.submit([event])
        except Problem as problem:
            result = problem
        if isinstance(result, Problem):
            service.count(event.route.source, result.status)
            raise result
        service.count(event.route.source, 202)
        text = b'{"id":%b,"topic":%b,"partition":%d,"offset":%d}' % (
            _quoted(result.id),
            _quoted(result.topic),
            *result[2:],
        )
        await answer(send, 202, text, [JSON])


class BatchEvents:
    """The end point for many."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Problem where none of the batch was taken and all for the same reason."""
        service = self._service
        caller = service.caller(scope)
        caller.require("ingest")
        form = media_type(scope, BATCH_TYPES)
        service.rates.check(caller.id, service.monotonic())
        splitter: Splitter = Lines(service.max_record_bytes) if form == "lines" else Items(service.max_record_bytes)
        results = Results()
        batch = _Batch(service, caller, form == "cloud", results)
        chunks = body_chunks(scope, receive, service.settings.max_batch_bytes, service.settings.body_seconds)
        try:
            try:
                async for chunk in chunks:
                    await batch.add(splitter.feed(chunk))
                await batch.add(splitter.finish())
                await batch.flush()
            except Problem as problem:
                await batch.flush()
                if not batch.count:
                    raise
                await batch.settle()
                results.put_end(problem)
            finally:
                await batch.settle()
                service.rates.spend(caller.id, batch.count, service.monotonic())
            await results.send(send)
        finally:
            results.close()


class _Batch:
    """The events of one request, on their way in blocks."""

    def __init__(self, service: "Service", caller: Caller, cloud: bool, results: "Results") -> None:
        self._service = service
        self._caller = caller
        self._cloud = cloud
        self._results = results
        self._pieces: list[bytes] = []
        self._size = 0
        self.count = 0
        self._blocks: deque[tuple[list[Prepared | Problem], list[Prepared], asyncio.Future[list[Answer]] | None]]
        self._blocks = deque()

    async def add(self, pieces: Sequence[bytes]) -> None:
        """Take events; raises Problem where there are more than a batch may have."""
        for piece in pieces:
            if self.count + len(self._pieces) >= self._service.settings.max_batch_records:
                limit = self._service.settings.max_batch_records
                raise Problem("too_large", f"a batch may have {limit:,} events at most")
            self._pieces.append(piece)
            self._size += len(piece)
            if len(self._pieces) >= BLOCK_RECORDS or self._size >= BLOCK_BYTES:
                await self.flush()

    async def flush(self) -> None:
        """Send what has gathered on its way."""
        pieces, self._pieces, self._size = self._pieces, [], 0
        if not pieces:
            return
        service = self._service
        read = service.preparer.prepare(pieces, service.now_text(), self._caller.applications, cloud=self._cloud)
        events = [event for event in read if type(event) is Prepared]
        future: asyncio.Future[list[Answer]] | None = None
        if events:
            try:
                future = service.intake.submit(events)
            except Problem as problem:
                await self.settle()  # perhaps it was this batch that filled the queue
                try:
                    future = service.intake.submit(events)
                except Problem:
                    if not self.count and len(events) == len(read):
                        raise
                    read = [problem if type(event) is Prepared else event for event in read]
                    events = []
        self.count += len(pieces)
        self._blocks.append((read, events, future))
        if len(self._blocks) >= BLOCKS_IN_FLIGHT:
            await self._settle_one()

    async def settle(self) -> None:
        """Wait for all blocks that are on their way."""
        while self._blocks:
            await self._settle_one()

    async def _settle_one(self) -> None:
        read, events, future = self._blocks.popleft()
        answers = await future if future is not None else []
        self._service.count_all(events, answers)
        if len(answers) == len(read):
            self._results.put(answers)
            return
        following = iter(answers)
        self._results.put([item if isinstance(item, Problem) else next(following) for item in read])


class Results:
    """The answers of a batch in their order, in a temporary file where they are many."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115  closed by whoever made the results
        self._statuses: Counter[int] = Counter()
        self._first = True

    def put(self, answers: Sequence[Answer]) -> None:
        """Add answers."""
        parts: list[bytes] = []
        accepted = 0
        for result in answers:
            if type(result) is Accepted:
                accepted += 1
                parts.append(
                    b'{"status":202,"id":%b,"topic":%b,"partition":%d,"offset":%d}'
                    % (_quoted(result[0]), _quoted(result[1]), result[2], result[3])
                )
            else:
                assert isinstance(result, Problem)
                self._statuses[result.status] += 1
                parts.append(_problem_text(result))
        self._statuses[202] += accepted
        if parts:
            self._file.write((b"" if self._first else b",") + b",".join(parts))
            self._first = False

    def put_end(self, problem: Problem) -> None:
        """Say why the rest of the body was not read."""
        self._statuses[problem.status] += 1
        text = _problem_text(Problem(problem.code, f"the rest of the batch was not read: {problem.detail}"))
        self._file.write((b"" if self._first else b",") + text)
        self._first = False

    async def send(self, send: Send) -> None:
        """Send the answer: 202, the one status that all have, or 207."""
        found = [status for status, count in self._statuses.items() if count]
        status = found[0] if len(found) == 1 else 207 if found else 202
        total = sum(self._statuses.values())
        accepted = self._statuses[202]
        start = b'{"accepted":%d,"rejected":%d,"results":[' % (accepted, total - accepted)
        headers = [JSON]
        if status not in (202, 207):
            headers = [(b"content-type", b"application/problem+json")]
            retry = {429: b"60", 503: b"2"}.get(status)
            if retry is not None:
                headers.append((b"retry-after", retry))
            document = {
                "type": "urn:paystorm:problem:batch_refused",
                "title": "No event of the batch was taken.",
                "status": status,
                "detail": f"all {total:,} events of the batch were refused alike",
            }
            start = _quoted(document)[:-1] + b"," + start[1:]
        size = self._file.tell()
        headers.append((b"content-length", str(len(start) + size + 2).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        self._file.seek(0, os.SEEK_SET)
        await send({"type": "http.response.body", "body": start, "more_body": True})
        while chunk := self._file.read(_COPY_BYTES):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"]}"})

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()


def _problem_text(problem: Problem) -> bytes:
    document = problem.document()
    if problem.retry_after is not None:
        document["retry_after"] = problem.retry_after
    return _quoted(document)
