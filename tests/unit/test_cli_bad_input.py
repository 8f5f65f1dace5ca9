"""Bad input of every sort among good records, by the commands: outcomes, codes, and no difference to the oracle."""

import json
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest

from paystorm import exports
from paystorm.cli.main import main
from paystorm.log.base import OutRecord
from paystorm.project import Project
from paystorm.resources import open_embedded
from paystorm.stores.letters import all_letters
from paystorm.validity.codes import Code

Captured = pytest.CaptureFixture[str]
LIMIT = 1_048_576
NOON = "2025-01-01T12:00:00Z"
DATA: dict[str, Any] = {"event_time": NOON, "from_party": "a", "to_party": "b"}
GOOD = "accepted"


def envelope(data: str, **keys: Any) -> bytes:
    """A record with this text as its data."""
    rest = "".join(f",{json.dumps(k)}:{json.dumps(v)}" for k, v in keys.items())
    return f'{{"ApplicationRef":"shop","data":{data}{rest}}}'.encode()


def record(**fields: Any) -> bytes:
    """A record with these fields changed; None: left out."""
    data = {k: v for k, v in (DATA | fields).items() if v is not None}
    return envelope(json.dumps(data, ensure_ascii=False))


def literal(field: str, text: str) -> bytes:
    """A record whose data has a field with this JSON text, as it is."""
    rest = {k: v for k, v in DATA.items() if k != field}
    return envelope(f'{{"{field}":{text},{json.dumps(rest)[1:]}')


def amount(text: str) -> bytes:
    """A record with this amount, as it is."""
    return literal("amount", text)


CASES: list[tuple[str, bytes]] = [
    # Not JSON.
    ("record: not_json", b"{"),
    ("record: not_json", b""),
    ("record: not_json", b"\0"),
    ("record: not_json", record() + b"\0"),
    ("record: not_json", record()[:-1] + b",}"),
    ("record: not_json", record() + record()),
    ("record: not_json", b"\xef\xbb\xbf" + record()),
    ("record: not_json", record(message="x").replace(b'"x"', b'"a\0b"')),
    ("record: not_json", record(message="x").replace(b'"x"', b'"\\ud800"')),
    ("record: not_json", literal("message", "'x'")),
    ("record: not_json", amount("NaN")),
    ("record: not_json", amount("Infinity")),
    ("record: not_json", amount("01")),
    ("record: not_json", amount("+1")),
    ("record: not_json", amount(".5")),
    ("record: not_json", literal("x", "[" * 63 + "]" * 63)),
    ("record: not_json", b"[" * LIMIT),
    ("record: not_json", b'{"data":' * 100_000),
    ("record: not_utf8", b"\xff"),
    ("record: not_utf8", record(message="x").replace(b'"x"', b'"\xc3("')),
    ("record: not_utf8", record(message="x").replace(b'"x"', b'"\xed\xa0\x80"')),
    # The envelope.
    ("envelope: wrong_type", b"[]"),
    ("envelope: wrong_type", b"null"),
    ("envelope: wrong_type", b"7"),
    ("envelope: wrong_type", b'"text"'),
    ("ApplicationRef: wrong_type", b'{"ApplicationRef":7,"data":{}}'),
    ("ApplicationRef: empty", b'{"ApplicationRef":"","data":{}}'),
    ("ApplicationRef: repeated", b'{"ApplicationRef":"shop","ApplicationRef":"shop","data":{}}'),
    ("ApplicationRef: repeated", b'{"ApplicationRef":"shop","\\u0041pplicationRef":"shop","data":{}}'),
    ("ApplicationRef: too_long", b'{"ApplicationRef":"' + b"s" * 257 + b'","data":{}}'),
    ("ApplicationRef: missing", b'{"ApplicationRef":null,"data":{}}'),
    ("data: missing", b'{"ApplicationRef":"shop"}'),
    ("data: missing", b'{"ApplicationRef":"shop","data":null}'),
    ("data: wrong_type", b'{"ApplicationRef":"shop","data":[]}'),
    ("id: empty", envelope(json.dumps(DATA), id="")),
    ("id: too_long", envelope(json.dumps(DATA), id="i" * 257)),
    ("received_at: no_zone", envelope(json.dumps(DATA), received_at="2025-01-01T12:00:00")),
    ("received_at: bad_time", envelope(json.dumps(DATA), received_at="yesterday")),
    ("replay_of: wrong_replay", envelope(json.dumps(DATA), replay_of={"topic": "purchase"})),
    # Fields.
    ("event_time: missing", record(event_time=None)),
    ("event_time: missing", literal("event_time", "null")),
    ("event_time: wrong_type", record(event_time=1_735_689_600)),
    ("event_time: bad_time", record(event_time="2025-02-29T00:00:00Z")),
    ("event_time: bad_time", record(event_time="2025-01-01T00:00:60Z")),
    ("event_time: bad_time", record(event_time="2025-01-01T24:00:00Z")),
    ("event_time: bad_time", record(event_time="0000-01-01T00:00:00Z")),
    ("event_time: bad_time", record(event_time="9999-12-31T23:59:59-01:00")),
    ("event_time: bad_time", record(event_time="2025-01-01")),
    ("event_time: bad_time", record(event_time="")),
    ("event_time: no_zone", record(event_time="2025-01-01T12:00:00")),
    ("event_time: too_early", record(event_time="1900-01-01T00:00:00Z")),
    ("event_time: too_early", record(event_time="1999-12-31T23:59:59.999999Z")),
    ("event_time: too_late", record(event_time="9999-12-31T23:59:59Z")),
    ("from_party: missing", record(from_party=None)),
    ("from_party: empty", record(from_party="")),
    ("from_party: wrong_type", record(from_party=7)),
    ("from_party: wrong_type", record(from_party={"id": "a"})),
    ("from_party: too_long", record(from_party="k" * 257)),
    ("from_party: too_long", record(from_party="k" * 40_000)),  # longer than a key of the log
    ("from_party: too_long", record(from_party="😀" * 257)),
    ("from_party: repeated", literal("from_party", '"a","from_party":"a"')),
    ("to_party: wrong_type", record(to_party=True)),
    ("to_kind: not_allowed", record(to_kind="alien")),
    ("message: too_long", record(message="m" * 65_537)),
    ("currency: empty", record(currency="")),
    ("currency: too_long", record(currency="X" * 17)),
    ("amount: wrong_type", record(amount=[1])),
    ("amount: not_a_number", record(amount="NaN")),
    ("amount: not_a_number", record(amount="")),
    ("amount: not_a_number", record(amount=" 1")),
    ("amount: not_a_number", record(amount="1,5")),
    ("amount: negative", amount("-1")),
    ("amount: negative", record(amount="-0.000000000000000001")),
    ("amount: too_many_digits", amount("1e20")),
    ("amount: too_many_digits", amount("1e999999999")),
    ("amount: too_many_digits", amount("1e-19")),
    ("amount: too_many_digits", amount("9" * 500_000)),
    # Odd, and right.
    (GOOD, literal("x", "[" * 62 + "]" * 62)),
    (GOOD, b" " + record() + b"\r"),
    (GOOD, literal("x", "1e400")),
    (GOOD, literal("x", '1,"x":2')),
    (GOOD, record(from_party="😀" * 256)),
    (GOOD, record(from_party="a\0b", message='","; DROP TABLE x; --\u2028\n')),
    (GOOD, literal("to_party", '"\\ud83d\\ude00"')),
    (GOOD, record(event_time="2025-01-01 12:00:00.123456789+14:00")),
    (GOOD, amount("-0")),
    (GOOD, amount("1e-18")),
    (GOOD, record(amount="99999999999999999999.999999999999999999", currency="EUR", from_party="rich")),
    (GOOD, record(amount="99999999999999999999.999999999999999999", currency="EUR", from_party="richer")),
    (GOOD, amount("100e-2")),
    (GOOD, record(message="", to_kind="merchant")),
]

IN_THE_LOG: list[tuple[str, bytes]] = [
    ("record: too_large", record(message="m" * LIMIT)),
    ("record: too_large", b"\xff" * (LIMIT + 1)),
    ("record: too_large", b"[" * (10 << 20)),
    ("record: not_json", b""),
    ("record: not_json", b"\n"),
    ("record: not_json", record() + b"\n" + record()),
    (GOOD, json.dumps({"ApplicationRef": "shop", "data": DATA | {"from_party": "pretty"}}, indent=4).encode() + b"\n"),
    (GOOD, record(from_party="last\nline").replace(b",", b"\n,\r\n\t")),
]
"""What no line of a file can be."""


def run(data: Path, *arguments: str) -> None:
    """Run until idle; nothing is complained of."""
    assert main(["run", *arguments, "--until-idle", "--data", str(data)]) == 0


def in_log(data: Path, topic: str) -> dict[tuple[int, int], bytes]:
    """The values of a topic by partition and offset."""
    resources = open_embedded(data)
    found: dict[tuple[int, int], bytes] = {}
    for partition in range(resources.log.partitions(topic)):
        at = 0
        while batch := resources.log.read(topic, partition, at, max_records=10**6, max_bytes=10**9):
            found |= {(partition, int(o)): v for o, v in zip(batch.offsets, batch.all_values(), strict=True)}
            at = batch.next
    resources.close()
    return found


def outcomes(data: Path, source: str) -> dict[tuple[int, int], str]:
    """What became of each record: its outcome, of a dead letter field and code."""
    resources = open_embedded(data)
    rows = pl.concat(exports.outcomes(resources, Project.load().sources()[source]))
    resources.close()
    found = {
        (partition, offset): reason if outcome == "dead-lettered" else GOOD
        for _, _, partition, offset, _, outcome, reason in rows.iter_rows()
    }
    assert len(found) == len(rows)
    return found


def agree(data: Path, capsys: Captured, source: str) -> None:
    """`status` adds up and `verify` finds no difference."""
    capsys.readouterr()
    assert main(["status", source, "--data", str(data), "--json"]) == 0
    (status,) = json.loads(capsys.readouterr().out)
    assert (status["adds_up"], status["problems"], status["totals"]["lag"]) == (True, [], 0)
    code = main(["verify", source, "--data", str(data)])
    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["-o", "chunkRecords=7"]])
def test_everything_bad_among_good_records_gets_its_outcome(
    tmp_path: Path, capsys: Captured, options: list[str]
) -> None:
    data, file, random = tmp_path / "data", tmp_path / "x.ndjson", Random(7)
    good = [(GOOD, record(from_party=f"u{random.randrange(40)}", to_party=f"v{i}", amount=i)) for i in range(600)]
    cases = CASES + good
    random.shuffle(cases)
    big = b'{"ApplicationRef":"shop","data":' + b"[" * (10 << 20)
    lines = [value for _, value in cases]
    lines[100:100] = [big]
    file.write_bytes(b"\n".join(lines) + b"\n")
    assert main(["send", "purchase", str(file), "--data", str(data)]) == 2
    err = capsys.readouterr().err.splitlines()
    assert f"line 101: {len(big):,} bytes, more than maxRecordBytes {LIMIT:,}: not sent" in err[0]
    assert err[1] == "paystorm: 1 records were not sent: over maxRecordBytes; all others were"
    # A bare object is wrapped, one that is no JSON is not.
    file.write_bytes(
        json.dumps(DATA).encode() + b"\n" + json.dumps(DATA | {"amount": -3}).encode() + b'\n{"amount":NaN}\n'
    )
    assert main(["send", "purchase", str(file), "--data", str(data)]) == 0
    bare = [(GOOD, envelope(json.dumps(DATA))), ("amount: negative", envelope(json.dumps(DATA | {"amount": -3})))]
    bare += [("record: not_json", b'{"amount":NaN}')]

    resources = open_embedded(data)
    resources.log.append("purchase", [OutRecord(value, key=b"k") for _, value in IN_THE_LOG])
    resources.close()
    run(data, "purchase", *options)

    expected = {value: reason for reason, value in cases + bare + IN_THE_LOG}
    values, found = in_log(data, "purchase"), outcomes(data, "purchase")
    assert len(values) == len(found) == len(cases) + len(bare) + len(IN_THE_LOG)
    wrong = [
        (values[at][:200], reason, expected[values[at]])
        for at, reason in found.items()
        if reason != expected[values[at]]
    ]
    assert wrong == []
    agree(data, capsys, "purchase")
    capsys.readouterr()

    # Nothing of a dead letter is lost.
    resources = open_embedded(data)
    assert {(x.partition, x.offset): x.value for x in all_letters(resources.tables, "purchase")} == {
        at: value for at, value in values.items() if found[at] != GOOD
    }

    # Two replays of one dead letter: the lower offset counts.
    at = next(x for x, reason in sorted(found.items()) if reason == "amount: negative")
    of = {"topic": "purchase", "partition": at[0], "offset": at[1]}
    replay = [OutRecord(envelope(json.dumps(DATA | {"amount": n}), replay_of=of), partition=at[0]) for n in (3, 4)]
    places = resources.log.append("purchase", replay)
    resources.close()
    run(data, "purchase", *options)
    found = outcomes(data, "purchase")
    assert [found[place] for place in places] == [GOOD, "replay_of: duplicate_replay"]
    agree(data, capsys, "purchase")

    # With retention.
    old = [json.dumps({"event_time": t, "customer": "c"}) for t in (NOON, "2025-01-01T12:00:01Z")]
    text = [envelope(line, received_at="2025-01-02T12:00:00.5Z") for line in old]
    file.write_bytes(b"\n".join(text))
    assert main(["send", "refund", str(file), "--data", str(data)]) == 0
    run(data, "refund", "-o", "countsRetention=86400")
    assert sorted(outcomes(data, "refund").values()) == [GOOD, "event_time: too_old"]
    agree(data, capsys, "refund")

    seen = {r.split(": ")[1] for name in ("purchase", "refund") for r in outcomes(data, name).values() if r != GOOD}
    assert {code.value for code in Code} - seen == {"gave_up", "not_an_integer"}
