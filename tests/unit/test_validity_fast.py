"""The fast path takes only what the exact path takes, with the same values."""

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paystorm.log.base import RecordBatch
from paystorm.source import Field, Source
from paystorm.validity import Code, ExactValidator, Invalid, Validator, ValiditySettings, event_frame, event_schema
from paystorm.validity.fast import FEW_ODD
from paystorm.validity.template import learn

NOON_MS = 1_767_268_800_000  # 2026-01-01T12:00:00Z
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
        Field(name="fee", type="amount", integer_digits=3, fraction_digits=0),
        Field(name="currency", type="currency"),
        Field(name="message", type="text"),
        Field(name="count", type="integer"),
        Field(name="seen", type="time", zoneless_utc=True),
        Field(name="customer", type="id"),
        Field(name="region", type="id"),
    ),
)
SETTINGS = ValiditySettings(max_record_bytes=2000, counts_retention=30 * 86_400)
COPIES = 40
"""How often a generated line stands in its batch, so that it is worth a template."""

PLAIN_TIMES = ["2026-01-01T12:00:00Z", "2026-01-01T11:59:59Z", "2025-12-30T00:00:00Z"]
TIMES = st.sampled_from(
    [
        *PLAIN_TIMES,
        *("2026-01-01T12:00:00.5Z", "2026-01-01T13:00:00.123456789+01:00", "2026-01-01T10:30:00-01:30"),
        *("2026-01-01T12:00:60Z", "2026-02-29T12:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01t12:00:00z"),
        *("2026-01-01 12:00:00Z", "2026-01-01T12:00:00", "2026-01-01T13:00:00Z", "2026-01-01T13:00:01Z"),
        *("1999-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
        *("2026-02-29T12:00:00.5Z", "2026-01-01T12:00:60+00:00", "0000-01-01T00:00:00.0Z", "2026-13-01T12:00:00.5Z"),
        *("9999-12-31T23:59:59Z", "2025-12-02T12:00:00Z", "2025-12-02T11:59:59Z", "2026-01-01T12:00:00+24:00", ""),
    ]
)
NUMBERS = [
    *("0", "-0", "12.50", "12", "1e2", "-1", "00", "1.", "0.000000000000000001", "0.0000000000000000001", "1E400", ""),
    *("99999999999999999999.999999999999999999", "100000000000000000000", "9223372036854775807", "9223372036854775808"),
]
TEXTS = st.sampled_from(
    ["", "u1", "x" * 256, "😀" * 256, "😀" * 257, "a,b", "é", "a\\b", 'q"q', "\x01", "\x7f", "\n", " "]
)
LITERALS = st.sampled_from(NUMBERS[:-1]).filter(lambda n: n not in ("00", "1."))


class Literal(str):
    """JSON text as it stands."""


def write(value: Any, rng: random.Random) -> str:
    """JSON text, with white space and escapes here and there."""
    space = rng.choice(["", "", "", " ", "  "])
    if isinstance(value, Literal):
        return str(value)
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        inside = f",{space}".join(f"{write(k, rng)}:{space}{write(v, rng)}" for k, v in value)
        return "{" + space + inside + "}"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        if value and rng.random() < 0.03:
            text = f'"\\u{ord(value[0]) & 0xFFFF:04x}{text[2:]}' if value[0].isascii() and value[0].isalnum() else text
        return text
    return json.dumps(value)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "transaction_id": TEXTS,
    "event_time": st.sampled_from(PLAIN_TIMES) | TIMES,
    "kind": st.sampled_from(["account", "merchant", "Account", ""]),
    "amount": st.sampled_from(NUMBERS) | LITERALS.map(Literal),
    "fee": st.sampled_from(NUMBERS) | LITERALS.map(Literal),
    "currency": st.sampled_from(["EUR", "", "€" * 16, "x" * 17]),
    "message": TEXTS,
    "count": LITERALS.map(Literal) | st.just("1"),
    "seen": TIMES,
    "customer": TEXTS,
    "region": TEXTS,
    "other": TEXTS
    | LITERALS.map(Literal)
    | st.sampled_from([None, True, [1, 2], ["a", "b"], [("amount", 1), ("y", [])]]),
}
ENVELOPE: dict[str, st.SearchStrategy[Any]] = {
    "id": TEXTS,
    "received_at": TIMES,
    "replay_of": st.just([("topic", "purchase"), ("partition", 0), ("offset", 0)]),
    "x": st.sampled_from([1, "y", ["z", 5], [("data", [("amount", 1)])]]),
}


@st.composite
def objects(draw: st.DrawFn, values: dict[str, st.SearchStrategy[Any]], always: list[tuple[str, Any]]) -> Any:
    """Members in any order: those always there, some others, now and then null or one of them twice."""
    names = draw(st.lists(st.sampled_from(sorted(values)), max_size=6, unique=draw(st.integers(0, 9)) > 0))
    members = [
        (name, draw(st.none() | values[name]) if draw(st.integers(0, 9)) == 0 else draw(values[name])) for name in names
    ]
    known = {name for name, _ in members}
    members += [member for member in always if member[0] not in known]
    return draw(st.permutations(members))


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    data = draw(objects(VALUES, [("event_time", PLAIN_TIMES[0]), ("customer", "c1")]))
    whole = draw(objects(ENVELOPE, [("ApplicationRef", "shop"), ("data", data)]))
    return write(whole, draw(st.randoms(use_true_random=False))).encode()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A line with bytes changed, taken out or put in."""
    line = bytearray(draw(lines()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(line) - 1))
        what = draw(
            st.sampled_from(
                [b'"', b"\\", b"\n", b"\xff", b"}", b",", b":", b"0", b" ", b"\x01", b"\r", b"", b"\xc3\xa9"]
            )
        )
        line[at : at + draw(st.integers(0, 1))] = what
    return bytes(line)


def batch_of(values: Sequence[bytes], first: int = 100, timestamp_ms: int = NOON_MS) -> RecordBatch:
    sizes = np.array([len(value) for value in values], dtype=np.int64)
    offsets = np.arange(first, first + 2 * len(values), 2)
    joined = b"".join(value + b"\n" for value in values)
    return RecordBatch(
        "purchase", 0, offsets, np.full(len(values), timestamp_ms), joined, sizes, first + 2 * len(values)
    )


def same_as_exact(
    validator: Validator,
    batch: RecordBatch,
    duplicates: frozenset[int] = frozenset(),
    limits: ValiditySettings = SETTINGS,
) -> int:
    """Check a batch against the exact path, row by row. Gives the number of events."""
    exact = ExactValidator(SOURCE, "purchase", limits)
    words = [
        exact.check(0, offset, moment, value, offset in duplicates)
        for offset, moment, value in zip(
            batch.offsets.tolist(), batch.timestamps.tolist(), batch.all_values(), strict=True
        )
    ]
    frame, invalid = validator.validate(batch, duplicates)
    assert invalid == [word for word in words if isinstance(word, Invalid)]
    expected = event_frame(event_schema(SOURCE), [word for word in words if not isinstance(word, Invalid)])
    assert frame.schema == expected.schema
    assert frame.rows() == expected.rows()
    return frame.height


def fresh() -> Validator:
    return Validator(SOURCE, "purchase", SETTINGS)


def plain(i: int, **changes: Any) -> bytes:
    """A plainly valid line."""
    data = {
        "event_time": f"2026-01-01T11:{i // 60 % 60:02}:{i % 60:02}Z",
        "customer": f"c{i}",
        "amount": f"{i}.50",
        **changes,
    }
    return json.dumps({"ApplicationRef": "shop", "data": data}, separators=(",", ":"), ensure_ascii=False).encode()


SLOW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@SLOW
@given(st.lists(lines(), min_size=1, max_size=5), st.lists(mutated(), max_size=12), st.randoms(use_true_random=False))
def test_fast_and_exact_give_the_same_for_any_lines(
    shapes: list[bytes], others: list[bytes], rng: random.Random
) -> None:
    values = [line for line in shapes for _ in range(COPIES)] + others
    rng.shuffle(values)
    validator = fresh()
    same_as_exact(validator, batch_of(values))
    same_as_exact(validator, batch_of(values, first=10_000), frozenset(range(10_000, 11_000)))


@SLOW
@given(st.data())
def test_values_that_change_within_a_shape_are_judged_one_by_one(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=5, unique=True))
    rng = random.Random(0)
    values = []
    for i in range(60):
        members = [("event_time", PLAIN_TIMES[i % 3]), ("customer", f"c{i}")]
        if i > COPIES:
            members += [(name, data.draw(VALUES[name])) for name in names if name not in ("event_time", "customer")]
        else:
            examples = {
                "kind": "account",
                "count": Literal(i),
                "fee": Literal(i),
                "amount": f"{i}.5",
                "seen": PLAIN_TIMES[0],
            }
            members += [(n, examples.get(n, "x")) for n in names if n not in ("event_time", "customer")]
        values.append(write([("ApplicationRef", f"app{i}"), ("data", members)], rng).encode())
    same_as_exact(fresh(), batch_of(values))


@SLOW
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 200), st.binary(max_size=2)), max_size=10), st.booleans())
def test_damage_in_a_plain_batch_is_found(damage: list[tuple[int, int, bytes]], emoji: bool) -> None:
    values = [plain(i, message="a😀b" if emoji else "ab") for i in range(100)]
    for row, at, what in damage:
        values[row] = values[row][:at] + what + values[row][at + len(what) :]
    same_as_exact(fresh(), batch_of(values))


@SLOW
@given(st.lists(lines(), min_size=1, max_size=3), st.lists(lines(), min_size=1, max_size=3))
def test_what_was_learned_before_changes_nothing(before: list[bytes], now: list[bytes]) -> None:
    validator = fresh()
    validator.validate(batch_of([line for line in before for _ in range(COPIES)]))
    same_as_exact(validator, batch_of([line for line in now for _ in range(COPIES)]))


@pytest.mark.parametrize(
    "odd",
    [
        *(b"", b"\n", b"\n\n", b"\r", b'"', b'""', b'"' * 30, b"\xef\xbb\xbf" + plain(1), plain(1) + b"\n" + plain(2)),
        *(plain(1) + b"\r", plain(1) + b" ", b" " + plain(1), plain(1)[:-1], plain(1)[1:], plain(1) + b'"', b"\x00"),
        *(plain(1, message="a\nb"), plain(1, message='a"b'), plain(1, message="a\\b"), plain(1, message="\x7f")),
        *(plain(1).replace(b"c1", b"c\n1"), plain(1).replace(b"c1", b"c\x011"), plain(1).replace(b"c1", b"\xff")),
        *(plain(1).replace(b'"c1"', b'"c1","customer":"c2"'), plain(1).replace(b'"1.50"', b"1.50"), b"x" * 2001),
        *(plain(1, message="x" * 1990), plain(1, customer=""), plain(1, customer="x" * 257), plain(1, amount="1e1")),
    ],
)
@pytest.mark.parametrize("place", [0, 50, 99])
def test_an_odd_line_among_plain_ones(odd: bytes, place: int) -> None:
    values = [plain(i) for i in range(100)]
    values[place] = odd
    assert same_as_exact(fresh(), batch_of(values)) >= 99


@pytest.mark.parametrize("gap", [b'":"', b'":,"', b'":1,2,"', b'":-,"', b'":1e,"', b'":01,"', b'":1 ,"', b'": 1,"'])
def test_a_number_slot_takes_numbers_only(gap: bytes) -> None:
    values = [
        f'{{"ApplicationRef":"a","data":{{"count":{i},"event_time":"2026-01-01T12:00:00Z","customer":"c"}}}}'.encode()
        for i in range(100)
    ]
    for row in (0, 1, 40, 99):
        values[row] = values[row].replace(b'":%d,"' % row, gap)
    same_as_exact(fresh(), batch_of(values))


@pytest.mark.parametrize(
    "literal", ["1.", "01", "-", "1e", "--1", "1.5.5", "+1", "1e5", "-0.5E-3", "0", "1" * 39, "1" * 60]
)
@pytest.mark.parametrize("place", ["envelope", "data", "deeper"])
def test_a_number_that_nobody_reads_must_still_be_one(literal: str, place: str) -> None:
    numbers = [*(str(i) for i in range(20)), literal, *(str(i) for i in range(80))]
    shapes = {
        "envelope": '{"x":@,"ApplicationRef":"a","data":{"event_time":"2026-01-01T12:00:00Z","customer":"c"}}',
        "data": '{"ApplicationRef":"a","data":{"event_time":"2026-01-01T12:00:00Z","customer":"c","x":@}}',
        "deeper": '{"ApplicationRef":"a","data":{"event_time":"2026-01-01T12:00:00Z","customer":"c","x":[{"y": @ }]}}',
    }
    same_as_exact(fresh(), batch_of([shapes[place].replace("@", number).encode() for number in numbers]))


def test_a_replay_never_goes_the_fast_way() -> None:
    """Its place in the log and the claims of other records decide, which a shape knows nothing of."""
    values = []
    for i in range(100):
        claim = {"topic": "purchase", "partition": 0 if i % 5 else 1, "offset": 2 * i}
        data = {"event_time": "2026-01-01T12:00:00Z", "customer": f"c{i}"}
        values.append(json.dumps({"ApplicationRef": "a", "data": data, "replay_of": claim}).encode())
    validator = fresh()
    assert same_as_exact(validator, batch_of(values), frozenset(range(150, 200))) > 0
    assert same_as_exact(validator, batch_of(values, first=50)) > 0


def test_the_limits_of_records_and_event_times_hold_among_good_ones() -> None:
    limits = ValiditySettings(max_record_bytes=400, max_ahead=60)
    clocks = ["2000-01-01T00:00:00Z", "1999-12-31T23:59:59Z", "2026-01-01T12:01:00Z", "2026-01-01T12:01:01Z"]
    values = [plain(i, message="m" * i) for i in range(400)]
    values += [plain(i, message="m", event_time=clock) for i, clock in enumerate(clocks)]
    assert same_as_exact(Validator(SOURCE, "purchase", limits), batch_of(values), limits=limits) > 200


def test_the_years_1_to_9999_hold_among_good_ones() -> None:
    edges = ["0001-01-01T00:00:00+00:00", "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:00"]
    edges += ["9999-12-31T23:59:00-00:01", "9999-12-31T23:59:59.999999-00:00", "9999-12-31T23:58:59.9-00:01"]
    values = [plain(i, seen="2026-01-01T12:00:00+01:00") for i in range(60)]
    assert same_as_exact(fresh(), batch_of([*values, *(plain(1, seen=edge) for edge in edges)])) == 64


def test_many_shapes_with_optional_fields_mixed() -> None:
    rng = random.Random(5)
    values = []
    for i in range(2000):
        extra = {
            name: value for name, value in [("message", "hi"), ("kind", "account"), ("other", i)] if rng.random() < 0.5
        }
        values.append(plain(i, **extra))
    validator = fresh()
    assert same_as_exact(validator, batch_of(values)) == 2000
    assert same_as_exact(validator, batch_of(values, first=50_000)) == 2000


def test_times_written_in_several_ways_in_one_batch() -> None:
    ways = [
        "2026-01-01T12:00:00Z",
        "2026-01-01T12:00:00.25Z",
        "2026-01-01T13:00:00+01:00",
        "2026-01-01T12:00:00.1234567-00:30",
    ]
    values = [
        plain(i, event_time=ways[i % 4], seen="2026-01-01T12:00:00" if i % 3 else ways[i % 4]) for i in range(400)
    ]
    assert same_as_exact(fresh(), batch_of(values)) == 400


@pytest.mark.parametrize("fraction", ["", ".25"])
@pytest.mark.parametrize("zone", ["Z", "+01:00"])
def test_every_part_of_a_time_is_checked_among_good_ones(fraction: str, zone: str) -> None:
    clocks = [
        *("2026-02-29T12:00:00", "2024-02-29T12:00:00", "2026-00-01T12:00:00", "2026-13-01T12:00:00"),
        *("2026-01-00T12:00:00", "2026-01-32T12:00:00", "2026-04-31T12:00:00", "2026-01-01T24:00:00"),
        *("2026-01-01T23:59:59", "2026-01-01T12:60:00", "2026-01-01T12:00:60", "0000-01-01T12:00:00"),
        *("0001-01-01T00:00:00", "1900-02-29T12:00:00", "1899-12-31T12:00:00", "1900-01-01T00:00:00"),
        *("2199-12-31T23:59:59", "2200-01-01T00:00:00", "9999-12-31T23:59:59", "1969-12-31T23:59:59"),
        *(
            "2026-99-99T99:99:99",
            "2026/01/01T12:00:00",
            "2026-01-01 12:00:00",
            "2026-01-01T1:200:00",
            "202x-01-01T12:00:00",
        ),
        *("2026-01-01T12:00:0:", "2026-01-01T12:00:0/", "\x7f026-01-01T12:00:00", "２026-01-01T12:00:00"),
    ]
    good = [plain(i, seen=f"2026-01-01T12:00:{i:02}{fraction}{zone}") for i in range(60)]
    values = [*good, *(plain(1, seen=clock + fraction + zone) for clock in clocks), *good]
    same_as_exact(fresh(), batch_of(values))


@pytest.mark.parametrize("size", [*range(1, 12), *range(28, 44), 63, 64, 65, 255, 256, 257])
def test_texts_of_any_length_end_where_they_end(size: int) -> None:
    values = [plain(i, message="x" * size, customer="y" * (i % 7 + 1), other="z" * (size * i % 45)) for i in range(80)]
    same_as_exact(fresh(), batch_of([*values, plain(1, message="x" * size)[:-4]]))


def test_the_literal_text_of_data_wherever_it_stands() -> None:
    data = '{"event_time":"2026-01-01T12:00:00Z", "customer":"é😀", "x":[1,{"y":2}]}'
    shapes = [
        f'{{"data":{data},"ApplicationRef":"a"}}',
        f'{{"ApplicationRef":"a","data": {data} ,"id":"i"}}',
        f'{{"x":{{"data":"no"}},"data":{data}, "ApplicationRef":"a", "y":[ 1 ]}}',
    ]
    for shape in shapes:
        frame, invalid = fresh().validate(batch_of([shape.encode()] * 100))
        assert not invalid
        assert frame["data"].to_list() == [data] * 100


@pytest.mark.parametrize("odd", [1, FEW_ODD, FEW_ODD + 1, 3 * FEW_ODD])
def test_lines_with_a_backslash_are_found_however_many_there_are(odd: int) -> None:
    lines = [plain(i, message='"\\" and \\n' if i % 2 and i < 2 * odd else "plain") for i in range(8 * FEW_ODD)]
    assert same_as_exact(fresh(), batch_of(lines)) == len(lines)


def test_plain_lines_go_the_fast_way() -> None:
    """Otherwise all of the above would hold and prove nothing."""
    validator = fresh()
    batch = batch_of([plain(i, count=i, message="é" * (i % 90), x={"y": i}) for i in range(200)])
    asked: list[int] = []
    exact = ExactValidator(SOURCE, "purchase", SETTINGS)

    def ask(i: int) -> Any:
        asked.append(i)
        return exact.check(0, int(batch.offsets[i]), NOON_MS, batch.value(i))

    taken = validator._fast.take(batch, ask)
    assert len(asked) == 1
    assert taken.rows.sum() == 199
    validator._fast.take(batch, ask)
    assert len(asked) == 1


def test_a_batch_with_extreme_log_timestamps_is_decided_exactly() -> None:
    for moment in (2**62, -(2**62), 2**63 - 1, -(2**63), 5 * 10**15, 4 * 10**15):
        same_as_exact(fresh(), batch_of([plain(i) for i in range(60)], timestamp_ms=moment))


def test_the_memory_of_shapes_is_bounded() -> None:
    validator = fresh()
    for i in range(60):
        validator.validate(batch_of([plain(n, **{f"x{i}": 1}) for n in range(60)]))
    assert len(validator._fast._templates) <= 32


def test_an_empty_batch_gives_an_empty_frame() -> None:
    frame, invalid = fresh().validate(batch_of([]))
    assert frame.schema == event_schema(SOURCE)
    assert (frame.height, invalid) == (0, [])


def test_a_template_tells_keys_from_values() -> None:
    template = learn(
        b'{"id":"data","data":{"id":"x","n":-1.5e3,"l":["id",3,{"id":"y"}],"t":"2026-01-01T00:00:00Z"}}',
        [("data", "t")],
    )
    assert template is not None
    assert [(slot.target, slot.kind) for slot in template.slots] == [
        (("id",), "text"),
        (("data", "id"), "text"),
        (("data", "n"), "number"),
        (None, "text"),
        (None, "text"),
        (("data", "t"), "time"),
    ]


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_in_give_an_event_or_an_invalid(junk: bytes) -> None:
    values = [junk, *(plain(i) for i in range(60)), junk]
    frame, invalid = fresh().validate(batch_of(values))
    assert frame.height + len(invalid) == 62
    assert all(isinstance(one.code, Code) for one in invalid)
