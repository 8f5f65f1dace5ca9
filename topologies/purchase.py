"""Purchases and peer-to-peer transfers: who pays whom, and how much. Denies."""

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
    name="purchase",
    topic="purchase",
    enforces=True,
    applications=("shop", "wallet"),
    doc="A payment from a party to another: a purchase at a merchant, or a transfer between accounts.",
    own_id="transaction_id",
    fields=(
        Field(name="transaction_id", type="id", doc="The payment's own id; the envelope's id where absent."),
        Field(name="event_time", type="time", required=True, doc="When the payment was made."),
        Field(name="from_party", type="id", required=True, doc="The account that pays."),
        Field(name="to_party", type="id", required=True, doc="The account or merchant that is paid."),
        Field(
            name="to_kind",
            type="choice",
            values=("account", "merchant"),
            doc="What to_party is: account (also where absent) or merchant.",
        ),
        Field(name="amount", type="amount", doc="What is paid, in units of the currency."),
        Field(
            name="currency", type="currency", doc="The currency's code, such as EUR; without it an amount is in no sum."
        ),
        Field(name="message", type="text", doc="What the payer wrote to the receiver."),
        Field(name="device", type="id", doc="The fingerprint of the device that the payment was made with."),
        Field(name="ip", type="id", doc="The address that the payment came from."),
    ),
    parties=(
        Party(field="from_party", role="sender", kind="account"),
        Party(field="to_party", role="receiver", kind="account", kind_field="to_kind"),
        Party(field="device", role="device", kind="device"),
        Party(field="ip", role="ip", kind="ip"),
    ),
    rules=(
        Rule(name="account_per_day", kind="account", interval="1d", limit=30),
        Rule(name="account_growth", kind="account", interval="1d", factor="3", baseline=10),
        Rule(
            name="sender_amount_growth",
            kind="account",
            role="sender",
            measure="sum",
            field="amount",
            interval="1d",
            factor="3",
            baseline={"EUR": "1000", "GBP": "1000", "USD": "1000", "ETH": "10"},
        ),
        Rule(
            name="sender_cap_day",
            kind="account",
            role="sender",
            measure="sum",
            field="amount",
            interval="1d",
            limit={"EUR": "10000", "GBP": "10000", "USD": "10000", "ETH": "1000"},
        ),
        Rule(
            name="sender_cap_week",
            kind="account",
            role="sender",
            measure="sum",
            field="amount",
            interval="7d",
            limit={"EUR": "20000", "GBP": "20000", "USD": "20000", "ETH": "2500"},
        ),
        Rule(
            name="sender_cap_month",
            kind="account",
            role="sender",
            measure="sum",
            field="amount",
            interval="month",
            limit={"EUR": "40000", "GBP": "40000", "USD": "40000", "ETH": "5000"},
        ),
    ),
)


class Purchase(Topology):
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
