"""docs/validity.md row by row, against the exact path."""

import json
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paystorm.errors import ConfigError
from paystorm.log.base import RecordBatch
from paystorm.source import Field, Source
from paystorm.validity import (
    MEANING,
    Code,
    ExactValidator,
    Invalid,
    ReplayOf,
    ValiditySettings,
    event_frame,
    event_schema,
    replay_claims,
)
from paystorm.validity.strict import NotJsonError, read_outermost

SECOND = 1_000_000
NOON = 1_767_268_800 * SECOND  # 2026-01-01T12:00:00Z
SOURCE = Source(
    name="purchase",
    topic="purchase",
    enforces=True,
    own_id="transaction_id",
    parties=(),
    one_of=(("customer", "region"),),
    fields=(
        Field(name="transaction_id", type="id"),
        Field(name="event_time", type="time", required=True),
        Field(name="kind", type="choice", values=("account", "merchant")),
        Field(name="amount", type="amount"),
        Field(name="fee", type="amount", integer_digits=3, fraction_digits=2),
        Field(name="currency", type="currency"),
        Field(name="message", type="text"),
        Field(name="count", type="integer"),
        Field(name="seen", type="time", zoneless_utc=True),
        Field(name="customer", type="id"),
        Field(name="region", type="id"),
    ),
)
COLUMNS = list(event_schema(SOURCE))
BASE = {"event_time": "2026-01-01T12:00:00Z", "customer": "c1"}


def check(value: bytes | str, duplicate: bool = False, **settings: Any) -> Any:
    """The exact path's word on a record at purchase/3/7, received at noon."""
    raw = value if isinstance(value, bytes) else value.encode()
    validator = ExactValidator(SOURCE, "purchase", ValiditySettings(**settings))
    return validator.check(3, 7, NOON // 1000, raw, duplicate)


def envelope(**changes: Any) -> str:
    """A valid envelope with keys changed; `...` takes one away."""
    plain = {"ApplicationRef": "shop", "data": BASE, **changes}
    return json.dumps({k: v for k, v in plain.items() if v is not ...})


def data(**changes: Any) -> str:
    """A valid envelope with fields of data changed; `...` takes one away."""
    return envelope(data={k: v for k, v in {**BASE, **changes}.items() if v is not ...})


def raw_data(members: str) -> str:
    """An envelope whose data ends with the members as they stand."""
    head = '{"ApplicationRef":"shop","data":{"event_time":"2026-01-01T12:00:00Z","customer":"c1",'
    return head + members + "}}"


def event(value: bytes | str, **settings: Any) -> dict[str, Any]:
    found = check(value, **settings)
    assert not isinstance(found, Invalid), found
    return dict(zip(COLUMNS, found, strict=True))


def fault(value: bytes | str, **settings: Any) -> tuple[str, str]:
    found = check(value, **settings)
    assert isinstance(found, Invalid), found
    assert isinstance(found.code, Code)
    return found.field, found.code.value


def test_every_code_has_a_sentence() -> None:
    assert set(MEANING) == set(Code)


def test_a_plain_record_is_an_event_with_ids_and_times_filled_in() -> None:
    value = ' {"ApplicationRef": "shop", "data" : {"event_time":"2026-01-01T13:00:00+01:00", "customer":"c1"} } '
    assert event(value) == {
        **dict.fromkeys(COLUMNS),
        "log_offset": 7,
        "event_id": "purchase/3/7",
        "application": "shop",
        "received_at": NOON,
        "event_time": NOON,
        "transaction_id": "purchase/3/7",
        "customer": "c1",
        "data": '{"event_time":"2026-01-01T13:00:00+01:00", "customer":"c1"}',
    }


def test_the_envelopes_id_and_received_at_are_taken_where_given() -> None:
    found = event(envelope(id="x1", received_at="2026-01-01T12:30:00.1234567Z"))
    assert found["event_id"] == found["transaction_id"] == "x1"
    assert found["received_at"] == NOON + 1800 * SECOND + 123_456


def test_the_sources_own_id_stands_beside_the_envelopes() -> None:
    found = event(envelope(id="x1", data={**BASE, "transaction_id": "t1"}))
    assert (found["event_id"], found["transaction_id"]) == ("x1", "t1")


def test_row_1_a_record_of_more_bytes_than_the_limit_is_too_large() -> None:
    value = envelope()
    assert fault(value, max_record_bytes=len(value) - 1) == ("record", "too_large")
    event(value, max_record_bytes=len(value))
    assert fault(b"\xff" * 11, max_record_bytes=10) == ("record", "too_large")


@pytest.mark.parametrize("junk", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3", b"{\xfe"])
def test_row_2_bytes_that_are_not_utf8(junk: bytes) -> None:
    assert fault(junk) == ("record", "not_utf8")
    assert fault(data(message="@").encode().replace(b"@", junk)) == ("record", "not_utf8")


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "\ufeff{}", "{", "}", "nul", "NaN", "-Infinity", "01", "1.", ".5", "+1", "1e", "-", "[1,]", "'a'"),
        *('{"a":1,}', "{a:1}", '{"a" 1}', '{"a":1 "b":2}', '{"a":1}x', '{"a":1}\x00', '{"a":1}{}', "{,}", '{"a"}'),
        *('"\t"', '"\x00"', '"\\x"', '"\\u12"', '"\\u12G4"', '"\\U0041"', '{"a":1/**/}', "[1}", "\x0c{}", "\xa0{}"),
        *(r'"\ud800"', r'{"a":"\udc00"}', r'{"\ud800":1}', r'{"x":[{"y":"\ud83dz"}]}', r'"\ud83d\ud83d\ude00"'),
        *("١", '{"a":1٢}', '"open', '"open\\', '{"a":', '{"a":1', '{"a":1,', '{"a', "{'a':1}", '{"a":tru}', "["),
    ],
)
def test_row_3_what_is_not_strict_json(value: str) -> None:
    assert fault(value) == ("record", "not_json")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_row_3_numbers_that_are_none_are_not_json(constant: str) -> None:
    assert fault(raw_data(f'"x":{constant}')) == ("record", "not_json")


def test_row_3_a_lone_surrogate_in_a_part_that_nobody_reads_is_not_json() -> None:
    assert fault(raw_data(r'"x":[{"\udfff":1}]')) == ("record", "not_json")
    assert event(raw_data(r'"message":"\ud83d\ude00"'))["message"] == "😀"
    assert event(raw_data(r'"message":"\\ud800"'))["message"] == r"\ud800"


def test_row_3_nesting_to_64_is_json_and_65_is_not() -> None:
    # The envelope is level 1 and data level 2.
    event(raw_data('"x":' + "[" * 62 + "]" * 62))
    assert fault(raw_data('"x":' + "[" * 63 + "]" * 63)) == ("record", "not_json")
    assert fault("[" * 64 + "]" * 64) == ("envelope", "wrong_type")
    assert fault('{"a":' * 64 + "1" + "}" * 64) == ("ApplicationRef", "missing")
    assert fault('{"a":' * 65 + "1" + "}" * 65) == ("record", "not_json")
    assert fault("[" * 500_000) == ("record", "not_json")
    event(data(message="[" * 1000))
    event(raw_data('"x":[' + ",".join(["[]"] * 1000) + "]"))
    event(raw_data(r'"x":"\"[[{\\","y":[' + ",".join(["{}"] * 100) + "]"))


def test_nul_is_text() -> None:
    assert event(raw_data(r'"message":"a\u0000b"'))["message"] == "a\0b"


@pytest.mark.parametrize("value", ["1", '"x"', "[]", "null", "true", "-1.5e300", "1e999", "9" * 5000])
def test_row_4_json_that_is_no_object(value: str) -> None:
    assert fault(value) == ("envelope", "wrong_type")


@pytest.mark.parametrize(
    ("changes", "field", "code"),
    [
        ({"ApplicationRef": ...}, "ApplicationRef", "missing"),
        ({"ApplicationRef": None}, "ApplicationRef", "missing"),
        ({"ApplicationRef": 1}, "ApplicationRef", "wrong_type"),
        ({"ApplicationRef": ""}, "ApplicationRef", "empty"),
        ({"ApplicationRef": "😀" * 257}, "ApplicationRef", "too_long"),
        ({"data": ...}, "data", "missing"),
        ({"data": []}, "data", "wrong_type"),
        ({"data": "{}"}, "data", "wrong_type"),
        ({"id": 5}, "id", "wrong_type"),
        ({"id": ""}, "id", "empty"),
        ({"id": "x" * 257}, "id", "too_long"),
        ({"received_at": 5}, "received_at", "wrong_type"),
        ({"received_at": "yesterday"}, "received_at", "bad_time"),
        ({"received_at": "2026-01-01T00:00:00"}, "received_at", "no_zone"),
        ({"replay_of": "x"}, "replay_of", "wrong_type"),
        ({"ApplicationRef": "", "data": 1}, "ApplicationRef", "empty"),
        ({"data": 1, "id": 1}, "data", "wrong_type"),
        ({"id": 1, "received_at": 1}, "id", "wrong_type"),
        ({"received_at": 1, "replay_of": 1}, "received_at", "wrong_type"),
        ({"replay_of": 1, "data": {}}, "replay_of", "wrong_type"),
    ],
)
def test_row_5_the_keys_of_the_envelope_in_their_order(changes: dict[str, Any], field: str, code: str) -> None:
    assert fault(envelope(**changes)) == (field, code)


@pytest.mark.parametrize("key", ["ApplicationRef", "data", "id", "received_at", "replay_of"])
def test_row_5_an_envelope_key_that_stands_twice_is_repeated_also_when_null_or_escaped(key: str) -> None:
    escaped = f"\\u{ord(key[0]):04x}{key[1:]}"
    for again in (key, escaped):
        assert fault(envelope(**{key: None})[:-1] + f',"{again}":null}}') == (key, "repeated")


def test_optional_keys_of_the_envelope_may_be_null_and_unknown_ones_anything() -> None:
    found = event(envelope(id=None, received_at=None, replay_of=None)[:-1] + ',"x":1,"x":{"data":[]},"":null}')
    assert found["event_id"] == "purchase/3/7"
    # The limits on event times do not hold for received_at.
    assert fault(envelope(received_at="1999-01-01T00:00:00Z")) == ("event_time", "too_late")
    event(envelope(received_at="2999-01-01T00:00:00Z"))


GOOD = {"topic": "purchase", "partition": 3, "offset": 6}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {**GOOD, "more": 1},
        {"topic": "purchase", "partition": 3},
        {**GOOD, "topic": "refund"},
        {**GOOD, "topic": 1},
        {**GOOD, "topic": None},
        {**GOOD, "partition": 2},
        {**GOOD, "partition": "3"},
        {**GOOD, "partition": 3.0},
        {**GOOD, "partition": True},
        {**GOOD, "offset": 7},
        {**GOOD, "offset": 8},
        {**GOOD, "offset": -1},
        {**GOOD, "offset": 1e0},
        {**GOOD, "offset": "6"},
        {**GOOD, "offset": 2**70},
    ],
)
def test_row_6_replay_of_must_name_an_earlier_record_of_the_same_partition(wrong: dict[str, Any]) -> None:
    assert fault(envelope(replay_of=wrong)) == ("replay_of", "wrong_replay")


def test_row_6_a_repeat_inside_replay_of_is_wrong() -> None:
    inside = '{"topic":"purchase","partition":3,"offset":6,"offset":6}'
    assert fault(envelope(replay_of=None).replace("null", inside)) == ("replay_of", "wrong_replay")
    event(envelope(replay_of=GOOD))


def test_row_7_a_lost_claim_is_a_duplicate_before_any_field_is_looked_at() -> None:
    found = check(envelope(replay_of=GOOD, data={}), duplicate=True)
    assert (found.field, found.code) == ("replay_of", "duplicate_replay")
    found = check(envelope(replay_of={}), duplicate=True)
    assert found.code == "wrong_replay"


@pytest.mark.parametrize(
    ("changes", "field", "code"),
    [
        ({"event_time": ...}, "event_time", "missing"),
        ({"event_time": None}, "event_time", "missing"),
        ({"event_time": 1}, "event_time", "wrong_type"),
        ({"event_time": "2026-01-01T12:00:00"}, "event_time", "no_zone"),
        ({"event_time": "2026-02-30T12:00:00"}, "event_time", "bad_time"),
        ({"event_time": "1999-12-31T23:59:59.999999Z"}, "event_time", "too_early"),
        ({"event_time": "2026-01-01T13:00:00.000001Z"}, "event_time", "too_late"),
        ({"transaction_id": 1, "event_time": 1}, "transaction_id", "wrong_type"),
        ({"transaction_id": ""}, "transaction_id", "empty"),
        ({"transaction_id": "x" * 257}, "transaction_id", "too_long"),
        ({"kind": 1}, "kind", "wrong_type"),
        ({"kind": "Account"}, "kind", "not_allowed"),
        ({"kind": ""}, "kind", "not_allowed"),
        ({"currency": ""}, "currency", "empty"),
        ({"currency": "x" * 17}, "currency", "too_long"),
        ({"currency": []}, "currency", "wrong_type"),
        ({"message": "x" * 65_537}, "message", "too_long"),
        ({"message": False}, "message", "wrong_type"),
        ({"amount": True}, "amount", "wrong_type"),
        ({"amount": {}}, "amount", "wrong_type"),
        ({"count": "1"}, "count", "wrong_type"),
        ({"count": True}, "count", "wrong_type"),
        ({"count": 1.0}, "count", "not_an_integer"),
        ({"count": 2**63}, "count", "not_an_integer"),
        ({"count": -(2**63) - 1}, "count", "not_an_integer"),
        ({"customer": ...}, "customer", "missing"),
        ({"customer": None, "region": None}, "customer", "missing"),
        ({"customer": ..., "region": 1}, "region", "wrong_type"),
    ],
)
def test_row_8_the_declared_fields_in_their_order(changes: dict[str, Any], field: str, code: str) -> None:
    assert fault(data(**changes)) == (field, code)


def test_row_8_limits_are_in_characters_not_bytes() -> None:
    event(data(transaction_id="😀" * 256, currency="€" * 16, message="😀" * 65_536))


def test_row_8_one_alternative_is_enough() -> None:
    assert event(data(customer=..., region="r"))["region"] == "r"


@pytest.mark.parametrize("again", ['"amount":1', '"amount":null', r'"\u0061mount":1', r'"amoun\u0074":[1]'])
def test_row_8_a_declared_field_that_stands_twice_is_repeated(again: str) -> None:
    assert fault(raw_data(f'"amount":null,{again}')) == ("amount", "repeated")
    assert fault(raw_data(f'"amount":"x",{again}')) == ("amount", "repeated")


def test_unknown_fields_may_hold_anything_however_often() -> None:
    event(raw_data('"x":1,"x":1e9999,"x":{"amount":1,"amount":2},"X":"\\u0001"'))


@pytest.mark.parametrize(
    ("literal", "amount"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("-0.00e5", "0"),
        ("0e999999999999999999999", "0"),
        ("12.50", "12.5"),
        ("1e2", "100"),
        ("1E+2", "100"),
        ("125e-1", "12.5"),
        ("0.000000000000000001", "1e-18"),
        ("0.0000000000000000010", "1e-18"),
        ("99999999999999999999.999999999999999999", "99999999999999999999.999999999999999999"),
        ("1" + "0" * 30 + "e-30", "1"),
        ("0." + "0" * 30 + "1e31", "1"),
        ("1.0e-0000000000000000000000000000000000000001", "0.1"),
    ],
)
def test_row_8_amounts_are_read_from_their_literal_text(literal: str, amount: str) -> None:
    for written in (literal, f'"{literal}"'):
        assert event(raw_data(f'"amount":{written}'))["amount"] == Decimal(amount)


@pytest.mark.parametrize(
    ("literal", "code"),
    [
        *((text, "not_a_number") for text in ("", " 1", "1 ", "+1", "01", ".5", "1.", "1,5", "0x1", "NaN", "1_0", "١")),
        *((text, "negative") for text in ("-1", "-0.0000000000000000001", "-1e99999999999999999999")),
        *((text, "too_many_digits") for text in ("1e20", "100000000000000000000", "0.0000000000000000001")),
        *((text, "too_many_digits") for text in ("1e99999999999999999999", "1e-99999999999999999999", "1e-19")),
        ("1\n", "not_a_number"),
    ],
)
def test_row_8_amounts_that_are_none(literal: str, code: str) -> None:
    assert fault(data(amount=literal)) == ("amount", code)


def test_row_8_digits_are_those_that_the_field_declares() -> None:
    assert event(data(fee="999.9900"))["fee"] == Decimal("999.99")
    assert fault(data(fee="1000")) == ("fee", "too_many_digits")
    assert fault(data(fee="0.001")) == ("fee", "too_many_digits")


@pytest.mark.parametrize("literal", ["0", "-0", "9223372036854775807", "-9223372036854775808"])
def test_row_8_integers_to_64_bits(literal: str) -> None:
    assert event(raw_data(f'"count":{literal}'))["count"] == int(literal)


@pytest.mark.parametrize(
    ("literal", "moment"),
    [
        ("2026-01-01T12:00:00Z", NOON),
        ("2026-01-01t12:00:00z", NOON),
        ("2026-01-01 12:00:00Z", NOON),
        ("2026-01-01T12:00:00-00:00", NOON),
        ("2026-01-01T14:30:00+02:30", NOON),
        ("2025-12-31T12:01:00-23:59", NOON),
        ("2026-01-01T12:00:00", NOON),
        ("2026-01-01T12:00:00.5", NOON + SECOND // 2),
        ("2026-01-01T12:00:00.9999999999999Z", NOON + SECOND - 1),
        ("2024-02-29T00:00:00Z", 1_709_164_800 * SECOND),
        ("0001-01-01T00:00:00Z", -62_135_596_800 * SECOND),
        ("9999-12-31T23:59:59Z", 253_402_300_799 * SECOND),
    ],
)
def test_row_8_times(literal: str, moment: int) -> None:
    assert event(data(seen=literal))["seen"] == moment


@pytest.mark.parametrize(
    "literal",
    [
        *("", "2026-01-01", "12:00:00Z", "2026-01-01T12:00Z", "2026-1-1T12:00:00Z", "2026-01-01T12:00:00.Z"),
        *("2026-02-29T12:00:00Z", "2026-13-01T12:00:00Z", "2026-00-01T12:00:00Z", "0000-01-01T00:00:00Z"),
        *("2026-01-01T24:00:00Z", "2026-01-01T12:60:00Z", "2026-01-01T12:00:60Z", "2026-01-01T12:00:00 Z"),
        *(
            "2026-01-01T12:00:00+24:00",
            "2026-01-01T12:00:00+01:60",
            "2026-01-01T12:00:00+0100",
            "2026-01-01T12:00:00+01",
        ),
        *("0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "2026-01-01T12:00:00Z\n", "２026-01-01T12:00:00Z"),
        *("2026-01-01T12:00:00,5Z", "+2026-01-01T12:00:00Z", "2026-01-01_12:00:00Z", "20260101T120000Z"),
    ],
)
def test_row_8_times_that_are_none(literal: str) -> None:
    assert fault(data(seen=literal)) == ("seen", "bad_time")


def test_row_8_the_event_times_limits_are_themselves_allowed() -> None:
    event(data(event_time="2000-01-01T00:00:00Z"))
    event(data(event_time="2026-01-01T13:00:00Z"))


def test_row_9_an_event_older_than_counts_are_kept_is_too_old_after_every_field() -> None:
    kept = 24 * 3600
    event(data(event_time="2025-12-31T12:00:00Z"), counts_retention=kept)
    old = "2025-12-31T11:59:59.999999Z"
    assert fault(data(event_time=old), counts_retention=kept) == ("event_time", "too_old")
    assert fault(data(event_time=old, region=""), counts_retention=kept) == ("region", "empty")
    event(data(event_time=old))


def test_an_invalid_record_carries_its_id_where_it_can_be_read() -> None:
    assert check(envelope(id="x1", data={})).id == "x1"
    assert check(envelope(data={})).id == "purchase/3/7"
    assert check(envelope(id="x1", ApplicationRef=...)).id == "x1"
    assert check(envelope(id="")).id is None
    assert check("{").id is None
    assert check(envelope(id="x1", data={})).application == "shop"


def test_any_log_timestamp_is_taken() -> None:
    validator = ExactValidator(SOURCE, "purchase", ValiditySettings())
    for moment in (-1, 0, 2**63 - 1, -(2**63)):
        found = validator.check(0, 0, moment, envelope().encode())
        events = [] if isinstance(found, Invalid) else [found]
        assert event_frame(event_schema(SOURCE), events).height == len(events)


def test_columns_hold_exactly_what_was_read() -> None:
    literal = "99999999999999999999.999999999999999999"
    events = [check(data(amount=literal, count=-5, fee="1.5")), check(data(seen="0001-01-01T00:00:00Z"))]
    frame = event_frame(event_schema(SOURCE), events)
    assert dict(frame.schema) == event_schema(SOURCE)
    assert frame["amount"].to_list() == [Decimal(literal), None]
    assert frame["fee"].to_list() == [Decimal("1.50"), None]
    assert frame["seen"].to_physical().to_list() == [None, -62_135_596_800 * SECOND]
    assert event_frame(event_schema(SOURCE), []).schema == frame.schema
    assert frame.schema["event_time"] == pl.Datetime("us")


def test_an_amount_that_needs_more_than_38_digits_is_refused_when_declared() -> None:
    wide = Source(
        name="s",
        topic="s",
        enforces=False,
        parties=(),
        fields=(
            Field(name="event_time", type="time", required=True),
            Field(name="a", type="amount", integer_digits=21),
        ),
    )
    with pytest.raises(ConfigError, match="field a: integer_digits"):
        event_schema(wide)


def test_a_negative_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_ahead must be ≥ 0, got -1"):
        ValiditySettings(max_ahead=-1)


def batch_of(*values: bytes) -> RecordBatch:
    sizes = np.array([len(value) for value in values], dtype=np.int64)
    offsets = np.arange(7, 7 + len(values))
    joined = b"".join(value + b"\n" for value in values)
    return RecordBatch("purchase", 3, offsets, np.full(len(values), NOON // 1000), joined, sizes, 7 + len(values))


def test_replay_claims_are_found_however_the_key_is_written() -> None:
    plain = envelope(replay_of=GOOD).encode()
    values = [
        plain,
        envelope().encode(),
        plain.replace(b"replay_of", rb"\u0072eplay_of"),
        plain.replace(b"replay_of", rb"replay\u005Fof"),
        plain.replace(b"replay_of", rb"\u0072\u0065\u0070\u006c\u0061\u0079\u005f\u006f\u0066"),
        envelope(replay_of={**GOOD, "offset": 99}).encode(),
        data(message="replay_of \n").encode(),
        envelope(replay_of=GOOD, data={}).encode(),
        envelope(replay_of=GOOD, ApplicationRef="").encode(),
        b"\nreplay_of\n",
        b"",
    ]
    claim = ReplayOf("purchase", 3, 6)
    assert replay_claims(batch_of(*values)) == [(7, claim), (9, claim), (10, claim), (11, claim), (14, claim)]
    assert replay_claims(batch_of(*values), ValiditySettings(max_record_bytes=10)) == []


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda s: s.encode(errors="replace")))
def test_any_bytes_give_an_event_or_an_invalid(value: bytes) -> None:
    found = check(value)
    assert isinstance(found, tuple | Invalid)


JSONISH = st.text(alphabet='{}[]",:\\u0d8cfe1-+.Etrnalsx \t\n', max_size=14)


@given(JSONISH | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_another_parser_agrees_on_what_is_json(text: str) -> None:
    """msgspec is strict in all but the half of a pair that it meets in what it skips, and repeats."""
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
        strict = True
    except msgspec.DecodeError:
        strict = False
    try:
        read_outermost(text)
        ours = True
    except NotJsonError:
        ours = False
    assert ours == strict
