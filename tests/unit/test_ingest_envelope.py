"""From a client's bytes to a record: the quick path takes only what the exact one takes, with the same values."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paystorm.ingest.envelope import Prepared, Preparer, Route, data_of, read_exactly, same_content
from paystorm.ingest.problems import Problem
from paystorm.ingest.splitting import Items, Lines
from paystorm.source import Field, Party, Source
from paystorm.validity.envelope import Record, read_envelope
from paystorm.validity.settings import ValiditySettings

SOURCE = Source(
    name="pay",
    topic="pay",
    enforces=True,
    fields=(
        Field(name="event_time", type="time", required=True),
        Field(name="who", type="id"),
        Field(name="device", type="id"),
    ),
    parties=(Party(field="who", role="sender", kind="account"), Party(field="device", role="device", kind="device")),
)
ROUTES = {name: Route(name, SOURCE) for name in ("shop", 'a"b', "ü")}
NOW = "2026-01-01T00:00:00.000000Z"
LIMIT = 10_000


def preparer() -> Preparer:
    return Preparer(ROUTES, LIMIT, lambda: "made")


def read(piece: bytes) -> Prepared | Problem:
    return preparer().prepare([piece], NOW, None)[0]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "ApplicationRef": st.sampled_from([*ROUTES, "other", 7, None]),
        "id": st.text(max_size=10) | st.none() | st.just("x" * 257) | st.integers(),
        "data": st.dictionaries(st.sampled_from(["who", "device", "id", "data", "a"]), values, max_size=4) | values,
        "received_at": st.none() | st.just(NOW),
        "more": values,
    },
)


@st.composite
def pieces(draw: st.DrawFn) -> bytes:
    """Events, often a little wrong."""
    text = json.dumps(draw(envelopes), ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    raw = text.encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw)))
        what = [b"", b'"', b"}", b",", b"\\", b"\xff", b"\x00", b'"data":{},', b'"id":"z",', b"\\ud800", b"\n", b" "]
        raw = raw[:at] + draw(st.sampled_from(what)) + raw[at + draw(st.integers(0, 2)) :]
    return raw


@settings(max_examples=400, deadline=None)
@given(piece=pieces())
@example(piece=b'{"ApplicationRef":"shop","data":{},"data":{}}')
@example(piece=b'{"ApplicationRef":"shop","id":"{}","data":{}}')
@example(piece=b'{"ApplicationRef":"shop","\\u0064ata":{},"data":{"a":1}}')
def test_the_quick_path_takes_only_what_the_exact_one_takes_with_the_same_values(piece: bytes) -> None:
    quick = preparer()._quick(piece)
    exact = read_exactly(piece, LIMIT)
    if quick is not None:
        assert exact == (*quick, b"")


@settings(max_examples=300, deadline=None)
@given(piece=pieces())
def test_what_is_taken_is_a_valid_envelope_in_the_log(piece: bytes) -> None:
    found = read(piece)
    if isinstance(found, Problem):
        return
    assert b"\n" not in found.value
    envelope = read_envelope(Record("pay", 0, 5, 0, found.value), ValiditySettings())
    assert envelope.fault is None
    assert (envelope.id, envelope.application) == (found.id, found.route.application)
    assert envelope.received_at == 1_767_225_600_000_000
    assert data_of(found.value) == envelope.data_text.encode()
    exact = read_exactly(piece, LIMIT)
    assert not isinstance(exact, Problem)
    assert same_content(exact[2], envelope.data_text.encode())


def test_the_key_is_the_first_party_that_is_text() -> None:
    def party(data: dict[str, Any]) -> bytes | None:
        found = read(json.dumps({"ApplicationRef": "shop", "data": data}).encode())
        assert isinstance(found, Prepared)
        return found.party

    assert party({"who": "u1", "device": "d"}) == b"u1"
    assert party({"who": 7, "device": "d"}) == b"d"
    assert party({"device": None}) is None
    assert party({"who": "ü" * 300}) == ("ü" * 256).encode()


def test_the_same_id_of_two_applications_has_two_keys() -> None:
    assert len({route.key(b"1") for route in ROUTES.values()}) == len(ROUTES)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (b'{"a":1,"b":2}', b'{ "b": 2, "a":1 }', True),
        (b'{"a":1}', b'{"a":1.0}', False),
        (b'{"a":1}', b'{"a":"1"}', False),
        (b'{"a":[1,2]}', b'{"a":[2,1]}', False),
        (b'{"a":"\\u00e9"}', '{"a":"é"}'.encode(), True),
        (b'{"a":{"x":null}}', b'{"a":{}}', False),
    ],
)
def test_content_is_compared_as_json_with_literal_numbers(first: bytes, second: bytes, same: bool) -> None:
    assert same_content(first, second) is same


@settings(max_examples=200, deadline=None)
@given(
    events=st.lists(values, max_size=6),
    cut=st.lists(st.integers(0, 400), max_size=5),
    indent=st.sampled_from([None, 1]),
)
def test_a_body_cut_anywhere_gives_the_same_events(events: list[Any], cut: list[int], indent: int | None) -> None:
    ends = sorted(cut)
    listed = json.dumps(events, indent=indent).encode()
    lines = b"\n".join(json.dumps(e).encode() for e in events)
    for splitter, body in ((Items(1000), listed), (Lines(1000), lines)):
        if isinstance(splitter, Items):
            splitter._streamed = True
        out: list[bytes] = []
        for first, last in zip([0, *ends], [*ends, len(body)], strict=True):
            out += splitter.feed(body[first:last])
        out += splitter.finish()
        assert [json.loads(piece) for piece in out] == events


@pytest.mark.parametrize("body", [b"[1,]", b"[1 2]", b"[", b"{}", b"[1]x", b"", b"[1,2", b"\xff", b"[[[" * 500])
def test_a_list_that_is_none_is_refused(body: bytes) -> None:
    for streamed in (False, True):
        splitter = Items(1000)
        splitter._streamed = streamed
        with pytest.raises(Problem):  # noqa: PT012  wherever it is noticed
            splitter.feed(body)
            splitter.finish()


def test_a_line_that_is_too_long_is_kept_only_as_far_as_it_is_refused() -> None:
    lines = Lines(100)
    assert [piece for _ in range(50) for piece in lines.feed(b"x" * 50)] == []
    [long, short] = [*lines.feed(b"\n{}"), *lines.finish()]
    assert (len(long), short) == (150, b"{}")
