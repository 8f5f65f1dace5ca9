"""Refunds: money going back to a customer. Denies."""

from streamparse import Grouping, Topology

from bolts.blacklist_lookup import BlacklistLookupBolt
from bolts.dead_letters import DeadLettersBolt
from bolts.validation import ValidationBolt
from bolts.warehouse import WarehouseBolt
from bolts.window_count import WindowCountBolt
from paystorm.rules import Rule
from paystorm.source import Field, Party, Source
from paystorm.storm import topology_config
from spouts.kafka import KafkaSpout

SOURCE = Source(
    name="refund",
    topic="refund",
    enforces=True,
    applications=("refunds",),
    doc="Money given back to a customer for a purchase.",
    own_id="refund_id",
    fields=(
        Field(name="refund_id", type="id", doc="The refund's own id; the envelope's id where absent."),
        Field(name="transaction_id", type="id", doc="The purchase that is refunded."),
        Field(name="event_time", type="time", required=True, doc="When the refund was made."),
        Field(name="customer", type="id", required=True, doc="The account that gets the money back."),
        Field(name="merchant", type="id", doc="The merchant that gives it back."),
        Field(name="amount", type="amount", doc="What is given back, in units of the currency; not negative."),
        Field(
            name="currency", type="currency", doc="The currency's code, such as EUR; without it an amount is in no sum."
        ),
        Field(name="reason", type="text", doc="Why, in the customer's or the agent's words."),
    ),
    parties=(
        Party(field="customer", role="customer", kind="account"),
        Party(field="merchant", role="merchant", kind="merchant"),
    ),
    rules=(
        Rule(name="account_per_week", kind="account", interval="7d", limit=5),
        Rule(
            name="account_amount_week",
            kind="account",
            measure="sum",
            field="amount",
            interval="7d",
            limit={"EUR": "5000", "GBP": "5000", "USD": "5000", "ETH": "500"},
        ),
        Rule(name="merchant_growth", kind="merchant", interval="1d", factor="3", baseline=20),
    ),
)


class Refund(Topology):
    """Log → validation → look-up → warehouse and counts; what is not valid goes to the dead letters."""

    config = topology_config(SOURCE)
    spout = KafkaSpout.spec(par=1)
    validation = ValidationBolt.spec(inputs={spout: Grouping.SHUFFLE}, par=1)
    lookup = BlacklistLookupBolt.spec(inputs={validation: Grouping.SHUFFLE}, par=1)
    warehouse = WarehouseBolt.spec(
        inputs={lookup: Grouping.fields("partition"), spout["refusals"]: Grouping.fields("partition")}, par=1
    )
    counts = WindowCountBolt.spec(
        inputs={lookup["shards"]: Grouping.fields("route"), spout["refusals"]: Grouping.ALL}, par=1
    )
    dead_letters = DeadLettersBolt.spec(inputs={validation["invalid"]: Grouping.fields("partition")}, par=1)
