"""The public test kit: a topology is fed, killed, started again, and asked what became of it; and its page of docs."""

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
from examples.bolts.merchant_category import MerchantCategoryBolt
from streamparse import Topology

from paystorm import testing
from paystorm.errors import ConfigError
from paystorm.project import Project
from paystorm.testing import Kit, Stuck
from spouts.kafka import KafkaSpout

ROOT = Path(__file__).parents[2]
PURCHASE = Project.load(ROOT).topologies()["purchase"]


def payment(n: int = 0, **data: Any) -> dict[str, Any]:
    return {"event_time": f"2025-12-31T10:00:{n % 60:02}Z", "from_party": "u1", "to_party": f"u{n + 2}", **data}


def test_what_is_fed_comes_out() -> None:
    with Kit(PURCHASE) as kit:
        places = kit.feed([payment(amount="9.99", currency="EUR"), "{", payment(1)])
        assert places == [(0, 0), (0, 1), (0, 2)]
        assert kit.outcomes() == []
        assert kit.run_until_idle()
        assert [kit.outcome(place) for place in places] == ["accepted", "dead-lettered", "accepted"]
        assert [(row["field"], row["code"]) for row in kit.dead_letters()] == [("record", "not_json")]
        assert [str(row["amount"]) for row in kit.events()][1] == "None"
        counts = {(row["rule"], row["party"]): row["value"] for row in kit.counts()}
        assert counts["account_per_day", "u1"] == "2"
        assert {row["verdict"] for row in kit.verdicts()} == {"accepted", "dead_lettered"}
        kit.verify()


def test_a_bare_object_is_wrapped_for_the_sources_application_and_an_envelope_is_not() -> None:
    with Kit(PURCHASE) as kit:
        kit.feed([payment(), {"ApplicationRef": "wallet", "data": payment()}])
        kit.run_until_idle()
        assert [row["application"] for row in kit.events()] == ["shop", "wallet"]


def test_a_rule_is_hit_its_party_is_listed_and_then_denied() -> None:
    with Kit(PURCHASE) as kit:
        kit.feed([payment(n) for n in range(31)])
        kit.run_until_idle()
        assert [(hit["rule"], hit["party"], hit["status"]) for hit in kit.hits()] == [
            ("account_per_day", "u1", "standing")
        ]
        assert [(entry["party"], entry["state"]) for entry in kit.entries()] == [("u1", "in_force")]
        kit.advance(2)
        (place,) = kit.feed([payment()])
        kit.run_until_idle()
        assert kit.outcome(place) == "denied"
        kit.verify()


def test_options_are_those_of_config_json() -> None:
    with Kit(PURCHASE, options={"rules.purchase.account_per_day.limit": 2}) as kit:
        kit.feed([payment(n) for n in range(3)])
        kit.run_until_idle()
        assert [hit["limit"] for hit in kit.hits()] == ["2"]


def test_what_people_list_is_denied_until_it_expires() -> None:
    with Kit(PURCHASE) as kit:
        kit.blacklist("account", "u1", expires_after=60)
        kit.allow("account", "u9")
        kit.feed([payment()])
        kit.run_until_idle()
        kit.advance(61)
        kit.feed([payment()])
        kit.run_until_idle()
        assert [row["outcome"] for row in kit.outcomes()] == ["denied", "accepted"]
        kit.verify()


def test_killed_parts_are_replaced_and_nothing_is_lost_or_repeated() -> None:
    with Kit(PURCHASE, partitions=2) as kit:
        kit.feed([payment(n) for n in range(20)], partition=0)
        for component in ("counts", "warehouse", "lookup", "validation", "spout"):
            kit.advance(0.1)
            kit.kill(component)
        kit.feed([payment(n) for n in range(20)], partition=1)
        kit.advance(0.2)
        kit.kill()
        assert not kit.alive
        kit.restart()
        kit.verify()
        assert len(kit.events()) == 40


def test_a_component_that_is_not_there_is_named() -> None:
    with Kit(PURCHASE) as kit, pytest.raises(ConfigError, match="no component 'count'; there are counts, dead_letters"):
        kit.kill("count")


def test_a_write_can_be_spoilt_by_its_number() -> None:
    with Kit(PURCHASE) as kit:
        kit.feed([payment(n) for n in range(5)])
        kit.spoil(kit.writes + 3, when="after", what="crash")
        assert kit.run_until_idle() is False
        kit.spoil_if(None)
        kit.restart()
        kit.verify()


def test_an_outage_holds_everything_up_and_ends() -> None:
    with Kit(PURCHASE) as kit:
        kit.outage("tables")
        kit.feed([payment()])
        with pytest.raises(Stuck):
            kit.run_until_idle(seconds=30)
        kit.outage()
        kit.verify()
        assert [row["outcome"] for row in kit.outcomes()] == ["accepted"]


def test_time_goes_only_when_told_to_and_far() -> None:
    with Kit(PURCHASE, now="2026-03-01T12:00:00+01:00") as kit:
        assert kit.now.isoformat() == "2026-03-01T11:00:00+00:00"
        kit.advance(3 * 86_400)
        assert kit.now.isoformat()[:19] >= "2026-03-04T11:00:00"
        assert kit.now.isoformat() < "2026-03-04T11:00:02"


def test_a_difference_is_told() -> None:
    with Kit(PURCHASE) as kit:
        kit.feed([payment()])
        kit.run_until_idle()
        kit.world.warehouse.placed.clear()
        with pytest.raises(AssertionError, match="outcome"):
            kit.verify()


def test_a_bug_of_a_bolt_is_told() -> None:
    class BrokenBolt(MerchantCategoryBolt):
        def prepare(self) -> None:
            self.broken = True

        def transform(self, events: Any) -> Any:
            if self.broken:
                self.broken = False
                raise ZeroDivisionError("oops")
            return events

    with Kit(with_bolt(BrokenBolt)) as kit:
        kit.feed([payment()])
        with pytest.raises(AssertionError, match="category failed: oops"):
            kit.verify()
        kit.verify(errors_allowed=True)


def test_a_topology_without_a_source_is_refused() -> None:
    class Bare(Topology):  # type: ignore[misc]
        config: ClassVar[dict[str, Any]] = {}
        spout = KafkaSpout.spec()

    with pytest.raises(ConfigError, match="Bare has no source"):
        Kit(Bare)


def test_names_that_are_not_there_are_not_made_up() -> None:
    assert testing.Kit is Kit
    with pytest.raises(AttributeError, match="no attribute 'Kitt'"):
        _ = testing.Kitt


# The example of a bolt that adds a field.


def with_bolt(bolt: Any) -> Any:
    """The topology of purchases with a bolt between validation and look-up."""
    text = (ROOT / "topologies" / "purchase.py").read_text()
    line = "    category = Bolt.spec(inputs={validation: Grouping.SHUFFLE}, par=1)\n    lookup ="
    text = text.replace("    lookup =", line).replace(
        "BlacklistLookupBolt.spec(inputs={validation:", "BlacklistLookupBolt.spec(inputs={category:"
    )
    namespace = {"Bolt": bolt, "__name__": "with_bolt"}
    exec(compile(text, "with_bolt.py", "exec"), namespace)
    return namespace["Purchase"]


def test_a_transforming_bolt_adds_a_field_and_what_it_cannot_do_yet_is_tried_again(tmp_path: Path) -> None:
    known = tmp_path / "m.json"
    known.write_text('{"m1": "food"}')
    with Kit(with_bolt(MerchantCategoryBolt), options={"merchants.file": str(known)}) as kit:
        kit.feed([payment(to_party=m, to_kind="merchant") for m in ("m1", "m2", "m1")] + [payment(to_party="u2")])
        kit.run_until_idle()
        assert [row["merchant_category"] for row in kit.events()] == ["food", "food", None]
        (parked,) = kit.parked()
        assert parked["offset"] == 1
        assert "merchant m2 has no category" in parked["error"]
        known.write_text('{"m1": "food", "m2": "books"}')
        kit.advance(70)  # the retry after a minute
        kit.run_until_idle()
        assert kit.parked() == []
        assert [row["merchant_category"] for row in kit.events()] == ["food", "books", "food", None]
        kit.restart(PURCHASE)
        kit.feed([payment()])
        kit.verify()


# The page.


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks("testing.md") if (ROOT / "docs" / "testing.md").exists() else [])
def test_the_examples_of_the_page_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    namespace: dict[str, Any] = {"__name__": "example", "tmp_path": tmp_path}
    exec(compile(block, "docs/testing.md", "exec"), namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert tests, "an example without a test"
    for test in tests:
        test(tmp_path) if test.__code__.co_argcount else test()


def test_every_public_name_of_the_kit_is_on_the_page() -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    missing = [name for name in vars(Kit) if not name.startswith("_") and f"`{name}" not in page]
    assert missing == []
