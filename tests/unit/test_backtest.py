"""Backtests: the same hits as counting makes, the events behind a crossing, and what a changed figure changes."""

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from paystorm.backtest import History, backtest, files_of
from paystorm.cli.main import main
from paystorm.intervals import Interval
from paystorm.rules import Rule
from paystorm.source import Field, Party, Source
from paystorm.warehouse.base import EventFile
from paystorm.warehouse.local import LocalWarehouse

ROOT = Path(__file__).resolve().parents[2]
Captured = pytest.CaptureFixture[str]
DAY = 86_400
START = int(datetime(2025, 1, 28, tzinfo=UTC).timestamp())
SOURCE = Source(
    name="pay",
    topic="pay",
    enforces=True,
    fields=(
        Field(name="event_time", type="time", required=True),
        Field(name="payer", type="id"),
        Field(name="payee", type="id"),
        Field(name="payee_kind", type="choice", values=("account", "merchant")),
        Field(name="amount", type="amount", fraction_digits=2),
        Field(name="currency", type="currency"),
        Field(name="device", type="id"),
    ),
    parties=(
        Party(field="payer", role="sender", kind="account"),
        Party(field="payee", role="receiver", kind="account", kind_field="payee_kind"),
        Party(field="device", role="device", kind="device"),
    ),
)
COUNT = Rule(name="r", kind="account", interval="1d", limit=3)
RULES = [
    (COUNT, {"limit": 2}),
    (COUNT, {"limit": 5, "expires_after": 3600}),
    (msgspec.structs.replace(COUNT, expires_after=7200), {"limit": 2}),
    (msgspec.structs.replace(COUNT, interval="7d", role="sender"), {"limit": 4}),
    (msgspec.structs.replace(COUNT, interval="month", role="receiver"), {"limit": 1}),
    (msgspec.structs.replace(COUNT, interval="15m"), {"limit": 1}),
    (Rule(name="r", kind="merchant", interval="1d", limit=2, action="deny"), {"limit": 1}),
    (Rule(name="r", kind="account", interval="6h", factor="1.5", baseline=1), {"factor": "3"}),
    (Rule(name="r", kind="account", interval="1d", factor="2", baseline=0), {"baseline": 3}),
    (
        Rule(name="r", kind="account", measure="sum", field="amount", limit={"EUR": "20", "USD": "10.005"}),
        {"limit": {"EUR": "20.01"}},
    ),
    (
        Rule(name="r", kind="account", measure="sum", field="amount", factor="1.2", baseline={"EUR": "0.015"}),
        {"factor": "1.3"},
    ),
    (Rule(name="r", kind="account", measure="distinct", field="device", limit=1), {"limit": 2, "action": "review"}),
    (Rule(name="r", kind="device", measure="distinct", field="payer", limit=2), {"limit": 1}),
]


@dataclass(frozen=True)
class Event:
    at: int
    partition: int
    offset: int
    payer: str | None
    payee: str | None
    payee_kind: str | None
    amount: Decimal | None
    currency: str | None
    device: str | None

    def parties(self, kind: str) -> dict[str, set[str]]:
        """The ids of a kind's parties, and the roles of each."""
        roles: dict[str, set[str]] = defaultdict(set)
        if kind == "account" and self.payer is not None:
            roles[self.payer].add("sender")
        if self.payee is not None and kind == (self.payee_kind or "account"):
            roles[self.payee].add("receiver")
        if kind == "device" and self.device is not None:
            roles[self.device].add("device")
        return roles


def made(seed: int, count: int = 300) -> list[Event]:
    """Random events of few parties within nine days that two months share."""
    pick = random.Random(seed)

    def some(values: list[Any]) -> Any:
        return pick.choice(values)

    return [
        Event(
            at=START + pick.randrange(9 * DAY) // some([1, 1, 900]) * 1,
            partition=n % 3,
            offset=n // 3,
            payer=some(["a", "b", "c", "d", "e", None]),
            payee=some(["a", "b", "c", "m", "n", None]),
            payee_kind=some([None, "account", "merchant"]),
            amount=some([None, Decimal("0.01"), Decimal("3.99"), Decimal("7.50"), Decimal("99999999999999999999.99")])
            if pick.random() < 0.9
            else Decimal("0.00"),
            currency=some(["EUR", "EUR", "USD", None]),
            device=some(["x", "y", "z", None]),
        )
        for n in range(count)
    ]


def stored(folder: Path, events: list[Event], files: int = 4) -> list[Path]:
    """The events in a warehouse, in several files that are not in order of time."""
    warehouse = LocalWarehouse(folder)
    for n in range(files):
        rows = events[n::files]
        frame = pl.DataFrame(
            {
                "log_partition": pl.Series([e.partition for e in rows], dtype=pl.Int32),
                "log_offset": [e.offset for e in rows],
                "event_time": pl.Series([e.at * 1_000_000 for e in rows], dtype=pl.Int64).cast(pl.Datetime("us")),
                **{
                    name: pl.Series([getattr(e, name) for e in rows], dtype=pl.String)
                    for name in ("payer", "payee", "payee_kind", "currency", "device")
                },
                "amount": pl.Series([e.amount for e in rows], dtype=pl.Decimal(38, 2)),
            }
        )
        file = EventFile("pay", "2025-02-01T00", f"f{n}")
        warehouse.stage(file, frame)
        warehouse.place([file])
    return files_of(warehouse.folders("pay"))


Cell = tuple[str, int, str]


class Plain:
    """A rule over events, one by one, in order of event time."""

    def __init__(self, events: list[Event], rule: Rule) -> None:
        self.rule, self.interval = rule, Interval.parse(rule.interval)
        self.limits = rule.figures()
        ordered = sorted(events, key=lambda e: (e.at, e.partition, e.offset))
        whole: dict[Cell, Any] = {}
        for event in ordered:
            for cell, value in self._counted(event):
                whole[cell] = self._plus(whole.get(cell), value)
        self.hits = {cell for cell in whole if self._holds(cell, whole, whole)}
        running: dict[Cell, Any] = {}
        listed: dict[str, list[int]] = defaultdict(list)
        crossed: set[Cell] = set()
        self.denied = set()
        for event in ordered:
            for party in event.parties(rule.kind):
                ends = [rule.expires_after is None or event.at < since + rule.expires_after for since in listed[party]]
                if any(ends):
                    self.denied.add((event.partition, event.offset))
            for cell, value in self._counted(event):
                running[cell] = self._plus(running.get(cell), value)
                if cell not in crossed and cell in self.hits and self._holds(cell, running, whole):
                    crossed.add(cell)
                    listed[cell[0]].append(event.at)
        assert crossed == self.hits
        if rule.acts != "deny":
            self.denied = set()

    def _counted(self, event: Event) -> Iterator[tuple[Cell, Any]]:
        for party, roles in event.parties(self.rule.kind).items():
            if self.rule.role != "either" and self.rule.role not in roles:
                continue
            start = self.interval.start(event.at)
            if self.rule.measure == "count":
                yield (party, start, ""), 1
            elif self.rule.measure == "sum" and event.amount is not None and event.currency is not None:
                yield (party, start, event.currency), event.amount
            elif self.rule.measure == "distinct" and getattr(event, str(self.rule.field)) is not None:
                yield (party, start, ""), getattr(event, str(self.rule.field))

    def _plus(self, held: Any, value: Any) -> Any:
        if self.rule.measure == "distinct":
            return (held or frozenset()) | {value}
        return value if held is None else held + value

    def _figure(self, held: Any) -> Any:
        return len(held) if self.rule.measure == "distinct" and held is not None else held or 0

    def _holds(self, cell: Cell, now: dict[Cell, Any], whole: dict[Cell, Any]) -> bool:
        party, start, currency = cell
        if currency not in self.limits:
            return False
        figure = self._figure(now[cell])
        if self.rule.factor is None:
            return bool(figure > self.limits[currency])
        before = self._figure(whole.get((party, self.interval.previous(start), currency)))
        return bool(before >= self.limits[currency] and figure >= Decimal(self.rule.factor) * before)


@pytest.mark.parametrize("number", range(len(RULES)))
def test_a_backtest_says_what_counting_one_by_one_says(tmp_path: Path, number: int) -> None:
    today, change = RULES[number]
    changed = msgspec.structs.replace(today, **change)
    hits_seen = 0
    for seed in range(4):
        events = made(100 * number + seed)
        found = backtest(History(SOURCE, stored(tmp_path / str(seed), events)), today, changed)
        was, would = Plain(events, today), Plain(events, changed)
        hits = {(p, s, c) for p, s, c, _ in found.today_hits.iter_rows()}
        assert hits == was.hits
        assert found.today.denied == len(was.denied)
        assert (found.changed.hits, found.changed.denied) == (len(would.hits), len(would.denied))
        assert {(p, s, c) for p, s, c, _ in found.newly_hit.iter_rows()} == would.hits - was.hits
        assert {(p, s, c) for p, s, c, _ in found.no_longer_hit.iter_rows()} == was.hits - would.hits
        assert (found.newly.denied, found.no_longer.denied) == (
            len(would.denied - was.denied),
            len(was.denied - would.denied),
        )
        assert found.changed.parties == len({party for party, _, _ in would.hits})
        assert found.newly.parties == len({p for p, _, _ in would.hits} - {p for p, _, _ in was.hits})
        assert found.events == len(events)
        hits_seen += len(was.hits) + len(would.hits)
    assert hits_seen > 0


def test_sums_past_38_digits_are_over_every_limit(tmp_path: Path) -> None:
    huge = Decimal("99999999999999999999.99")
    events = [Event(START + n, 0, n, "a", None, None, huge, "EUR", None) for n in range(5)]
    rule = Rule(name="r", kind="account", measure="sum", field="amount", limit={"EUR": "99999999999999999999"})
    found = backtest(History(SOURCE, stored(tmp_path, events)), rule, rule)
    assert (found.today.hits, found.today.denied) == (1, 4)
    assert found.today_hits["value"].to_list() == ["499999999999999999999.95"]


def test_a_source_that_only_watches_denies_nothing(tmp_path: Path) -> None:
    watching = msgspec.structs.replace(SOURCE, enforces=False)
    found = backtest(History(watching, stored(tmp_path, made(1))), COUNT, COUNT)
    assert found.today.hits > 0
    assert found.today.denied == 0


def test_intervals_that_the_range_cuts_are_judged_whole(tmp_path: Path) -> None:
    events = [Event(START + n, 0, n, "a", None, None, None, None, None) for n in range(4)]
    events.append(Event(START + DAY, 0, 4, "a", None, None, None, None, None))
    files = stored(tmp_path, events)
    cut = History(SOURCE, files, (START + 2) * 1_000_000, (START + 3) * 1_000_000)
    assert backtest(cut, COUNT, COUNT).today.hits == 1
    assert backtest(cut, COUNT, COUNT).events == 4
    behind = History(SOURCE, files, (START + DAY) * 1_000_000, None)
    assert backtest(behind, COUNT, COUNT).today.hits == 0
    growth = Rule(name="r", kind="account", factor="1.1", baseline=1)
    shrunk = History(SOURCE, files, (START + DAY) * 1_000_000, None)
    assert backtest(shrunk, growth, msgspec.structs.replace(growth, factor="1.01")).events == 5


def test_a_column_that_older_files_lack_is_no_obstacle(tmp_path: Path) -> None:
    files = stored(tmp_path, made(1))
    more = msgspec.structs.replace(
        SOURCE,
        fields=(*SOURCE.fields, Field(name="ip", type="id")),
        parties=(*SOURCE.parties, Party(field="ip", role="ip", kind="ip")),
    )
    rule = Rule(name="r", kind="ip", limit=0)
    assert backtest(History(more, files), rule, rule).today.hits == 0
    assert backtest(History(more, files), COUNT, COUNT).today.hits > 0


# The command, on real data.


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("backtest") / "data"
    for source in ("purchase", "refund"):
        file = ROOT / f"examples/data/{source}-online-retail.ndjson.gz"
        assert main(["send", source, str(file), "--data", str(data)]) == 0
    assert main(["run", "purchase", "refund", "--until-idle", "--data", str(data)]) == 0
    return data


def _told(capsys: Captured, *arguments: str) -> Any:
    assert main([*arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("source", ["purchase", "refund"])
def test_todays_rules_make_the_hits_that_stand_in_the_tables(screened: Path, capsys: Captured, source: str) -> None:
    assert main(["export", "hits", "--source", source, "--data", str(screened)]) == 0
    lines = capsys.readouterr().out.splitlines()
    standing: dict[str, set[Any]] = defaultdict(set)
    for hit in map(json.loads, lines):
        if hit["status"] == "standing":
            standing[hit["rule"]].add((hit["party"], hit["interval_start"][:19], hit["currency"]))
    (rules,) = [
        [r["name"] for r in each["rules"]] for each in _told(capsys, "sources", "--json") if each["name"] == source
    ]
    names = [f"{source}.{name}" for name in rules]
    found = _told(capsys, "backtest", *names, "--show", "0", "--data", str(screened), "--json")
    assert {each["rule"]: each["today"]["hits"] for each in found} == {name: len(standing[name]) for name in rules}
    assert sum(each["today"]["hits"] for each in found) > 0
    lowest = _told(
        capsys, "backtest", names[0], "--set", "limit=1000000", "--show", "100000", "--data", str(screened), "--json"
    )
    gone = {(h["party"], h["interval_start"][:19], h["currency"]) for h in lowest[0]["no_longer_hit"]}
    assert gone == standing[rules[0]]


def test_a_lower_limit_denies_more(screened: Path, capsys: Captured) -> None:
    arguments = ["backtest", "sender_cap_day", "--set", "limit.GBP=500", "--data", str(screened)]
    (found,) = _told(capsys, *arguments, "--json")
    assert found["changed"]["denied"] > found["today"]["denied"] > 0
    assert found["newly"]["hits"] == found["changed"]["hits"] - found["today"]["hits"]
    assert found["no_longer"]["hits"] == 0
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "500 GBP" in shown
    assert "sender_cap_day: newly hit" in shown
    assert main(["backtest", "sender_cap_day", "--data", str(screened)]) == 0
    assert "nothing is changed: say what with --set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nope"], "no rule 'nope'; there are"),
        (["account_per_day"], "rule 'account_per_day' is of several sources: name"),
        (["purchase.account_per_day", "refund.account_per_week"], "rules of one source at a time"),
        (["purchase.account_per_day", "--set", "limit"], "--set must be name=value, got 'limit'"),
        (["purchase.account_per_day", "--set", "frob=1"], "--set frob: neither limit, factor"),
        (
            ["purchase.account_per_day", "--set", "limit=x"],
            "--set account_per_day.limit must be a whole number, got 'x'",
        ),
        (["purchase.account_per_day", "--set", "limit=1", "--set", "limit=2"], "--set limit: given twice"),
        (["sender_cap_day", "sender_cap_week", "--set", "limit.EUR=5"], "--set limit.EUR: of which rule?"),
        (["sender_cap_day", "--from", "2025-02-01", "--to", "2025-01-01"], "must be after --from"),
        (["sender_cap_day", "--from", "yesterday"], "--from must be a date such as 2025-01-31"),
        (["purchase.account_per_day"], "nothing of purchase is stored"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    tmp_path: Path, capsys: Captured, arguments: list[str], expected: str
) -> None:
    assert main(["backtest", *arguments, "--data", str(tmp_path / "data")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
