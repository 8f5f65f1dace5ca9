"""A source of payments with every sort of rule, its topology run step by step, and random payments."""

# mypy: disable-error-code="misc"
# (streamparse publishes no types, so its base classes are Any)

import json
import random
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import msgspec
import polars as pl
from hosted import SOURCE as HOSTED
from streamparse import Grouping, Topology

from bolts.blacklist_lookup import BlacklistLookupBolt
from bolts.dead_letters import DeadLettersBolt
from bolts.validation import ValidationBolt
from bolts.warehouse import WarehouseBolt
from bolts.window_count import WindowCountBolt
from paystorm.clock import ManualClock
from paystorm.local.step import StepDriver
from paystorm.log.base import OutRecord
from paystorm.named import TransformBolt
from paystorm.resources import HANDED_OVER, Resources
from paystorm.rules import Rule
from paystorm.source import Source
from paystorm.storm import topology_config
from spouts.kafka import KafkaSpout

SOURCE = msgspec.structs.replace(
    HOSTED,
    rules=(
        *HOSTED.rules,
        Rule(name="growth", kind="account", role="sender", factor="2", baseline=2, action="review"),
        Rule(name="spent_month", kind="account", measure="sum", field="amount", interval="month", limit={"EUR": "60"}),
        Rule(name="brief", kind="device", limit=4, expires_after=20),
    ),
)
PARTITIONS = 3
STEPS = 200_000


class Picky(TransformBolt):
    """An operator's own bolt: some records fail for a while, some for ever, and some take the whole chunk with them."""

    tries: ClassVar[dict[str, int]] = {}

    def transform(self, events: pl.DataFrame) -> pl.DataFrame:
        for number in events["payer"].to_list():
            if number == "a9" and self.tries.setdefault("a9", 0) < 7:
                self.tries["a9"] += 1
                raise ConnectionError("a service is away")
        return super().transform(events)

    def transform_row(self, row: dict[str, Any]) -> dict[str, Any]:
        tried = self.tries[row["event_id"]] = self.tries.get(row["event_id"], 0) + 1
        if row["payer"] == "a3" or (row["payer"] == "a2" and tried < 3):
            raise ValueError("cannot be done")
        return row


def topology(source: Source, own_bolt: type[TransformBolt] = TransformBolt) -> type[Topology]:
    class Pay(Topology):
        config = topology_config(source)
        spout = KafkaSpout.spec(par=2)
        validation = ValidationBolt.spec(inputs={spout: Grouping.SHUFFLE}, par=1)
        own = own_bolt.spec(inputs={validation: Grouping.SHUFFLE}, par=1)
        lookup = BlacklistLookupBolt.spec(inputs={own: Grouping.SHUFFLE}, par=2)
        warehouse = WarehouseBolt.spec(
            inputs={lookup: Grouping.fields("partition"), spout["refusals"]: Grouping.fields("partition")}, par=2
        )
        counts = WindowCountBolt.spec(
            inputs={lookup["shards"]: Grouping.fields("route"), spout["refusals"]: Grouping.ALL}, par=2
        )
        dead_letters = DeadLettersBolt.spec(inputs={validation["invalid"]: Grouping.fields("partition")}, par=1)

    return Pay


class Running:
    """The topology over a data folder, step by step."""

    def __init__(
        self,
        resources: Resources,
        source: Source = SOURCE,
        seed: int = 1,
        own_bolt: type[TransformBolt] = TransformBolt,
        **options: Any,
    ) -> None:
        clock = resources.clock
        assert isinstance(clock, ManualClock)
        conf = {HANDED_OVER: resources, "chunkRecords": 20, "snapshotRows": 4, **options}
        self.resources, self.clock = resources, clock
        self.driver = StepDriver(topology(source, own_bolt), conf, clock, random.Random(seed))
        self.driver.start()

    def spouts(self) -> list[KafkaSpout]:
        tasks = self.driver.engine.tasks.values()
        return [task.host.component for task in tasks if task.plan.is_spout and task.host is not None]

    def settle(self) -> None:
        """Until everything is processed."""
        assert self.driver.run_until(
            lambda: self.driver.quiet() and all(s.idle() for s in self.spouts()), seconds=120, max_steps=STEPS
        )

    def stop(self) -> None:
        self.settle()
        assert self.driver.stop(60).drained


def payment(rng: random.Random, **changed: Any) -> dict[str, Any]:
    # Heavy-tailed, so that some are listed soon and others never.
    data = {
        "event_time": f"2025-12-{rng.randrange(28, 32)}T{rng.randrange(24):02}:{rng.randrange(60):02}:00Z",
        "payer": f"a{min(int(rng.expovariate(0.08)), 60)}",
        "payee": f"m{rng.randrange(30)}",
        "payee_kind": rng.choice(["account", "merchant", "merchant"]),
        "amount": rng.choice([f"{rng.randrange(900) / 100:.2f}", rng.randrange(9), "1e0"]),
        "currency": rng.choice(["EUR", "EUR", "USD", None]),
        "device": rng.choice([None, f"d{rng.randrange(12)}"]),
        "note": "été, 🦊",
    }
    return {**data, **changed}


BROKEN: tuple[Callable[[bytes], bytes], ...] = (
    lambda value: value[:-1],
    lambda value: value.replace(b'"payer"', b'"payr"'),
    lambda value: value.replace(b'"amount": ', b'"amount": -'),
    lambda value: value.replace(b'"ApplicationRef": "shop"', b'"ApplicationRef": ""'),
    lambda value: value.replace(b'"ApplicationRef": "shop"', b'"id": "mine", "ApplicationRef": 7'),
    lambda value: b"\xff" + value,
    lambda value: b"",
)
"""Ways in which a record is not valid."""


def payments(count: int, seed: int) -> list[OutRecord]:
    rng = random.Random(seed)
    out = []
    for number in range(count):
        value = json.dumps({"ApplicationRef": "shop", "data": payment(rng)}).encode()
        if rng.random() < 0.06:
            value = rng.choice(BROKEN)(value)
        out.append(OutRecord(value, None, number % PARTITIONS))
    return out


def batched(records: list[OutRecord], size: int) -> Iterable[list[OutRecord]]:
    return (records[i : i + size] for i in range(0, len(records), size))
