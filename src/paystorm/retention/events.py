"""Stored events over their retention: whole hours of storing go, the oldest first.

The hour's row is marked by a conditional put. From then on no query, export or verification sees the hour, no merge
touches it, and nobody places a file in it. Its folders are removed by a pass some time later, so that whoever was
reading them is done; the index keeps which offsets were stored, and with which verdict.
"""

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import polars as pl

from paystorm.clock import SECOND, Clock
from paystorm.errors import TablesError
from paystorm.retention.report import Went
from paystorm.source import Source
from paystorm.stores.checkpoints import load_checkpoint
from paystorm.stores.hours import Hour, Hours
from paystorm.stores.index import in_runs, published_through, rows_from, unpack
from paystorm.stores.pruned import note_events, pruned_events
from paystorm.stores.retry import scan_parked
from paystorm.tables.base import Tables
from paystorm.warehouse.base import EventFile
from paystorm.warehouse.folders import LOOKS, EventFolders
from paystorm.warehouse.merging import HOUR, hour_start
from paystorm.warehouse.reading import indexed_partitions

GRACE = 3600.0
"""Seconds for which the files of an hour outlive its mark, as merged ones do (`MergeSettings.grace`)."""


class EventPruner:
    """Removes the hours of a source's stored events. Any number may be at work: each step can be done again."""

    def __init__(
        self, tables: Tables, warehouse: EventFolders, clock: Clock, *, grace: float = GRACE, dry: bool = False
    ) -> None:
        """`dry`: change nothing, and only say what would go."""
        self._tables = tables
        self._hours = Hours(tables)
        self._warehouse = warehouse
        self._clock = clock
        self._grace = round(grace * SECOND)
        self._dry = dry

    def run(self, source: Source, seconds: int) -> Went:
        """One pass. Raises TablesError; then run it again."""
        done = Went(source.name, "events", seconds, "hours")
        name, cut = source.name, self._clock.now() - seconds * SECOND
        in_sight = self._warehouse.hours_in_sight(name)
        due = [hour for hour in in_sight if hour_start(hour) + HOUR <= cut]
        open_ = self._unfinished(source) if due else set()
        for hour in due:
            if hour in open_:  # those behind it wait too: what is left is always everything since some hour
                done.notes.append(f"{hour} and what follows stays: not all of it is known to be processed yet")
                break
            if not self._dry:
                self._mark(name, hour)
            done.went += 1
        left = in_sight[done.went :]
        done.since = hour_start(left[0]) if left and (done.went or pruned_events(self._tables, name)) else None
        if not self._dry:
            self._remove(name)
        return done

    def _unfinished(self, source: Source) -> set[str]:
        """Hours with a file that some task may still have to place, or to publish the verdicts of."""
        found: set[str] = set()
        for partition in indexed_partitions(self._tables, source.name):
            # Checkpoint first, then what is parked: a record that is below the one and not among the others is done
            held = load_checkpoint(self._tables, source.name, source.topic, partition)
            committed = held.committed if held is not None else 0
            rows = scan_parked(self._tables, source.name, partition, 0, committed)
            parked = np.array([row.offset for row in rows], dtype=np.int64)
            known = published_through(self._tables, source.name, partition)
            for index_row in rows_from(self._tables, source.name, partition, known + 1):
                waits = bool(in_runs(unpack(index_row.stored), parked).any())
                found |= {file.hour for file in index_row.files if waits or file.last >= committed}
        return found

    def _mark(self, source: str, hour: str) -> None:
        """Take an hour out of sight for good."""
        for _ in range(LOOKS):
            was = self._hours.get(source, hour)
            if was.pruned:
                break
            # Before the mark: from then on the events count as gone, and this says which results they may be missed in
            note_events(self._tables, source, _next(hour), self._newest(source, hour, was.folder))
            last = max(was.last, *self._warehouse.numbers(source, hour), 0)
            # `folder` stays: who began to read before reads on
            now = Hour(folder=was.folder, last=last, shown=was.shown, pruned=self._clock.now())
            if self._hours.replace(source, hour, was, now):
                break
        else:
            raise TablesError(f"{source} {hour}: was changed {LOOKS} times meanwhile; run it again")
        self._warehouse.hide(source, hour)

    def _newest(self, source: str, hour: str, number: int) -> int:
        """The newest event time of an hour, µs; 0 where nothing is in it."""
        newest = 0
        for name in self._warehouse.names(source, hour, number):
            path = self._warehouse.path(EventFile(source, hour, name), number)
            try:
                at = pl.scan_parquet(path, hive_partitioning=False).select(pl.col("event_time").max().cast(pl.Int64))
                newest = max(newest, at.collect().item() or 0)
            except (OSError, pl.exceptions.PolarsError) as error:
                why = " ".join(str(error).split())
                raise TablesError(f"{source} {hour}: file {name} cannot be read: {why}; run it again") from error
        return newest

    def _remove(self, source: str) -> None:
        """Remove the folders of hours that went out of sight long enough ago."""
        before = self._clock.now() - self._grace
        for hour, was in self._hours.all(source).items():
            if not was.pruned or was.removed or was.pruned > before:
                continue
            self._warehouse.hide(source, hour)  # again: whoever marked it may have died before
            for number in self._warehouse.numbers(source, hour):
                self._warehouse.remove_folder(source, hour, number)
            self._hours.replace(source, hour, was, msgspec.structs.replace(was, removed=True))


def _next(hour: str) -> str:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=hour_start(hour) + HOUR)
    return at.strftime("%Y-%m-%dT%H")
