"""Bodies of the ingest service: whatever bytes come, each event is taken or refused with a problem.

The first byte says which form the body has, the second how it is cut on its way. What is taken must be a record that
validation reads as an event or a fault of `data`, never of the envelope; the quick path must read what the exact one
reads; and how a body is cut must change nothing.
"""

import msgspec

from fuzz.records import LIMITS, NOON_MS, SOURCE
from paystorm.ingest import splitting
from paystorm.ingest.envelope import Prepared, Preparer, Route, data_of, read_exactly, same_content
from paystorm.ingest.problems import Problem
from paystorm.ingest.splitting import Items, Lines, Splitter
from paystorm.validity import ExactValidator, Invalid
from paystorm.validity.strict import MAX_DEPTH

NOW = "2026-01-01T12:00:00.000000Z"
MAX_BYTES = 2000
ROUTES = {"shop": Route("shop", SOURCE), 'a"b': Route('a"b', SOURCE)}
_preparer = Preparer(ROUTES, MAX_BYTES, lambda: "made")
_validator = ExactValidator(SOURCE, SOURCE.topic, LIMITS)
_OF_DATA = frozenset(field.name for field in SOURCE.fields)


def check(data: bytes) -> None:
    """Raises AssertionError for what is wrong; whatever else is raised is a finding too."""
    if len(data) < 2:
        return
    form, cut, body = data[0] % 5, data[1], data[2:]
    if form in (0, 1):
        _events([body], cloud=form == 1)
        return
    whole = _cut(form, body, 0)
    parts = _cut(form, body, cut)
    assert _read(whole) == _read(parts), (form, cut, whole, parts)
    _events(whole or [], cloud=form == 3)
    if form != 4:
        _streamed(body, whole, cut)


def _cut(form: int, body: bytes, step: int) -> list[bytes] | None:
    """The events of a body that comes in pieces of `step` bytes; None: it cannot be read."""
    splitter: Splitter = Lines(MAX_BYTES) if form == 4 else Items(MAX_BYTES)
    return _fed(splitter, body, step)


def _read(events: list[bytes] | None) -> list[bytes | None] | None:
    """The events that are to be alike however a body is cut: one that is too long is refused, and need not be whole."""
    return None if events is None else [event if len(event) <= MAX_BYTES else None for event in events]


def _depth(event: bytes) -> int:
    """At least as deep as the event nests."""
    return event.count(b"[") + event.count(b"{")


def _fed(splitter: Splitter, body: bytes, step: int) -> list[bytes] | None:
    out: list[bytes] = []
    try:
        for at in range(0, len(body), step or len(body) or 1):
            out += splitter.feed(body[at : at + (step or len(body))])
        out += splitter.finish()
    except Problem:
        return None
    return out


def _streamed(body: bytes, whole: list[bytes] | None, step: int) -> None:
    """A list that is too long to be read at once gives what it would give as a whole; of a broken one perhaps some."""
    held, splitting.WHOLE_BYTES = splitting.WHOLE_BYTES, 8
    try:
        found = _fed(Items(MAX_BYTES), body, step)
    finally:
        splitting.WHOLE_BYTES = held
    if whole is not None and found is None:  # in pieces, what is nested too deeply ends the reading
        assert any(_depth(event) > MAX_DEPTH for event in whole), (body, step, whole)
    elif whole is not None:
        assert _read(found) == _read(whole), (body, step, found, whole)
    elif found is not None:  # taken in pieces: then it is an item that is broken, and refused as one
        assert any(isinstance(one, Problem) for one in _events(found, cloud=False)), (body, step, found)


def _events(pieces: list[bytes], *, cloud: bool) -> list[Prepared | Problem]:
    read = _preparer.prepare(pieces, NOW, None, cloud=cloud)
    assert len(read) == len(pieces)
    for piece, one in zip(pieces, read, strict=True):
        if isinstance(one, Problem):
            msgspec.json.decode(one.encode())
            continue
        assert len(one.value) <= MAX_BYTES
        assert b"\n" not in one.value
        word = _validator.check(0, 0, NOON_MS, one.value)
        if isinstance(word, Invalid):
            assert word.field in _OF_DATA, (piece, one.value, word)
            assert word.id == one.id
        else:
            assert word[1] == one.id
            assert word[2] == one.route.application
        held = data_of(one.value)
        assert held is not None
        assert same_content(held, held)
        if not cloud:
            exact = read_exactly(piece, MAX_BYTES)
            assert not isinstance(exact, Problem), (piece, exact)
            assert exact[0] == one.route.application
            assert (exact[1] or "made") == one.id
            assert exact[2].replace(b"\n", b" ").replace(b"\r", b" ") == held, (piece, held)
    return read
