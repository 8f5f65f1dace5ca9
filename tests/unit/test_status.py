"""`status`: rates, tasks, components, and looks that cost little but say what a whole count says."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paystorm.cli import balance, looks
from paystorm.cli.balance import balance_of, followed
from paystorm.cli.common import Here, open_here
from paystorm.cli.looks import Looks
from paystorm.cli.main import main
from paystorm.cli.status import component_rows, remarks_of, rows_of
from paystorm.errors import ClusterError
from paystorm.log.base import OutRecord
from paystorm.nimbus import ComponentState, TopologyState
from paystorm.stores.gauges import Gauge, put_gauge
from paystorm.stores.retry import Parked, put_parked

Captured = pytest.CaptureFixture[str]


def payment(n: int) -> bytes:
    return json.dumps({"event_time": "2025-01-01T00:00:00Z", "from_party": f"u{n}", "to_party": "v"}).encode()


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with 22 records of purchase that have been screened; two of them are broken."""
    folder = tmp_path_factory.mktemp("once")
    lines = [payment(n) for n in range(20)] + [b"{", b"[]"]
    (folder / "x.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    assert main(["send", "purchase", str(folder / "x.ndjson"), "--data", str(folder / "data")]) == 0
    assert main(["run", "purchase", "--until-idle", "--data", str(folder / "data")]) == 0
    return folder / "data"


@pytest.fixture
def screened(once: Path, tmp_path: Path, capsys: Captured) -> Path:
    """A copy of it."""
    shutil.copytree(once, tmp_path / "data")
    capsys.readouterr()
    return tmp_path / "data"


@pytest.fixture
def here(screened: Path) -> Iterator[Here]:
    with open_here("local", screened) as opened:
        yield opened


def gauge(here: Here, **more: Any) -> Gauge:
    plain: dict[str, Any] = {
        "component": "spout",
        "task": 1,
        "host": "a",
        "pid": 7,
        "at": here.resources.clock.now(),
        "seconds": 10.0,
        "busy": 0.25,
        "cpu": 0.5,
        "memory": 1 << 30,
        "tuples": 20,
        "records": 500,
        "all_records": 900,
        "slowest_ms": 0.0,
    }
    return Gauge(**{**plain, **more})


def test_a_later_look_says_what_a_whole_count_says(here: Here, screened: Path, tmp_path: Path) -> None:
    source = here.source("purchase")
    known = balance_of(here.resources, source)
    assert followed(here.resources, source, known) == known
    (tmp_path / "y.ndjson").write_bytes(b"\n".join([payment(30), b"}", payment(31)]) + b"\n")
    assert main(["send", "purchase", str(tmp_path / "y.ndjson"), "--data", str(screened)]) == 0
    waiting = followed(here.resources, source, known)
    assert waiting.total("lag") == 3
    assert main(["run", "purchase", "--until-idle", "--data", str(screened)]) == 0
    later = followed(here.resources, source, known)
    assert later == balance_of(here.resources, source)
    assert (later.total("read"), later.total("dead_lettered")) == (25, 3)


def test_a_later_look_reads_new_dead_letters_only(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    source = here.source("purchase")
    known = balance_of(here.resources, source)

    def whole(*_: object) -> int:
        raise AssertionError("all dead letters are counted again")

    monkeypatch.setattr(balance, "letters_below", whole)
    monkeypatch.setattr(balance, "load_caught_late", whole)
    monkeypatch.setattr(balance, "read_shard", whole)
    assert followed(here.resources, source, known) == known


def test_a_look_that_does_not_add_up_is_counted_from_the_beginning(here: Here) -> None:
    source = here.source("purchase")
    known = balance_of(here.resources, source)
    wrong = replace(known, partitions=tuple(replace(p, dead_lettered=p.dead_lettered + 1) for p in known.partitions))
    assert followed(here.resources, source, wrong).partitions == known.partitions


def test_parked_records_are_told_by_a_later_look_too(here: Here) -> None:
    source = here.source("purchase")
    known = balance_of(here.resources, source)
    row = Parked(partition=0, offset=10**6, error="x", attempts=1, first_failed=0, last_failed=0, epoch=0, state="held")
    put_parked(here.resources.tables, "purchase", row)
    found = followed(here.resources, source, known)
    assert (found.waiting, found.held) == (1, 1)
    assert any("held by a sink" in remark for remark in remarks_of(found))


def test_everything_is_counted_again_after_a_while_and_seldom_where_it_takes_long(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    whole: list[float] = []

    def counted(*arguments: Any) -> Any:
        whole.append(now[0])
        found = balance_of(*arguments)
        now[0] += took
        return found

    monkeypatch.setattr(looks, "balance_of", counted)
    took = 0.0
    followed_here = Looks(here, {"purchase": here.source("purchase")}, now=lambda: now[0])
    for second in (0.0, 10.0, 29.0, 30.0, 31.0):
        now[0] = second
        followed_here.look()
    assert whole == [0.0, 30.0]
    took = 20.0
    now[0] = 60.0
    followed_here.look()
    for second in (100.0, 259.0, 261.0):
        now[0] = second
        followed_here.look()
    assert whole == [0.0, 30.0, 60.0, 261.0]


def test_rates_are_of_what_was_committed_between_looks(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    followed_here = Looks(here, {"purchase": here.source("purchase")}, now=lambda: now[0])
    (first,) = followed_here.look()
    assert (first.rates, first.rate) == ({}, None)
    moved = replace(first.balance.partitions[0], read=first.balance.partitions[0].read + 50)
    ahead = replace(first.balance, partitions=(moved, *first.balance.partitions[1:]))
    monkeypatch.setattr(looks, "followed", lambda *_: ahead)
    now[0] = 5.0
    (second,) = followed_here.look()
    assert second.rates[0] == pytest.approx(10.0)
    assert second.rate == pytest.approx(10.0)
    assert rows_of(second, each=True)[1][5] == 10


def test_the_first_rate_is_what_the_spout_says(here: Here) -> None:
    put_gauge(here.resources.tables, "purchase", gauge(here))
    put_gauge(here.resources.tables, "purchase", gauge(here, component="warehouse", task=2, slowest_ms=123.0))
    (look,) = Looks(here, {"purchase": here.source("purchase")}).look()
    assert (look.rate, look.slowest_ms) == (50.0, 123.0)


def test_tasks_are_shown_with_what_they_said(here: Here, screened: Path, capsys: Captured) -> None:
    put_gauge(here.resources.tables, "purchase", gauge(here, component="own.bolt"))
    assert main(["status", "purchase", "--tasks", "--data", str(screened)]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("own.bolt", "25%", "0.50", "1,024", "50"))
    assert main(["status", "purchase", "--json", "--data", str(screened)]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert any(t["component"] == "own.bolt" and t["busy"] == 0.25 for t in found["tasks"])


def test_watching_shows_a_block_for_each_look(screened: Path, capsys: Captured) -> None:
    assert main(["status", "--watch", "--looks", "3", "--every", "0.1", "--data", str(screened)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("running: none") == 3
    assert main(["status", "--watch", "--looks", "2", "--every", "0.1", "--json", "--data", str(screened)]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(look) for look in told] == [4, 4]
    assert told[1][2]["rate"] == 0.0


def test_a_watch_sees_what_comes_meanwhile(here: Here, screened: Path, capsys: Captured) -> None:
    def send() -> None:
        time.sleep(0.6)
        here.resources.log.append("purchase", [OutRecord(payment(40), partition=0)])

    sender = threading.Thread(target=send)
    sender.start()
    arguments = ["status", "purchase", "--watch", "--looks", "12", "--every", "0.2", "--json", "--data", str(screened)]
    assert main(arguments) == 0
    sender.join()
    lags = [json.loads(line)[0]["totals"]["lag"] for line in capsys.readouterr().out.splitlines()]
    assert (lags[0], lags[-1]) == (0, 1)


# A cluster.


def topology() -> TopologyState:
    return TopologyState("purchase-1-2", "purchase", "ACTIVE", 60, 6, 6, 1)


def component(**more: Any) -> ComponentState:
    plain: dict[str, Any] = {
        "name": "lookup",
        "is_spout": False,
        "executors": 1,
        "tasks": 1,
        "emitted": 10,
        "acked": 9,
        "failed": 1,
        "latency": 12.4,
        "errors": (),
    }
    return ComponentState(**{**plain, **more})


def test_components_are_told_with_their_last_error(here: Here) -> None:
    (look,) = Looks(here, {"purchase": here.source("purchase")}).look()
    failing = component(errors=((1_700_000_000, "java.lang.RuntimeException: it broke"),))
    ((*figures, error),) = component_rows(replace(look, topology=topology(), components=(failing,)))
    assert figures == ["purchase", "lookup", 1, 10, 9, 1, "12 ms"]
    assert error == "2023-11-14T22:13:20Z java.lang.RuntimeException: it broke"


def test_where_nimbus_cannot_be_reached_all_else_is_shown(
    screened: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unreachable:
        def topologies(self) -> None:
            raise ClusterError("Nimbus cannot be reached: nowhere:1")

    with open_here("local", screened) as opened:
        cluster = replace(opened, folder=None)
        monkeypatch.setattr(Here, "nimbus", lambda _: Unreachable())
        follows = Looks(cluster, {"purchase": cluster.source("purchase")})
        (look,) = follows.look()
    assert look.balance.total("read") == 22
    assert look.running is None
    assert follows.cluster.problem == "Nimbus cannot be reached: nowhere:1"


@pytest.mark.parametrize("status", ["ACTIVE", "INACTIVE", "KILLED", "REBALANCING"])
def test_a_topology_counts_as_running_until_nimbus_has_forgotten_it(
    screened: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    class Nimbus:
        def topologies(self) -> dict[str, TopologyState]:
            return {"purchase": replace(topology(), status=status)}

    with open_here("local", screened) as opened:
        monkeypatch.setattr(Here, "nimbus", lambda _: Nimbus())
        assert replace(opened, folder=None).running() == {"purchase": "purchase-1-2"}
