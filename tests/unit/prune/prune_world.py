"""Twelve days of payments, and `paystorm prune` over them."""

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

from payments_world import PARTITIONS, SOURCE, Running, payment, payments

from paystorm.clock import ManualClock
from paystorm.log.base import OutRecord
from paystorm.log.embedded import EmbeddedLog
from paystorm.log.renumbered import RenumberedLog
from paystorm.resources import Resources
from paystorm.retention.prune import prune_source
from paystorm.retention.report import Went
from paystorm.stores import lists
from paystorm.stores.former import load_former
from paystorm.stores.hits import load_hits
from paystorm.stores.hours import Hours
from paystorm.stores.journal import scan_cells
from paystorm.stores.letters import LetterAct, all_letters, put_acts
from paystorm.tables.sqlite import SqliteTables
from paystorm.verify.source import Report, verify_source
from paystorm.warehouse.local import LocalWarehouse

DAY = 86_400
START = 1_767_225_600
"""2026-01-01, s."""
COUNTS = 7 * DAY
OPTIONS = {"retention.pay.events": 5 * DAY, "retention.pay.verdicts": 5 * DAY, "retention.pay.letters": 5 * DAY}
SEGMENT = 4_000
"""Bytes of a segment of the log: several of each partition."""


def opened(folder: Path, clock: ManualClock) -> Resources:
    tables = SqliteTables(folder / "tables")
    log = RenumberedLog(EmbeddedLog(folder / "log", clock, segment_bytes=SEGMENT), partial(load_former, tables))
    warehouse = LocalWarehouse(folder / "warehouse", Hours(tables))
    return Resources(clock=clock, log=log, tables=tables, warehouse=warehouse)


def on(day: int, count: int, seed: int, **changed: Any) -> list[OutRecord]:
    """Payments of the days before a day of 2026, by event time."""
    rng = random.Random(seed)
    out = []
    for number in range(count):
        at = f"2026-01-{day - rng.randrange(3):02}T{rng.randrange(20):02}:{rng.randrange(60):02}:00Z"
        data = payment(rng, **{"event_time": at, **changed})
        out.append(OutRecord(json.dumps({"ApplicationRef": "shop", "data": data}).encode(), None, number % PARTITIONS))
    return out


def build(folder: Path) -> None:
    """Some days of payments, with acts of people and letters that were settled long ago. It ends on day 12."""
    clock = ManualClock()
    resources = opened(folder, clock)
    tables = resources.tables
    resources.log.create_topic("pay", PARTITIONS)
    running = Running(resources, countsRetention=COUNTS)
    resources.log.append("pay", payments(150, 1))
    running.settle()
    first = next(h for h in load_hits(tables, "pay") if h.action == "deny" and h.status == "standing")
    lists.lift(tables, now=clock.now(), by="eve", kind=first.kind, party=first.party, hits=[first.name()], reason="ok")
    lists.add_entry(tables, now=clock.now(), by="eve", kind="merchant", party="m7", reason="known")
    clock.advance(3600)
    resources.log.append("pay", payments(60, 2))
    running.settle()
    settle_letters(resources)
    clock.advance(10 * DAY)
    resources.log.append("pay", on(10, 90, 3))
    running.settle()
    clock.advance(DAY)
    resources.log.append("pay", on(11, 60, 4))
    running.stop()
    resources.close()


def settle_letters(resources: Resources) -> None:
    for letter in all_letters(resources.tables, "pay"):
        act = LetterAct(
            partition=letter.partition, offset=letter.offset, n=0, act="discard", at=resources.clock.now(), by="eve",
            reason="broken",
        )  # fmt: skip
        put_acts(resources.tables, "pay", [act])


def now() -> ManualClock:
    clock = ManualClock()
    clock.advance(11 * DAY + 3700)
    return clock


def prune(resources: Resources, options: dict[str, Any] = OPTIONS, **how: Any) -> dict[str, Went]:
    return {went.table: went for went in prune_source(resources, SOURCE, options, **how)}


def verify(resources: Resources) -> Report:
    return verify_source(resources, SOURCE, hold=False, timeout=1)


def wholly(resources: Resources) -> dict[str, Went]:
    """Prune, and again once the files out of sight may go."""
    went = prune(resources)
    clock = resources.clock
    assert isinstance(clock, ManualClock)
    clock.advance(3700)
    prune(resources)
    return went


def in_sight(resources: Resources) -> int:
    return int(resources.warehouse.query("SELECT count(*) FROM pay")[1][0][0])


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in (folder / "warehouse").rglob("*.parquet")}


def starts(resources: Resources) -> set[tuple[str, int]]:
    return {(label, start) for _, label, start, _ in scan_cells(resources.tables, "pay")}


def drop_log(resources: Resources) -> int:
    """Let the log forget what was processed, as far as its segments go."""
    dropped = 0
    assert isinstance(resources.log, RenumberedLog)
    for p in range(PARTITIONS):
        dropped += resources.log.drop_before("pay", p, resources.log.end_offset("pay", p))
    return dropped


def late(resources: Resources, received: str | None, event_time: str = "2025-12-30T12:00:00Z") -> OutRecord:
    """An event of a day whose counts went."""
    envelope: dict[str, Any] = {"ApplicationRef": "shop", "id": "late"}
    if received is not None:
        envelope["received_at"] = received
    envelope["data"] = payment(random.Random(9), event_time=event_time, payer="a0", amount="1", currency="EUR")
    return OutRecord(json.dumps(envelope).encode(), None, 0)
