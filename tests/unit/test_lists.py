"""The state of a party on the lists, against decision 0001, points 8 and 9."""

import random
from itertools import permutations
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from paystorm.clock import SECOND
from paystorm.lists import Act, PartyFacts
from paystorm.stores.hits import Hit

NONE: frozenset[tuple[str, str]] = frozenset()


def make_hit(rule: str = "per_day", **changes: Any) -> Hit:
    plain: dict[str, Any] = {
        "source": "pay", "rule": rule, "kind": "account", "party": "u1", "interval_start": 0, "currency": "",
        "status": "standing", "version": 0, "action": "deny", "limit": "3", "figure": "4", "topic": "pay",
        "partition": 0, "offset": 7, "since": 10, "expires_after": None, "shard": 0, "row": 1,
    }  # fmt: skip
    return Hit(**{**plain, **changes})


def make_act(act: str, number: int = 0, **changes: Any) -> Act:
    at = changes.pop("at", 20)
    plain: dict[str, Any] = {
        "id": f"{at}-{number:06d}", "at": at, "by": "eva", "act": act, "kind": "account", "party": "u1", "reason": "",
        "list": "allowlist" if act == "allow" else "blacklist",
    }  # fmt: skip
    return Act(**{**plain, **changes})


def facts_of(*facts: Hit | Act) -> PartyFacts:
    out = PartyFacts()
    for fact in facts:
        _ = out.add_act(fact) if isinstance(fact, Act) else out.add_hit(fact)
    return out


def denied(facts: PartyFacts, now: int = 100, breakers: frozenset[tuple[str, str]] = NONE) -> bool:
    cover = facts.covering(now, breakers)
    return cover is not None and not cover.would_deny


def test_a_standing_hit_that_denies_covers_its_party() -> None:
    cover = facts_of(make_hit()).covering(100, NONE)
    assert cover is not None
    assert (cover.made_by, cover.reason, cover.would_deny) == ("rule", "pay.per_day", False)
    assert cover.rules == (("pay", "per_day"),)


def test_a_hit_that_asks_for_a_review_covers_nobody() -> None:
    facts = facts_of(make_hit(action="review"))
    assert facts.covering(100, NONE) is None
    assert facts.entries(100, NONE) == []


def test_a_lift_covers_the_hits_it_names_also_when_they_are_made_again() -> None:
    hit = make_hit()
    facts = facts_of(hit, make_act("lift", hits=(hit.name(),)))
    assert not denied(facts)
    facts.add_hit(make_hit(status="withdrawn", row=2))
    facts.add_hit(make_hit(since=90, row=3))
    assert not denied(facts)


def test_a_hit_that_no_lift_names_lists_the_party_anew() -> None:
    hit = make_hit()
    assert denied(facts_of(hit, make_act("lift", hits=(hit.name(),)), make_hit(interval_start=86_400)))


def test_a_confirmation_keeps_a_withdrawn_hit_in_force() -> None:
    hit = make_hit(status="withdrawn")
    assert not denied(facts_of(hit))
    assert denied(facts_of(hit, make_act("confirm", hits=(hit.name(),))))


def test_of_lift_and_confirmation_at_one_instant_the_higher_id_decides() -> None:
    hit = make_hit()
    lift, confirm = make_act("lift", 1, hits=(hit.name(),)), make_act("confirm", 0, hits=(hit.name(),))
    assert not denied(facts_of(hit, lift, confirm))
    assert denied(facts_of(hit, make_act("lift", 0, hits=(hit.name(),)), make_act("confirm", 1, hits=(hit.name(),))))


def test_an_allowlist_entry_overrules_until_it_expires_or_is_taken_back() -> None:
    allow = make_act("allow", expires_at=200)
    facts = facts_of(make_hit(), allow, make_act("add", 1))
    assert [e.state for e in facts.entries(199, NONE)] == ["overruled", "in_force", "overruled"]
    assert denied(facts, 200)
    facts.add_act(make_act("remove", 2, target=allow.id))
    assert denied(facts, 199)


def test_a_rules_entry_expires_at_since_plus_expires_after() -> None:
    facts = facts_of(make_hit(expires_after=5))
    end = 10 + 5 * SECOND
    assert denied(facts, end - 1)
    assert not denied(facts, end)
    assert facts.next_change(100) == end
    assert facts.next_change(end) is None


def test_an_open_breaker_leaves_would_deny_unless_another_entry_denies() -> None:
    open_breakers = frozenset({("pay", "per_day")})
    cover = facts_of(make_hit()).covering(100, open_breakers)
    assert cover is not None
    assert cover.would_deny
    cover = facts_of(make_hit(), make_act("add")).covering(100, open_breakers)
    assert cover is not None
    assert (cover.would_deny, cover.reason, cover.rules) == (False, "person", (("pay", "per_day"),))


def test_an_older_journal_row_never_covers_a_newer() -> None:
    facts = facts_of(make_hit(status="withdrawn", row=5))
    assert not facts.add_hit(make_hit(row=4))
    assert not denied(facts)


def test_the_counting_bolts_own_hit_is_judged_by_peoples_acts() -> None:
    hit = make_hit()
    assert PartyFacts().hit_in_force(hit, 100, NONE)
    assert not PartyFacts().hit_in_force(make_hit(status="withdrawn"), 100, NONE)
    allow = make_act("allow")
    assert not facts_of(allow).hit_in_force(hit, 100, NONE)
    assert facts_of(allow, make_act("remove", 1, target=allow.id)).hit_in_force(hit, 100, NONE)
    assert not facts_of(allow, make_act("remove", 1, target="another")).hit_in_force(hit, 100, NONE)
    lifted = facts_of(make_hit(status="withdrawn"), make_act("lift", hits=(hit.name(),)))
    assert not lifted.hit_in_force(hit, 100, NONE)
    assert lifted.hit_in_force(make_hit(interval_start=1), 100, NONE)


def test_entries_of_one_instant_stand_in_one_order_however_they_arrived() -> None:
    hits = [make_hit(interval_start=n) for n in range(2)]
    acts = [make_act("add", n, at=10) for n in range(2)]
    wanted = [(act.id, None) for act in acts] + [(None, hit.name()) for hit in hits]
    for arrived in permutations([*hits, *acts]):
        assert [(e.act, e.hit) for e in facts_of(*arrived).entries(100, NONE)] == wanted


times = st.integers(0, 40)
hits = st.builds(
    make_hit,
    st.sampled_from(["per_day", "spent"]),
    interval_start=st.integers(0, 1),
    status=st.sampled_from(["standing", "withdrawn"]),
    action=st.sampled_from(["deny", "deny", "review"]),
    since=times.map(lambda n: n * SECOND),
    expires_after=st.none() | st.integers(1, 20),
    row=st.integers(1, 4),
)


@st.composite
def all_facts(draw: st.DrawFn) -> list[Hit | Act]:
    held = draw(st.lists(hits, max_size=4, unique_by=lambda h: (h.name(), h.row)))
    out: list[Hit | Act] = list(held)
    made: list[Act] = []
    for n in range(draw(st.integers(0, 5))):
        at = draw(times) * SECOND
        what = draw(st.sampled_from(["add", "allow", "remove", "lift", "confirm"]))
        if what in ("add", "allow"):
            expires_at = draw(st.none() | times.map(lambda n: n * SECOND))
            made.append(make_act(what, n, at=at, expires_at=expires_at))
            out.append(made[-1])
        elif what == "remove" and made:
            out.append(make_act(what, n, at=at, target=draw(st.sampled_from(made)).id))
        elif what in ("lift", "confirm") and held:
            names = draw(st.lists(st.sampled_from([h.name() for h in held]), min_size=1, unique=True))
            out.append(make_act(what, n, at=at, hits=tuple(names)))
    return out


breakers = st.frozensets(st.sampled_from([("pay", "per_day"), ("pay", "spent")]))


def model_denies(facts: list[Hit | Act], now: int, open_breakers: frozenset[tuple[str, str]]) -> bool:
    """Decision 0001, points 8 and 9, word by word."""
    acts = sorted((f for f in facts if isinstance(f, Act)), key=lambda a: (a.at, a.id))
    taken_back = [a.target for a in acts if a.act == "remove"]

    def in_force(act: Act) -> bool:
        return act.id not in taken_back and (act.expires_at is None or now < act.expires_at)

    if any(a.act == "allow" and in_force(a) for a in acts):
        return False
    if any(a.act == "add" and in_force(a) for a in acts):
        return True
    newest: dict[Any, Hit] = {}
    for hit in (f for f in facts if isinstance(f, Hit)):
        if hit.name() not in newest or newest[hit.name()].row < hit.row:
            newest[hit.name()] = hit
    for name, hit in newest.items():
        naming = [a.act for a in acts if name in a.hits]
        last = naming[-1] if naming else None
        holds = (hit.status == "standing" and last != "lift") or last == "confirm"
        expired = hit.expires_after is not None and now >= hit.since + hit.expires_after * SECOND
        if hit.action == "deny" and holds and not expired and (hit.source, hit.rule) not in open_breakers:
            return True
    return False


@given(all_facts(), times.map(lambda n: n * SECOND), breakers, st.randoms())
def test_a_party_is_denied_exactly_when_the_decision_says_so_in_whatever_order_facts_arrive(
    facts: list[Hit | Act], now: int, open_breakers: frozenset[tuple[str, str]], rng: random.Random
) -> None:
    shuffled = [*facts, *facts]
    rng.shuffle(shuffled)
    held = facts_of(*shuffled)
    assert denied(held, now, open_breakers) == model_denies(facts, now, open_breakers)
    assert held.covering(now, open_breakers) == facts_of(*facts).covering(now, open_breakers)
    unblocked = held.covering(now, NONE) is not None
    assert (held.covering(now, open_breakers) is not None) == unblocked


@given(all_facts(), times.map(lambda n: n * SECOND))
def test_time_alone_changes_nothing_before_the_next_change_and_something_at_it(
    facts: list[Hit | Act], now: int
) -> None:
    held = facts_of(*facts)
    entries, following = held.entries(now, NONE), held.next_change(now)
    if following is None:
        assert held.entries(now + 1000 * SECOND, NONE) == entries
    else:
        assert following > now
        assert held.entries(following - 1, NONE) == entries
        assert held.entries(following, NONE) != entries


@given(all_facts())
def test_acts_survive_being_written_and_read(facts: list[Hit | Act]) -> None:
    for fact in facts:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(fact), type=type(fact)) == fact
