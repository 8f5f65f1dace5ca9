"""Cases at the desk: weighed, shown with what they dealt with, decided on, and opened anew."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.unit.hosted import RULES, SOURCE
from tests.unit.test_desk_base import MemoryDesk

from paystorm.clock import SECOND
from paystorm.desk import Who, changes, lists
from paystorm.desk.cases import cases, decide, show, status_of
from paystorm.desk.events import add_amounts, decimal_text
from paystorm.errors import UsageError
from paystorm.stores import lists as store
from paystorm.stores.cases import Case, Decision, decisions_on, open_cases
from paystorm.stores.hits import Hit, put_hits
from paystorm.stores.lists import register_source
from paystorm.stores.versions import Version, add_version
from paystorm.validity import event_schema
from paystorm.warehouse.base import EventFile
from paystorm.warehouse.local import LocalWarehouse
from paystorm.warehouse.writer import FIRST_COLUMNS

EVE = Who("eve", "seen before")
ODD = "o'neil\0\\"
"""A party whose name must not end a statement."""


class Cases(MemoryDesk):
    """A desk with a warehouse, in which events are stored by hand."""

    def __init__(self, folder: Path, **other: Any) -> None:
        super().__init__(warehouse=LocalWarehouse(folder), **other)
        self.stored = 0
        register_source(self.tables, "pay")
        version = Version(number=0, rules=RULES, validity={}, partitions=2, shards=2, made_at=0)
        add_version(self.tables, "pay", version)

    def store(self, payer: str, payee: str, *, listed: str | None = None, verdict: str = "denied", **more: Any) -> None:
        """Store an event, denied (or joined) because of a listed party."""
        at = datetime.fromtimestamp(self.clock.now() / SECOND, UTC).replace(tzinfo=None)
        event = {
            "log_topic": "pay",
            "log_partition": 0,
            "log_offset": self.stored,
            "event_id": f"e{self.stored}",
            "application": "shop",
            "event_time": at,
            "decided_at": at,
            "verdict": verdict if listed else "accepted",
            "verdict_reason": "pay.per_day" if listed else None,
            "entry_kind": "account" if listed else None,
            "entry_party": listed,
            "payer": payer,
            "payee": payee,
            **more,
        }
        schema = {**FIRST_COLUMNS, **{k: v for k, v in event_schema(SOURCE).items() if k not in FIRST_COLUMNS}}
        file = EventFile("pay", at.strftime("%Y-%m-%dT%H"), f"f{self.stored}")
        self.warehouse.stage(file, pl.DataFrame([event], schema=schema))
        self.warehouse.place([file])
        self.stored += 1
        if listed:
            opened = self.clock.now()
            open_cases(
                self.tables, [Case(kind="account", party=listed, opened_at=opened, source="pay", cause="per_day")]
            )

    def hit(self, party: str, start: int = 0) -> None:
        made = Hit(
            source="pay", rule="per_day", kind="account", party=party, interval_start=start, currency="",
            status="standing", version=0, action="deny", limit="3", figure="4", topic="pay", partition=0, offset=1,
            since=self.clock.now(), expires_after=None, shard=0, row=start,
        )  # fmt: skip
        put_hits(self.tables, "pay", start, [made])


@pytest.fixture
def desk(tmp_path: Path) -> Cases:
    return Cases(tmp_path)


def statuses(desk: Cases) -> dict[str, str]:
    return {row.party: row.status for row in cases(desk).cases}


def eur(amount: str) -> dict[str, Any]:
    return {"amount": Decimal(amount), "currency": "EUR"}


# Weighing.


def test_cases_are_weighed_by_events_amount_and_time(desk: Cases) -> None:
    desk.store("a", "m", listed="a", **eur("5.10"))
    desk.store("a", "m", listed="a", **eur("5.05"))
    desk.clock.advance(60)
    desk.store("b", "m", listed="b", **eur("99999999999999999999"))
    desk.store("b", "m", listed="b", verdict="accepted", amount=Decimal("1"), currency="USD", would_deny=True)
    desk.store("b", "m", listed="b", **eur("99999999999999999999"))
    rows = {row.party: row for row in cases(desk).cases}
    assert [row.party for row in cases(desk).cases] == ["b", "a"]
    assert (rows["b"].denied, rows["b"].joined, rows["b"].events) == (2, 1, 3)
    assert (rows["a"].amounts, rows["b"].amounts) == ({"EUR": "10.15"}, {"EUR": "199999999999999999998", "USD": "1"})
    assert [r.party for r in cases(desk, sort="amount", currency="EUR").cases] == ["b", "a"]
    assert [r.party for r in cases(desk, sort="last").cases] == ["b", "a"]
    page = cases(desk, limit=1, skip=1)
    assert ([row.party for row in page.cases], page.total) == (["a"], 2)
    assert cases(desk, kind="merchant").total == 0
    for bad in ({"limit": 0}, {"kind": "planet"}, {"source": "nope"}):
        with pytest.raises(UsageError):
            cases(desk, **bad)  # type: ignore[arg-type]


def test_sums_are_exact() -> None:
    assert add_amounts([{"EUR": "0.10"}, {"EUR": "0.20", "USD": "1e3"}]) == {"EUR": "0.3", "USD": "1000"}
    assert decimal_text(10**37, "0.000000000000000001") == "1" + "0" * 37 + ".000000000000000001"


# Showing.


def test_a_case_shows_its_events_and_whom_it_dealt_with(desk: Cases) -> None:
    desk.store(ODD, "m1", payee_kind="merchant", device="d1")
    desk.clock.advance(1)
    desk.store(ODD, "u2", device="d1", listed=ODD, **eur("1"))
    desk.store("u2", ODD)
    desk.store("u3", "u4")
    desk.store("u9", ODD, payee_kind="merchant")  # a merchant of the same name is another party
    view = show(desk, "account", ODD)
    (event,) = view.events
    assert (event["log_offset"], event["verdict"], event["payer"], event["amount"]) == (1, "denied", ODD, "1")
    met = {(o.kind, o.party): (o.role, o.events, o.denied) for o in view.dealt_with}
    assert met == {
        ("account", "u2"): ("receiver, sender", 2, 1),
        ("device", "d1"): ("device", 2, 1),
        ("merchant", "m1"): ("receiver", 1, 0),
    }
    assert show(desk, "account", ODD, others=1).dealt_with[0].party == "u2"
    later = datetime.fromtimestamp(desk.clock.now() / SECOND, UTC).replace(year=2100)
    assert show(desk, "account", ODD, events=0, since=later).dealt_with == ()
    with pytest.raises(UsageError, match="no case of account 'u2'"):
        show(desk, "account", "u2")


# Deciding.


def test_a_decision_is_kept_and_can_lift_and_allow(desk: Cases) -> None:
    desk.store("a", "m", listed="a")
    desk.hit("a")
    lists.enter(desk, EVE, lists.Enter("blacklist", "account", "a"))
    done = decide(desk, EVE, "account", "a", "false_alarm", lift=True, allow_until=desk.clock.now() + 9 * SECOND)
    assert (done.state, len(done.acts)) == ("applied", 3)
    states = {(e.list, e.state) for e in lists.party_entries(desk, "account", "a")}
    assert states == {("blacklist", "lifted"), ("blacklist", "removed"), ("allowlist", "in_force")}
    (kept,) = decisions_on(desk.tables, "account", "a")
    assert (kept.by, kept.verdict, kept.reason, kept.events) == ("eve", "false_alarm", "seen before", 1)
    assert statuses(desk) == {"a": "false_alarm"}
    assert [r.what for r in lists.history(desk, "account", "a")][-4:] == ["decided", "lifted", "removed", "allowed"]


def test_a_case_is_opened_anew_by_what_comes_later(desk: Cases) -> None:
    for party in ("a", "b", "c"):
        desk.store(party, "m", listed=party)
        desk.hit(party)
    decide(desk, EVE, "account", "a", "inconclusive")
    decide(desk, EVE, "account", "b", "confirmed", keep=True)
    decide(desk, EVE, "account", "c", "confirmed")
    desk.store("a", "m", listed="a")  # under way while the decision spread
    assert statuses(desk) == {"a": "inconclusive", "b": "confirmed", "c": "confirmed"}
    desk.clock.advance(3600)
    for party in ("a", "b"):
        desk.store(party, "m", listed=party)
    desk.hit("c", start=86_400)
    assert statuses(desk) == {"a": "reopened", "b": "confirmed", "c": "reopened"}
    decide(desk, EVE, "account", "a", "false_alarm")
    decide(desk, EVE, "account", "b", "reopened")
    assert statuses(desk) == {"a": "false_alarm", "b": "reopened", "c": "reopened"}
    assert [d.verdict for d in show(desk, "account", "a").decisions] == ["inconclusive", "false_alarm"]


def test_an_event_that_slipped_through_opens_even_a_confirmed_case() -> None:
    last = Decision(
        id="1", kind="account", party="a", at=5, by="eve", verdict="confirmed", reason="x", events=1, caught_late=2,
        newest_hit=3,
    )  # fmt: skip
    same: dict[str, Any] = {"last_at": 99, "newest_hit": 3, "spreading": 1}
    assert status_of(last, **same, caught_late=2) == "confirmed"
    assert status_of(last, **same, caught_late=3) == "reopened"
    assert status_of(None, **same, caught_late=3) == "open"


@pytest.mark.parametrize(
    ("verdict", "how", "text"),
    [
        ("guilty", {}, "a decision is confirmed, false_alarm"),
        ("confirmed", {"lift": True}, "neither lifted nor allowed"),
        ("confirmed", {"allow_until": 1}, "neither lifted nor allowed"),
        ("false_alarm", {"keep": True}, "keeps nobody listed"),
        ("inconclusive", {"keep": True, "lift": True}, "exclude each other"),
        ("false_alarm", {"lift": True}, "nothing lists account 'a'"),
        ("confirmed", {"keep": True}, "no standing hit"),
        ("false_alarm", {"allow_until": 1}, "it must lie ahead"),
    ],
)
def test_a_decision_that_cannot_be_meant_is_refused_and_not_kept(
    desk: Cases, verdict: Any, how: dict[str, Any], text: str
) -> None:
    desk.store("a", "m", listed="a")
    with pytest.raises(UsageError, match=text):
        decide(desk, EVE, "account", "a", verdict, **how)
    assert decisions_on(desk.tables, "account", "a") == []
    with pytest.raises(UsageError, match="a reason is needed"):
        decide(desk, Who("eve", ""), "account", "a", "inconclusive")


def test_a_decision_that_changes_lists_waits_for_the_second_person(tmp_path: Path) -> None:
    desk = Cases(tmp_path, approvals=frozenset({"lists"}))
    desk.store("a", "m", listed="a")
    desk.hit("a")
    waiting = decide(desk, EVE, "account", "a", "false_alarm", lift=True)
    assert (waiting.state, statuses(desk)) == ("open", {"a": "open"})
    assert [p.id for p in show(desk, "account", "a").waiting] == [waiting.id]
    changes.approve(desk, waiting.id, Who("bob", "yes"))
    assert statuses(desk) == {"a": "false_alarm"}
    assert [e.state for e in lists.party_entries(desk, "account", "a")] == ["lifted"]
    assert decide(desk, EVE, "account", "a", "inconclusive").state == "applied"
    assert [r.by for r in store.history_of(desk.tables, "account", "a") if r.what == "approved"] == ["bob"]
