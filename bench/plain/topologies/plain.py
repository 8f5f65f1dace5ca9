"""Plain streamparse: a spout and three bolts, one message a tuple."""

from plain_streamparse import PassOnBolt, PlainSpout
from streamparse import Topology


class Plain(Topology):
    """Nothing but transport."""

    spout = PlainSpout.spec()
    first = PassOnBolt.spec(inputs=[spout])
    second = PassOnBolt.spec(inputs=[first])
    third = PassOnBolt.spec(inputs=[second])
