"""Settings and options: what is refused, in which words, and what is changed."""

import pytest

from paystorm.errors import ConfigError
from paystorm.rules import Rule
from paystorm.settings import SETTINGS, Settings, check_options, with_options
from paystorm.source import Field, Party, Source

WHERE = "config.json: envs.prod.options"
SOURCE = Source(
    name="purchase",
    topic="purchase",
    enforces=True,
    fields=(
        Field(name="event_time", type="time", required=True),
        Field(name="payer", type="id", required=True),
        Field(name="amount", type="amount"),
        Field(name="currency", type="currency"),
        Field(name="device", type="id"),
    ),
    parties=(Party(field="payer", role="sender", kind="account"),),
    rules=(
        Rule(name="per_day", kind="account", limit=30),
        Rule(name="growth", kind="account", factor="3", baseline=10),
        Rule(name="cap", kind="account", measure="sum", field="amount", limit={"EUR": "100"}),
        Rule(name="devices", kind="account", measure="distinct", field="device", limit=5),
    ),
)
SOURCES = {"purchase": SOURCE}


def rule(name: str, options: dict[str, object]) -> Rule:
    """The rule as options leave it."""
    return next(r for r in with_options(SOURCE, options).rules if r.name == name)


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("maxOffsetBehind", -1, ".maxOffsetBehind must be ≥ 0, got -1"),
        ("maxOffsetBehind", True, ".maxOffsetBehind must be a whole number, got True"),
        ("maxOffsetBehind", "5", ".maxOffsetBehind must be a whole number, got '5'"),
        ("retryDelayMultiplier", 0.5, ".retryDelayMultiplier must be ≥ 1, got 0.5"),
        ("retryDelayMultiplier", float("nan"), ".retryDelayMultiplier must be ≤ 1,000,000, got nan"),
        ("publishAccepted", 1, ".publishAccepted must be true or false, got 1"),
        ("earliest", "2000-01-01", ".earliest must be a time such as 2000-01-01T00:00:00Z, got '2000-01-01'"),
        (
            "earliest",
            "0001-01-01T00:00:00+23:00",
            ".earliest must be a time such as 2000-01-01T00:00:00Z, got '0001-01-01T00:00:00+23:00'",
        ),
        ("maxOfsetBehind", 5, ".maxOfsetBehind: no such setting; see docs/settings.md"),
        ("rules.purchase", 5, ".rules.purchase: a rule's option is rules.<source>.<rule>.<property>"),
        ("rules.shop.per_day.limit", 5, ".rules.shop.per_day.limit: no source 'shop'; there are purchase"),
        (
            "rules.purchase.day.limit",
            5,
            ".rules.purchase.day.limit: source purchase has no rule 'day'; it has per_day, growth, cap, devices",
        ),
        (
            "rules.purchase.per_day.interval",
            "7d",
            ".rules.purchase.per_day.interval: a rule's interval cannot be set by an option",
        ),
        ("rules.purchase.per_day.limit", -1, ".rules.purchase.per_day: limit must be 0 to 10^12, got -1"),
        ("rules.purchase.per_day.limit", "40", ".rules.purchase.per_day.limit must be a whole number, got '40'"),
        ("rules.purchase.per_day.limit", 10**30, f".rules.purchase.per_day.limit must be below 2^63, got {10**30}"),
        (
            "rules.purchase.per_day.limit.EUR",
            40,
            ".rules.purchase.per_day.limit.EUR: only limit and baseline of a sum are given by currency",
        ),
        ("rules.purchase.per_day.action", "ban", ".rules.purchase.per_day.action must be deny or review, got 'ban'"),
        (
            "rules.purchase.growth.factor",
            1,
            ".rules.purchase.growth: factor must be above 1 and at most 1,000,000, got '1'",
        ),
        ("rules.purchase.cap.limit", 5, ".rules.purchase.cap: limit must be given by currency, got 5"),
        (
            "rules.purchase.cap.limit.EUR",
            "ten",
            ".rules.purchase.cap: limit.EUR must be a decimal from 0 to below 10^20, got 'ten'",
        ),
        ("rules.purchase.cap.limit.EUR", None, ".rules.purchase.cap.limit.EUR must be a number, got None"),
        (
            "rules.purchase.devices.limit",
            100_000,
            ".rules.purchase.devices: cap must be at most 100000, got 100001",
        ),
    ],
)
def test_a_bad_option_is_refused_in_one_line(option: str, value: object, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_options({option: value}, SOURCES, WHERE)
    assert str(caught.value) == WHERE + text


def test_storms_own_options_are_passed_over() -> None:
    check_options({"topology.workers": 2, "pystorm.log.level": "info"}, SOURCES, WHERE)


def test_every_default_lies_within_its_bounds() -> None:
    Settings({s.name: s.default for s in SETTINGS})


def test_what_is_not_given_has_its_default() -> None:
    settings = Settings({"maxOffsetBehind": 7, "topology.workers": 2})
    assert settings["maxOffsetBehind"] == 7
    assert settings["retryDelayMultiplier"] == 60.0
    assert settings.earliest_us == 946_684_800_000_000


def test_a_limit_is_changed() -> None:
    assert rule("per_day", {"rules.purchase.per_day.limit": 40}).limit == 40


def test_a_limit_of_one_currency_leaves_the_others() -> None:
    assert rule("cap", {"rules.purchase.cap.limit.GBP": 12.5}).limit == {"EUR": "100", "GBP": "12.5"}


def test_a_factor_may_be_a_number() -> None:
    assert rule("growth", {"rules.purchase.growth.factor": 2.5}).factor == "2.5"


def test_several_properties_of_a_rule_change_together() -> None:
    changed = rule("devices", {"rules.purchase.devices.limit": 8, "rules.purchase.devices.action": "review"})
    assert (changed.limit, changed.acts) == (8, "review")


def test_options_of_other_sources_change_nothing() -> None:
    assert with_options(SOURCE, {"rules.refund.per_day.limit": 1, "maxOffsetBehind": 1}) == SOURCE
