"""When a party was in force on the blacklist, and what that says of denied events and of events after a crossing."""

from typing import Any

import pytest

from paystorm.oracle import (
    Change,
    Crossing,
    Denied,
    Difference,
    ListHistory,
    OracleError,
    Stored,
    check_crossings,
    check_denied,
)
from paystorm.oracle.testing import Log

SECOND = 1_000_000
SOURCE: dict[str, Any] = {
    "name": "purchase",
    "topic": "purchases",
    "enforces": True,
    "fields": [{"name": "event_time", "type": "time", "required": True}, {"name": "account", "type": "id"}],
    "parties": [{"field": "account", "role": "sender", "kind": "account"}],
    "rules": [{"name": "many", "kind": "account", "limit": 1}],
}


def change(at: int, what: str, party: str = "u1", **detail: Any) -> Change:
    return Change(at, "" if what.startswith("breaker") else "account", party, what, detail)


def hit(at: int, name: str = "h1", action: str = "deny", **detail: Any) -> Change:
    return change(at, "hit", hit=name, rule="many", action=action, **detail)


def moments(*changes: Change) -> list[int]:
    """The moments from 0 to 10 at which u1 was in force."""
    history = ListHistory(changes)
    return [at for at in range(10) if history.in_force_at("account", "u1", at)]


def test_a_standing_hit_that_denies_lists_its_party_and_one_for_review_does_not() -> None:
    assert moments(hit(7)) == [7, 8, 9]
    assert moments(hit(7, action="review")) == []
    assert moments(change(7, "hit", party="u2", hit="h", rule="many", action="deny")) == []


def test_a_withdrawn_hit_lists_nobody_until_it_is_made_again() -> None:
    assert moments(hit(1), change(3, "withdrawn", hit="h1"), hit(8)) == [1, 2, 8, 9]


def test_a_lift_covers_the_hits_that_it_names_also_when_made_again_and_no_other() -> None:
    lifted = (hit(1), change(3, "lift", hits=["h1"]), change(4, "withdrawn", hit="h1"), hit(5))
    assert moments(*lifted) == [1, 2]
    assert moments(*lifted, hit(9, name="h2")) == [1, 2, 9]


def test_a_confirmation_keeps_the_entry_of_a_withdrawn_hit_and_the_last_act_decides() -> None:
    confirmed = (hit(1), change(2, "confirm", hits=["h1"]), change(3, "withdrawn", hit="h1"))
    assert moments(*confirmed) == list(range(1, 10))
    assert moments(*confirmed, change(6, "lift", hits=["h1"])) == [1, 2, 3, 4, 5]
    assert moments(hit(1), change(2, "lift", hits=["h1"]), change(7, "confirm", hits=["h1"])) == [1, 7, 8, 9]


def test_a_rules_entry_expires_from_its_since_also_when_confirmed_and_from_the_new_one_when_made_again() -> None:
    history = ListHistory(
        [
            hit(0, expires_after=2),
            change(1, "confirm", hits=["h1"]),
            change(3 * SECOND, "withdrawn", hit="h1"),
            hit(4 * SECOND, expires_after=2),
        ]
    )
    assert history.in_force_at("account", "u1", 2 * SECOND - 1)
    assert not history.in_force_at("account", "u1", 2 * SECOND)
    assert history.in_force_at("account", "u1", 4 * SECOND)
    assert not history.in_force_at("account", "u1", 6 * SECOND)
    assert moments(hit(1), change(4, "expire", hit="h1")) == [1, 2, 3]
    assert moments(hit(1), change(4, "expire", hit="h1"), change(5, "withdrawn", hit="h1"), hit(7)) == [
        1,
        2,
        3,
        7,
        8,
        9,
    ]


def test_a_persons_entry_is_in_force_until_it_is_removed_or_expires_whatever_the_rules_say() -> None:
    assert moments(change(2, "add", list="blacklist"), change(5, "remove", list="blacklist")) == [2, 3, 4]
    assert moments(change(2, "add", list="blacklist", expires=5)) == [2, 3, 4]
    assert moments(change(2, "add", list="blacklist"), hit(3), change(5, "withdrawn", hit="h1")) == list(range(2, 10))


def test_an_allowlist_entry_overrules_until_it_expires() -> None:
    allow = change(3, "add", list="allowlist", expires=6)
    assert moments(hit(1), change(2, "add", list="blacklist"), allow) == [1, 2, 6, 7, 8, 9]


def test_an_open_breaker_takes_its_rules_entries_out_of_force_and_no_persons() -> None:
    opened = (change(3, "breaker_open", party="", rule="many"), change(6, "breaker_closed", party="", rule="many"))
    assert moments(hit(1), *opened) == [1, 2, 6, 7, 8, 9]
    assert moments(hit(1), change(3, "breaker_open", party="", rule="other")) == list(range(1, 10))
    assert moments(change(1, "add", list="blacklist"), *opened) == list(range(1, 10))


def test_a_change_that_there_is_not_is_an_error() -> None:
    with pytest.raises(OracleError, match="vanish"):
        moments(change(1, "vanish"))


def test_a_denied_event_needs_a_party_in_force_within_the_bound_of_its_decision() -> None:
    history = ListHistory([hit(10_000), change(20_000, "withdrawn", hit="h1")])

    def wrong(at: int, *parties: str) -> list[Difference]:
        denied = Denied(0, 1, [("account", party) for party in parties], at, "h1")
        return list(check_denied([denied], history, bound=1000))

    assert not wrong(9_000, "u1")
    assert not wrong(20_999, "u2", "u1")
    assert wrong(8_999, "u1")
    assert wrong(21_000, "u1")
    (difference,) = wrong(15_000, "u2")
    assert str(difference).startswith("denied 0/1: expected ")


def test_a_hit_made_and_withdrawn_in_one_microsecond_was_in_force_for_a_moment() -> None:
    history = ListHistory([hit(10), change(10, "withdrawn", hit="h1")])
    assert history.in_force_within("account", "u1", 10, 12)
    assert not history.in_force_within("account", "u1", 11, 12)


def after_crossing(
    *changes: Change,
    caught_late: frozenset[tuple[int, int]] = frozenset(),
    bound: int | None = None,
    **source: Any,
) -> list[Any]:
    """Six events of u1 and one of u2, the crossing at the second, the fourth denied; decided at 1,000 × offset."""
    log = Log()
    for account in ("u1", "u1", "u1", "u1", "u1", "u1", "u2"):
        log.add({"event_time": "2024-01-01T12:00:00Z", "account": account})
    stored = {(0, n): Stored("denied" if n == 3 else "accepted", n * 1000) for n in range(7)}
    crossing = Crossing("many", "account", "u1", 1_704_067_200, "", {0: [(0, 1), (1, 2)]})
    with log.compute(SOURCE | source) as computed:
        history = ListHistory([hit(1000), *changes])
        found = check_crossings(computed, [crossing], stored, caught_late, history=history, bound=bound)
        return [difference.key[-1] for difference in found]


def test_every_event_of_the_party_after_the_crossing_is_denied_or_caught_late() -> None:
    assert after_crossing() == [2, 4, 5]
    assert after_crossing(caught_late=frozenset({(0, 2), (0, 4)})) == [5]


def test_after_an_act_a_withdrawal_or_an_open_breaker_events_may_be_either() -> None:
    assert after_crossing(change(4500, "lift", hits=["h1"])) == []
    assert after_crossing(change(4501, "lift", hits=["h1"]), bound=500) == [2, 4]
    assert after_crossing(change(4500, "lift", hits=["h1"]), bound=500) == [2]
    assert after_crossing(change(4500, "withdrawn", hit="h1")) == []
    assert after_crossing(change(4500, "breaker_open", party="", rule="many")) == []
    assert after_crossing(change(4500, "breaker_open", party="", rule="other")) == [2, 4, 5]


def test_a_source_that_only_watches_and_a_rule_for_review_catch_nobody() -> None:
    assert after_crossing(enforces=False) == []
    assert after_crossing(rules=[{"name": "many", "kind": "account", "limit": 1, "action": "review"}]) == []


def test_a_hit_made_again_by_a_version_that_denies_lists_its_party() -> None:
    again = [hit(1, action="review"), change(3, "withdrawn", hit="h1"), hit(5, action="deny")]
    assert moments(*again) == [5, 6, 7, 8, 9]
    assert moments(hit(1), change(3, "withdrawn", hit="h1"), hit(5, action="review")) == [1, 2]
