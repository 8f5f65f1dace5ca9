"""From the bytes that a client sent to the record that goes into the log: the cheap checks of an event.

JSON, size, depth, envelope and application are checked here; what `data` must hold is the topology's business, so that
nothing is lost. A quick path reads what is plain; whatever it does not take for sure goes the exact way of validity,
which also says what is wrong.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from paystorm.ingest.cloud_events import read_cloud_event
from paystorm.ingest.objects import read_object
from paystorm.ingest.problems import Problem
from paystorm.source import ID_MAX, Source
from paystorm.validity.envelope import id_fault, type_name
from paystorm.validity.strict import MAX_DEPTH, Member, read_outermost

OURS = ("received_at", "replay_of")
"""Keys of the envelope that only paystorm itself writes."""
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]").search
_KEY_LENGTH = 16


class Prepared(msgspec.Struct, gc=False):
    """An event that passed the checks and may be appended."""

    route: "Route"
    id: str
    key: bytes
    """128 bits of the hash of application and id."""
    content: bytes
    """128 bits of the hash of the literal text of `data`."""
    party: bytes | None
    """The key of the log's record: the first party."""
    value: bytes
    """The log's record."""


class _Envelope(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    ApplicationRef: str
    data: msgspec.Raw
    id: str | None = None


_decode = msgspec.json.Decoder(_Envelope).decode


class Route:
    """Where an application's events go, and how their first party is found (as `paystorm send` finds it)."""

    def __init__(self, application: str, source: Source) -> None:
        self.application = application
        self.source = source.name
        self.topic = source.topic
        text = application.encode()
        self.salt = len(text).to_bytes(4, "big") + text
        self.head = b'{"ApplicationRef":' + msgspec.json.encode(application) + b',"id":'
        names = list(dict.fromkeys(p.field for p in source.parties))
        fields: list[tuple[str, Any, Any]] = [(f"f{i}", Any, None) for i in range(len(names))]
        renamed = {f"f{i}": name for i, name in enumerate(names)}
        self._data = msgspec.json.Decoder(msgspec.defstruct("Data", fields, rename=renamed, gc=False)).decode
        self._parties = tuple(renamed)

    def party(self, data: bytes | msgspec.Raw) -> bytes | None:
        """The first party's id in `data`, an object; None where there is none that is text."""
        try:
            read = self._data(data)
        except (msgspec.DecodeError, RecursionError, ValueError):
            return None
        for name in self._parties:
            party = getattr(read, name)
            if type(party) is str:
                return party[:ID_MAX].encode()  # a longer id is invalid, and may be longer than a key can be
        return None

    def key(self, event_id: bytes) -> bytes:
        """The key of an id in the id store."""
        return sha256(self.salt + event_id).digest()[:_KEY_LENGTH]


def content_hash(data: bytes) -> bytes:
    """The hash of the literal text of `data`."""
    return sha256(data).digest()[:_KEY_LENGTH]


class Preparer:
    """Reads events. `allowed` of each call: the applications that the caller may send for; None: all."""

    def __init__(self, routes: Mapping[str, Route], max_bytes: int, new_id: Callable[[], str]) -> None:
        """`max_bytes`: of a record in the log (`maxRecordBytes`); `new_id`: the id of an event that brings none."""
        self._routes = routes
        self._max_bytes = max_bytes
        self._new_id = new_id

    def prepare(
        self, pieces: Sequence[bytes], received_at: str, allowed: frozenset[str] | None, *, cloud: bool = False
    ) -> list[Prepared | Problem]:
        """What each piece, the bytes of one JSON value, is. `received_at`: RFC 3339 text, now; `cloud`: CloudEvents."""
        middle = b',"received_at":"' + received_at.encode() + b'","data":'
        read = self._read
        return [read(piece, middle, allowed, cloud) for piece in pieces]

    def _read(self, piece: bytes, middle: bytes, allowed: frozenset[str] | None, cloud: bool) -> Prepared | Problem:
        found = None if cloud else self._quick(piece)
        event_id: str | None
        rest = b""
        if found is not None:
            application, event_id, data = found
        elif cloud:
            read = read_cloud_event(piece)
            if isinstance(read, Problem):
                return read
            application, event_id, data = read
        else:
            exact = read_exactly(piece, self._max_bytes)
            if isinstance(exact, Problem):
                return exact
            application, event_id, data, rest = exact
        route = self._routes.get(application)
        if allowed is not None and application not in allowed:
            return Problem("forbidden", f"this API key is not for application {application[:ID_MAX]!r}")
        if route is None:
            return Problem("unknown_application", f"ApplicationRef {application[:ID_MAX]!r} is not configured")
        return self._finish(route, event_id, data, rest, middle)

    def _finish(
        self, route: Route, event_id: str | None, data: bytes, rest: bytes, middle: bytes
    ) -> Prepared | Problem:
        """The record of an event whose envelope is known. `rest`: further members as JSON text, each after a comma."""
        if event_id is None:
            event_id = self._new_id()
        text = event_id.encode()
        if b"\n" in data or b"\r" in data:  # white space only; in the log a line is a record
            data = data.replace(b"\n", b" ").replace(b"\r", b" ")
        quoted = b'"%b"' % text if _plain(event_id) else msgspec.json.encode(event_id)
        value = b"".join((route.head, quoted, middle, data, rest, b"}"))
        if len(value) > self._max_bytes:
            return Problem("too_large", f"the record has {len(value):,} bytes, maxRecordBytes is {self._max_bytes:,}")
        return Prepared(route, event_id, route.key(text), content_hash(data), route.party(data), value)

    def _quick(self, piece: bytes) -> tuple[str, str | None, bytes] | None:
        """Application, id and data of a plain event; None where the exact way is to be gone."""
        if piece.count(b"{") + piece.count(b"[") > MAX_DEPTH:
            return None
        if b"\\u" in piece and (_SURROGATE_ESCAPE(piece) is not None or len(piece) > self._max_bytes):
            return None
        try:
            piece.decode()
            event = _decode(piece)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None
        data = bytes(event.data)
        if data[:1] != b"{":
            return None
        event_id = event.id
        # A key that stands twice, or is written with an escape, is found by looking at what is not `data`.
        outside = piece.replace(data, b"", 1)
        if outside.count(b'"') != (10 if event_id is not None else 6) or b"\\" in outside:
            return None
        if not 0 < len(event.ApplicationRef) <= ID_MAX or (event_id is not None and not 0 < len(event_id) <= ID_MAX):
            return None
        return event.ApplicationRef, event_id, data


def _plain(text: str) -> bool:
    """Whether JSON has the text as it is."""
    return text.isprintable() and '"' not in text and "\\" not in text


def read_exactly(piece: bytes, max_bytes: int) -> tuple[str, str | None, bytes, bytes] | Problem:
    """Application, id, data and further members of an event, or the first thing that is wrong with it."""
    if len(piece) > max_bytes:
        return Problem("too_large", f"the event has {len(piece):,} bytes, maxRecordBytes is {max_bytes:,}")
    members = read_object(piece)
    if isinstance(members, Problem):
        return members
    text, found = members
    known: dict[str, Member] = {}
    rest = ""
    for member in found:
        if member.key in ("ApplicationRef", "id", "data", *OURS):
            if member.key in known:
                return Problem("invalid_envelope", f"{member.key}: stands more than once", extra={"field": member.key})
            known[member.key] = member
        else:
            rest += f",{msgspec.json.encode(member.key).decode()}:{text[member.start : member.end]}"
    for name in OURS:
        if name in known and known[name].value is not None:
            return Problem("invalid_envelope", f"{name}: is written by paystorm only", extra={"field": name})
    for name in ("ApplicationRef", "data"):
        if name not in known or known[name].value is None:
            return Problem("invalid_envelope", f"{name}: is required", extra={"field": name})
    for name in ("ApplicationRef", "id"):
        value = known[name].value if name in known else None
        fault = None if value is None else id_fault(name, value)
        if fault is not None:
            return Problem("invalid_envelope", f"{name}: {fault.detail}", extra={"field": name})
    data = known["data"]
    if type(data.value) is not tuple:
        what = f"data: must be an object, got {type_name(data.value)}"
        return Problem("invalid_envelope", what, extra={"field": "data"})
    event_id = known["id"].value if "id" in known else None
    rest = rest.replace("\n", " ").replace("\r", " ")
    return known["ApplicationRef"].value, event_id, text[data.start : data.end].encode(), rest.encode()


def same_content(first: bytes, second: bytes) -> bool:
    """Whether two texts of `data` say the same: white space and the order of members do not count."""
    return bool(_canonical(first) == _canonical(second))


def _canonical(data: bytes) -> Any:
    members = read_outermost(data.decode())
    return None if members is None else _sorted(tuple((m.key, m.value) for m in members))


def _sorted(value: Any) -> Any:
    """A value of the strict reader, its objects' members in order of their keys (repeats keep theirs)."""
    if type(value) is tuple:
        return ("object", tuple(sorted(((k, _sorted(v)) for k, v in value), key=lambda member: member[0])))
    if type(value) is list:
        return ("array", tuple(_sorted(v) for v in value))
    return (type(value).__name__, value)


def data_of(record: bytes) -> bytes | None:
    """The literal text of `data` in a record of the log; None where it has none."""
    try:
        return bytes(msgspec.json.decode(record, type=_Data).data)
    except (msgspec.DecodeError, RecursionError):
        return None


class _Data(msgspec.Struct):
    data: msgspec.Raw
