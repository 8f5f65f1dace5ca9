"""A folder that holds every kind of thing, and the ways of spoiling what is in it."""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from payments_world import PARTITIONS, SOURCE, Running, payment, payments

from paystorm.clock import ManualClock
from paystorm.log.base import OutRecord
from paystorm.resources import Resources, open_embedded
from paystorm.stores import lists
from paystorm.stores.hits import load_hits
from paystorm.verdicts import verdict_topic
from paystorm.verify.source import Report, verify_source
from paystorm.verify.stored import files_in_place


def build(folder: Path) -> None:
    """400 records, people's acts between them, a restart with another limit."""
    clock = ManualClock()
    resources = open_embedded(folder, clock)
    tables = resources.tables
    resources.log.create_topic("pay", PARTITIONS)
    running = Running(resources)
    resources.log.append("pay", payments(160, 1))
    running.settle()
    first = next(h for h in load_hits(tables, "pay") if h.action == "deny" and h.status == "standing")
    lists.lift(tables, now=clock.now(), by="eve", kind=first.kind, party=first.party, hits=[first.name()], reason="ok")
    lists.add_entry(tables, now=clock.now(), by="eve", kind="merchant", party="m7", reason="known")
    lists.allow(tables, now=clock.now(), by="eve", kind="account", party="a1", reason="pay day")
    clock.advance(2)
    resources.log.append("pay", payments(140, 2))
    running.settle()
    clock.advance(40)
    resources.log.append("pay", payments(40, 3))
    running.stop()
    rules = tuple(msgspec.structs.replace(r, limit=4) if r.name == "per_day" else r for r in SOURCE.rules)
    again = Running(resources, msgspec.structs.replace(SOURCE, rules=rules), seed=2)
    again.settle()
    quiet = {"payer": "quiet", "payee": "nobody", "payee_kind": "merchant", "device": None}
    value = json.dumps({"ApplicationRef": "shop", "id": "q1", "data": payment(random.Random(4), **quiet)})
    resources.log.append("pay", [*payments(59, 5), OutRecord(value.encode(), None, 2)])
    again.stop()
    resources.close()


@contextmanager
def opened(folder: Path) -> Iterator[Resources]:
    clock = ManualClock()
    clock.advance(3600)
    resources = open_embedded(folder, clock)
    try:
        yield resources
    finally:
        resources.close()


def verify(resources: Resources, **options: Any) -> Report:
    return verify_source(resources, SOURCE, hold=False, timeout=1, **options)


def named(report: Report, table: str) -> list[str]:
    return [str(d) for d in report.differences if d.table == table]


def rows(resources: Resources, table: str) -> list[tuple[bytes, bytes]]:
    return list(resources.tables.scan(f"pay.{table}"))


def rewrite(resources: Resources, change: Callable[[pl.DataFrame], pl.DataFrame], having: pl.Expr) -> None:
    """Change the first file that has such an event."""
    for file in sorted(files_in_place(resources.warehouse, "pay"), key=lambda f: f.name):
        events = resources.warehouse.read(file)
        if len(events.filter(having)):
            day, hour = file.hour.split("T")
            folder = next(f for f in resources.warehouse.folders("pay") if f.match(f"dt={day}/hr={hour}"))
            change(events).write_parquet(folder / f"{file.name}.parquet")
            return
    raise AssertionError("no such event")


def republish(resources: Resources, keep: Callable[[int, bytes], bool]) -> None:
    """The verdict topic anew, without some of its records."""
    topic = verdict_topic("pay")
    kept = []
    for partition in range(PARTITIONS):
        batch = resources.log.read(topic, partition, 0, max_records=10_000, max_bytes=10**8, keys=True)
        assert batch is not None
        assert batch.keys is not None
        pairs = zip(batch.keys, batch.all_values(), strict=True)
        kept += [OutRecord(value, name, partition) for name, value in pairs if keep(partition, value)]
    resources.log.delete_topic(topic)
    resources.log.create_topic(topic, PARTITIONS)
    resources.log.append(topic, kept)
