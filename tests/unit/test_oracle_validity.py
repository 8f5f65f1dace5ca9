"""Every row of docs/validity.md, through the oracle."""

import json
from decimal import Decimal
from typing import Any

import pytest

from paystorm.oracle.strict_json import NotJsonError, parse
from paystorm.oracle.testing import Log
from paystorm.oracle.validity import Checker, Event, Invalid, Settings

NOON = 1_704_110_400_000_000
SOURCE: dict[str, Any] = {
    "name": "purchase",
    "topic": "purchases",
    "enforces": True,
    "own_id": "order",
    "one_of": (("customer", "region"),),
    "fields": (
        {"name": "order", "type": "id"},
        {"name": "event_time", "type": "time", "required": True},
        {"name": "customer", "type": "id"},
        {"name": "region", "type": "text"},
        {"name": "shop", "type": "id", "required": True},
        {"name": "amount", "type": "amount"},
        {"name": "currency", "type": "currency"},
        {"name": "channel", "type": "choice", "values": ("web", "till")},
        {"name": "items", "type": "integer"},
        {"name": "shipped", "type": "time", "zoneless_utc": True},
    ),
    "parties": ({"field": "customer", "role": "sender", "kind": "account"},),
}
DATA = {"event_time": "2024-01-01T12:00:00Z", "customer": "u1", "shop": "m1"}


def check(value: bytes | str, settings: Settings | None = None, offset: int = 7) -> Event | Invalid:
    raw = value.encode() if isinstance(value, str) else value
    return Checker(SOURCE, "purchases").check(0, offset, NOON // 1000, raw, settings or Settings())


def why(value: bytes | str, settings: Settings | None = None) -> tuple[str, str] | None:
    found = check(value, settings)
    return (found.field, found.code) if isinstance(found, Invalid) else None


def envelope(**keys: Any) -> str:
    return json.dumps({"ApplicationRef": "shop", "data": DATA} | keys)


def data(**fields: Any) -> str:
    return envelope(data=DATA | fields)


def literal(field: str, text: str) -> str:
    """A record whose data has `field` with this JSON text, written as it is."""
    rest = json.dumps({key: value for key, value in DATA.items() if key != field})
    return f'{{"ApplicationRef": "shop", "data": {{"{field}": {text}, {rest[1:]}}}'


def event(value: bytes | str, settings: Settings | None = None) -> Event:
    found = check(value, settings)
    assert isinstance(found, Event), found
    return found


def test_a_record_of_exactly_the_most_bytes_is_read_and_one_more_is_too_large() -> None:
    size = len(envelope().encode())
    assert why(envelope(), Settings(max_record_bytes=size)) is None
    assert why(envelope(), Settings(max_record_bytes=size - 1)) == ("record", "too_large")


@pytest.mark.parametrize("raw", [b"\xff", b'{"a":"\xed\xa0\x80"}', b'{"a":"\xc0\x80"}'])
def test_bytes_that_are_not_utf8_are_named(raw: bytes) -> None:
    assert why(raw) == ("record", "not_utf8")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "{}x",
        "{} {}",
        "{,}",
        "{'a':1}",
        "{a:1}",
        '{"a"}',
        '{"a":}',
        '{"a":1,}',
        '{"a" 1}',
        '{"a":[1,]}',
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":-Infinity}',
        '{"a":{"b":[NaN]}}',
        "NaN",
        '{"a":01}',
        '{"a":1.}',
        '{"a":.5}',
        '{"a":+1}',
        '{"a":1e}',
        '{"a":-}',
        '{"a":٣}',
        '{"a":0x10}',
        '{"a":"\x01"}',
        '{"a":"\n"}',
        '{"a\t":1}',
        '{"a":"\\x"}',
        '{"a":"\\u12"}',
        '{"a":"\\u 123"}',
        '{"a":"\\u1_23"}',
        '{"a":"\\ud83d"}',
        '{"a":"\\ude00\\ud83d"}',
        '{"a":"\\ud83d\\ud83d\\ude00"}',
        '{"\\ud800":1}',
        '{"a":{"b":[{"\\udfff":1}]}}',
        '{"a":1,"a":"\\ud800","a":2}',
        '"\\ud800"',
        "\ufeff{}",
        "{}\ufeff",
        "{}\u00a0",
        "{}\x0c",
        "{}\x00",
        "tru",
        "nul",
        '{"a":True}',
        "// c\n{}",
        '{"a":"unended',
        '{"a":"x\\',
    ],
)
def test_what_is_not_strict_json_is_refused(text: str) -> None:
    assert why(text) == ("record", "not_json")


@pytest.mark.parametrize("text", ['{"a":"\\u0000"}', '{"a":"\\ud83d\\ude00"}', '{"a":"\\\\ud800"}', '{"a":"\x7f"}'])
def test_nul_escaped_pairs_and_escaped_backslashes_are_text(text: str) -> None:
    assert why(text) == ("ApplicationRef", "missing")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_the_depth_is_counted_to_64_and_no_depth_breaks_the_reader(opening: str, closing: str) -> None:
    def nested(levels: int) -> str:
        return opening * levels + "1" + closing * levels

    assert why('{"a":' + nested(63) + "}") == ("ApplicationRef", "missing")
    assert why('{"a":' + nested(64) + "}") == ("record", "not_json")
    assert why(nested(100_000)) == ("record", "not_json")
    assert why(opening * 100_000) == ("record", "not_json")


def test_brackets_within_texts_and_beside_each_other_are_not_depth() -> None:
    assert why('{"a":"' + "[" * 500 + '\\"{","b":[' + ",".join(["[]"] * 500) + "]}") == ("ApplicationRef", "missing")


def test_numbers_of_any_length_are_read_as_their_text() -> None:
    digits = "1" * 10_000
    members = parse(f'{{"a": {digits}, "b": -0, "c": 1E+2}}')
    assert members is not None
    assert [member.value for member in members] == [digits, "-0", "1E+2"]
    with pytest.raises(NotJsonError):
        parse("-")


@pytest.mark.parametrize("text", ["[]", '"x"', "1", "null", "true", " [1, {}] "])
def test_a_value_that_is_no_object_is_no_envelope(text: str) -> None:
    assert why(text) == ("envelope", "wrong_type")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"ApplicationRef": None}, ("ApplicationRef", "missing")),
        ({"ApplicationRef": 1}, ("ApplicationRef", "wrong_type")),
        ({"ApplicationRef": ""}, ("ApplicationRef", "empty")),
        ({"ApplicationRef": "x" * 257}, ("ApplicationRef", "too_long")),
        ({"ApplicationRef": "😀" * 256}, None),
        ({"data": None}, ("data", "missing")),
        ({"data": []}, ("data", "wrong_type")),
        ({"id": None}, None),
        ({"id": ""}, ("id", "empty")),
        ({"id": 5}, ("id", "wrong_type")),
        ({"received_at": "2024-01-01T12:00:00"}, ("received_at", "no_zone")),
        ({"received_at": "x"}, ("received_at", "bad_time")),
        ({"received_at": 1}, ("received_at", "wrong_type")),
        ({"received_at": "1950-01-01T00:00:00Z"}, ("event_time", "too_late")),
        ({"replay_of": []}, ("replay_of", "wrong_type")),
        ({"replay_of": None}, None),
        ({"unknown": [None, {"x": 1}]}, None),
    ],
)
def test_envelope_keys_are_checked_as_fields(keys: dict[str, Any], expected: tuple[str, str] | None) -> None:
    assert why(envelope(**keys)) == expected


def test_envelope_keys_are_checked_in_their_order_and_a_repetition_after_unescaping() -> None:
    assert why('{"id": 1, "data": 1, "ApplicationRef": "a"}') == ("data", "wrong_type")
    assert why('{"ApplicationRef": "a", "d\\u0061ta": {}, "data": {}}') == ("data", "repeated")
    assert why('{"id": null, "id": null, "ApplicationRef": "a", "data": {}}') == ("id", "repeated")
    assert why('{"x": 1, "x": 2, "id": 1, "ApplicationRef": "a", "data": {}}') == ("id", "wrong_type")


@pytest.mark.parametrize(
    "replay",
    [
        '{"topic": "purchases", "partition": 0}',
        '{"topic": "purchases", "partition": 0, "offset": 1, "x": 1}',
        '{"topic": "purchases", "partition": 0, "offset": 1, "offset": 1}',
        '{"topic": "refunds", "partition": 0, "offset": 1}',
        '{"topic": 5, "partition": 0, "offset": 1}',
        '{"topic": "purchases", "partition": 1, "offset": 1}',
        '{"topic": "purchases", "partition": "0", "offset": 1}',
        '{"topic": "purchases", "partition": 0, "offset": 7}',
        '{"topic": "purchases", "partition": 0, "offset": -1}',
        '{"topic": "purchases", "partition": 0, "offset": 1.0}',
        '{"topic": "purchases", "partition": 0, "offset": true}',
        '{"topic": "purchases", "partition": 0, "offset": ' + "1" * 5000 + "}",
        "{}",
    ],
)
def test_a_replay_of_that_is_not_exactly_an_earlier_record_of_the_partition_is_wrong(replay: str) -> None:
    text = f'{{"ApplicationRef": "a", "id": "e", "data": {json.dumps(DATA)}, "replay_of": {replay}}}'
    assert check(text) == Invalid("e", "replay_of", "wrong_replay")


def test_of_several_replays_the_lowest_offset_with_a_valid_envelope_claims_whatever_becomes_of_it() -> None:
    def replay(offset: int) -> dict[str, Any]:
        return {"replay_of": {"topic": "purchases", "partition": 0, "offset": offset}}

    log = Log()
    log.add_raw("not json")
    log.add_raw("not json")
    log.add(DATA, envelope=replay(0) | {"ApplicationRef": ""})  # claims nothing: its envelope is wrong
    log.add({}, envelope=replay(0))  # claims, and is wrong itself
    log.add(DATA, envelope=replay(0))
    log.add(DATA, envelope=replay(1))  # claims, and is parked
    log.add(DATA, envelope=replay(1))
    with log.compute(SOURCE, parked={(0, 5)}) as computed:
        codes = {offset: (o.field, o.code) for (_, offset), o in computed.outcomes.items()}
    assert codes[2] == ("ApplicationRef", "empty")
    assert codes[3] == ("event_time", "missing")
    assert codes[4] == codes[6] == ("replay_of", "duplicate_replay")
    assert 5 not in codes


@pytest.mark.parametrize(
    ("field", "text", "code"),
    [
        ("shop", "null", "missing"),
        ("shop", "5", "wrong_type"),
        ("shop", "true", "wrong_type"),
        ("shop", '""', "empty"),
        ("shop", '"' + "é" * 256 + '"', None),
        ("shop", '"' + "é" * 257 + '"', "too_long"),
        ("shop", '"a\\u0000,\\n\\"😀"', None),
        ("region", '""', None),
        ("region", '"' + "x" * 65_536 + '"', None),
        ("region", '"' + "x" * 65_537 + '"', "too_long"),
        ("currency", '""', "empty"),
        ("currency", '"' + "x" * 17 + '"', "too_long"),
        ("channel", '"web"', None),
        ("channel", '"Web"', "not_allowed"),
        ("channel", '""', "not_allowed"),
        ("channel", "1", "wrong_type"),
        ("items", "9223372036854775807", None),
        ("items", "-9223372036854775808", None),
        ("items", "-0", None),
        ("items", "9223372036854775808", "not_an_integer"),
        ("items", "1.0", "not_an_integer"),
        ("items", "1e2", "not_an_integer"),
        ("items", "1" * 5000, "not_an_integer"),
        ("items", '"1"', "wrong_type"),
        ("amount", "[]", "wrong_type"),
        ("amount", "true", "wrong_type"),
        ("amount", '""', "not_a_number"),
        ("amount", '"+1"', "not_a_number"),
        ("amount", '" 1"', "not_a_number"),
        ("amount", '"1\\n"', "not_a_number"),
        ("amount", '"01"', "not_a_number"),
        ("amount", '"1."', "not_a_number"),
        ("amount", '"NaN"', "not_a_number"),
        ("amount", '"١"', "not_a_number"),
        ("amount", '"1_0"', "not_a_number"),
        ("amount", "-1", "negative"),
        ("amount", '"-1e-999999999999999"', "negative"),
        ("amount", "1e20", "too_many_digits"),
        ("amount", "1" + "0" * 19, None),
        ("amount", "1e-18", None),
        ("amount", "1e-19", "too_many_digits"),
        ("amount", "1e999999999", "too_many_digits"),
        ("amount", "1e-999999999", "too_many_digits"),
        ("amount", '"1e' + "9" * 5000 + '"', "too_many_digits"),
        ("amount", "1" * 5000, "too_many_digits"),
        ("event_time", '"2024-01-01T12:00:00"', "no_zone"),
        ("event_time", "1704110400", "wrong_type"),
        ("event_time", '"1999-12-31T23:59:59.999999Z"', "too_early"),
        ("event_time", '"2000-01-01T00:00:00Z"', None),
        ("event_time", '"2024-01-01T13:00:00Z"', None),
        ("event_time", '"2024-01-01T13:00:00.000001Z"', "too_late"),
        ("event_time", '"2024-01-01T13:00:00.0000009Z"', None),
        ("shipped", '"2024-01-01T12:00:00"', None),
        ("shipped", '"1000-01-01T12:00:00Z"', None),
        ("unknown", "[null]", None),
    ],
)
def test_a_field_is_checked_by_its_type_and_limits(field: str, text: str, code: str | None) -> None:
    assert why(literal(field, text)) == (None if code is None else (field, code))


@pytest.mark.parametrize(
    "text",
    [
        "2024-02-30T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "2024-13-01T00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T23:60:00Z",
        "2016-12-31T23:59:60Z",
        "0000-01-01T00:00:00Z",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00+00:60",
        "2024-01-01T00:00:00+0000",
        "2024-01-01T00:00Z",
        "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00,5Z",
        "2024-01-01",
        "2024-01-01T00:00:00Z\n",
        " 2024-01-01T00:00:00Z",
        "２024-01-01T00:00:00Z",
        "20240101T000000Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "",
    ],
)
def test_a_time_that_there_is_not_is_bad(text: str) -> None:
    assert why(data(shipped=text)) == ("shipped", "bad_time")


@pytest.mark.parametrize(
    ("text", "after_noon"),
    [
        ("2024-01-01T12:00:00Z", 0),
        ("2024-01-01t12:00:00z", 0),
        ("2024-01-01 12:00:00.5Z", 500_000),
        ("2024-01-01T12:00:00.1234569Z", 123_456),
        ("2024-01-01T14:30:00+02:30", 0),
        ("2024-01-01T12:00:00-00:00", 0),
        ("2023-12-31T23:00:00-13:00", 0),
        ("2024-01-01T12:00:01", 1_000_000),
    ],
)
def test_a_time_is_brought_to_utc_and_cut_to_microseconds(text: str, after_noon: int) -> None:
    assert event(data(shipped=text)).values["shipped"] == NOON + after_noon


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", "0.1"),
        ('"1.10"', "1.1"),
        ("1E+2", "100"),
        ("-0", "0"),
        ("-0.000e999999999999", "0"),
        ("0e-99999999999999999", "0"),
        ("12345678901234567890.123456789012345678", "12345678901234567890.123456789012345678"),
        ("100000000000000000000000e-10", "10000000000000"),
        ("0.00000000000000000000000000001e29", "1"),
        ("1.000000000000000000000000", "1"),
    ],
)
def test_an_amount_is_exactly_what_its_text_says(text: str, value: str) -> None:
    assert event(literal("amount", text)).values["amount"] == Decimal(value)


def test_of_alternatives_the_first_is_named_at_its_place() -> None:
    assert why(envelope(data={"event_time": DATA["event_time"]})) == ("customer", "missing")
    assert why(data(customer=None)) == ("customer", "missing")
    assert why(data(customer=None, region="north")) is None
    assert why(envelope(data={"customer": None, "event_time": "x"})) == ("event_time", "bad_time")


def test_a_declared_field_that_stands_twice_is_repeated_and_an_unknown_one_is_not_looked_at() -> None:
    assert why(literal("shop", '"a", "sh\\u006fp": "b"')) == ("shop", "repeated")
    assert why(literal("shop", 'null, "shop": null')) == ("shop", "repeated")
    assert why(literal("other", '1, "other": {"shop": 1, "shop": 1}')) is None


def test_an_event_older_than_the_retention_of_counts_is_too_old_after_all_other_checks() -> None:
    settings = Settings(counts_retention=60)
    assert why(data(event_time="2024-01-01T11:59:00Z"), settings) is None
    assert why(data(event_time="2024-01-01T11:58:59.999999Z"), settings) == ("event_time", "too_old")
    assert why(data(event_time="2024-01-01T11:00:00Z", items="x"), settings) == ("items", "wrong_type")


def test_defaults_are_the_place_in_the_log_its_timestamp_and_the_envelopes_id() -> None:
    found = event(envelope())
    assert (found.id, found.received_at, found.values["order"]) == ("purchases/0/7", NOON, "purchases/0/7")
    named = event(envelope(id="e1", received_at="2024-01-01T12:30:00Z"))
    assert (named.id, named.received_at, named.values["order"]) == ("e1", NOON + 1_800_000_000, "e1")
    assert event(envelope(id="e1", data=DATA | {"order": "o1"})).values["order"] == "o1"


def test_data_is_kept_as_its_literal_text() -> None:
    text = json.dumps(DATA)[:-1] + ' ,\t"x" : [ 1.10, "\\u00e9😀" ]\n}'
    assert event(f'{{ "data" :  {text}  , "ApplicationRef":"a" }}').data == text


def test_the_id_is_known_once_the_envelope_is_read() -> None:
    assert check(envelope(id="e1", received_at="x")) == Invalid(None, "received_at", "bad_time")
    assert check(envelope(id="e1", data={})) == Invalid("e1", "event_time", "missing")
