"""The stored events of a source as `verify` reads them: every file in place, held against the index."""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

import numpy as np
import polars as pl

from paystorm.errors import TablesError, UsageError
from paystorm.log.base import Int64Array
from paystorm.oracle import Difference, EventRow, Outcome, Stored
from paystorm.oracle.model import Key, Words
from paystorm.source import Party, Source
from paystorm.stores.hours import Hour, Hours, MergedFile
from paystorm.stores.index import IndexRow, unpack
from paystorm.tables.base import Tables
from paystorm.verify.pruned import PrunedEvents
from paystorm.warehouse.base import EventFile, Warehouse

LOOKS = 20
"""How often files and hours are read where a merge changes them meanwhile."""
_TIMES = ("received_at", "event_time", "decided_at")
_KEPT = {
    "log_topic": pl.String(),
    "log_partition": pl.Int32(),
    "log_offset": pl.Int64(),
    "event_id": pl.String(),
    "application": pl.String(),
    "decided_at": pl.Int64(),
    "verdict": pl.String(),
    "verdict_reason": pl.String(),
    "entry_kind": pl.String(),
    "entry_party": pl.String(),
    "would_deny": pl.Boolean(),
    "entry_fits": pl.Boolean(),
}
"""The columns that are kept of every event; `entry_fits`: the entry's party is one of the event's."""
_LISTED = {
    "partition": pl.Int32(),
    "offset": pl.Int64(),
    "decided_at": pl.Int64(),
    "kind": pl.String(),
    "party": pl.String(),
}


def files_in_place(warehouse: Warehouse, source: str) -> set[EventFile]:
    """The files that stand in the folders of a source."""
    found = set()
    for folder in warehouse.folders(source):
        hour = f"{folder.parent.name.removeprefix('dt=')}T{folder.name.removeprefix('hr=')}"
        found |= {EventFile(source, hour, path.stem) for path in folder.glob("*.parquet")}
    return found


def files_and_hours(warehouse: Warehouse, tables: Tables, source: str) -> tuple[set[EventFile], Mapping[str, Hour]]:
    """The files in place and what is known of their hours, as of a moment at which no hour was being swapped.

    Raises UsageError where merging never leaves such a moment.
    """
    for _ in range(LOOKS):
        hours = Hours(tables).all(source)
        files = files_in_place(warehouse, source)
        if hours == Hours(tables).all(source):
            return files, hours
    raise UsageError(f"source {source}: its files are being merged; verify again when that is done")


class StoredEvents:
    """All stored events: decisions in memory, as columns, by partition and offset; whole rows from the files.

    Of those that were pruned, only what the index says of them.

    `listed`: the parties that stand on a list, or did; of their accepted events, see `accepted_of_listed`.
    """

    def __init__(
        self,
        source: Source,
        warehouse: Warehouse,
        in_place: set[EventFile],
        index: Mapping[int, Sequence[IndexRow]],
        hours: Mapping[str, Hour],
        listed: Sequence[tuple[str, str]],
    ) -> None:
        self.source = source
        self.differences: list[Difference] = []
        """What is wrong with files and index."""
        self._warehouse = warehouse
        self._merged = {
            EventFile(source.name, name, merged.name): merged for name, hour in hours.items() for merged in hour.merged
        }
        self._rows = {partition: {row.n: row for row in rows} for partition, rows in index.items()}
        self._indexed: dict[EventFile, tuple[int, IndexRow]] = {}
        """The files that the index names and no merged file holds."""
        held: set[EventFile] = set()
        gone: dict[int, list[IndexRow]] = {}
        for partition, rows in index.items():
            for row in rows:
                for named in row.files:
                    hour = hours.get(named.hour)
                    if hour is not None and hour.pruned:
                        gone.setdefault(partition, []).append(row)
                    elif hour is not None and hour.merged_with(partition, row.n) is not None:
                        held.add(named.of(source.name))
                    else:
                        self._indexed[named.of(source.name)] = (partition, row)
        self.pruned = PrunedEvents(gone)
        self.files = sorted(in_place, key=_order)
        known = self._indexed.keys() | self._merged.keys()
        for missing in sorted(known - in_place, key=_order):
            self._differs("files", (missing.hour, missing.name), Words("in place, as in the index"), None)
        for extra in sorted(in_place - known, key=_order):
            why = "in place, and in a merged file too" if extra in held else "in place, and not in the index"
            self._differs("files", (extra.hour, extra.name), None, Words(why))
        listed_frame = pl.DataFrame(list(listed), schema={"kind": pl.String, "party": pl.String}, orient="row")
        kept, accepted = [], []
        for file in list(self.files):
            events = self._read(file)
            if events is None:
                continue
            light = self._light(events)
            self._check_file(file, light)
            kept.append(light)
            accepted.append(self._of_listed(events, listed_frame))
        self.light = pl.concat(kept).sort("log_partition", "log_offset") if kept else pl.DataFrame(schema=_KEPT)
        """Columns `_KEPT`, by partition and offset."""
        self.accepted_of_listed = pl.concat(accepted) if accepted else pl.DataFrame(schema=_LISTED)
        """(partition, offset, decided_at, kind, party) of events accepted without an entry, of listed parties."""
        self._places = self._by_partition()

    def __len__(self) -> int:
        return len(self.light)

    def _differs(self, table: str, key: tuple[object, ...], expected: object, held: object) -> None:
        self.differences.append(Difference(table, key, expected, held))

    def _read(self, file: EventFile) -> pl.DataFrame | None:
        try:
            return self._warehouse.read(file)
        except (TablesError, pl.exceptions.PolarsError, OSError) as error:
            self._differs("files", (file.hour, file.name), Words("a file of events"), Words(f"not readable: {error}"))
            self.files.remove(file)
            return None

    def _light(self, events: pl.DataFrame) -> pl.DataFrame:
        fits = reduce(pl.Expr.or_, (_is_entry(party) for party in self.source.parties), pl.lit(False))
        return events.with_columns(
            pl.col("decided_at").cast(pl.Int64), fits.fill_null(False).alias("entry_fits")
        ).select(pl.col(name).cast(kind) for name, kind in _KEPT.items())

    def _of_listed(self, events: pl.DataFrame, listed: pl.DataFrame) -> pl.DataFrame:
        """The events accepted without an entry that have a listed party, once for each."""
        accepted = events.filter((pl.col("verdict") == "accepted") & pl.col("entry_kind").is_null())
        parts = [
            accepted.select(
                pl.col("log_partition").alias("partition"),
                pl.col("log_offset").alias("offset"),
                pl.col("decided_at").cast(pl.Int64),
                _kind_of(party).alias("kind"),
                pl.col(party.field).alias("party"),
            ).join(listed, on=["kind", "party"], how="semi")
            for party in self.source.parties
        ]
        return pl.concat([part.cast(pl.Schema(_LISTED)) for part in parts]) if parts else pl.DataFrame(schema=_LISTED)

    def _check_file(self, file: EventFile, light: pl.DataFrame) -> None:
        """The offsets and the denied ones are those of the file's index rows, of the rows' partitions."""
        if file in self._merged:
            self._check_merged(file, self._merged[file], light)
        elif file in self._indexed:
            partition, row = self._indexed[file]
            if len(row.files) > 1:  # a row's offsets are those of all its files
                return
            self._check_rows((partition, row.n), [row], light)
            if (light["log_partition"] != partition).any():
                self._differs("index", (partition, row.n, "partition"), partition, Words("other partitions"))

    def _check_merged(self, file: EventFile, merged: MergedFile, light: pl.DataFrame) -> None:
        parts = light.partition_by("log_partition", as_dict=True)
        for partition, ranges in merged.of:
            numbers = [n for first, after in ranges for n in range(first, after)]
            rows = [row for n in numbers if (row := self._rows.get(partition, {}).get(n)) is not None]
            if len(rows) < len(numbers):
                wanted = Words(f"{len(numbers)} index rows")
                self._differs("index", (partition, file.hour, file.name), wanted, Words(f"{len(rows)}"))
            self._check_rows((partition, file.hour, file.name), rows, parts.pop((partition,), light.clear()))
        for (partition,) in parts:
            self._differs("index", (file.hour, file.name, "partition"), None, Words(f"events of {partition}"))

    def _check_rows(self, key: tuple[object, ...], rows: Sequence[IndexRow], light: pl.DataFrame) -> None:
        """These events are those of these index rows, all of one partition."""
        offsets = light["log_offset"].sort().to_numpy()
        denied = light.filter(pl.col("verdict") == "denied")["log_offset"].sort().to_numpy()
        stored = [_offsets_of(row.stored) for row in rows]
        decided = [_offsets_of(row.decided) for row in rows]
        for what, found, wanted in (("stored", offsets, stored), ("denied", denied, decided)):
            expected = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *wanted]))
            if not np.array_equal(found, expected):
                one = np.setxor1d(found, expected)
                where = f", first at {int(one[0])}" if len(one) else ", one twice"
                self._differs("index", (*key, what), Words(f"{len(expected)} events"), Words(f"{len(found)}{where}"))

    def _by_partition(self) -> dict[int, tuple[Int64Array, Int64Array, list[str]]]:
        return {
            int(key[0]): (
                part["log_offset"].to_numpy(),
                part["decided_at"].fill_null(0).to_numpy(),
                part["verdict"].to_list(),
            )
            for key, part in self.light.partition_by("log_partition", as_dict=True, maintain_order=True).items()
        }

    # What the oracle is given.

    def stored(self, key: Key) -> Stored | None:
        """The decision of an event, or None where it is not stored."""
        found = self._places.get(key[0])
        if found is None:
            return self.pruned.stored(key)
        offsets, decided, verdicts = found
        i = int(np.searchsorted(offsets, key[1]))
        if i >= len(offsets) or offsets[i] != key[1]:
            return self.pruned.stored(key)
        return Stored(verdicts[i], int(decided[i]))

    def offsets(self, partition: int) -> Int64Array:
        """The offsets of the stored events of a partition, pruned ones too, ascending."""
        found = self._places.get(partition)
        gone = self.pruned.offsets(partition)
        return gone if found is None else np.sort(np.concatenate([found[0], gone])) if len(gone) else found[0]

    def outcomes(self) -> Iterator[Outcome]:
        """The outcome of each stored event."""
        columns = self.light.select("log_partition", "log_offset", "event_id")
        for partition, offset, event_id in columns.iter_rows():
            yield Outcome(partition, offset, event_id, True)

    def rows(self) -> Iterator[EventRow]:
        """Every stored event, whole, in the order of the files."""
        fields = [field.name for field in self.source.fields]
        times = {*_TIMES, *(field.name for field in self.source.fields if field.type == "time")}
        # The field that holds the event time stands in the column of that name.
        column_of = ["event_time" if name == self.source.event_time else name for name in fields]
        first = ["log_partition", "log_offset", "event_id", "application", "received_at", "event_time", "data"]
        for file in self.files:
            events = self._warehouse.read(file)
            absent = [pl.lit(None).alias(name) for name in dict.fromkeys(column_of) if name not in events.columns]
            whole = [pl.col(name).cast(pl.Int64) for name in sorted(times & set(events.columns))]
            events = events.with_columns(*absent, *whole)
            head = events.select(first).iter_rows()
            values = events.select(pl.col(c).alias(f"{i}") for i, c in enumerate(column_of)).iter_rows()
            for (partition, offset, event_id, application, received, at, data), row in zip(head, values, strict=True):
                held = dict(zip(fields, row, strict=True))
                yield EventRow(partition, offset, event_id, application, received, at, held, data)

    def before(self, partition: int, below: int) -> pl.DataFrame:
        """offset, event_id, application, received_at (µs), data of the indexed events at offsets < below, ascending."""
        names = ["log_offset", "event_id", "application", "received_at", "data"]
        parts = [
            self._warehouse.read(file)
            .filter((pl.col("log_partition") == partition) & (pl.col("log_offset") < below))
            .select(pl.col(names).exclude("received_at"), pl.col("received_at").cast(pl.Int64))
            .select(names)
            for file in self.files
            if self._reaches_below(file, partition, below)
        ]
        none = pl.DataFrame(schema={n: pl.Int64 if n in ("log_offset", "received_at") else pl.String for n in names})
        return pl.concat([none, *parts]).unique("log_offset", keep="first").sort("log_offset")

    def _reaches_below(self, file: EventFile, partition: int, below: int) -> bool:
        """Whether an indexed file may hold events of the partition at offsets < below."""
        if file in self._merged:
            return any(p == partition for p, _ in self._merged[file].of)
        if file not in self._indexed:
            return False
        its_partition, row = self._indexed[file]
        return its_partition == partition and any(f.name == file.name and f.first < below for f in row.files)

    def check_topic(self) -> Iterator[Difference]:
        """Every event names the source's topic and one of the two verdicts; denied only where the source enforces."""
        allowed = ["accepted", "denied"] if self.source.enforces else ["accepted"]
        odd = self.light.filter(
            pl.col("log_topic").ne_missing(self.source.topic) | ~pl.col("verdict").is_in(allowed).fill_null(False)
        )
        for topic, partition, offset, verdict in odd.select(
            "log_topic", "log_partition", "log_offset", "verdict"
        ).iter_rows():
            wanted = Words(f"{' or '.join(allowed)}, topic {self.source.topic}")
            yield Difference("decisions", (partition, offset), wanted, Words(f"{verdict}, topic {topic}"))


def _order(file: EventFile) -> tuple[str, str]:
    return file.hour, file.name


def _kind_of(party: Party) -> pl.Expr:
    """The kind of a declared party of each event."""
    fixed = pl.lit(party.kind, dtype=pl.String)
    return fixed if party.kind_field is None else pl.coalesce(pl.col(party.kind_field), fixed)


def _is_entry(party: Party) -> pl.Expr:
    return (pl.col(party.field) == pl.col("entry_party")) & (_kind_of(party) == pl.col("entry_kind"))


def _offsets_of(packed: bytes) -> Int64Array:
    """The offsets that an index row packed, ascending."""
    ends = unpack(packed).tolist()
    parts = [np.arange(first, after, dtype=np.int64) for first, after in zip(ends[0::2], ends[1::2], strict=True)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
