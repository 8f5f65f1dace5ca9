"""What must hold at every moment of a run, checked at each write that was done. Nothing of it asks the code that wrote.

The cheap ones of these are checks of the production code too: a checkpoint moves forward only and by complete units, a
chunk has rows only of what it covers, every put that decides is conditional.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from paystorm.clock import SECOND
from paystorm.offsets import OffsetSet
from paystorm.stores.checkpoints import Checkpoint
from paystorm.stores.hits import Hit
from paystorm.stores.index import IndexRow, unpack
from paystorm.stores.journal import Row, ShardState
from paystorm.stores.letters import DeadLetter, letter_at
from paystorm.stores.retry import Parked, load_parked
from paystorm.stores.versions import load_versions
from paystorm.tables.keys import parts
from paystorm.testing.faulty import Done, Write
from paystorm.testing.world import World

Key = tuple[int, int]
"""Partition and offset."""
RETRIES: Mapping[str, float] = {
    "retryInitialDelayMs": 1000,
    "retryDelayMultiplier": 60.0,
    "retryDelayMaxMs": 86_400_000,
    "maxOffsetBehind": 5,
}
"""The defaults of the contract (SEMANTICS.md §6)."""


LATE = 30
"""Seconds that a retry may be late: what is parked by a tuple that came late is looked for every 10 seconds only."""


ANSWERED = 120
"""Seconds in which the sinks have answered whether a record may be given up, however often they are asked."""


class BrokenInvariantError(BaseException):
    """No Exception: nothing in the run may catch it."""


class Watcher:
    """Follows the writes of a world. Raises BrokenInvariantError out of the write that breaks an invariant."""

    def __init__(
        self, world: World, parties: Mapping[Key, list[tuple[str, str]]], retries: Mapping[str, float] = RETRIES
    ) -> None:
        """`parties`: of valid records whose parties are known; `retries`: the settings of the retry schedule."""
        self._world = world
        self._parties = parties
        self._retries = {**RETRIES, **retries}
        self._name = name = world.source.name
        # A distinct that knows a value already notes nothing: applying it again changes nothing either.
        self._kinds = {rule.kind for rule in world.source.rules if (rule.measure, rule.role) == ("count", "either")}
        self.checked = 0
        """Records that were found complete when they were committed."""
        self.committed: dict[int, int] = {}
        self.applied: dict[int, OffsetSet] = {}
        """By partition, what the index has."""
        self.stored: dict[int, OffsetSet] = {}
        """By partition, the offsets of stored events."""
        self.letters: set[Key] = set()
        self._rows: dict[int, int] = {}
        self._shards: dict[int, ShardState] = {}
        self._parked: dict[Key, tuple[int, int, int]] = {}
        """Attempts, when the last failed (`World.time`), and how often the wall clock had been set by then."""
        self._hits: dict[bytes, int] = {}
        """By the key of a hit, the journal row of its last change."""
        self._parked_rows: dict[Key, Parked] = {}
        self._watches: dict[str, Done] = {
            f"{name}.offsets": self._offsets,
            f"{name}.index": self._index,
            f"{name}.letters": self._letters,
            f"{name}.journal": self._journal,
            f"{name}.shards": self._snapshot,
            f"{name}.retry": self._retry,
            f"{name}.hits": self._hit,
        }
        world.faults.done.append(self.watch)

    def watch(self, write: Write, rows: Any, put: list[bool]) -> None:
        """To be told of every write that was done."""
        watch = self._watches.get(write.name)
        if watch is not None and (watch == self._retry or not write.what.startswith("tables.delete")):
            watch(write, rows, put)

    def rewound(self, partition: int, committed: int) -> None:
        """The committed offset was set back from outside."""
        self.committed[partition] = committed

    def _broken(self, text: str) -> BrokenInvariantError:
        return BrokenInvariantError(f"{self._name}: {text}")

    # Committed offset ≤ the first record that is not complete.

    def _offsets(self, write: Write, rows: Any, put: list[bool]) -> None:
        for (row_key, value), done in zip(rows, put, strict=True):
            if not done:
                continue
            partition = int(parts(row_key)[1])
            new = msgspec.msgpack.decode(value, type=Checkpoint).committed
            held = self.committed.get(partition, 0)
            if new < held:
                raise self._broken(f"partition {partition} is committed up to {new}, and was up to {held}")
            self.committed[partition] = new
            self._complete(partition, held, new)

    def _complete(self, partition: int, first: int, after: int) -> None:
        world, name = self._world, self._name
        applied = self.applied.get(partition, OffsetSet())
        for offset in world.log.offsets(world.source.topic, partition, first, after):
            self.checked += 1
            place = (partition, offset)
            if (
                place in self.letters
                or load_parked(world.tables, name, *place)
                or letter_at(world.tables, name, *place)
            ):
                continue
            if offset not in applied:
                raise self._broken(f"{partition}/{offset} is committed and not in the index")
            for kind, party in self._parties.get(place, []):
                shard = self._shard_of(kind, party)
                if kind in self._kinds and offset not in self._applied(shard).get(partition, OffsetSet()):
                    raise self._broken(f"{partition}/{offset} is committed and not in shard {shard} of {kind} {party}")

    def _shard_of(self, kind: str, party: str) -> int:
        return zlib.crc32(f"{kind}\0{party}".encode()) % load_versions(self._world.tables, self._name)[0].shards

    # A record has one outcome and one row.

    def _index(self, write: Write, rows: Any, put: list[bool]) -> None:
        for (row_key, value), done in zip(rows, put, strict=True):
            if not done:
                continue
            partition = int(parts(row_key)[0])
            row = msgspec.msgpack.decode(value, type=IndexRow)
            if row.n != self._rows.get(partition, -1) + 1:
                raise self._broken(f"index row {row.n} of partition {partition} follows {self._rows.get(partition)}")
            self._rows[partition] = row.n
            applied = self.applied.setdefault(partition, OffsetSet())
            for first, after in row.ranges:
                if applied.touches(first, after):
                    raise self._broken(f"index row {row.n} of partition {partition} applies [{first}, {after}) again")
            stored = self.stored.setdefault(partition, OffsetSet())
            runs = unpack(row.stored).tolist()
            covered = OffsetSet(row.ranges)
            for first, after in zip(runs[::2], runs[1::2], strict=True):
                if stored.touches(first, after):
                    raise self._broken(f"an event of partition {partition} in [{first}, {after}) is stored twice")
                if not covered.covers(first, after):
                    raise self._broken(f"index row {row.n} of partition {partition} stores more than it applies")
                stored.add(first, after)
                for offset in range(first, after):
                    if (partition, offset) in self.letters:
                        raise self._broken(f"{partition}/{offset} is dead-lettered, and stored")
            row.apply_to(applied)

    def _letters(self, write: Write, rows: Any, put: list[bool]) -> None:
        if write.what == "tables.replace":  # what people did with it: its outcome stays
            return
        for (_, value), done in zip(rows, put, strict=True):
            if not done:
                continue
            letter = msgspec.msgpack.decode(value, type=DeadLetter)
            place = (letter.partition, letter.offset)
            if letter.offset in self.stored.get(letter.partition, OffsetSet()):
                raise self._broken(f"{place[0]}/{place[1]} is stored, and dead-lettered as {letter.code}")
            self.letters.add(place)
            if letter.code == "gave_up":
                self._given_up(letter)

    # State and applied ranges move together.

    def _applied(self, shard: int) -> dict[int, OffsetSet]:
        state = self._shards.get(shard)
        return {} if state is None else state.applied_sets()

    def _journal(self, write: Write, rows: Any, put: list[bool]) -> None:
        for (row_key, value), done in zip(rows, put, strict=True):
            if not done:
                continue
            shard = int(parts(row_key)[0])
            row = msgspec.msgpack.decode(value, type=Row)
            state = self._shards.setdefault(shard, ShardState(shard=shard))
            if row.n != state.n + 1:
                raise self._broken(f"row {row.n} of shard {shard} follows {state.n}")
            if row.figures or row.pairs:
                new = {p: OffsetSet(held) for p, held in row.covered.items()}
                for partition, applied in state.applied_sets().items():
                    for first, after in applied:
                        new.get(partition, OffsetSet()).remove(first, after)
                if not any(len(held) for held in new.values()):
                    raise self._broken(f"row {row.n} of shard {shard} has figures and no offset that is new")
            state.lay(row)

    def _snapshot(self, write: Write, rows: Any, put: list[bool]) -> None:
        del write, put
        for _, value in rows:
            state = msgspec.msgpack.decode(value, type=ShardState)
            held = self._shards.get(state.shard)
            if held is None or state.n > held.n:
                raise self._broken(f"the snapshot of shard {state.shard} is of row {state.n}, which does not exist")
            if state.n == held.n and (state.applied_sets(), state.refused) != (held.applied_sets(), held.refused):
                raise self._broken(f"the snapshot of shard {state.shard} has applied other offsets than its journal")

    def _hit(self, write: Write, rows: Any, put: list[bool]) -> None:
        del put
        for row_key, _ in rows:
            value = self._world.tables.get(write.name, row_key)
            hit = msgspec.msgpack.decode(value or b"", type=Hit)
            if hit.row < self._hits.get(row_key, -1):
                raise self._broken(f"hit {hit.name()} is of row {hit.row} again, and was of {self._hits[row_key]}")
            self._hits[row_key] = hit.row

    # Retries wait as the schedule says; nothing is given up without a dead letter.

    def _retry(self, write: Write, rows: Any, put: list[bool]) -> None:
        if write.what in ("tables.delete", "tables.delete_if"):
            for (row_key, _), done in zip(rows, put, strict=True):
                if done:
                    self._unparked(*(int(part) for part in parts(row_key)))
            return
        for (_, value), done in zip(rows, put, strict=True):
            if done:
                self._parked_again(msgspec.msgpack.decode(value, type=Parked))

    def _unparked(self, partition: int, offset: int) -> None:
        self._parked.pop((partition, offset), None)
        self._parked_rows.pop((partition, offset), None)
        letter = letter_at(self._world.tables, self._name, partition, offset)
        if letter is None and offset not in self.stored.get(partition, OffsetSet()):
            raise self._broken(f"{partition}/{offset} is no longer parked, and has no outcome")

    def _parked_again(self, row: Parked) -> None:
        world = self._world
        place = (row.partition, row.offset)
        failed = world.time() - (world.clock.now() - row.last_failed)
        before = self._parked_rows.setdefault(place, row)
        if (row.first_failed, before.value) != (before.first_failed, before.value and row.value) or (
            row.attempts < before.attempts
        ):
            raise self._broken(f"{place[0]}/{place[1]} is parked, and its row is covered: {before} by {row}")
        self._parked_rows[place] = row
        held = self._parked.get(place)
        if held is not None and row.attempts <= held[0]:
            return
        self._parked[place] = (row.attempts, failed, world.jumps)
        if held is not None and held[2] == world.jumps:
            wait = self.delay(held[0])
            if failed - held[1] < wait - 1000:
                raise self._broken(
                    f"retry {row.attempts - 1} of {row.partition}/{row.offset} failed {(failed - held[1]) / SECOND} s "
                    f"after the attempt before it; the schedule says {wait / SECOND} s"
                )

    def delay(self, retry: int) -> int:
        """µs before a retry (1, 2, …), by the contract: initial × multiplier^(n−1), at most the longest."""
        settings = self._retries
        wanted = settings["retryInitialDelayMs"] * settings["retryDelayMultiplier"] ** (retry - 1)
        return int(min(wanted, settings["retryDelayMaxMs"])) * 1000

    @property
    def longest(self) -> float:
        """Seconds of the longest delay before a retry."""
        return self._retries["retryDelayMaxMs"] / 1000

    def parked(self) -> bool:
        """Whether some record is parked now."""
        return bool(self._parked)

    def _given_up(self, letter: DeadLetter) -> None:
        where = f"{letter.partition}/{letter.offset}"
        if letter.attempts < 2:
            raise self._broken(f"{where} is given up after {letter.attempts} attempts: no retry of it has failed")
        done = sum(offset > letter.offset for p, offset in self.letters if p == letter.partition)
        done += sum(
            after - max(first, letter.offset + 1)
            for first, after in self.stored.get(letter.partition, OffsetSet())
            if after > letter.offset + 1
        )
        if done < self._retries["maxOffsetBehind"]:
            raise self._broken(f"{where} is given up, and only {done} later records are complete")

    def overdue(self) -> list[str]:
        """Parked records whose retry is long due, as a line each. To be asked when nothing is in flight."""
        if self._world.jumps:
            return []
        late = []
        for (partition, offset), (attempts, failed, _) in self._parked.items():
            by = self._world.time() - failed - self.delay(attempts)
            row = load_parked(self._world.tables, self._name, partition, offset)
            # One that is being given up waits for the sinks' answers, and is retried only if one holds it.
            if by > (ANSWERED if row is not None and row.state == "giving_up" else LATE) * SECOND:
                late.append(f"retry {attempts} of {partition}/{offset} is due since {by / SECOND} s")
        return late
