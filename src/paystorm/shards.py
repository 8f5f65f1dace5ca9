"""Shards: which part of the counts a party belongs to, and which counting task has that part."""

import zlib
from collections.abc import Iterable, Sequence


def shard_of(kind: str, party: str, shards: int) -> int:
    """The shard of a party, 0 ≤ shard < `shards`: CRC-32 of kind, NUL and id, the same in every process and release."""
    return zlib.crc32(f"{kind}\0{party}".encode()) % shards


def shards_of(kind: str, parties: Iterable[str], shards: int) -> list[int]:
    """`shard_of` for many parties of one kind."""
    start = zlib.crc32(f"{kind}\0".encode())
    crc32 = zlib.crc32
    return [crc32(party.encode(), start) % shards for party in parties]


def task_of(shard: int, tasks: Sequence[int]) -> int:
    """The counting task that has a shard; `tasks` in ascending order."""
    return tasks[shard % len(tasks)]
