"""What a journal row causes: hits, list changes, cases and caught-late verdicts, published once it is durable (§6).

Everything is a put that can be done again: rows not yet marked published are published again on load.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from paystorm.chunk import frame_from_bytes, frame_to_bytes
from paystorm.source import Source
from paystorm.stores.cases import Case, open_cases
from paystorm.stores.hits import put_hits
from paystorm.stores.journal import Row
from paystorm.stores.lists import announce_hits
from paystorm.tables.base import Tables
from paystorm.tables.keys import key, parts
from paystorm.windows.shard import Shard

Stored = Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.int8]]
"""The stored verdicts of offsets of a partition: 1 denied, 0 accepted, −1 not stored yet (`IndexTail.verdicts`)."""
Append = Callable[[pl.DataFrame], None]
"""Appends the verdicts of events of one partition to the verdict topic (`VerdictLog.append_events`)."""


@dataclass(slots=True)
class _Noted:
    """A row whose notes wait for their events to be stored."""

    shard: Shard
    row: Row
    open: pl.DataFrame
    """The notes whose events are not stored yet, as far as is known."""
    caught: pl.DataFrame | None = None
    """Those of the others that were caught late: published."""


class Effects:
    """Publishes what rows cause, in the order of each shard's rows."""

    def __init__(self, source: Source, tables: Tables, stored: Stored, append: Append) -> None:
        self._source = source
        self._tables = tables
        self._stored = stored
        self._append = append
        self._waiting: dict[int, deque[_Noted]] = {}

    def forget(self) -> None:
        """Drop what waits; it is published from the journal on load."""
        self._waiting = {}

    def publish(self, rows: Sequence[tuple[Shard, Row, pl.DataFrame | None]]) -> None:
        """Publish what durable rows cause. Their notes wait until the warehouse has stored their events (`settle`).

        Each row comes with its notes as a frame, where that is at hand.
        """
        for _, row, _ in rows:
            put_hits(self._tables, self._source.name, row.n, row.hits)
        hits = [hit for _, row, _ in rows for hit in row.hits]
        announce_hits(self._tables, hits)
        open_cases(
            self._tables,
            (
                Case(kind=h.kind, party=h.party, opened_at=h.since, source=h.source, cause=h.rule)
                for h in hits
                if h.action == "review" and h.status == "standing"
            ),
        )
        for shard, row, notes in rows:
            waiting = self._waiting.setdefault(shard.number, deque())
            if row.notes or waiting:
                waiting.append(_Noted(shard, row, _notes_of(row) if notes is None else notes))
            else:
                shard.published = row.n

    def settle(self) -> None:
        """Publish the caught-late events that are stored by now; rows of which all are, in order, are published."""
        ready: list[tuple[_Noted, pl.DataFrame, pl.DataFrame]] = []
        for waiting in self._waiting.values():
            for noted in waiting:
                if len(noted.open):
                    still_open, caught = self._caught(noted.open)
                    if len(still_open) < len(noted.open):
                        ready.append((noted, still_open, caught))
        self._publish_caught([(noted, caught) for noted, _, caught in ready if len(caught)])
        for noted, still_open, caught in ready:
            noted.open, noted.caught = still_open, _with(noted.caught, caught)
        for waiting in self._waiting.values():
            while waiting and len(waiting[0].open) == 0:
                done = waiting.popleft()
                done.shard.published = done.row.n

    def waits(self) -> bool:
        """Whether some row's notes are not settled."""
        return any(self._waiting.values())

    def waits_for(self, partition: int, first: int, after: int) -> bool:
        """Whether events of a range are noted and not settled: a tuple of them may not be acknowledged yet.

        Of its own events only: others' may be of tuples that are not sent before this one is acknowledged.
        """
        mine = (pl.col("partition") == partition) & (pl.col("offset") >= first) & (pl.col("offset") < after)
        return any(
            len(noted.open) and len(noted.open.filter(mine)) for waiting in self._waiting.values() for noted in waiting
        )

    def _caught(self, notes: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The notes whose events are not stored yet, and those whose events were stored as accepted."""
        partitions = notes["partition"].to_numpy()
        offsets = notes["offset"].to_numpy()
        verdicts = np.full(len(notes), -1, dtype=np.int8)
        for partition in np.unique(partitions).tolist():
            rows = np.flatnonzero(partitions == partition)
            verdicts[rows] = self._stored(partition, offsets[rows])
        still_open, caught = notes[np.flatnonzero(verdicts == -1)], notes[np.flatnonzero(verdicts == 0)]
        return still_open, caught

    def _publish_caught(self, rows: list[tuple[_Noted, pl.DataFrame]]) -> None:
        if not rows:
            return
        name = self._source.name
        with self._tables.together():
            for noted, caught in rows:
                row = key(noted.shard.number, noted.row.n)
                whole = frame_to_bytes(_with(noted.caught, caught))
                self._tables.put(f"{name}.caught_late", [(row, whole)], version=noted.row.n)
            open_cases(
                self._tables,
                (
                    Case(kind=kind, party=party, opened_at=noted.row.at, source=name, cause=rule)
                    for noted, caught in rows
                    for kind, party, rule in sorted(set(caught.select("kind", "party", "rule").iter_rows()))
                ),
            )
        every = pl.concat([caught for _, caught in rows])
        for partition in every["partition"].unique().sort().to_list():
            mine = every.filter(pl.col("partition") == partition)
            self._append(_as_verdicts(mine, self._source))


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
