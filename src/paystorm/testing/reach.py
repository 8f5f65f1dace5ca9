"""What a run came to: without it, nobody knows whether a simulator tests anything."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import polars as pl

from paystorm.chunk import EventChunk, RecordChunk
from paystorm.local.components import Host
from paystorm.offsets import OffsetSet
from paystorm.settings import Settings
from paystorm.stores.index import IndexRow, snapshot_table
from paystorm.stores.journal import Row
from paystorm.stores.letters import all_letters
from paystorm.stores.versions import load_versions
from paystorm.tables.keys import parts
from paystorm.testing.faulty import Write
from paystorm.testing.world import World

FAULTS = (
    "error before write",
    "error after write",
    "error half write",
    "kill before write",
    "kill after write",
    "kill half write",
    "crash before write",
    "crash after write",
    "crash half write",
    "stop before write",
    "stop after write",
    "stop half write",
    "slow write",
    "torn group",
    "failed read",
    "tables down",
    "log down",
    "warehouse down",
    "one table down",
    "lost message",
    "late message",
    "message twice",
    "failed tree",
    "poisoned range",
    "killed task",
    "killed behind its writes",
    "woken task",
    "killed process",
    "other parallelism",
    "older committed offset",
    "clock set forward",
    "clock set back",
)
"""Every kind of fault."""
EVENTS = (
    "a withdrawal",
    "a hit made again",
    "a late read-back",
    "a snapshot of the index",
    "a split",
    "a record given up",
    "an overlapping replay",
    "a woken task's write",
    "a new version of the rules",
    "a lift after a listing",
    "a breaker opened",
)
"""What else a run may come to."""


class Reach:
    """Follows a world, and says in the end what it came to."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reached: set[str] = set()
        self._read_back = False
        self._sent: dict[tuple[int, int, int], Counter[Host]] = {}
        self._applied: dict[int, OffsetSet] = {}
        world.emitted.append(self._emitted)
        world.faults.done.append(self._written)
        world.faults.got.append(self._got)

    def chunks(self) -> int:
        """Different ranges (partition, first, after) that the spout sent."""
        return len(self._sent)

    def reached(self) -> frozenset[str]:
        """All that the run came to, of `FAULTS` and `EVENTS`."""
        world, name = self._world, self._world.source.name
        found = {
            "a withdrawal": bool(world.lists.withdrawn),
            "a hit made again": world.lists.made_again > 0,
            "a woken task's write": world.faults.woken_writes > 0,
            "a record given up": any(letter.code == "gave_up" for letter in all_letters(world.tables, name)),
            "a new version of the rules": len(load_versions(world.tables, name)) > 1,
            "a breaker opened": any(change.what == "breaker_open" for change in world.lists.seen),
        }
        return frozenset({*self._reached, *world.faults.kinds, *(what for what, there in found.items() if there)})

    def acted(self, done: str) -> None:
        """A person did something: `act_at_random`'s words."""
        if done.startswith("lift"):
            self._reached.add("a lift after a listing")

    def _emitted(self, host: Host, message: Mapping[str, Any]) -> None:
        chunk = message["tuple"][-1]
        stream = message.get("stream") or "default"
        if isinstance(chunk, RecordChunk) and not chunk.head.attempt:
            self._sent_by(host, chunk)
        elif isinstance(chunk, EventChunk) and host.name == "lookup" and stream == "default":
            decided, jumped = self._world.decided_at, self._world.jumped
            offsets, walls = chunk.events.get_column("log_offset"), chunk.events.get_column("decided_at").cast(pl.Int64)
            for offset, wall in zip(offsets.to_list(), walls.to_list(), strict=True):
                name, at = (chunk.head.partition, offset, wall), wall - jumped
                if decided.setdefault(name, at) != at:
                    self._world.decided_twice.add(name)

    def _sent_by(self, host: Host, chunk: RecordChunk) -> None:
        head = chunk.head
        for (partition, first, after), hosts in self._sent.items():
            within = first <= head.first and head.after <= after and (first, after) != (head.first, head.after)
            if partition == head.partition and within and hosts[host] >= self._failures(host):
                self._reached.add("a split")
        self._sent.setdefault((head.partition, head.first, head.after), Counter())[host] += 1
        applied = self._applied.get(head.partition, OffsetSet())
        if applied.touches(head.first, head.after) and not applied.covers(head.first, head.after):
            self._reached.add("an overlapping replay")

    def _failures(self, host: Host) -> int:
        settings: Settings = host.component.here.settings
        return int(settings["splitAfterFailures"])

    def _got(self, table: str, values: list[bytes | None]) -> None:
        if table == f"{self._world.source.name}.cells" and any(value is not None for value in values):
            self._read_back = True

    def _written(self, write: Write, rows: Any, put: list[bool]) -> None:
        name = self._world.source.name
        if write.name == snapshot_table(name):
            self._reached.add("a snapshot of the index")
        if write.what != "tables.put_if_absent":
            return
        if write.name == f"{name}.journal":
            late = any(msgspec.msgpack.decode(value, type=Row).late for _, value in rows)
            if late and self._read_back:
                self._reached.add("a late read-back")
            self._read_back = False
        elif write.name == f"{name}.index":
            for (row_key, value), done in zip(rows, put, strict=True):
                if done:
                    applied = self._applied.setdefault(int(parts(row_key)[0]), OffsetSet())
                    msgspec.msgpack.decode(value, type=IndexRow).apply_to(applied)
