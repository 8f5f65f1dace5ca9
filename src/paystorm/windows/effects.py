"""What a journal row causes: hits, list changes, cases and caught-late verdicts, published once it is durable (§6).

Everything is a put that can be done again: rows not yet marked published are published again on load.
"""

import itertools
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


class _Noted:
    """A row whose notes wait for their events to be stored."""

    def __init__(self, shard: Shard, row: Row, notes: pl.DataFrame) -> None:
        self.shard = shard
        self.row = row
        self.caught: pl.DataFrame | None = None
        """Those notes whose events were caught late: published."""
        self.wait(notes)

    def wait(self, notes: pl.DataFrame) -> None:
        """These are the notes whose events are not stored yet, as far as is known."""
        self.open = notes
        self.partitions: Int64Array = notes["partition"].to_numpy() if len(notes) else _NONE
        self.offsets: Int64Array = notes["offset"].to_numpy() if len(notes) else _NONE


class Effects:
    """Publishes what rows cause, in the order of each shard's rows."""

    def __init__(self, source: Source, tables: Tables, stored: Stored, append: Append) -> None:
        self._source = source
        self._tables = tables
        self._stored = stored
        self._append = append
        self._cases = CaseOpener(tables)
        self._waiting: dict[int, deque[_Noted]] = {}
        self._open: dict[int, Int64Array] | None = None
        """See `_open_offsets`; None: not known just now."""

    def forget(self) -> None:
        """Drop what waits; it is published from the journal on load."""
        self._waiting = {}
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
        for shard, row, notes in rows:
            waiting = self._waiting.setdefault(shard.number, deque())
            if row.notes or waiting:
                waiting.append(_Noted(shard, row, _notes_of(row) if notes is None else notes))
            else:
                shard.published = row.n
        self._open = None

    def settle(self) -> None:
        """Publish the caught-late events that are stored by now; rows of which all are, in order, are published."""
        verdicts = {p: self._stored(p, offsets) for p, offsets in self._open_offsets().items()}
        ready: list[tuple[_Noted, pl.DataFrame, pl.DataFrame]] = []
        if any((found >= 0).any() for found in verdicts.values()):
            for noted in itertools.chain.from_iterable(self._waiting.values()):
                mine = self._verdicts(noted, verdicts)
                if (mine >= 0).any():
                    rest, late = np.flatnonzero(mine == -1), np.flatnonzero(mine == 0)
                    ready.append((noted, _some(noted.open, rest), _some(noted.open, late)))
        self._publish_caught([(noted, caught) for noted, _, caught in ready if len(caught)])
        for noted, still_open, caught in ready:
            noted.wait(still_open)
            noted.caught = _with(noted.caught, caught)
        for waiting in self._waiting.values():
            while waiting and len(waiting[0].offsets) == 0:
                done = waiting.popleft()
                done.shard.published = done.row.n
        if ready:
            self._open = None

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
            every = [noted for waiting in self._waiting.values() for noted in waiting]
            partitions = np.concatenate([_NONE, *(noted.partitions for noted in every)])
            offsets = np.concatenate([_NONE, *(noted.offsets for noted in every)])
            self._open = {p: np.unique(offsets[partitions == p]) for p in np.unique(partitions).tolist()}
        return self._open

    def _verdicts(self, noted: _Noted, verdicts: dict[int, npt.NDArray[np.int8]]) -> npt.NDArray[np.int8]:
        """The stored verdicts of a row's open notes, from those of all open offsets."""
        mine = np.full(len(noted.offsets), -1, dtype=np.int8)
        for partition, offsets in self._open_offsets().items():
            rows = np.flatnonzero(noted.partitions == partition)
            mine[rows] = verdicts[partition][np.searchsorted(offsets, noted.offsets[rows])]
        return mine

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


def _notes_of(row: Row) -> pl.DataFrame:
    return frame_from_bytes(row.notes) if row.notes else pl.DataFrame()


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
