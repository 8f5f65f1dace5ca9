"""Rules: what is refused, what stands for what is left out."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paystorm.errors import ConfigError
from paystorm.rules import MAX_CAP, Measure, Rule

GOOD: dict[str, dict[str, Any]] = {
    "count": {"limit": 3},
    "growth": {"factor": "3", "baseline": 10},
    "sum": {"measure": "sum", "field": "amount", "limit": {"EUR": "10.50", "USD": "0"}},
    "sum_growth": {"measure": "sum", "field": "amount", "factor": "1.5", "baseline": {"EUR": "5"}},
    "distinct": {"measure": "distinct", "field": "device", "limit": 3},
}
SUM, GROWTH, DISTINCT = GOOD["sum"], GOOD["growth"], GOOD["distinct"]


def rule(**given: Any) -> Rule:
    return Rule(**{"name": "r", "kind": "account", **given})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "either a limit or a factor"),
    ({"limit": 3, **GROWTH}, "either a limit or a factor"),
    ({"limit": 3, "field": "amount"}, "names a field, a count does not"),
    ({**SUM, "field": None}, "names a field"),
    ({**DISTINCT, "field": None}, "names a field"),
    ({"limit": {"EUR": "3"}}, "limit must be a whole number"),
    ({**GROWTH, "baseline": {"EUR": "3"}}, "baseline must be a whole number"),
    ({**SUM, "limit": 3}, "limit must be given by currency"),
    ({**GOOD["sum_growth"], "baseline": 3}, "baseline must be given by currency"),
    ({**DISTINCT, "limit": {"EUR": "3"}}, "limit must be a whole number"),
    ({**SUM, "limit": {"": "3"}}, "1 to 16 characters, got ''"),
    ({**SUM, "limit": {"E" * 17: "3"}}, "1 to 16 characters"),
    ({**SUM, "limit": {"EUR": "three"}}, "limit.EUR must be a decimal from 0 to below 10^20, got 'three'"),
    ({**SUM, "limit": {"EUR": ""}}, "must be a decimal"),
    ({**SUM, "limit": {"EUR": "-0.01"}}, "must be a decimal"),
    ({**SUM, "limit": {"EUR": "NaN"}}, "must be a decimal"),
    ({**SUM, "limit": {"EUR": "sNaN"}}, "must be a decimal"),
    ({**SUM, "limit": {"EUR": "Infinity"}}, "must be a decimal"),
    ({**SUM, "limit": {"EUR": "1e20"}}, "must be a decimal"),
    ({**SUM, "limit": {"EUR": "1e-19"}}, "must be a decimal"),
    ({**SUM, "limit": {"EUR": "1e999999999999999999999"}}, "must be a decimal"),
    ({**SUM, "limit": {"EUR": "1", "USD": "x\ny"}}, "limit.USD must be a decimal"),
    ({**GOOD["sum_growth"], "baseline": {"EUR": "-1"}}, "baseline.EUR must be a decimal"),
    ({"limit": -1}, "limit must be 0 to 10^12, got -1"),
    ({"limit": 10**12 + 1}, "limit must be 0 to 10^12"),
    ({**GROWTH, "baseline": -1}, "baseline must be 0 to 10^12, got -1"),
    ({**GROWTH, "factor": "1"}, "factor must be above 1"),
    ({**GROWTH, "factor": "0.5"}, "factor must be above 1"),
    ({**GROWTH, "factor": "-3"}, "factor must be above 1"),
    ({**GROWTH, "factor": "1000000.1"}, "at most 1,000,000"),
    ({**GROWTH, "factor": "NaN"}, "factor must be above 1"),
    ({**GROWTH, "factor": "thrice"}, "factor must be above 1"),
    ({**DISTINCT, "limit": None, **GROWTH}, "growth over a distinct is refused"),
    ({"factor": "3"}, "growth needs a baseline"),
    ({"limit": 3, "baseline": 10}, "baseline goes with factor"),
    ({**DISTINCT, "limit": MAX_CAP}, "cap must be at most 100000, got 100001"),
    ({**DISTINCT, "cap": MAX_CAP + 1}, "cap must be at most 100000"),
    ({**DISTINCT, "cap": 3}, "raise cap to 4"),
    ({**DISTINCT, "cap": 0}, "raise cap to 4"),
    ({"limit": 3, "cap": 5}, "cap goes with distinct"),
    ({**SUM, "cap": 5}, "cap goes with distinct"),
    ({"limit": 3, "expires_after": 0}, "expires_after must be above 0 and at most 10^10 seconds, got 0"),
    ({"limit": 3, "expires_after": 10**10 + 1}, "expires_after must be above 0 and at most 10^10 seconds"),
    ({"limit": 3, "expires_after": -1}, "expires_after must be above 0"),
]


@pytest.mark.parametrize(("given_", "why"), REFUSED, ids=[f"{i}-{why[:30]}" for i, (_, why) in enumerate(REFUSED)])
def test_a_rule_that_cannot_be_meant_is_refused_by_one_line_that_names_it(given_: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rule(**given_).check("pay")
    text = str(caught.value)
    assert text.startswith("rules.pay.r: ")
    assert "\n" not in text
    assert why in text


def test_a_rule_of_an_interval_that_is_none_is_refused_by_a_line_that_names_it() -> None:
    with pytest.raises(ConfigError, match=r"^rules\.pay\.r: interval must be "):
        rule(limit=3, interval="7s").check("pay")


@pytest.mark.parametrize("given_", GOOD.values(), ids=GOOD)
def test_a_rule_that_can_be_meant_passes(given_: dict[str, Any]) -> None:
    rule(**given_).check("pay")


@pytest.mark.parametrize(
    "given_",
    [
        {"limit": 0},
        {"limit": 10**12},
        {**GROWTH, "baseline": 0, "factor": "1.000000000000000001"},
        {**GROWTH, "factor": "1000000"},
        {**SUM, "limit": {"E" * 16: "99999999999999999999.999999999999999999", "€": "1e-18"}},
        {**SUM, "limit": {}},
        {**DISTINCT, "limit": 0},
        {**DISTINCT, "limit": 3, "cap": 4},
        {**DISTINCT, "cap": MAX_CAP},
        {**DISTINCT, "limit": MAX_CAP - 1},
        {"limit": 1, "expires_after": 1},
        {"limit": 1, "expires_after": 10**10},
    ],
)
def test_the_outermost_figures_are_allowed(given_: dict[str, Any]) -> None:
    checked = rule(**given_)
    checked.check("pay")
    assert msgspec.convert(msgspec.to_builtins(checked), Rule) == checked, "it travels as plain data"


@pytest.mark.parametrize(
    ("kind", "acts"),
    [("account", "deny"), ("device", "deny"), ("merchant", "review"), ("region", "review"), ("agent", "review"),
     ("ip", "review"), ("other", "review")],
)  # fmt: skip
def test_the_action_follows_from_the_kind_unless_it_is_said(kind: str, acts: str) -> None:
    assert rule(kind=kind, limit=1).acts == acts
    assert rule(kind=kind, limit=1, action="deny").acts == "deny"
    assert rule(kind=kind, limit=1, action="review").acts == "review"


def test_what_is_left_out_is_a_count_a_day_in_either_role_for_ever() -> None:
    plain = rule(limit=1)
    assert plain.measured() == Measure("account", "either", "count", "1d")
    assert (plain.expires_after, plain.is_growth) == (None, False)
    assert rule(**GROWTH).is_growth


@pytest.mark.parametrize(
    ("given_", "label"),
    [
        ({"limit": 1}, "account/either/count/1d"),
        ({**GROWTH, "interval": "1h"}, "account/either/count/1h"),
        ({**SUM, "role": "sender", "interval": "month"}, "account/sender/sum(amount)/month"),
        (DISTINCT, "account/either/distinct(device)<=4/1d"),
        ({**DISTINCT, "cap": 9}, "account/either/distinct(device)<=9/1d"),
    ],
)
def test_a_measure_has_one_word(given_: dict[str, Any], label: str) -> None:
    assert rule(**given_).measured().label() == label


def test_limit_factor_and_action_are_no_part_of_what_is_counted() -> None:
    assert rule(limit=1).measured() == rule(name="other", action="review", expires_after=5, **GROWTH).measured()
    assert rule(**SUM).measured() == rule(**GOOD["sum_growth"]).measured()
    assert rule(**DISTINCT).measured() != rule(**{**DISTINCT, "limit": 4}).measured()
    capped = {**DISTINCT, "cap": 9}
    assert rule(**capped).measured() == rule(**{**capped, "limit": 4}).measured()


def test_figures_are_limits_or_baselines_by_currency() -> None:
    assert rule(limit=3).figures() == {"": Decimal(3)}
    assert rule(**GROWTH).figures() == {"": Decimal(10)}
    assert rule(**SUM).figures() == {"EUR": Decimal("10.50"), "USD": Decimal(0)}
    assert rule(**GOOD["sum_growth"]).figures() == {"EUR": Decimal(5)}


@given(st.text(st.characters(codec="utf-8"), max_size=12) | st.decimals().map(str))
def test_any_text_as_a_limit_is_an_exact_decimal_or_refused_by_a_line(text: str) -> None:
    checked = rule(**{**SUM, "limit": {"EUR": text}})
    refusal = None
    try:
        checked.check("pay")
    except ConfigError as error:
        refusal = str(error)
    if refusal is None:
        assert 0 <= checked.figures()["EUR"] < 10**20
    else:
        assert refusal.startswith("rules.pay.r: limit.EUR must be a decimal")
        assert "\n" not in refusal
