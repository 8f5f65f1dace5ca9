"""`paystorm verify` names every difference in counts, events and hits."""

import shutil
from collections.abc import Callable
from typing import Any

import msgspec
import polars as pl
from verify_world import named, rewrite, rows, verify

from paystorm.chunk import frame_from_bytes, frame_to_bytes
from paystorm.resources import Resources
from paystorm.stores.hits import Hit, load_hits, put_hits
from paystorm.stores.hits import row_key as hit_key
from paystorm.stores.journal import Row


def test_a_changed_count_is_named(resources: Resources) -> None:
    for row_key, value in rows(resources, "journal"):
        row = msgspec.msgpack.decode(value, type=Row)
        if row.figures:
            figures = frame_from_bytes(row.figures).with_columns(pl.col("v0") + 1)
            changed = msgspec.structs.replace(row, figures=frame_to_bytes(figures))
            resources.tables.put("pay.journal", [(row_key, msgspec.msgpack.encode(changed))])
            break
    else:
        raise AssertionError("no journal row with figures")
    report = verify(resources)
    found = named(report, "counts")
    assert found
    assert all("expected" in line and "held" in line for line in found)


def test_a_removed_cell_is_named(resources: Resources) -> None:
    resources.tables.delete("pay.cells", [row_key for row_key, _ in rows(resources, "cells")])
    assert named(verify(resources), "counts")


def test_a_removed_event_file_is_named_and_so_are_its_events(resources: Resources) -> None:
    path = next(p for f in resources.warehouse.folders("pay") for p in sorted(f.glob("*.parquet")))
    lost = len(pl.read_parquet(path))
    path.unlink()
    report = verify(resources)
    assert len(named(report, "files")) == 1
    assert path.stem in named(report, "files")[0]
    assert report.differing["events"] == report.differing["outcomes"] == lost
    assert named(report, "balance")


def test_a_file_that_the_index_does_not_name_is_named_and_its_events_twice(resources: Resources) -> None:
    path = next(p for f in resources.warehouse.folders("pay") for p in sorted(f.glob("*.parquet")))
    copied = len(pl.read_parquet(path))
    shutil.copy(path, path.with_name("another.parquet"))
    report = verify(resources)
    assert "another" in named(report, "files")[0]
    assert report.differing["stored_once"] == report.differing["events"] == copied


def test_an_event_twice_in_its_file_is_named(resources: Resources) -> None:
    rewrite(resources, lambda events: pl.concat([events, events.head(1)]), pl.lit(True))
    report = verify(resources)
    assert len(named(report, "stored_once")) == 1
    assert "another row" in named(report, "events")[0]
    assert "one twice" in named(report, "index")[0]


def test_a_changed_value_of_an_event_is_named(resources: Resources) -> None:
    rewrite(resources, lambda events: events.with_columns(payer=pl.lit("else")), pl.lit(True))
    assert "'else'" in named(verify(resources), "events")[0]


def test_a_removed_hit_is_named(resources: Resources) -> None:
    hit = next(h for h in load_hits(resources.tables, "pay") if h.status == "standing" and h.kind == "account")
    resources.tables.delete("pay.hits", [hit_key(hit)])
    found = named(verify(resources), "hits")
    assert len(found) == 1
    assert hit.party in found[0]
    assert "held nothing" in found[0]


def changed_hit(resources: Resources, of: Callable[[Hit], bool], **changed: Any) -> Hit:
    hit = next(h for h in load_hits(resources.tables, "pay") if of(h))
    new = msgspec.structs.replace(hit, **changed)
    put_hits(resources.tables, "pay", 10**9, [new])
    return new


def test_a_hit_that_does_not_hold_is_named_with_its_entry(resources: Resources) -> None:
    hit = changed_hit(resources, lambda h: h.status == "standing" and h.rule == "per_day", party="quiet")
    report = verify(resources)
    assert "expected nothing" in named(report, "hits")[0]
    assert any("'quiet'" in line and "expected not in force" in line for line in named(report, "entries"))
    assert any(hit.party in line for line in named(report, "history"))


def test_a_withdrawn_hit_that_holds_is_named_with_its_entry(resources: Resources) -> None:
    changed_hit(resources, lambda h: h.rule == "spent_month" and h.status == "standing", status="withdrawn")
    assert len(named(verify(resources), "withdrawn_hits")) == 1


def test_a_hit_with_another_action_or_version_is_named(resources: Resources) -> None:
    changed_hit(resources, lambda h: h.status == "standing" and h.rule == "payers", action="deny")
    changed_hit(resources, lambda h: h.status == "standing" and h.rule == "spent", version=1)
    found = named(verify(resources), "hits")
    assert any("expected review, held deny" in line for line in found)
    assert any("by version 0" in line and "by version 1" in line for line in found)
