"""What a journal row causes: hits, list changes, cases and caught-late verdicts, published once it is durable (§6).

Everything is a put that can be done again: rows not yet marked published are published again on load.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from paystorm.chunk import Head, frame_from_bytes, frame_to_bytes
from paystorm.rows import rows_of
from paystorm.source import Source
from paystorm.stores.cases import Case, CaseOpener
from paystorm.stores.hits import put_hits
from paystorm.stores.journal import Row
from paystorm.stores.lists import announce_hits
from paystorm.tables.base import Tables
from paystorm.tables.keys import key, parts
from paystorm.windows.shard import Shard

Int64Array = npt.NDArray[np.int64]
_NONE: Int64Array = np.zeros(0, dtype=np.int64)
Stored = Callable[[int, Int64Array], npt.NDArray[np.int8]]
"""The stored verdicts of offsets of a partition: 1 denied, 0 accepted, −1 not stored yet (`IndexTail.verdicts`)."""
Append = Callable[[pl.DataFrame], None]
"""Appends the verdicts of events of one partition to the verdict topic (`VerdictLog.append_events`)."""


GATHER_SECONDS = 0.25
"""Seconds that the notes of a row are kept together, from the first that is stored; then those stored are settled."""


class _Noted:
    """A row that waits: for the events of its notes to be stored, or behind one that does."""

    __slots__ = ("caught", "open", "row", "shard")

    def __init__(self, shard: Shard, row: Row, notes: int) -> None:
        self.shard = shard
        self.row = row
        self.open = notes
        """Notes whose events are not stored yet, as far as is known."""
        self.caught: pl.DataFrame | None = None
        """Those notes whose events were caught late: published."""


class _Batch:
    """The open notes of rows that were put together: looked at together, since their events are stored together."""

    def __init__(self, noted: list[_Noted], notes: list[pl.DataFrame]) -> None:
        self.noted = noted
        self._keep(pl.concat(notes), np.repeat(np.arange(len(notes)), [len(frame) for frame in notes]))

    def _keep(self, notes: pl.DataFrame, owners: npt.NDArray[np.intp]) -> None:
        self._notes = notes
        self._owners = owners
        partitions = notes["partition"].to_numpy()
        offsets = notes["offset"].to_numpy()
        self.places = {p: np.flatnonzero(partitions == p) for p in np.unique(partitions).tolist()}
        """By partition, which notes are of its events."""
        self.offsets: dict[int, Int64Array] = {p: offsets[places] for p, places in self.places.items()}
        self.stored_at: float | None = None
        """When some of the notes, and not all, were first seen to be stored; monotonic seconds."""

    def __len__(self) -> int:
        return len(self._owners)

    def verdicts(self, stored: Stored) -> npt.NDArray[np.int8]:
        """The stored verdict of each note."""
        out = np.full(len(self), -1, dtype=np.int8)
        for partition, offsets in self.offsets.items():
            out[self.places[partition]] = stored(partition, offsets)
        return out

    def caught(self, verdicts: npt.NDArray[np.int8]) -> list[tuple[_Noted, pl.DataFrame]]:
        """The notes of events that are stored as accepted, by row."""
        late = np.flatnonzero(verdicts == 0)
        if not len(late):
            return []
        late = late[np.argsort(self._owners[late], kind="stable")]
        frame = rows_of(self._notes, late)
        owners, firsts = np.unique(self._owners[late], return_index=True)
        ends = [*firsts[1:].tolist(), len(late)]
        return [
            (self.noted[owner], frame.slice(first, end - first))
            for owner, first, end in zip(owners.tolist(), firsts.tolist(), ends, strict=True)
        ]

    def settle(self, verdicts: npt.NDArray[np.int8]) -> None:
        """Keep the notes of events that are not stored."""
        rest = np.flatnonzero(verdicts == -1)
        for noted, settled in zip(
            self.noted, np.bincount(self._owners[verdicts >= 0], minlength=len(self.noted)).tolist(), strict=True
        ):
            noted.open -= settled
        self._keep(rows_of(self._notes, rest) if len(rest) else self._notes.clear(), self._owners[rest])


class Effects:
    """Publishes what rows cause, in the order of each shard's rows."""

    def __init__(
        self, source: Source, tables: Tables, stored: Stored, append: Append, monotonic: Callable[[], float]
    ) -> None:
        self._source = source
        self._monotonic = monotonic
        self._tables = tables
        self._stored = stored
        self._append = append
        self._cases = CaseOpener(tables)
        self._waiting: dict[int, deque[_Noted]] = {}
        """By shard, its rows that are not published yet, in order."""
        self._batches: list[_Batch] = []
        self._open: dict[int, Int64Array] | None = None
        """See `_open_offsets`; None: not known just now."""

    def forget(self) -> None:
        """Drop what waits; it is published from the journal on load."""
        self._waiting = {}
        self._batches = []
        self._open = None
        self._cases.forget()

    def publish(self, rows: Sequence[tuple[Shard, Row, pl.DataFrame | None]]) -> None:
        """Publish what durable rows cause. Their notes wait until the warehouse has stored their events (`settle`).

        Each row comes with its notes as a frame, where that is at hand.
        """
        for _, row, _ in rows:
            put_hits(self._tables, self._source.name, row.n, row.hits)
        hits = [hit for _, row, _ in rows for hit in row.hits]
        announce_hits(self._tables, hits)
        self._cases.open(
            Case(kind=h.kind, party=h.party, opened_at=h.since, source=h.source, cause=h.rule)
            for h in hits
            if h.action == "review" and h.status == "standing"
        )
        noted: list[_Noted] = []
        frames: list[pl.DataFrame] = []
        for shard, row, notes in rows:
            waiting = self._waiting.setdefault(shard.number, deque())
            if not row.notes and not waiting:
                shard.published = row.n
                continue
            frame = notes if notes is not None else frame_from_bytes(row.notes) if row.notes else None
            waiting.append(_Noted(shard, row, 0 if frame is None else len(frame)))
            if frame is not None:
                noted.append(waiting[-1])
                frames.append(frame)
        if noted:
            self._batches.append(_Batch(noted, frames))
        self._open = None

    def settle(self) -> None:
        """Publish the caught-late events that are stored by now; rows of which all are, in order, are published.

        The notes of a batch go together where they can: each publication writes all that a row has so far.
        """
        verdicts = [(batch, batch.verdicts(self._stored)) for batch in self._batches]
        ready = [(batch, found) for batch, found in verdicts if self._is_due(batch, found >= 0)]
        if not ready:
            return
        caught = [pair for batch, found in ready for pair in batch.caught(found)]
        self._publish_caught(caught)
        for noted, late in caught:
            noted.caught = _with(noted.caught, late)
        for batch, found in ready:
            batch.settle(found)
        self._batches = [batch for batch in self._batches if len(batch)]
        for waiting in self._waiting.values():
            while waiting and not waiting[0].open:
                done = waiting.popleft()
                done.shard.published = done.row.n
        self._open = None

    def _is_due(self, batch: _Batch, stored: npt.NDArray[np.bool_]) -> bool:
        """Whether to settle what is stored of a batch: all, or some for long enough."""
        if stored.all() or not stored.any():
            return bool(stored.any())
        now = self._monotonic()
        if batch.stored_at is None:
            batch.stored_at = now
        return now - batch.stored_at >= GATHER_SECONDS

    def waits(self) -> bool:
        """Whether some row's notes are not settled."""
        return any(self._waiting.values())

    def waits_for(self, head: Head) -> bool:
        """Whether events of a chunk are noted and not settled: its tuple may not be acknowledged yet.

        Of its own events only: others' may be of tuples that are not sent before this one is acknowledged. So is a
        record that the chunk leaves out: it is retried once the checkpoint has passed it.
        """
        held = self._open_offsets().get(head.partition, _NONE)
        first, after = np.searchsorted(held, [head.first, head.after]).tolist()
        return bool(first < after and head.covered().mask(held[first:after]).any())

    def _open_offsets(self) -> dict[int, Int64Array]:
        """By partition, the offsets of the events that are noted and not stored yet: each once, ascending."""
        if self._open is None:
            every: dict[int, list[Int64Array]] = {}
            for batch in self._batches:
                for partition, offsets in batch.offsets.items():
                    every.setdefault(partition, []).append(offsets)
            self._open = {partition: np.unique(np.concatenate(parts)) for partition, parts in every.items()}
        return self._open

    def _publish_caught(self, rows: list[tuple[_Noted, pl.DataFrame]]) -> None:
        if not rows:
            return
        name = self._source.name
        with self._tables.together():
            for noted, caught in rows:
                row = key(noted.shard.number, noted.row.n)
                whole = frame_to_bytes(_with(noted.caught, caught))
                self._tables.put(f"{name}.caught_late", [(row, whole)], version=noted.row.n)
            self._cases.open(
                Case(kind=kind, party=party, opened_at=noted.row.at, source=name, cause=rule)
                for noted, caught in rows
                for kind, party, rule in sorted(
                    set(zip(*(caught[name].to_list() for name in ("kind", "party", "rule")), strict=True))
                )
            )
        every = pl.concat([caught for _, caught in rows])
        partitions = every["partition"].to_numpy()
        for partition in np.unique(partitions).tolist():
            mine = _some(every, np.flatnonzero(partitions == partition))
            self._append(_as_verdicts(mine, self._source))


def _some(frame: pl.DataFrame, rows: npt.NDArray[np.intp]) -> pl.DataFrame:
    """These rows, ascending; all and none, as it mostly is, cost nothing."""
    if len(rows) in (0, len(frame)):
        return frame if len(rows) else frame.clear()
    return rows_of(frame, rows)


def _with(before: pl.DataFrame | None, caught: pl.DataFrame) -> pl.DataFrame:
    return caught if before is None else pl.concat([before, caught])


def _as_verdicts(caught: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Caught-late events of one partition with the columns that verdicts are made of."""
    return caught.select(
        log_topic=pl.lit(source.topic),
        log_partition=pl.col("partition"),
        log_offset=pl.col("offset"),
        application="application",
        event_id="event_id",
        verdict=pl.lit("caught_late"),
        verdict_reason=pl.concat_str(pl.lit(f"{source.name}."), "rule"),
        entry_kind="kind",
        entry_party="party",
        would_deny=pl.lit(None, dtype=pl.Boolean),
    )


class CaughtLate(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was accepted although an entry of its source's own rules was in force when it was counted."""

    partition: int
    offset: int
    kind: str
    party: str
    rule: str
    """One of the rules whose entry was in force."""


def load_caught_late(tables: Tables, source: str) -> Iterator[CaughtLate]:
    """All caught-late events of a source; an event of two listed parties comes for each of their shards."""
    for row_key, value in tables.scan(f"{source}.caught_late"):
        assert len(parts(row_key)) == 2
        frame = frame_from_bytes(value).select("partition", "offset", "kind", "party", "rule")
        for partition, offset, kind, party, rule in frame.iter_rows():
            yield CaughtLate(partition=partition, offset=offset, kind=kind, party=party, rule=rule)
