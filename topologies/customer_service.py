"""Contacts with customer service: complaints, requests, changed credentials. Watches."""

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
    name="customer-service",
    topic="customer-service",
    enforces=False,
    applications=("support",),
    doc="A contact of a customer with customer service. Where the customer is not known, the region is.",
    own_id="contact_id",
    one_of=(("customer", "region"),),
    fields=(
        Field(name="contact_id", type="id", doc="The contact's own id; the envelope's id where absent."),
        Field(name="event_time", type="time", required=True, doc="When the customer got in touch."),
        Field(name="customer", type="id", doc="The account that it is about; this or the region is required."),
        Field(name="region", type="id", doc="Where the customer lives, such as a state's code; this or the customer."),
        Field(name="agent", type="id", doc="The employee who took the contact."),
        Field(name="channel", type="text", doc="The way it came: Phone, Web, Fax and so on."),
        Field(
            name="kind",
            type="text",
            doc="What it is: complaint, refund_request, credential_change or another word of the sender's.",
        ),
    ),
    parties=(
        Party(field="customer", role="customer", kind="account"),
        Party(field="region", role="region", kind="region"),
        Party(field="agent", role="agent", kind="agent"),
    ),
    rules=(
        Rule(name="account_per_day", kind="account", interval="1d", limit=10, action="review"),
        Rule(
            name="agent_customers",
            kind="agent",
            measure="distinct",
            field="customer",
            interval="1d",
            limit=100,
            action="review",
        ),
        Rule(name="region_growth", kind="region", interval="1d", factor="3", baseline=20, action="review"),
    ),
)


class CustomerService(Topology):
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
