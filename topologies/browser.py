"""Requests to the web site. Watches."""

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
    name="browser",
    topic="browser",
    enforces=False,
    applications=("web",),
    doc="A request to the web site: from which address, with which browser, and by whom where they are signed in.",
    own_id="request_id",
    fields=(
        Field(name="request_id", type="id", doc="The request's own id; the envelope's id where absent."),
        Field(name="event_time", type="time", required=True, doc="When the request came."),
        Field(name="ip", type="id", required=True, doc="The address that it came from."),
        Field(name="account", type="id", doc="The account that is signed in."),
        Field(name="user_agent", type="text", doc="What the browser says that it is."),
        Field(name="fingerprint", type="id", doc="The fingerprint of the browser: a device, as in purchases."),
        Field(name="path", type="text", doc="The path asked for, with its query."),
        Field(name="status", type="integer", doc="The HTTP status of the answer."),
    ),
    parties=(
        Party(field="account", role="visitor", kind="account"),
        Party(field="ip", role="ip", kind="ip"),
        Party(field="fingerprint", role="device", kind="device"),
    ),
    rules=(
        Rule(name="ip_per_hour", kind="ip", interval="1h", limit=100, action="review"),
        Rule(name="device_accounts", kind="device", measure="distinct", field="account", interval="1d", limit=5),
        Rule(name="account_devices", kind="account", measure="distinct", field="fingerprint", interval="1d", limit=5),
    ),
)


class Browser(Topology):
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
