"""How busy each task of a source is, as it said last. Table `<source>.gauges`, key (component, task)."""

import msgspec

from paystorm.clock import SECOND
from paystorm.tables.base import Tables
from paystorm.tables.keys import key

STALE = 60 * SECOND
"""A gauge older than this is of a task that is gone. µs."""


class Gauge(msgspec.Struct, frozen=True, kw_only=True):
    """What a task did in the last `seconds`."""

    component: str
    task: int
    host: str
    pid: int
    at: int
    """µs since 1970-01-01 UTC."""
    seconds: float
    busy: float
    """Share of the time in which it worked on a tuple, waits for servers included: at 1 it is the bottleneck."""
    cpu: float | None
    """Cores that its process used; None: it has no process of its own."""
    memory: int | None
    """Bytes."""
    tuples: int
    records: int
    all_records: int
    """Records since the task started."""
    slowest_ms: float
    """A sink: from the spout's reading a record to its being durable here, the slowest. ms."""


def put_gauge(tables: Tables, source: str, gauge: Gauge) -> None:
    """Say how busy a task is."""
    tables.put(f"{source}.gauges", [(key(gauge.component, gauge.task), msgspec.msgpack.encode(gauge))])


def load_gauges(tables: Tables, source: str, now: int) -> list[Gauge]:
    """The gauges of the tasks that run, by component and task; `now` in µs."""
    rows = [msgspec.msgpack.decode(value, type=Gauge) for _, value in tables.scan(f"{source}.gauges")]
    return [gauge for gauge in rows if now - gauge.at <= STALE]
