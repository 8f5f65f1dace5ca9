"""A counting task: its shards' journals in the tables, their figures in memory, and what follows from them."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import polars as pl

from paystorm.chunk import Head, frame_to_bytes
from paystorm.clock import SECOND, Clock
from paystorm.errors import FencedError, TablesError
from paystorm.offsets import OffsetSet
from paystorm.rows import rows_of
from paystorm.settings import Settings
from paystorm.source import Source
from paystorm.stores.hits import Hit
from paystorm.stores.journal import Row, append_each, left_unpublished, put_snapshot, take_over
from paystorm.stores.versions import load_versions
from paystorm.tables.base import Tables
from paystorm.windows import frames, wide
from paystorm.windows.book import RuleBook
from paystorm.windows.effects import Effects
from paystorm.windows.hit_rows import changed_hits
from paystorm.windows.listed import Listed, Overruled
from paystorm.windows.memory import Memory
from paystorm.windows.shard import Shard
from paystorm.windows.tally import Tally, tally
from paystorm.windows.touches import KindTouches, gather

MAX_TOUCHES = wide.MAX_ROWS
"""Touches that are applied as one flush, at most."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A chunk's touches as they reached the task."""

    head: Head
    frame: pl.DataFrame


class LostRaceError(TablesError):
    """Another task has written a shard's journal: the memory of this one is worth nothing any more."""


class CountingTask:
    """Counts for some shards of a source. Anything that goes wrong makes it forget everything and load again."""

    def __init__(
        self,
        source: Source,
        settings: Settings,
        tables: Tables,
        clock: Clock,
        own: Callable[[int], list[int]],
        effects: Effects,
        overruled: Overruled,
    ) -> None:
        """`own`: the shards of this task, of a number of shards in all."""
        self._source = source
        self._settings = settings
        self._tables = tables
        self._clock = clock
        self._own = own
        self._effects = effects
        self._listed = Listed(source, tables, overruled)
        self._currency = source.currency()
        self._generation = -1
        self.shards: dict[int, Shard] = {}
        self._memory: Memory | None = None
        self._seen_at: dict[int, float] = {}

    def forget(self) -> None:
        """Drop all memory; the next use loads it from the tables."""
        self._memory = None
        self.shards = {}
        self._effects.forget()

    def apply(self, arrivals: list[Arrival]) -> dict[int, int]:
        """Count the touches of chunks; durable on return.

        Gives, by shard, the row to be published before the chunks' tuples are acknowledged. Raises FencedError for
        chunks of a spout that does not know the newest version, LostRaceError where another task has taken a shard
        over, TablesError where the tables fail; nothing of the chunks may be taken as counted then.
        """
        seam = _first_overlap(arrivals)
        if seam is not None:
            # Two deliveries of a range in one flush: what the first applied must be in the journal to cut the second.
            self.apply(arrivals[:seam])
            return self.apply(arrivals[seam:])
        memory = self._ready(max(a.head.generation for a in arrivals))
        for arrival in arrivals:
            if arrival.head.generation < self._generation:
                raise FencedError(
                    f"{self._source.name}: a chunk of version {arrival.head.generation} came after version "
                    f"{self._generation} had started; its spout has been replaced"
                )
        fresh = [self._uncounted(memory, arrival, i) for i, arrival in enumerate(arrivals)]
        rows = [frame for frame in fresh if len(frame)]
        memory.flushes += 1
        touches = gather(rows, memory.book, memory.interners, memory.values) if rows else {}
        found = tally(memory.book, memory.cells, touches, self._currency, memory.load, memory.frozen)
        self._use(memory, found)
        heads, now = [a.head for a in arrivals], self._clock.now()
        hits = changed_hits(memory, self.shards, heads, touches, found.changes, self._tables, now)
        notes = self._listed.notes(memory, heads, touches, found.changes, now)
        late = self._late(memory, touches)
        reached = {
            number
            for kind, mine in touches.items()
            for number in np.flatnonzero(np.bincount(memory.interners[kind].shards[mine.codes])).tolist()
        }
        self._write(memory, arrivals, found, hits, notes, late, reached)
        self._listed.take_in(memory, found.changes)
        self._house_keeping(memory)
        return {number: shard.n for number, shard in self.shards.items()}

    def refuse(self, head: Head, offset: int, lift: bool) -> dict[int, bool]:
        """Refuse an offset in every shard that does not hold it, or take it back; says which shards hold it."""
        self._ready(head.generation)
        held = {number: shard.holds(head.partition, offset) for number, shard in self.shards.items()}
        name = (head.partition, offset)
        rows = []
        for number, shard in self.shards.items():
            if held[number] or (name in shard.refused) != lift:
                continue
            row = self._row(shard, refused=() if lift else (name,), lifted=(name,) if lift else ())
            rows.append((shard, row))
        self._append(rows)
        return held

    def _ready(self, generation: int) -> Memory:
        """Memory for at least this version of the source, loading where there is none."""
        if self._memory is not None and generation <= self._generation:
            return self._memory
        self.forget()
        versions = load_versions(self._tables, self._source.name)
        book = RuleBook(self._source, versions)
        own = self._own(versions[0].shards)
        loaded: list[tuple[int, Row]] = []
        for number in own:
            state, rows = take_over(self._tables, self._source.name, number, book.newest, self._clock.now())
            if state.generation > book.newest:
                raise FencedError(f"{self._source.name}: shard {number} belongs to version {state.generation} by now")
            self.shards[number] = Shard(state)
            loaded.extend((number, row) for row in rows)
        bounded = any(version.validity.get("countsRetention") is not None for version in versions)
        memory = Memory(self._source.name, book, self._tables, own, versions[0].shards, bounded=bounded)
        memory.lay_rows(loaded)
        for number, row in loaded:
            self.shards[number].unfolded_rows += 1
            self.shards[number].unfolded_bytes += len(row.figures) + len(row.pairs)
        self._memory, self._generation = memory, book.newest
        left = [
            (n, r) for n in own for r in left_unpublished(self._tables, self._source.name, n, self.shards[n].published)
        ]
        due = [(self.shards[n], row, None) for n, row in left + loaded if row.n > self.shards[n].published]
        # The seals stand behind them: with nothing left to publish, the shard is published up to its own last row.
        seals = [(s, Row(n=s.n, generation=s.generation, at=0, seal=True), None) for s in self.shards.values()]
        self._effects.publish([*due, *seals])
        self._listed.load(memory, self.shards)
        return memory

    def _uncounted(self, memory: Memory, arrival: Arrival, index: int) -> pl.DataFrame:
        """The touches of a chunk that their shards have not applied, with the columns `epoch` and `arrival`."""
        head, frame = arrival.head, arrival.frame
        added = {"epoch": head.epoch, "arrival": index}
        frame = frame.hstack([pl.Series(name, np.full(len(frame), n, dtype=np.int32)) for name, n in added.items()])
        overlapping = [s for s in self.shards.values() if s.overlaps(head.partition, head.first, head.after)]
        if not overlapping or len(frame) == 0:
            return frame
        kinds = self._source.kinds()
        shard_of = np.zeros(len(frame), dtype=np.int64)
        kind_of = frame["kind"].to_numpy()
        for place in np.unique(kind_of).tolist():
            rows = np.flatnonzero(kind_of == place)
            interner = memory.interners[kinds[place]]
            shard_of[rows] = interner.shards[interner.codes(frame["party"][rows])]
        offsets = frame["log_offset"].to_numpy()
        keep = np.ones(len(frame), dtype=np.bool_)
        for shard in overlapping:
            keep &= ~((shard_of == shard.number) & shard.cut(head.partition).mask(offsets))
        return frame if keep.all() else rows_of(frame, np.flatnonzero(keep))

    def _use(self, memory: Memory, found: Tally) -> None:
        for item in found.written:
            memory.cells[item.slot.measure, item.slot.start].used = memory.flushes

    def _late(self, memory: Memory, touches: dict[str, KindTouches]) -> dict[int, int]:
        """Late events by shard: each event once, where its first party is counted; by the shortest interval."""
        watermark = self._watermark()
        measures = [m.interval for m in memory.book.measures.values()]
        if watermark is None or not measures:
            return {}
        shortest = min(measures, key=lambda i: i.seconds or 31 * 86_400)
        over = watermark // SECOND - self._settings["allowedLateness"]
        out: dict[int, int] = {}
        for kind, rows in touches.items():
            if shortest.following(int(shortest.starts(rows.seconds.min(keepdims=True))[0])) > over:
                continue
            starts = shortest.starts(rows.seconds)
            distinct, places = np.unique(starts, return_inverse=True)
            ended = np.array([shortest.following(int(s)) <= over for s in distinct], dtype=np.bool_)
            if ended.any():
                late = rows.codes[ended[places] & rows.frame["lead"].to_numpy()]
                for number, count in zip(
                    *np.unique(memory.interners[kind].shards[late], return_counts=True), strict=True
                ):
                    out[int(number)] = out.get(int(number), 0) + int(count)
        return out

    def _watermark(self) -> int | None:
        """The smallest, over partitions that had a record lately, of the highest event time seen; µs."""
        now, idle = self._clock.monotonic(), self._settings["idleAfter"]
        highest: dict[int, int] = {}
        for shard in self.shards.values():
            for partition, at in shard.highest.items():
                highest[partition] = max(at, highest.get(partition, at))
        live = [at for p, at in highest.items() if now - self._seen_at.get(p, float("-inf")) < idle]
        return min(live) if live else None

    def _row(self, shard: Shard, **what: object) -> Row:
        return msgspec.structs.replace(
            Row(n=shard.n + 1, generation=self._generation, at=self._clock.now(), published=shard.published), **what
        )

    def _write(
        self,
        memory: Memory,
        arrivals: list[Arrival],
        found: Tally,
        hits: dict[int, list[Hit]],
        notes: dict[int, pl.DataFrame],
        late: dict[int, int],
        reached: set[int],
    ) -> None:
        """Put a journal row in every shard that new touches reached.

        Also where they changed no figure: a hit that is made there later is to know that they came before it.
        """
        written = frames.by_shard(found.written, memory.interners, memory.values)
        touched = sorted(written.keys() | hits.keys() | notes.keys() | reached)
        if not touched:
            return
        covered: dict[int, OffsetSet] = {}
        floors: dict[int, tuple[int, tuple[int, ...]]] = {}
        highest: dict[int, int] = {}
        for arrival in arrivals:
            head = arrival.head
            covered.setdefault(head.partition, OffsetSet()).update(head.covered())
            if head.committed >= floors.get(head.partition, (0, ()))[0]:
                floors[head.partition] = (head.committed, head.parked)
            if len(arrival.frame):
                at = int(arrival.frame["event_time"].to_numpy().max().astype(np.int64))
                highest[head.partition] = max(at, highest.get(head.partition, at))
                self._seen_at[head.partition] = self._clock.monotonic()
        common = {"covered": {p: held.ranges() for p, held in covered.items()}, "floors": floors, "highest": highest}
        rows = []
        for number in touched:
            slots, figures, pairs = written.get(number, ((), b"", b""))
            row = self._row(
                self.shards[number],
                **common,
                slots=slots,
                figures=figures,
                pairs=pairs,
                hits=tuple(hits.get(number, ())),
                notes=frame_to_bytes(notes[number]) if number in notes else b"",
                late=late.get(number, 0),
            )
            rows.append((self.shards[number], row))
            for slot in slots:
                memory.cells[slot.measure, slot.start].dirty.add(number)
        self._append(rows, notes)

    def _append(self, rows: list[tuple[Shard, Row]], notes: dict[int, pl.DataFrame] | None = None) -> None:
        """Put the rows, each where it is absent, take them in, and publish what they cause."""
        if not rows:
            return
        with self._tables.together():
            put = append_each(self._tables, self._source.name, [(shard.state(), row) for shard, row in rows])
            for (shard, _), done in zip(rows, put, strict=True):
                if not done:
                    raise LostRaceError(
                        f"{self._source.name}: another task writes shard {shard.number}; loading it again"
                    )
            for shard, row in rows:
                shard.lay(row, len(row.figures) + len(row.pairs))
            self._effects.publish([(shard, row, (notes or {}).get(shard.number)) for shard, row in rows])

    def _house_keeping(self, memory: Memory) -> None:
        """Write one shard's counts whole where its journal has grown, and keep memory within its bound."""
        due = [
            s
            for s in self.shards.values()
            if s.unfolded_bytes >= self._settings["snapshotBytes"] or s.unfolded_rows >= self._settings["snapshotRows"]
        ]
        if due:
            self.snapshot(max(due, key=lambda s: s.unfolded_bytes))
        watermark = self._watermark()
        ended = watermark // SECOND - self._settings["allowedLateness"] if watermark is not None else None
        bound = self._settings["countsMemoryBytes"]
        if not memory.let_go(ended, bound):
            for shard in self.shards.values():
                self.snapshot(shard)
            if not memory.let_go(ended, bound):
                # Only the figures: what waits to be published is still to be waited for. The next flush loads all.
                self._memory = None

    def snapshot(self, shard: Shard) -> None:
        """Write a shard's changed counts whole, and delete the journal rows that are in them."""
        assert self._memory is not None
        put_snapshot(self._tables, self._source.name, shard.state(), self._memory.stored(shard.number))
        self._memory.folded(shard.number)
        shard.unfolded_bytes = shard.unfolded_rows = 0


def _first_overlap(arrivals: list[Arrival]) -> int | None:
    """The first chunk that covers an offset of a chunk before it, or None."""
    seen: dict[int, OffsetSet] = {}
    for i, arrival in enumerate(arrivals):
        head = arrival.head
        held = seen.setdefault(head.partition, OffsetSet())
        if held.touches(head.first, head.after):
            return i
        held.add(head.first, head.after)
    return None
