"""Counts and standing hits, worked out by hand, and against a plain reckoning in Python."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paystorm.oracle import Computed, OracleError
from paystorm.oracle.testing import Log

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
DAY_START = 1_704_067_200
"""2024-01-01T00:00:00Z, a Monday."""
DAY = 86_400


def source(*rules: Mapping[str, Any], fraction_digits: int = 18) -> dict[str, Any]:
    return {
        "name": "purchase",
        "topic": "purchases",
        "enforces": True,
        "fields": [
            {"name": "event_time", "type": "time", "required": True},
            {"name": "payer", "type": "id"},
            {"name": "payee", "type": "id"},
            {"name": "payee_kind", "type": "choice", "values": ["account", "merchant"]},
            {"name": "amount", "type": "amount", "fraction_digits": fraction_digits},
            {"name": "currency", "type": "currency"},
            {"name": "device", "type": "id"},
        ],
        "parties": [
            {"field": "payer", "role": "sender", "kind": "account"},
            {"field": "payee", "role": "receiver", "kind": "account", "kind_field": "payee_kind"},
        ],
        "rules": list(rules),
    }


def pay(log: Log, at: datetime | None = None, *, offset: int | None = None, **fields: Any) -> tuple[int, int]:
    data = {"event_time": (at or NOON).isoformat(), "payer": "u1"} | fields
    received = {"received_at": (at or NOON).isoformat()}
    return log.add(data, envelope=received) if offset is None else log.add(data, envelope=received, offset=offset)


def figures(computed: Computed, rule: str) -> dict[tuple[str, str, int, str], int | Decimal]:
    return {(c.kind, c.party, c.interval_start, c.currency): c.value for c in computed.counts() if c.rule == rule}


def hits(computed: Computed) -> dict[tuple[str, str, int, str], tuple[int, int | Decimal]]:
    return {(h.rule, h.party, h.interval_start, h.currency): (h.version, h.value) for h in computed.hits.values()}


def version(number: int, rules: Sequence[Mapping[str, Any]], first: int = 0, **conf: Any) -> dict[str, Any]:
    return {"number": number, "rules": rules, "settings": conf, "first": {0: first}}


def test_a_count_is_a_hit_when_it_exceeds_its_limit() -> None:
    log = Log()
    for payer, times in (("at", 3), ("over", 4)):
        for _ in range(times):
            pay(log, payer=payer)
    with log.compute(source({"name": "many", "kind": "account", "limit": 3})) as computed:
        assert figures(computed, "many") == {
            ("account", "at", DAY_START, ""): 3,
            ("account", "over", DAY_START, ""): 4,
        }
        assert hits(computed) == {("many", "over", DAY_START, ""): (0, 4)}


def test_a_sum_is_kept_and_limited_by_currency_and_leaves_out_what_has_none() -> None:
    log = Log()
    for amount, currency in (("0.1", "EUR"), (0.2, "EUR"), ("5", "USD"), ("9", None), (None, "EUR")):
        pay(log, amount=amount, currency=currency)
    rule = {"name": "spend", "kind": "account", "measure": "sum", "field": "amount", "limit": {"EUR": "0.29"}}
    with log.compute(source(rule)) as computed:
        assert figures(computed, "spend") == {
            ("account", "u1", DAY_START, "EUR"): Decimal("0.3"),
            ("account", "u1", DAY_START, "USD"): Decimal(5),
        }
        assert hits(computed) == {("spend", "u1", DAY_START, "EUR"): (0, Decimal("0.3"))}
    with log.compute(source(rule | {"limit": {"EUR": "0.3"}})) as computed:
        assert hits(computed) == {}


def test_a_sum_past_38_digits_saturates_and_is_over_every_limit() -> None:
    log = Log()
    most = "9" * 20 + "." + "9" * 18
    pay(log, payer="two", amount=most, currency="EUR")
    pay(log, payer="two", amount=most, currency="EUR")
    pay(log, payer="below", amount="9" * 20, currency="EUR")
    pay(log, payer="unlimited", amount=most, currency="USD")
    rule = {"name": "spend", "kind": "account", "measure": "sum", "field": "amount", "limit": {"EUR": most}}
    with log.compute(source(rule)) as computed:
        assert figures(computed, "spend")["account", "two", DAY_START, "EUR"] == Decimal(most)
        assert figures(computed, "spend")["account", "below", DAY_START, "EUR"] == Decimal("9" * 20)
        assert hits(computed) == {("spend", "two", DAY_START, "EUR"): (0, Decimal(most))}


def test_a_sum_beyond_64_and_128_bits_is_exact_to_the_last_unit() -> None:
    log = Log()
    amounts = [Decimal("9" * 18 + ".000000000000000001")] * 50 + [Decimal("0.999999999999999999")] * 7
    for amount in amounts:
        pay(log, amount=str(amount), currency="EUR")
    rule = {"name": "spend", "kind": "account", "measure": "sum", "field": "amount", "limit": {}}
    with log.compute(source(rule)) as computed:
        value = figures(computed, "spend")["account", "u1", DAY_START, "EUR"]
    assert Fraction(value) == sum(map(Fraction, amounts))


def test_a_distinct_counts_different_ids_to_its_cap() -> None:
    log = Log()
    for device in ("a", "b", "b", 'c"\n\x00,😀', "C", None):
        pay(log, device=device)
    rule = {"name": "devices", "kind": "account", "measure": "distinct", "field": "device", "limit": 2}
    with log.compute(source(rule)) as computed:
        assert figures(computed, "devices") == {("account", "u1", DAY_START, ""): 3}
        assert hits(computed) == {("devices", "u1", DAY_START, ""): (0, 3)}
    with log.compute(source(rule | {"cap": 10})) as computed:
        assert figures(computed, "devices") == {("account", "u1", DAY_START, ""): 4}


def test_a_growth_is_a_hit_at_factor_times_a_baseline_of_the_interval_right_before() -> None:
    log = Log()
    for payer, days in (("grew", (2, 6)), ("less", (2, 5)), ("small", (1, 6)), ("gap", (2, 0, 6)), ("half", (3, 8))):
        for day, times in enumerate(days):
            for _ in range(times):
                pay(log, NOON + timedelta(days=day), payer=payer)
    with log.compute(source({"name": "grow", "kind": "account", "factor": "3", "baseline": 2})) as computed:
        assert hits(computed) == {("grow", "grew", DAY_START + DAY, ""): (0, 6)}
    with log.compute(source({"name": "grow", "kind": "account", "factor": "2.5", "baseline": 2})) as computed:
        assert {hit.party for hit in computed.hits.values()} == {"grew", "less", "half"}


def test_a_growth_of_a_sum_is_within_one_currency_that_has_a_baseline() -> None:
    log = Log()
    for currency in ("EUR", "USD"):
        pay(log, amount="1.5", currency=currency)
        pay(log, NOON + timedelta(days=1), amount="4.5", currency=currency)
    pay(log, NOON + timedelta(days=1), payer="new", amount="4", currency="EUR")
    rule = {"name": "g", "kind": "account", "measure": "sum", "field": "amount", "factor": "3"}
    with log.compute(source(rule | {"baseline": {"EUR": "1.5"}})) as computed:
        assert hits(computed) == {("g", "u1", DAY_START + DAY, "EUR"): (0, Decimal("4.5"))}
    with log.compute(source(rule | {"baseline": {"EUR": "1.500000000000000001"}})) as computed:
        assert hits(computed) == {}


def test_growth_over_months_looks_at_the_month_before() -> None:
    log = Log()
    for month, times in ((1, 1), (2, 1), (3, 3)):
        for _ in range(times):
            pay(log, datetime(2024, month, 29, tzinfo=UTC))
    rule = {"name": "g", "kind": "account", "factor": "2", "baseline": 1, "interval": "month"}
    with log.compute(source(rule)) as computed:
        assert hits(computed) == {("g", "u1", int(datetime(2024, 3, 1, tzinfo=UTC).timestamp()), ""): (0, 3)}


def test_either_counts_an_event_once_for_a_party_and_a_choice_field_decides_the_kind() -> None:
    log = Log()
    pay(log, payer="a", payee="a")
    pay(log, payer="a", payee="b")
    pay(log, payer="b", payee="a", payee_kind="merchant")
    rules = [
        {"name": "either", "kind": "account", "limit": 9},
        {"name": "sent", "kind": "account", "role": "sender", "limit": 9},
        {"name": "got", "kind": "account", "role": "receiver", "limit": 9},
        {"name": "shop", "kind": "merchant", "role": "receiver", "limit": 9},
    ]
    with log.compute(source(*rules)) as computed:

        def counted(rule: str) -> dict[str, int | Decimal]:
            return {key[1]: value for key, value in figures(computed, rule).items()}

        assert counted("either") == {"a": 2, "b": 2}
        assert counted("sent") == {"a": 2, "b": 1}
        assert counted("got") == {"a": 1, "b": 1}
        assert counted("shop") == {"a": 1}
        assert sorted(computed.events_of("account", "a")) == [(0, 0), (0, 1)]


@pytest.mark.parametrize(
    ("interval", "at", "start"),
    [
        ("10s", "1969-12-31T23:59:59.5+00:00", "1969-12-31T23:59:50+00:00"),
        ("1h", "1969-12-31T23:00:00+00:00", "1969-12-31T23:00:00+00:00"),
        ("1d", "1969-12-31T00:00:00+00:00", "1969-12-31T00:00:00+00:00"),
        ("7d", "1970-01-04T23:59:59+00:00", "1969-12-29T00:00:00+00:00"),
        ("7d", "2024-01-07T23:59:59+00:00", "2024-01-01T00:00:00+00:00"),
        ("7d", "2024-01-08T00:00:00+00:00", "2024-01-08T00:00:00+00:00"),
        ("3d", "1970-01-05T00:00:00+00:00", "1970-01-05T00:00:00+00:00"),
        ("month", "1969-12-31T23:59:59.999999+00:00", "1969-12-01T00:00:00+00:00"),
        ("month", "2024-02-29T23:59:59+00:00", "2024-02-01T00:00:00+00:00"),
        ("24h", "2024-02-29T23:59:59+00:00", "2024-02-29T00:00:00+00:00"),
    ],
)
def test_intervals_begin_where_they_must_also_before_1970(interval: str, at: str, start: str) -> None:
    log = Log()
    pay(log, datetime.fromisoformat(at))
    rules = [{"name": "n", "kind": "account", "limit": 5, "interval": interval}]
    early = version(0, rules, earliest=-(10**15))
    with log.compute(source(), [early]) as computed:
        assert list(figures(computed, "n")) == [("account", "u1", int(datetime.fromisoformat(start).timestamp()), "")]


def test_storms_own_example_of_sliding_windows_is_two_neighbouring_tumbling_counts() -> None:
    """Storm's page on windowing: 20 s windows that slide by 10 s, events e1 to e10."""
    log = Log()
    clock = ("06:00:03", "06:00:05", "06:00:07", "06:00:18", "06:00:26", "06:00:36")
    later = ("08:00:25", "08:00:26", "08:00:27", "08:00:39")
    for text in (*clock, *later):
        pay(log, datetime.fromisoformat(f"2024-01-01T{text}+00:00"))
    with log.compute(source({"name": "n", "kind": "account", "limit": 99, "interval": "10s"})) as computed:
        tumbling = {start: value for (_, _, start, _), value in figures(computed, "n").items()}

    def window(end: str) -> int | Decimal:
        at = int(datetime.fromisoformat(f"2024-01-01T{end}+00:00").timestamp())
        return tumbling.get(at - 20, 0) + tumbling.get(at - 10, 0)

    ends = ("06:00:10", "06:00:20", "06:00:30", "06:00:40", "06:00:50", "08:00:30")
    assert [window(end) for end in ends] == [3, 4, 2, 2, 1, 3]


def test_a_hit_carries_the_earliest_version_that_holds_over_records_below_its_end() -> None:
    log = Log()
    for _ in range(4):
        pay(log)
    many = {"name": "many", "kind": "account", "limit": 2}
    versions = [version(0, [many]), version(1, [many | {"limit": 1}], 3)]
    with log.compute(source(), versions) as computed:
        assert hits(computed) == {("many", "u1", DAY_START, ""): (0, 3)}
        assert figures(computed, "many") == {("account", "u1", DAY_START, ""): 4}
    versions = [version(0, [many | {"limit": 3}]), version(1, [many | {"limit": 1}], 3)]
    with log.compute(source(), versions) as computed:
        assert hits(computed) == {("many", "u1", DAY_START, ""): (1, 4)}


def test_a_new_limit_does_not_judge_an_interval_without_a_record_of_its_own() -> None:
    log = Log()
    for _ in range(3):
        pay(log)
    pay(log, NOON + timedelta(days=1))
    many = {"name": "many", "kind": "account", "limit": 9}
    with log.compute(source(), [version(0, [many]), version(1, [many | {"limit": 1}], 3)]) as computed:
        assert hits(computed) == {}


def test_a_rule_that_versions_share_unchanged_is_one_version_named_by_the_first() -> None:
    log = Log()
    for _ in range(4):
        pay(log)
    many = {"name": "many", "kind": "account", "limit": 3}
    other = {"name": "other", "kind": "account", "limit": 99, "interval": "1h"}
    same = many | {"role": "either", "cap": None}
    with log.compute(source(), [version(3, [many]), version(4, [other, same], 2)]) as computed:
        assert hits(computed) == {("many", "u1", DAY_START, ""): (3, 4)}
        assert list(figures(computed, "other").values()) == [2]


def test_a_rule_that_is_gone_keeps_its_hits_and_one_that_comes_back_counts_anew() -> None:
    log = Log()
    for _ in range(6):
        pay(log)
    many = {"name": "many", "kind": "account", "limit": 1}
    versions = [version(0, [many]), version(1, [], 2), version(2, [many | {"name": "again", "limit": 2}], 3)]
    with log.compute(source(), versions) as computed:
        assert hits(computed) == {
            ("many", "u1", DAY_START, ""): (0, 2),
            ("again", "u1", DAY_START, ""): (2, 3),
        }
        assert figures(computed, "many") == {}


def test_another_limit_of_an_uncapped_distinct_is_another_measure() -> None:
    log = Log()
    for device in ("a", "b", "c"):
        pay(log, device=device)
    rule = {"name": "d", "kind": "account", "measure": "distinct", "field": "device", "limit": 5}
    for cap, expected in ((None, 1), (10, 3)):
        first, second = rule | {"cap": cap}, rule | {"cap": cap, "limit": 4}
        with log.compute(source(), [version(0, [first]), version(1, [second], 2)]) as computed:
            assert list(figures(computed, "d").values()) == [expected]


def test_growth_of_a_version_takes_both_intervals_below_its_end() -> None:
    log = Log()
    today, tomorrow = NOON, NOON + timedelta(days=1)
    for at in (today, tomorrow, tomorrow, today):
        pay(log, at)
    grow = {"name": "g", "kind": "account", "factor": "2", "baseline": 1}
    with log.compute(source(), [version(0, [grow]), version(1, [], 3)]) as computed:
        assert hits(computed) == {("g", "u1", DAY_START + DAY, ""): (0, 2)}
    with log.compute(source(grow)) as computed:
        assert hits(computed) == {}


def test_a_version_decides_validity_by_its_own_settings_and_partitions_not_named_begin_at_0() -> None:
    log = Log()
    early = {"event_time": "1999-01-01T00:00:00Z"}
    for partition in (0, 0, 7):
        log.add(early, partition=partition)
    versions = [version(0, []), {"number": 1, "rules": [], "settings": {"earliest": 0}, "first": {"0": 1}}]
    with log.compute(source(), versions) as computed:
        assert [outcome.code for outcome in computed.outcomes.values()] == ["too_early", None, None]


def test_parked_and_given_up_records_are_in_no_count_and_no_event_row() -> None:
    log = Log()
    for _ in range(3):
        pay(log)
    declared = source({"name": "n", "kind": "account", "limit": 9})
    with log.compute(declared, parked={(0, 0)}, gave_up={(0, 2)}) as computed:
        assert list(figures(computed, "n").values()) == [1]
        assert [row.offset for row in computed.events] == [1]
        assert {o.offset: (o.field, o.code) for o in computed.outcomes.values()} == {
            1: (None, None),
            2: ("record", "gave_up"),
        }


def test_records_out_of_order_are_refused() -> None:
    log = Log()
    pay(log, offset=5)
    pay(log, offset=5)
    with pytest.raises(OracleError, match="purchases/0/5"):
        log.compute(source())


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 200_000),
        st.sampled_from("ab"),
        st.sampled_from(["a", "c", None]),
        st.integers(0, 400),
        st.sampled_from(["EUR", "USD", None]),
        st.sampled_from(["x", "y", "z", None]),
    ),
    max_size=25,
)


@settings(max_examples=30, deadline=None)
@given(EVENTS, st.integers(0, 25), st.integers(0, 25))
def test_figures_and_hits_are_those_of_a_plain_reckoning(events: list[Any], one: int, other: int) -> None:
    first, second = sorted((one, other))
    base = {"kind": "account", "interval": "12h"}
    count = base | {"name": "count", "limit": 3}
    total = base | {"name": "sum", "measure": "sum", "field": "amount", "limit": {"EUR": "3.5"}}
    varied = base | {"name": "distinct", "measure": "distinct", "field": "device", "limit": 1, "cap": 9}
    growth = base | {"name": "growth", "factor": "1.5", "baseline": 1}
    versions = [
        version(0, [count, total, growth]),
        version(1, [count | {"limit": 2}, total, varied], first),
        version(2, [count | {"limit": 2}, total | {"limit": {"USD": "1"}}, varied | {"limit": 2}, growth], second),
    ]
    log = Log()
    for seconds, payer, payee, cents, currency, device in events:
        at = datetime.fromtimestamp(DAY_START + seconds, UTC)
        pay(log, at, payer=payer, payee=payee, amount=str(Decimal(cents) / 100), currency=currency, device=device)

    def figure(party: str, start: int, what: str, currency: str, *, since: int, last: int) -> tuple[Any, int]:
        value: Any = set() if what == "distinct" else 0
        latest = -1
        for offset, (seconds, payer, payee, cents, unit, device) in enumerate(events):
            epoch = (offset >= first) + (offset >= second) if offset < second else 2
            inside = start <= DAY_START + seconds < start + 43_200 and party in (payer, payee)
            if not inside or not since <= epoch <= last:
                continue
            if what == "count":
                value += 1
            elif what == "sum" and unit == currency:
                value += Fraction(cents, 100)
            elif what == "distinct" and device is not None:
                value.add(device)
            else:
                continue
            latest = epoch
        return (min(len(value), 9) if what == "distinct" else value), latest

    # name, number, first, last, counted from, what, limits or (factor, baseline) by currency
    spans: list[tuple[str, int, int, int, int, str, dict[str, Any]]] = [
        ("count", 0, 0, 0, 0, "count", {"": 3}),
        ("count", 1, 1, 2, 0, "count", {"": 2}),
        ("sum", 0, 0, 1, 0, "sum", {"EUR": Fraction("3.5")}),
        ("sum", 2, 2, 2, 0, "sum", {"USD": Fraction(1)}),
        ("distinct", 1, 1, 1, 1, "distinct", {"": 1}),
        ("distinct", 2, 2, 2, 1, "distinct", {"": 2}),
        ("growth", 0, 0, 0, 0, "count", {"": None}),
        ("growth", 2, 2, 2, 0, "count", {"": None}),
    ]
    expected: dict[tuple[str, str, int, str], tuple[int, Any]] = {}
    for name, number, since, last, counted, what, limits in spans:
        for party in "abc":
            for start in range(DAY_START, DAY_START + 200_001, 43_200):
                for currency, limit in limits.items():
                    now, latest = figure(party, start, what, currency, since=counted, last=last)
                    before, _ = figure(party, start - 43_200, what, currency, since=counted, last=last)
                    over = before >= 1 and 2 * now >= 3 * before if limit is None else now > limit
                    if over and latest >= since:
                        expected.setdefault((name, party, start, currency), (number, now))
    with log.compute(source(), versions) as computed:
        found = {key: (number, Fraction(value)) for key, (number, value) in hits(computed).items()}
        assert found == expected
        for rule, what in (("count", "count"), ("sum", "sum"), ("distinct", "distinct")):
            since = 1 if rule == "distinct" else 0
            for (_, party, start, currency), value in figures(computed, rule).items():
                assert Fraction(value) == figure(party, start, what, currency, since=since, last=2)[0]
