"""The bytes of replays: what is changed, and what must stay as it was."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hosted import SOURCE

from paystorm.desk.mending import changed, difference, parse_sets, with_replay_of
from paystorm.errors import UsageError
from paystorm.validity import ReplayOf

NAME = ReplayOf("pay", 1, 7)
RECORD = b' {"ApplicationRef":"shop","data":{"payer":"u1","amount":1.50,"x":1e5}}\n'


def test_a_replay_names_its_record_and_changes_no_other_byte() -> None:
    sent = with_replay_of(RECORD, NAME)
    assert sent == b' {"replay_of":{"topic":"pay","partition":1,"offset":7},' + RECORD[2:]
    assert with_replay_of(b"{ }", NAME) == b'{"replay_of":{"topic":"pay","partition":1,"offset":7} }'


def test_a_replay_of_a_replay_names_the_letter_it_replays() -> None:
    first = with_replay_of(RECORD, NAME)
    assert first is not None
    assert with_replay_of(first, ReplayOf("pay", 1, 9)) == first.replace(b'"offset":7', b'"offset":9')
    escaped = b'{"data":{},"replay\\u005fof":null}'
    assert json.loads(with_replay_of(escaped, NAME) or b"")["replay_of"]["offset"] == 7


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"1", b"\xff", b'{"a":NaN}', b'{"a":"\\ud800"}', b"{} x"])
def test_what_is_no_json_object_cannot_be_a_replay(value: bytes) -> None:
    assert with_replay_of(value, NAME) is None


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=5),
        st.recursive(st.none() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=5), st.lists),
        max_size=4,
    )
)
def test_every_object_becomes_a_replay_of_the_same_members(members: dict[str, object]) -> None:
    sent = with_replay_of(json.dumps(members).encode(), NAME)
    assert sent is not None
    assert json.loads(sent) == {**members, "replay_of": NAME._asdict()}


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("data.amount=12.50", '"amount":12.50'),
        ('data.amount="12.50"', '"amount":"12.50"'),
        ("data.payer=123", '"payer":"123"'),
        ("data.payer=null", '"payer":null'),
        ("data.currency=EUR", '"currency":"EUR"'),
        ("data.other=[1,2.0]", '"other":[1,2.0]'),
        ("id=007", '"id":"007"'),
        ('id="a b"', '"id":"a b"'),
        ("data.event_time=2025-01-01T00:00:00Z", '"event_time":"2025-01-01T00:00:00Z"'),
    ],
)
def test_a_value_is_what_its_field_is_declared_to_be(given_text: str, expected: str) -> None:
    made = changed(RECORD, parse_sets([given_text]), (), SOURCE).decode()
    assert expected in made
    assert "1e5" in made


def test_members_are_taken_out_and_paths_that_lead_nowhere_are_refused() -> None:
    assert json.loads(changed(RECORD, {}, ["data.x", "data.payer"], SOURCE))["data"] == {"amount": 1.5}
    for sets, unsets, text in [
        ({}, ["data.nope"], "--unset data.nope: there is no 'nope'"),
        ({"more.x": "1"}, [], "more.x: there is no 'more'"),
        ({"data.payer.x": "1"}, [], "what should hold 'x' is no JSON object"),
        ({"data..x": "1"}, [], "names joined by dots"),
    ]:
        with pytest.raises(UsageError, match=text):
            changed(RECORD, sets, unsets, SOURCE)
    with pytest.raises(UsageError, match="give the whole record with --value FILE"):
        changed(b"{", {"data.x": "1"}, (), SOURCE)


def test_sets_are_paths_with_values() -> None:
    assert parse_sets(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    for bad in (["a"], ["=b"], ["a=1", "a=2"]):
        with pytest.raises(UsageError, match="--set"):
            parse_sets(bad)


def test_the_difference_shows_the_lines_that_differ() -> None:
    new = changed(RECORD, {"data.amount": "2"}, (), SOURCE)
    lines = [line.split() for line in difference(RECORD, new) if line[0] in "+-"]
    assert lines == [["-", '"amount":', "1.50,"], ["+", '"amount":', "2,"]]
    assert difference(b"\xff", b"{}") == ["-\\xff", "+{}"]
