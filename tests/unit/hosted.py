"""Drives one bolt in this process, as the embedded runner does, and keeps what it sends."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from paystorm.clock import ManualClock
from paystorm.local.components import SYSTEM, TICK, Host, Message
from paystorm.log.base import Log
from paystorm.resources import HANDED_OVER, Resources
from paystorm.rules import Rule
from paystorm.source import Field, Party, Source
from paystorm.storm import topology_config
from paystorm.tables.base import Tables
from paystorm.warehouse.base import Warehouse

RULES = (
    Rule(name="per_day", kind="account", limit=3),
    Rule(name="spent", kind="account", role="sender", measure="sum", field="amount", limit={"EUR": "10"}),
    Rule(name="payers", kind="merchant", measure="distinct", field="payer", limit=2),
)
SOURCE = Source(
    name="pay",
    topic="pay",
    enforces=True,
    fields=(
        Field(name="event_time", type="time", required=True),
        Field(name="payer", type="id", required=True),
        Field(name="payee", type="id"),
        Field(name="payee_kind", type="choice", values=("account", "merchant")),
        Field(name="amount", type="amount", fraction_digits=2),
        Field(name="currency", type="currency"),
        Field(name="device", type="id"),
    ),
    parties=(
        Party(field="payer", role="sender", kind="account"),
        Party(field="payee", role="receiver", kind="account", kind_field="payee_kind"),
        Party(field="device", role="device", kind="device"),
    ),
    rules=RULES,
)


@dataclass(frozen=True)
class Sent:
    stream: str
    task: int | None
    partition: int
    chunk: Any


class Hosted:
    """A bolt with its surroundings. `sent`, `acked` and `failed` say what it did with the last tuple."""

    def __init__(
        self,
        cls: type,
        *,
        tables: Tables,
        clock: ManualClock,
        source: Source = SOURCE,
        options: Mapping[str, Any] | None = None,
        counts: tuple[int, ...] = (2,),
    ) -> None:
        self.clock = clock
        self.tables = tables
        resources = Resources(clock=clock, log=cast(Log, None), tables=tables, warehouse=cast(Warehouse, None))
        self.host = Host(cls, "bolt", 1, self, logging.getLogger("hosted"))
        tasks = {"1": "bolt", **{str(task): "counts" for task in counts}}
        conf = {**topology_config(source), HANDED_OVER: resources, **(options or {})}
        assert self.host.start(conf, {"taskid": 1, "componentid": "bolt", "task->component": tasks})
        self.sent: list[Sent] = []
        self.acked = self.failed = 0

    def give(self, chunk: Any) -> list[Sent]:
        """Let the bolt process a chunk; what it sent."""
        self.sent = []
        self.acked = self.failed = 0
        assert self.host.run(Message("tuple", source="before", stream="default", task=9, values=(0, chunk)))
        return self.sent

    def tick(self) -> None:
        """Let the bolt process a tick."""
        self.sent = []
        self.acked = self.failed = 0
        assert self.host.run(Message("tick", source=SYSTEM, stream=TICK, values=(1,)))

    def emit(self, host: Host, message: Mapping[str, Any]) -> list[int]:
        assert message["anchors"], "everything is anchored"
        partition, chunk = message["tuple"]
        self.sent.append(Sent(message.get("stream") or "default", message.get("task"), partition, chunk))
        return []

    def ack(self, host: Host, trees: Any, received: float) -> None:
        self.acked += 1

    def fail(self, host: Host, trees: Any) -> None:
        self.failed += 1

    def error(self, host: Host, text: str) -> None:
        raise AssertionError(text)

    def monotonic(self) -> float:
        return self.clock.monotonic()
