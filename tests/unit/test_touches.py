"""Touches and shards, against a loop that does the same one by one."""

import zlib
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.hosted import RULES, SOURCE

from paystorm.errors import ConfigError
from paystorm.local.grouping import stable_hash
from paystorm.rules import Rule
from paystorm.shards import route_to, shard_of, shards_of
from paystorm.source import Field, Party, Source
from paystorm.touches import TouchPlan
from paystorm.validity import event_schema

PLAN = TouchPlan(SOURCE, RULES)
names = st.sampled_from(["a", "b", "c", "é\0x"])
events = st.lists(
    st.fixed_dictionaries(
        {
            "payer": names,
            "payee": st.none() | names,
            "payee_kind": st.sampled_from([None, "account", "merchant"]),
            "device": st.none() | names,
            "verdict": st.sampled_from(["accepted", "denied"]),
            "currency": st.sampled_from([None, "EUR"]),
        }
    ),
    max_size=12,
).flatmap(lambda rows: st.sampled_from([rows, rows * 5]))
"""Few rows are looked at one by one, many by column."""


def frame_of(rows: list[dict[str, Any]], source: Source = SOURCE) -> pl.DataFrame:
    schema = {**event_schema(source), "verdict": pl.String()}
    full = [{**dict.fromkeys(schema), "log_offset": 3 * n, **row} for n, row in enumerate(rows)]
    return pl.DataFrame(full, schema=schema, orient="row")


def loop(rows: list[dict[str, Any]], source: Source, counted: set[str]) -> list[tuple[Any, ...]]:
    out: list[tuple[Any, ...]] = []
    for n, row in enumerate(rows):
        parties: dict[tuple[str, str], int] = {}
        for declared in source.parties:
            kind = declared.kind
            if declared.kind_field is not None and row[declared.kind_field] is not None:
                kind = row[declared.kind_field]
            name = row[declared.field]
            if name is not None and kind in counted:
                bit = 1 << source.roles(kind).index(declared.role)
                parties[kind, name] = parties.get((kind, name), 0) | bit
        for i, ((kind, name), roles) in enumerate(parties.items()):
            place = source.kinds().index(kind)
            out.append((3 * n, place, name, roles, i == 0, row["verdict"] == "denied", row["currency"]))
    return out


COLUMNS = ["log_offset", "kind", "party", "roles", "lead", "denied", "currency"]


@given(events)
def test_touches_are_those_that_a_loop_finds(rows: list[dict[str, Any]]) -> None:
    touches = PLAN.touches(frame_of(rows))
    assert touches.select(COLUMNS).rows() == loop(rows, SOURCE, {"account", "merchant"})


def test_columns_and_types_do_not_depend_on_the_rows() -> None:
    expected = {
        "log_offset": pl.Int64,
        "event_time": pl.Datetime("us"),
        "event_id": pl.String,
        "application": pl.String,
        "kind": pl.UInt8,
        "party": pl.String,
        "roles": pl.UInt8,
        "lead": pl.Boolean,
        "denied": pl.Boolean,
        "payer": pl.String,
        "amount": pl.Decimal(38, 2),
        "currency": pl.String,
    }
    row = {"payer": "a", "payee": None, "payee_kind": None, "verdict": "accepted", "currency": None}
    for rows in ([], [row]):
        assert dict(PLAN.touches(frame_of(rows)).schema) == expected


def test_a_source_without_rules_has_no_touches() -> None:
    row = {"payer": "a", "payee": "b", "verdict": "accepted"}
    assert TouchPlan(SOURCE, []).touches(frame_of([row])).height == 0


def test_a_party_in_two_roles_of_one_event_is_one_touch_with_both() -> None:
    row = {"payer": "a", "payee": "a", "payee_kind": None, "verdict": "accepted"}
    assert PLAN.touches(frame_of([row])).select("party", "roles", "lead").rows() == [("a", 0b11, True)]


@settings(deadline=None)
@given(events, st.integers(1, 9), st.integers(1, 4))
def test_every_touch_goes_to_the_task_that_has_its_shard(rows: list[dict[str, Any]], shards: int, tasks: int) -> None:
    touches = PLAN.touches(frame_of(rows))
    parts = PLAN.split(touches, shards, tasks)
    assert sum(part.height for _, part in parts) == touches.height
    for task, part in parts:
        assert part.height > 0
        assert part["log_offset"].is_sorted()
        for kind, name in part.select("kind", "party").rows():
            assert shard_of(SOURCE.kinds()[kind], name, shards) % tasks == task


@given(st.integers(1, 1024), st.data())
def test_a_fields_grouping_by_the_route_finds_the_task(tasks: int, data: st.DataObject) -> None:
    task = data.draw(st.integers(0, tasks - 1))
    assert stable_hash([route_to(task, tasks)]) % tasks == task


@given(st.text(max_size=4), st.lists(st.text(max_size=5)), st.integers(1, 1024))
def test_a_shard_is_the_crc_of_kind_nul_id(kind: str, parties: list[str], shards: int) -> None:
    expected = [zlib.crc32(kind.encode() + b"\0" + name.encode()) % shards for name in parties]
    assert [shard_of(kind, name, shards) for name in parties] == shards_of(kind, parties, shards) == expected


def test_shards_never_change() -> None:
    assert [shard_of("account", f"u{n}", 8) for n in range(6)] == [7, 1, 3, 5, 6, 0]


def test_a_measured_field_must_not_take_the_name_of_a_column() -> None:
    source = Source(
        name="odd",
        topic="odd",
        enforces=False,
        fields=(
            Field(name="event_time", type="time", required=True),
            Field(name="who", type="id"),
            Field(name="party", type="id"),
        ),
        parties=(Party(field="who", role="sender", kind="account"),),
    )
    rule = Rule(name="r", kind="account", measure="distinct", field="party", limit=1)
    with pytest.raises(ConfigError, match="cannot be named party"):
        TouchPlan(source, [rule])
