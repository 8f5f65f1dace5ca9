"""How far each partition of a source is complete. Table `<source>.offsets`, key (topic, partition).

A checkpoint is moved only from the value that its mover knows (checkAndPut), so a spout task that was replaced and
wakes again loses, and loads anew.
"""

import msgspec

from paystorm.errors import OffsetsLostError
from paystorm.tables.base import Tables
from paystorm.tables.keys import key, parts


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one partition."""

    topic_id: str | None
    """The identity of the topic that the offsets belong to; None: the log's driver could not tell."""
    committed: int
    """Every record below is complete or parked."""
    read: int
    """How many records lie below `committed` (offsets may have gaps), parked ones included."""

    def encode(self) -> bytes:
        """The row's value."""
        return msgspec.msgpack.encode(self)


def checkpoints_table(source: str) -> str:
    """The name of a source's table of checkpoints."""
    return f"{source}.offsets"


def load_checkpoint(tables: Tables, source: str, topic: str, partition: int) -> Checkpoint | None:
    """The checkpoint of a partition, or None where none was ever made."""
    value = tables.get(checkpoints_table(source), key(topic, partition))
    return None if value is None else msgspec.msgpack.decode(value, type=Checkpoint)


def load_checkpoints(tables: Tables, source: str) -> dict[tuple[str, int], Checkpoint]:
    """All checkpoints of a source by (topic, partition)."""
    out: dict[tuple[str, int], Checkpoint] = {}
    for row_key, value in tables.scan(checkpoints_table(source)):
        topic, partition = parts(row_key)
        out[str(topic), int(partition)] = msgspec.msgpack.decode(value, type=Checkpoint)
    return out


def begin_checkpoint(tables: Tables, source: str, topic: str, partition: int, first: Checkpoint) -> Checkpoint:
    """Put the first checkpoint of a partition where there is none; returns the one that is there."""
    tables.put_if_absent(checkpoints_table(source), [(key(topic, partition), first.encode())])
    held = load_checkpoint(tables, source, topic, partition)
    assert held is not None
    return held


def move_checkpoint(
    tables: Tables, source: str, topic: str, partition: int, *, held: Checkpoint, new: Checkpoint
) -> bool:
    """Move a checkpoint on from `held`; False: it is another one by now, and the caller's memory is stale."""
    if new.committed < held.committed or new.read < held.read:
        raise ValueError(f"{topic}/{partition}: a checkpoint moves forward, not from {held} to {new}")
    row_key = key(topic, partition)
    if tables.replace(checkpoints_table(source), row_key, held.encode(), new.encode()):
        return True
    # A write that was applied although its reply was lost is no loss.
    return load_checkpoint(tables, source, topic, partition) == new


def check_log(
    source: str, topic: str, partition: int, held: Checkpoint, *, topic_id: str | None, start: int, end: int
) -> None:
    """Raise OffsetsLostError where the log no longer fits a checkpoint (SEMANTICS.md §6)."""
    where = f"{source}: partition {partition} of topic {topic}"
    way_out = f"nothing more is read; to begin anew with the topic as it is now: paystorm reset {source}"
    if None not in (topic_id, held.topic_id) and topic_id != held.topic_id:
        raise OffsetsLostError(
            f"{where}: the topic was deleted and made anew: {held.committed} offsets of the former one are gone, "
            f"id {held.topic_id}, now {topic_id}; {way_out}"
        )
    if end < held.committed:
        raise OffsetsLostError(
            f"{where}: {held.committed - end} offsets are gone: the source stands at {held.committed}, the log ends "
            f"at {end}; {way_out}"
        )
    if start > held.committed:
        raise OffsetsLostError(
            f"{where}: {start - held.committed} offsets are gone before they were processed: the source stands "
            f"at {held.committed}, the log starts at {start}; {way_out}"
        )
