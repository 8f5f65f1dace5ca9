"""The four sources that are shipped, against the table that they were ordered by; and the examples, against them."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from paystorm.generate import purchases
from paystorm.project import Project
from paystorm.source import Source
from paystorm.storm import SOURCE
from paystorm.validity import ExactValidator, Invalid, ValiditySettings

ROOT = Path(__file__).parents[2]
PROJECT = Project.load(ROOT)

FIELDS = {
    "purchase": "transaction_id event_time* from_party* to_party* to_kind amount currency message device ip",
    "refund": "refund_id transaction_id event_time* customer* merchant amount currency reason",
    "customer-service": "contact_id event_time* customer region agent channel kind",
    "browser": "request_id event_time* ip* account user_agent fingerprint path status",
}
OWN_ID = {
    "purchase": "transaction_id",
    "refund": "refund_id",
    "customer-service": "contact_id",
    "browser": "request_id",
}
KINDS = {
    "purchase": {"account", "merchant", "device", "ip"},
    "refund": {"account", "merchant"},
    "customer-service": {"account", "region", "agent"},
    "browser": {"account", "ip", "device"},
}
RULES = {
    "purchase": {
        "account_per_day": "account/either/count/1d > 30 deny",
        "account_growth": "account/either/count/1d ×3 from 10 deny",
        "sender_amount_growth": "account/sender/sum(amount)/1d ×3 from EUR,GBP,USD,ETH deny",
        "sender_cap_day": "account/sender/sum(amount)/1d > EUR,GBP,USD,ETH deny",
        "sender_cap_week": "account/sender/sum(amount)/7d > EUR,GBP,USD,ETH deny",
        "sender_cap_month": "account/sender/sum(amount)/month > EUR,GBP,USD,ETH deny",
    },
    "refund": {
        "account_per_week": "account/either/count/7d > 5 deny",
        "account_amount_week": "account/either/sum(amount)/7d > EUR,GBP,USD,ETH deny",
        "merchant_growth": "merchant/either/count/1d ×3 from 20 review",
    },
    "customer-service": {
        "account_per_day": "account/either/count/1d > 10 review",
        "agent_customers": "agent/either/distinct(customer)<=101/1d > 100 review",
        "region_growth": "region/either/count/1d ×3 from 20 review",
    },
    "browser": {
        "ip_per_hour": "ip/either/count/1h > 100 review",
        "device_accounts": "device/either/distinct(account)<=6/1d > 5 deny",
        "account_devices": "account/either/distinct(fingerprint)<=6/1d > 5 deny",
    },
}
CHAIN = {
    "validation": {("spout", "default"): "shuffle"},
    "lookup": {("validation", "default"): "shuffle"},
    "warehouse": {("lookup", "default"): ["partition"], ("spout", "refusals"): ["partition"]},
    "counts": {("lookup", "shards"): ["route"], ("spout", "refusals"): "all"},
    "dead_letters": {("validation", "invalid"): ["partition"]},
}
EXAMPLES = {
    "purchase-online-retail": ("purchase", "shop", 19_966, {"missing from_party": 1430}),
    "purchase-ethereum": ("purchase", "wallet", 19_999, {"missing to_party": 31}),
    "refund-online-retail": ("refund", "refunds", 3_836, {"missing customer": 182}),
    "customer-service-complaints": ("customer-service", "support", 62_516, {}),
    "browser-weblog": ("browser", "web", 10_000, {}),
}
LOG_TIME_MS = 1_767_225_600_000
"""2026-01-01: after all event times."""
each_source = pytest.mark.parametrize("name", FIELDS)
each_example = pytest.mark.parametrize("name", EXAMPLES)


def source(name: str) -> Source:
    """The shipped source."""
    return PROJECT.sources()[name]


def described(name: str) -> dict[str, str]:
    """The rules of a source in short."""
    out = {}
    for rule in source(name).rules:
        given = rule.baseline if rule.is_growth else rule.limit
        figure = ",".join(given) if isinstance(given, dict) else given
        how = f"×{rule.factor} from {figure}" if rule.is_growth else f"> {figure}"
        out[rule.name] = f"{rule.measured().label()} {how} {rule.acts}"
    return out


def lines(name: str) -> list[bytes]:
    """The lines of an example file."""
    with gzip.open(ROOT / "examples" / "data" / f"{name}.ndjson.gz") as file:
        return file.read().splitlines()


def examples(name: str) -> list[dict[str, Any]]:
    """The envelopes of an example file."""
    return [json.loads(line) for line in lines(name)]


def refusals(of: str, values: list[bytes]) -> Counter[str]:
    """The codes of the values that are dead-lettered, with their fields."""
    validator = ExactValidator(source(of), of, ValiditySettings())
    checked = [validator.check(0, offset, LOG_TIME_MS, value) for offset, value in enumerate(values)]
    return Counter(f"{c.code} {c.field}" for c in checked if isinstance(c, Invalid))


def test_four_sources_are_shipped_each_with_a_topic_of_its_name() -> None:
    assert {s.name: s.topic for s in PROJECT.sources().values()} == {name: name for name in FIELDS}


@each_source
def test_fields_are_those_of_the_table_in_its_order(name: str) -> None:
    assert " ".join(f.name + "*" * f.required for f in source(name).fields) == FIELDS[name]
    assert source(name).own_id == OWN_ID[name]


@each_source
def test_every_field_is_documented(name: str) -> None:
    assert source(name).doc
    assert all(re.fullmatch(r"\S.*\.", f.doc) for f in source(name).fields)


@each_source
def test_parties_are_those_of_the_table(name: str) -> None:
    assert set(source(name).kinds()) == KINDS[name]


def test_a_fingerprint_is_a_device_as_in_purchases() -> None:
    kinds = {p.field: p.kind for n in ("purchase", "browser") for p in source(n).parties}
    assert kinds["device"] == kinds["fingerprint"] == "device"


def test_customer_service_knows_the_customer_or_the_region() -> None:
    assert source("customer-service").one_of == (("customer", "region"),)


@each_source
def test_rules_are_those_of_the_table(name: str) -> None:
    assert described(name) == RULES[name]


def test_purchase_and_refund_enforce_and_the_others_watch() -> None:
    assert {n for n in FIELDS if source(n).enforces} == {"purchase", "refund"}


@each_source
def test_a_declaration_survives_the_topologys_configuration(name: str) -> None:
    plain = json.loads(json.dumps(PROJECT.topologies()[name].config))
    assert Source.from_dict(plain[SOURCE]) == source(name)


@each_source
def test_a_topology_is_the_chain_from_the_log_to_the_sinks(name: str) -> None:
    topology = PROJECT.topologies()[name].thrift_topology
    assert list(topology.spouts) == ["spout"]
    chain = {}
    for bolt, spec in topology.bolts.items():
        chain[bolt] = {
            (stream.componentId, stream.streamId): grouping.fields
            or next(k for k in ("shuffle", "all", "direct") if getattr(grouping, k) is not None)
            for stream, grouping in spec.common.inputs.items()
        }
    assert chain == CHAIN
    assert {spec.common.parallelism_hint for spec in (*topology.spouts.values(), *topology.bolts.values())} == {1}
    assert not any(stream.direct for stream in topology.bolts["lookup"].common.streams.values())


@each_example
def test_an_example_has_its_records_and_its_known_dirt(name: str) -> None:
    of, application, count, dirt = EXAMPLES[name]
    records = examples(name)
    required = [f.name for f in source(of).fields if f.required]
    missing = Counter(f"missing {f}" for r in records for f in required if f not in r["data"])
    assert len(records) == count
    assert {r["ApplicationRef"] for r in records} == {application}
    assert len({r["id"] for r in records}) == count
    assert missing == dirt


@each_example
def test_an_example_is_valid_but_for_its_known_dirt(name: str) -> None:
    of, _, _, dirt = EXAMPLES[name]
    assert refusals(of, lines(name)) == dirt


def test_generated_purchases_are_valid_and_the_malformed_ones_are_not() -> None:
    sound = next(purchases(2000, seed=1, malformed=0))
    bad = next(purchases(2000, seed=1, malformed=1))
    assert refusals("purchase", sound) == {}
    assert refusals("purchase", bad).total() == 2000
    assert set(refusals("purchase", bad)) == {
        "missing ApplicationRef",
        "missing from_party",
        "repeated to_party",
        "bad_time event_time",
        "no_zone event_time",
        "negative amount",
        "not_a_number amount",
        "too_long currency",
        "not_json record",
        "not_utf8 record",
    }


@pytest.mark.parametrize("name", ["purchase-online-retail", "purchase-ethereum", "refund-online-retail"])
def test_payments_are_in_order_of_time(name: str) -> None:
    times = [r["data"]["event_time"] for r in examples(name)]
    assert times == sorted(times)


def test_examples_are_as_the_script_makes_them_small_and_without_a_date_of_their_own() -> None:
    files = sorted((ROOT / "examples" / "data").glob("*.ndjson.gz"))
    assert [f.name.removesuffix(".ndjson.gz") for f in files] == sorted(EXAMPLES)
    assert sum(f.stat().st_size for f in files) < 12_000_000
    assert all(f.read_bytes()[4:8] == bytes(4) for f in files)
