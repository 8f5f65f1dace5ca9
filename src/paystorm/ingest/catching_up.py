"""What the log says of ids: read on start from the checkpoint to the end, and again after an append went wrong."""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from paystorm.errors import LogError
from paystorm.ingest.envelope import Route, content_hash
from paystorm.ingest.ids import IdStore
from paystorm.ingest.runs import Checkpoint
from paystorm.log.base import Log, RecordBatch

AT_ONCE = 20_000
AT_ONCE_BYTES = 8 << 20
SLACK_MS = 3_600_000
"""By how much a log's timestamps may go back, at most: producers of Kafka stamp records themselves."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Accepted(msgspec.Struct, gc=False):
    """A record that an ingest service wrote has all of these, and no `replay_of`."""

    ApplicationRef: str
    id: str
    received_at: str
    data: msgspec.Raw
    replay_of: msgspec.Raw | None = None


_decode = msgspec.json.Decoder(_Accepted).decode


class Found(NamedTuple):
    """The accepted records of some offsets of a partition: (key, content hash, offset, seconds) of each."""

    topic: str
    topic_id: str | None
    partition: int
    items: list[tuple[bytes, bytes, int, int]]
    next: int


def read_on(
    log: Log, topic: str, partition: int, held: Checkpoint | None, routes: Collection[Route], oldest: int
) -> Iterator[Found]:
    """What the log holds behind a checkpoint. `oldest`: ids from before (seconds) are not wanted. Raises LogError."""
    topic_id = log.topic_id(topic)
    by_application = {route.application: route for route in routes if route.topic == topic}
    start, end = log.start_offset(topic, partition), log.end_offset(topic, partition)
    same = held is not None and (held.topic_id == topic_id or None in (held.topic_id, topic_id)) and held.next <= end
    offset = max(held.next, start) if same and held is not None else start
    offset = first_since(log, topic, partition, offset, end, oldest * 1000 - SLACK_MS)
    while True:
        batch = log.read(topic, partition, offset, max_records=AT_ONCE, max_bytes=AT_ONCE_BYTES)
        if batch is None:
            yield Found(topic, topic_id, partition, [], offset)
            return
        offset = batch.next
        yield Found(topic, topic_id, partition, _items(batch, by_application, oldest), offset)


def _items(batch: RecordBatch, routes: dict[str, Route], oldest: int) -> list[tuple[bytes, bytes, int, int]]:
    items = []
    for offset, value in zip(batch.offsets.tolist(), batch.all_values(), strict=True):
        try:
            record = _decode(value)
            at = (datetime.fromisoformat(record.received_at) - _EPOCH) // timedelta(seconds=1)
        except (msgspec.DecodeError, RecursionError, ValueError, TypeError):
            continue
        route = routes.get(record.ApplicationRef)
        if route is not None and record.replay_of is None and at >= oldest:
            data = bytes(record.data)
            items.append((route.key(record.id.encode()), content_hash(data), offset, at))
    return items


def first_since(log: Log, topic: str, partition: int, first: int, end: int, since_ms: int) -> int:
    """The first offset of [first, end] with a timestamp ≥ `since_ms`, for timestamps that do not go back."""
    low, high = first, end
    while low < high:
        middle = (low + high) // 2
        batch = log.read(topic, partition, middle, max_records=1, max_bytes=0)
        if batch is None or not len(batch) or int(batch.timestamps[0]) >= since_ms:
            high = middle
        else:
            low = int(batch.offsets[0]) + 1
    return min(low, end)


def note(store: IdStore, found: Found) -> None:
    """Put what was found into the store. An id that stands there keeps its first record."""
    places = store.find([item[0] for item in found.items])
    new: dict[bytes, tuple[bytes, bytes, int, int]] = {}
    for item, place in zip(found.items, places, strict=True):
        if place is None:
            new.setdefault(item[0], item)
    store.add(found.topic, found.partition, new.values())
    store.move(found.topic, found.topic_id, found.partition, found.next)


def record_at(log: Log, topic: str, partition: int, offset: int) -> bytes | None:
    """The record at an offset; None where the log does not hold it any more. Raises LogError: it cannot be read now."""
    try:
        batch = log.read(topic, partition, offset, max_records=1, max_bytes=0)
    except LogError:
        if offset >= log.start_offset(topic, partition):
            raise
        return None
    return batch.value(0) if batch is not None and len(batch) and int(batch.offsets[0]) == offset else None
