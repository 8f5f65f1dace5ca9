"""Shards: which part of the counts a party belongs to, and which counting task has that part."""

import zlib
from collections.abc import Iterable


def shard_of(kind: str, party: str, shards: int) -> int:
    """The shard of a party, 0 ≤ shard < `shards`: CRC-32 of kind, NUL and id, the same in every process and release."""
    return zlib.crc32(f"{kind}\0{party}".encode()) % shards


def shards_of(kind: str, parties: Iterable[str], shards: int) -> list[int]:
    """`shard_of` for many parties of one kind."""
    start = zlib.crc32(f"{kind}\0".encode())
    crc32 = zlib.crc32
    return [crc32(party.encode(), start) % shards for party in parties]


def route_to(task: int, tasks: int) -> int:
    """The value by which a fields grouping finds the task at this place among `tasks`, ids ascending.

    Storm takes the hash of the list of values, which is 31 + n for one small number n, modulo the tasks
    (`TupleUtils.chooseTaskIndex`). A direct stream would say it plainer, but Storm 2.8 does not take the task id of a
    component that speaks JSON: its parser gives an Integer where a Long is cast to.
    """
    return (task - 31) % tasks
