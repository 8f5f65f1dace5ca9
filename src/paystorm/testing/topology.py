"""The source and the topology that the simulator runs: every sort of party, rule and action in a small space."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from streamparse import Grouping, Topology

from bolts.blacklist_lookup import BlacklistLookupBolt
from bolts.dead_letters import DeadLettersBolt
from bolts.validation import ValidationBolt
from bolts.warehouse import WarehouseBolt
from bolts.window_count import WindowCountBolt
from paystorm.clock import SECOND
from paystorm.named import TransformBolt
from paystorm.rules import Rule
from paystorm.source import Field, Party, Source
from paystorm.stores.index import SNAPSHOT_ROWS
from paystorm.storm import topology_config
from spouts.kafka import KafkaSpout

FAILS_FOR = "fails for "
"""A record whose `message` is this and a number of seconds cannot be processed for so long after it was received."""

RULES = (
    Rule(name="per_day", kind="account", limit=4),
    Rule(name="growth", kind="account", factor="1.5", baseline=2, action="review"),
    Rule(
        name="spent",
        kind="account",
        role="sender",
        measure="sum",
        field="amount",
        interval="7d",
        limit={"EUR": "100", "USD": "50"},
        expires_after=90,
    ),
    Rule(
        name="spending_growth",
        kind="account",
        role="sender",
        measure="sum",
        field="amount",
        factor="2",
        baseline={"EUR": "10"},
    ),
    Rule(name="payers", kind="merchant", measure="distinct", field="payer", limit=2),
    Rule(name="sharers", kind="device", measure="distinct", field="payer", interval="1h", limit=1),
    Rule(name="monthly", kind="merchant", interval="month", limit=6, action="deny"),
)
SOURCE = Source(
    name="pay",
    topic="pay",
    enforces=True,
    own_id="payment",
    fields=(
        Field(name="payment", type="id"),
        Field(name="event_time", type="time", required=True),
        Field(name="payer", type="id", required=True),
        Field(name="payee", type="id"),
        Field(name="payee_kind", type="choice", values=("account", "merchant")),
        Field(name="amount", type="amount", fraction_digits=4),
        Field(name="currency", type="currency"),
        Field(name="device", type="id"),
        Field(name="message", type="text"),
    ),
    parties=(
        Party(field="payer", role="sender", kind="account"),
        Party(field="payee", role="receiver", kind="account", kind_field="payee_kind"),
        Party(field="device", role="device", kind="device"),
    ),
    rules=RULES,
)


class NamingBolt(TransformBolt):
    """An operator's bolt that cannot process some records, and says which."""

    def transform_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row as it is; ValueError for one that fails still."""
        message = row["message"] or ""
        if message.startswith(FAILS_FOR):
            wait = timedelta(seconds=float(message.removeprefix(FAILS_FOR)))
            received = row["received_at"].timestamp() + wait.total_seconds()
            if self.clock.now() < received * SECOND:
                raise ValueError(f"{row['payer']} cannot be reached")
        return row


@dataclass(frozen=True, slots=True)
class Shape:
    """How many tasks each component has (`naming` 0 leaves the operator's bolt out), and what no option says."""

    spout: int = 1
    validation: int = 1
    naming: int = 1
    lookup: int = 1
    warehouse: int = 1
    counts: int = 1
    dead_letters: int = 1
    index_rows: int = SNAPSHOT_ROWS
    """Rows of a partition's index between two snapshots."""


def make_topology(shape: Shape, declared: Source = SOURCE) -> type[Topology]:
    """The whole chain for a source, as the topologies of the project have it."""

    class SimulatedWarehouse(WarehouseBolt):
        snapshot_rows = shape.index_rows

    class Simulated(Topology):  # type: ignore[misc]  # streamparse is not typed
        config = topology_config(declared)
        spout = KafkaSpout.spec(par=shape.spout)
        validation = ValidationBolt.spec(inputs={spout: Grouping.SHUFFLE}, par=shape.validation)
        if shape.naming:
            naming = NamingBolt.spec(inputs={validation: Grouping.SHUFFLE}, par=shape.naming)
            lookup = BlacklistLookupBolt.spec(inputs={naming: Grouping.SHUFFLE}, par=shape.lookup)
        else:
            lookup = BlacklistLookupBolt.spec(inputs={validation: Grouping.SHUFFLE}, par=shape.lookup)
        warehouse = SimulatedWarehouse.spec(
            inputs={lookup: Grouping.fields("partition"), spout["refusals"]: Grouping.fields("partition")},
            par=shape.warehouse,
        )
        counts = WindowCountBolt.spec(
            inputs={lookup["shards"]: Grouping.fields("route"), spout["refusals"]: Grouping.ALL}, par=shape.counts
        )
        dead_letters = DeadLettersBolt.spec(
            inputs={validation["invalid"]: Grouping.fields("partition")}, par=shape.dead_letters
        )

    return Simulated
