"""`paystorm send`: what reaches the log, and what is refused."""

import gzip
import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from paystorm.cli.main import main
from paystorm.cli.records import QUIET, Line, Reading, lines_of
from paystorm.log.embedded import partition_for
from paystorm.resources import open_embedded

PAYMENT = {"event_time": "2025-01-01T00:00:00Z", "from_party": "a", "to_party": "b"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def write(path: Path, *lines: str | bytes) -> str:
    path.write_bytes(b"".join((x.encode() if isinstance(x, str) else x) + b"\n" for x in lines))
    return str(path)


def held(data: Path, topic: str = "purchase") -> dict[int, list[bytes]]:
    """The log's records by partition."""
    resources = open_embedded(data)
    out: dict[int, list[bytes]] = {}
    for partition in range(resources.log.partitions(topic)):
        batch = resources.log.read(topic, partition, 0, max_records=10**6, max_bytes=10**9)
        out[partition] = batch.all_values() if batch is not None else []
    resources.close()
    return out


def everything(data: Path, topic: str = "purchase") -> list[bytes]:
    return sorted(value for values in held(data, topic).values() for value in values)


def send(data: Path, *arguments: str) -> int:
    return main(["send", *arguments, "--data", str(data)])


def test_an_envelope_is_sent_as_it_is_and_a_bare_object_is_wrapped_for_its_application(
    data: Path, tmp_path: Path
) -> None:
    envelope = '{"ApplicationRef":"wallet", "id":"7", "data":{"from_party":"a"}}'
    file = write(tmp_path / "x.ndjson", envelope, json.dumps(PAYMENT))
    assert send(data, "purchase", file) == 0
    wrapped = b'{"ApplicationRef":"shop","data":' + json.dumps(PAYMENT).encode() + b"}"
    assert everything(data) == sorted([envelope.encode(), wrapped])


def test_records_of_one_first_party_are_in_its_partition_in_order(data: Path, tmp_path: Path) -> None:
    lines = [json.dumps({**PAYMENT, "from_party": f"u{i % 9}", "n": i}) for i in range(200)]
    send(data, "purchase", write(tmp_path / "x.ndjson", *lines))
    for partition, values in held(data).items():
        found = [json.loads(value)["data"] for value in values]
        assert all(partition_for(d["from_party"].encode(), 4) == partition for d in found)
        assert [d["n"] for d in found] == sorted(d["n"] for d in found)


def test_broken_lines_are_sent_as_they_are(data: Path, tmp_path: Path) -> None:
    lines = [
        b"{",
        b"\xff\xfe",
        b"[1]",
        b'"text"',
        b"",
        b'{"ApplicationRef":"shop"}',
        b'{"data":7}',
        b"\0",
        b"[" * 90_000,
    ]
    assert send(data, "purchase", write(tmp_path / "x.ndjson", *lines)) == 0
    assert everything(data) == sorted(lines)


def test_a_record_over_the_limit_is_refused_by_line_and_the_rest_is_sent(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, large = json.dumps(PAYMENT), json.dumps({**PAYMENT, "message": "x" * 1_100_000})
    file = write(tmp_path / "x.ndjson", small, large, small)
    assert send(data, "purchase", file) == 2
    assert len(everything(data)) == 2
    told = capsys.readouterr()
    assert "2 records sent to purchase" in told.out
    assert [line.split(": ")[1] for line in told.err.splitlines()] == [f"{file} line 2", "1 records were not sent"]


def test_a_record_that_is_longer_than_the_log_takes_is_refused_by_line_and_the_rest_is_sent(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paystorm.log.embedded.MAX_VALUE", 2000)
    small, large = json.dumps(PAYMENT), json.dumps({**PAYMENT, "message": "x" * 3000})
    file = write(tmp_path / "x.ndjson", small, large, json.dumps({**PAYMENT, "from_party": "other"}), large)
    assert send(data, "purchase", file, "--json") == 2
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert (result["sent"], result["refused"]) == (2, 2)
    assert [line.split(": ")[1] for line in told.err.splitlines()[:2]] == [f"{file} line 2", f"{file} line 4"]
    assert len(everything(data)) == 2


def test_an_application_is_asked_for_only_where_a_bare_object_comes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((Path(__file__).parents[2] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    topologies = tmp_path / "topologies"
    topologies.mkdir()
    shipped = (Path(__file__).parents[2] / "topologies" / "purchase.py").read_text()
    declared = re.search(r"^ *applications=.*\n", shipped, re.MULTILINE)
    assert declared is not None
    (topologies / "purchase.py").write_text(shipped.replace(declared[0], ""))
    monkeypatch.chdir(tmp_path)
    enveloped = json.dumps({"ApplicationRef": "anybody", "data": PAYMENT})
    assert send(data, "purchase", write(tmp_path / "x.ndjson", enveloped), "--json") == 0
    assert json.loads(capsys.readouterr().out)["wrapped_for"] == ""
    assert send(data, "purchase", write(tmp_path / "y.ndjson", enveloped, json.dumps(PAYMENT))) == 2
    told = capsys.readouterr().err
    assert 'no application sends to source purchase: add it to applications in topologies/purchase.py, or "app"' in told


def test_what_is_said_of_wrapping_is_what_was_done(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = write(tmp_path / "x.ndjson", json.dumps(PAYMENT))
    assert send(data, "purchase", bare, "--application", "wallet") == 0
    assert capsys.readouterr().out.strip().endswith("; bare objects as application wallet")
    whole = write(tmp_path / "y.ndjson", json.dumps({"ApplicationRef": "shop", "data": PAYMENT}))
    assert send(data, "purchase", whole, "--application", "wallet") == 0
    assert "application" not in capsys.readouterr().out


def test_a_bare_object_that_only_its_wrapping_makes_too_large_is_refused(data: Path, tmp_path: Path) -> None:
    room = 1_048_576 - len(json.dumps({**PAYMENT, "message": ""}))
    file = write(tmp_path / "x.ndjson", json.dumps({**PAYMENT, "message": "x" * room}))
    assert send(data, "purchase", file) == 2
    assert everything(data) == []


def test_gzip_is_read_and_damaged_gzip_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = gzip.compress((json.dumps(PAYMENT) + "\n").encode() * 1000)
    (tmp_path / "x.ndjson.gz").write_bytes(whole)
    (tmp_path / "y.ndjson.gz").write_bytes(whole[:40])
    assert send(data, "purchase", str(tmp_path / "x.ndjson.gz")) == 0
    assert send(data, "purchase", str(tmp_path / "y.ndjson.gz")) == 2
    assert "y.ndjson.gz: damaged gzip" in capsys.readouterr().err
    assert len(everything(data)) == 1000


def test_csv_columns_are_mapped_to_fields(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "x.csv", "payer,to_party,event_time,note", 'a,"b, c",2025-01-01T00:00:00Z,', "a,b")
    assert send(data, "purchase", file, "--map", "from_party=payer", "--map", "message=note") == 0
    sent = everything(data)
    assert b"a,b" in sent
    (event,) = [json.loads(value) for value in sent if value != b"a,b"]
    fields = {"from_party": "a", "to_party": "b, c", "event_time": "2025-01-01T00:00:00Z"}
    assert event == {"ApplicationRef": "shop", "data": fields}


def test_csv_integers_are_json_integers_and_bad_utf8_passes_through(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "x.csv", "event_time,ip,status,path", b"t,1,200,\xff", b"t,1,two,/")
    assert send(data, "browser", file) == 0
    sent = everything(data, "browser")
    assert any(value.endswith(b'"status":200,"path":"\xff"}}') for value in sent)
    assert any(b'"status":"two"' in value for value in sent)


def test_what_came_before_a_fault_in_the_input_has_been_sent(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "x.csv", "from_party,to_party", "a,b", "c,d", 'e,"f"g')
    assert send(data, "purchase", file) == 2
    assert f"{file} line 4: " in capsys.readouterr().err
    assert len(everything(data)) == 2
    whole = gzip.compress(b"".join(b'{"from_party":"u%d"}\n' % i for i in range(300_000)))
    (tmp_path / "y.ndjson.gz").write_bytes(whole[: len(whole) * 9 // 10])
    assert send(data, "purchase", str(tmp_path / "y.ndjson.gz")) == 2
    assert len(everything(data)) > 200_000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--map", "from_party=nobody"], "no column 'nobody' for field from_party; there are payer, to_party"),
        (["--map", "frm=payer"], "source purchase has no field 'frm'"),
        (["--map", "payer"], "--map must be field=column, got 'payer'"),
        (["--map", "to_party=payer"], "mapped to to_party, and a column has that name"),
        (["--format", "xml"], "--format must be ndjson or csv, got 'xml'"),
        (["--speed", "0"], "--speed must be max or a number above 0"),
        (
            ["--application", "web"],
            "it sends to browser, not to purchase: name one of shop, wallet, or send to browser",
        ),
        (
            ["--application", "wep"],
            "no source knows it: name one of shop, wallet, or add it to applications in topologie",
        ),
    ],
)
def test_bad_usage_is_one_line_and_nothing_is_sent(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    file = write(tmp_path / "x.csv", "payer,to_party", "a,b")
    assert send(data, "purchase", file, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("paystorm: ")
    assert told in line


def test_merged_files_are_sent_in_order_of_event_time(data: Path, tmp_path: Path) -> None:
    files = []
    for name, days in (("x", (1, 3, 5)), ("y", (2, 4, 6))):
        lines = [json.dumps({**PAYMENT, "event_time": f"2025-01-0{d}T00:00:00Z", "n": d}) for d in days]
        files.append(write(tmp_path / f"{name}.ndjson", *lines))
    assert send(data, "purchase", *files, "--merge") == 0
    (values,) = [values for values in held(data).values() if values]
    assert [json.loads(value)["data"]["n"] for value in values] == [1, 2, 3, 4, 5, 6]


def test_a_speed_spreads_records_over_their_event_times(data: Path, tmp_path: Path) -> None:
    lines = [json.dumps({**PAYMENT, "event_time": f"2025-01-01T00:00:{s:02}Z"}) for s in (0, 20, 10, 40)]
    assert send(data, "purchase", write(tmp_path / "x.ndjson", *lines), "--speed", "100", "--json") == 0
    resources = open_embedded(data)
    batch = resources.log.read("purchase", partition_for(b"a", 4), 0, max_records=9, max_bytes=10**6)
    assert batch is not None
    first, *_, last = batch.timestamps.tolist()
    assert 150 <= last - first <= 20_000


def test_standard_input_is_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(json.dumps(PAYMENT).encode())))
    assert send(data, "purchase", "-") == 0
    assert len(everything(data)) == 1


def test_a_long_line_over_several_blocks_is_counted_and_not_kept() -> None:
    raw = io.BytesIO(b"a\n" + b"x" * 5_000_000 + b"\nb\n" + b"y" * 3_000_000)
    found = list(lines_of(Reading("x", raw, raw, None), 1000))
    assert QUIET not in found
    assert found == [Line(1, b"a", 1), Line(2, None, 5_000_000), Line(3, b"b", 1), Line(4, None, 3_000_000)]
