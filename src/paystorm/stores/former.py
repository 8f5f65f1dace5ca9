"""Topics that were made anew, and what their partitions are called since. Table `topics`, key (topic).

A record's identity is (topic, partition, offset), and every result is keyed by it. Where a topic is deleted and made
again its offsets begin anew; so that they name no record of the former one, its partitions are counted on from where
the former's ended: a topic of 4 partitions that was made anew has the partitions 4 to 7, and 0 to 3 are empty.
"""

import msgspec

from paystorm.errors import TablesError
from paystorm.tables.base import Tables
from paystorm.tables.keys import key

TABLE = "topics"


class Former(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as it was before it was made anew."""

    topic_id: str | None
    ends: tuple[int, ...]
    """The offset up to which each of its partitions was processed; what came behind is gone."""
    at: int
    """When `paystorm reset` left it behind, µs since 1970-01-01 UTC."""
    by: str


def load_former(tables: Tables, topic: str) -> list[Former]:
    """The former topics of a name, the oldest first."""
    value = tables.get(TABLE, key(topic))
    return [] if value is None else msgspec.msgpack.decode(value, type=list[Former])


def add_former(tables: Tables, topic: str, held: list[Former], former: Former) -> None:
    """Note that a topic has been left behind, after those in `held`. Raises TablesError where another did so too."""
    row = key(topic), msgspec.msgpack.encode([*held, former])
    done = tables.replace(TABLE, row[0], msgspec.msgpack.encode(held), row[1]) if held else False
    if not held:
        (done,) = tables.put_if_absent(TABLE, [row])
    if not done:
        raise TablesError(f"{TABLE}: topic {topic} was reset by another at the same time; look at it again")
