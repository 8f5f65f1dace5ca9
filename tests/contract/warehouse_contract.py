"""What every warehouse must do. A subclass provides the fixture `make`."""

import json
import resource
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest

from paystorm.chunk import EventChunk, Head
from paystorm.clock import ManualClock
from paystorm.errors import PrunedError, TablesError, UsageError
from paystorm.retention.events import EventPruner
from paystorm.source import Field, Source
from paystorm.stores.checkpoints import Checkpoint, begin_checkpoint
from paystorm.stores.hours import Hours
from paystorm.tables.memory import MemoryTables
from paystorm.verdicts import VerdictLog
from paystorm.warehouse.base import EventFile
from paystorm.warehouse.folders import EventFolders
from paystorm.warehouse.merging import Merger, MergeSettings, hour_start
from paystorm.warehouse.writer import PartitionWriter

Make = Callable[..., EventFolders]
HOUR = "2026-01-02T03"
COLUMNS = {"log_offset": pl.Int64(), "data": pl.String(), "event_time": pl.Datetime("us")}


def events(*offsets: int, **more: object) -> pl.DataFrame:
    frame = pl.DataFrame({"log_offset": offsets, "data": [f'{{"n":{o}}}' for o in offsets]})
    return frame.with_columns(event_time=pl.lit(1_767_225_600_000_000).cast(pl.Datetime("us")), **more)


def file_of(source: str, name: str = "00000-a", hour: str = HOUR) -> EventFile:
    return EventFile(source, hour, name)


def rows_of(warehouse: Any, source: str, columns: str = "log_offset") -> list[Any]:
    """The rows that a query sees, in order of the first column."""
    rows = warehouse.query(f"SELECT {columns} FROM {warehouse.table(source)}", {source: COLUMNS})[1]
    return sorted((row[0] if len(row) == 1 else row for row in rows), key=repr)


def placed(warehouse: Any, source: str, *frames: pl.DataFrame, hour: str = HOUR) -> list[EventFile]:
    files = [file_of(source, f"00000-{uuid.uuid4().hex}", hour) for _ in frames]
    for file, frame in zip(files, frames, strict=True):
        warehouse.stage(file, frame)
    warehouse.place(files)
    return files


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 512 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class NoLog:
    """A log that takes verdicts and keeps none."""

    def partitions(self, topic: str) -> int:
        return 8

    def create_topic(self, topic: str, partitions: int) -> None:
        pass

    def append(self, topic: str, records: list[Any]) -> list[tuple[int, int]]:
        return [(0, 0)] * len(records)


class Flushes:
    """Flushes of one source into a warehouse, as the bolt makes them."""

    def __init__(self, warehouse: Any, tables: MemoryTables, name: str) -> None:
        fields = (Field(name="event_time", type="time", required=True), Field(name="account", type="id"))
        self.source = Source(name=name, topic=name, enforces=False, fields=fields, parties=())
        self.clock = ManualClock(hour_start(HOUR))
        self._warehouse, self._tables = warehouse, tables
        self._next = 0

    def writer(self, at: int | None = None) -> PartitionWriter:
        return PartitionWriter(
            self.source,
            0,
            tables=self._tables,
            warehouse=self._warehouse,
            verdicts=VerdictLog(NoLog(), self.source.name, self.source.topic),  # type: ignore[arg-type]
            clock=self.clock if at is None else ManualClock(at),
            random=Random(),
        )

    def chunk(self, first: int, after: int) -> EventChunk:
        offsets = list(range(first, after))
        head = Head(
            source=self.source.name, topic=self.source.topic, partition=0, first=first, after=after, epoch=0,
            generation=0, committed=first,
        )  # fmt: skip
        at = pl.Series([hour_start(HOUR) + o * 1_000_001 for o in offsets], dtype=pl.Int64).cast(pl.Datetime("us"))
        frame = pl.DataFrame(
            {
                "log_offset": offsets,
                "event_id": [f"ü{o}" for o in offsets],
                "application": "shop",
                "received_at": at,
                "event_time": at,
                "account": [f"u{o % 3}" if o % 5 else None for o in offsets],
                "data": [json.dumps({"o": o}) for o in offsets],
                "decided_at": at,
                "verdict": "accepted",
            }
        )
        nulls = [pl.lit(None, pl.String).alias(name) for name in ("verdict_reason", "entry_kind", "entry_party")]
        return EventChunk(head, frame.with_columns(*nulls, would_deny=pl.lit(None, pl.Boolean)))

    def flush(self, writer: PartitionWriter, times: int, rows: int = 2) -> None:
        for _ in range(times):
            writer.gather(self.chunk(self._next, self._next + rows))
            writer.flush()
            self._next += rows


class WarehouseContract:
    """The contract of `paystorm.warehouse.base.Warehouse`. `make(folder, hours, **settings)` makes one."""

    @pytest.fixture
    def warehouse(self, make: Make, folder: Path, tables: MemoryTables) -> Iterator[EventFolders]:
        made = make(folder, Hours(tables))
        yield made
        made.close()  # type: ignore[attr-defined]

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "warehouse"

    @pytest.fixture
    def tables(self) -> MemoryTables:
        return MemoryTables()

    @pytest.fixture
    def source(self) -> str:
        return f"source-{uuid.uuid4().hex[:12]}"

    def test_a_staged_file_can_be_read_but_not_queried(self, warehouse: Any, source: str) -> None:
        warehouse.stage(file_of(source), events(1, 2))
        assert warehouse.read(file_of(source)).equals(events(1, 2))
        assert rows_of(warehouse, source) == []
        assert warehouse.folders(source) == []

    def test_a_placed_file_stands_in_the_folder_of_its_hour(self, warehouse: Any, source: str, folder: Path) -> None:
        warehouse.stage(file_of(source), events(1, 2))
        warehouse.place([file_of(source)])
        hour = folder / source / "dt=2026-01-02" / "hr=03"
        assert [p.name for p in hour.iterdir()] == ["00000-a.parquet"]
        assert warehouse.folders(source) == [hour]
        assert warehouse.read(file_of(source)).equals(events(1, 2))
        assert rows_of(warehouse, source, "dt, hr, log_offset") == [("2026-01-02", "03", 1), ("2026-01-02", "03", 2)]
        assert warehouse.sources() == [source]

    def test_placing_again_changes_nothing(self, warehouse: Any, source: str) -> None:
        warehouse.stage(file_of(source), events(1))
        warehouse.place([file_of(source)])
        warehouse.place([file_of(source), file_of(source)])
        assert rows_of(warehouse, source) == [1]

    def test_placing_what_is_nowhere_is_an_error_that_names_the_file(self, warehouse: Any, source: str) -> None:
        placed(warehouse, source, events(1))
        with pytest.raises(TablesError, match=r"00000-a .*neither staged nor in place"):
            warehouse.place([file_of(source)])
        with pytest.raises(TablesError, match="no file 00000-a"):
            warehouse.read(file_of(source))

    def test_discarding_spares_what_is_kept_and_what_other_tasks_staged(self, warehouse: Any, source: str) -> None:
        files = [file_of(source, name) for name in ("00000-a", "00000-b", "00001-a")]
        for file in files:
            warehouse.stage(file, events(1))
        warehouse.discard_staged(source, ["00000-b"], prefix="00000-")
        warehouse.place(files[1:])
        with pytest.raises(TablesError):
            warehouse.place(files[:1])
        warehouse.discard_staged("refund", [])

    def test_a_second_file_of_an_hour_is_seen_at_once(self, warehouse: Any, source: str) -> None:
        placed(warehouse, source, events(1))
        assert rows_of(warehouse, source) == [1]
        placed(warehouse, source, events(2))
        assert rows_of(warehouse, source) == [1, 2]
        assert warehouse.query(f"SELECT count(*) FROM {warehouse.table(source)}")[1] == [(2,)]

    def test_columns_that_some_files_lack_are_null_there(self, warehouse: Any, source: str) -> None:
        placed(warehouse, source, events(1))
        placed(warehouse, source, events(2, shop=pl.lit("m1")), hour="2026-01-02T04")
        placed(warehouse, source, events(3, shop=pl.lit("m2")), hour=HOUR)
        assert rows_of(warehouse, source, "log_offset, shop") == [(1, None), (2, "m1"), (3, "m2")]

    def test_a_source_that_stored_nothing_yet_is_an_empty_table(self, warehouse: Any, source: str) -> None:
        names, rows = warehouse.query(f"SELECT * FROM {warehouse.table(source)}", {source: COLUMNS})
        assert (names, rows) == ([*COLUMNS, "dt", "hr"], [])

    def test_values_come_back_as_they_were_stored(self, warehouse: Any, source: str) -> None:
        frame = pl.DataFrame(
            {
                "log_partition": pl.Series([1, 2**31 - 1, None, 0], dtype=pl.Int32),
                "log_offset": pl.Series([1, 2**63 - 1, None, 0], dtype=pl.Int64),
                "id": ["plain", "ü😀,\n\t\r\"'\\`--", None, ""],
                "event_time": pl.Series(
                    [
                        datetime(2026, 3, 29, 2, 30, 0, 123456),  # no such time of day in some zones
                        datetime(1970, 1, 1),
                        None,
                        datetime(2000, 1, 1, 0, 0, 0, 1),
                    ],
                    dtype=pl.Datetime("us"),
                ),
                "would_deny": [True, False, None, True],
                "amount": pl.Series(
                    [
                        Decimal("12345678901234567890.123456789012345678"),
                        Decimal("0"),
                        None,
                        Decimal("0." + "0" * 17 + "1"),
                    ],
                    dtype=pl.Decimal(38, 18),
                ),
                "cents": pl.Series(
                    [Decimal("9" * 36 + ".99"), Decimal("1.10"), None, Decimal("0")], dtype=pl.Decimal(38, 2)
                ),
                "data": ['{"a":"\\u0000"}', '{"amount":1e5}', None, "x" * 100_000],
            }
        )
        placed(warehouse, source, frame)
        names, rows = warehouse.query(f"SELECT * FROM {warehouse.table(source)}")
        assert names == [*frame.columns, "dt", "hr"]
        assert rows == [(*row, "2026-01-02", "03") for row in frame.rows()]

    def test_times_are_compared_in_utc(self, warehouse: Any, source: str) -> None:
        placed(warehouse, source, events(1))
        table = warehouse.table(source)
        for sign, rows in (("=", [(1,)]), ("<", []), (">", [])):
            where = f"event_time {sign} CAST('2026-01-01 00:00:00' AS TIMESTAMP)"
            assert warehouse.query(f"SELECT log_offset FROM {table} WHERE {where}")[1] == rows

    @pytest.mark.parametrize("sql", ["SELEC 1", "SELECT * FROM nowhere", "SELECT 1; SELECT 2", "", "SET threads = 8",
                                     "DROP TABLE purchase", "SELECT * FROM a\nWHERE"])  # fmt: skip
    def test_a_bad_query_is_a_usage_error_in_one_line(self, warehouse: Any, sql: str) -> None:
        with pytest.raises(UsageError) as caught:
            warehouse.query(sql)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("query: ")

    def test_a_table_is_found_in_any_case(self, warehouse: Any, source: str) -> None:
        placed(warehouse, source, events(1))
        for table in (warehouse.table(source).upper(), warehouse.table(source).capitalize()):
            assert warehouse.query(f"SELECT log_offset FROM {table}", {source: COLUMNS})[1] == [(1,)]

    def test_a_query_with_too_many_rows_is_refused(self, make: Make, folder: Path, source: str) -> None:
        warehouse: Any = make(folder, None, query_rows=10)
        placed(warehouse, source, events(*range(11)))
        with pytest.raises(UsageError, match="more than 10 rows; add a LIMIT or aggregate"):
            rows_of(warehouse, source)
        assert len(warehouse.query(f"SELECT * FROM {warehouse.table(source)} LIMIT 10")[1]) == 10
        warehouse.close()

    @pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "a\0b"])
    def test_a_name_cannot_lead_out_of_the_folder(self, warehouse: Any, name: str) -> None:
        with pytest.raises(ValueError, match="not a name"):
            warehouse.stage(EventFile("purchase", HOUR, name), events(1))

    def test_a_full_disk_is_one_line_and_it_goes_on_once_there_is_room(self, warehouse: Any, source: str) -> None:
        placed(warehouse, source, events(1))
        with full_disk(), pytest.raises(TablesError, match=r"cannot write: File too large.*free some space") as caught:
            warehouse.stage(file_of(source), events(2))
        assert "\n" not in str(caught.value)
        with pytest.raises(TablesError, match="neither staged nor in place"):
            warehouse.place([file_of(source)])
        warehouse.stage(file_of(source), events(2))
        warehouse.place([file_of(source)])
        assert rows_of(warehouse, source) == [1, 2]

    def test_a_pruned_hour_is_out_of_sight_and_takes_no_more_files(
        self, make: Make, tables: MemoryTables, folder: Path, source: str
    ) -> None:
        made: Any = make(folder, Hours(tables))
        flushes = Flushes(made, tables, source)
        flushes.flush(flushes.writer(), 3)
        late = file_of(source, "00000-0000000009-00ff")
        made.stage(late, events(90))
        begin_checkpoint(tables, source, source, 0, Checkpoint(topic_id=None, committed=6, read=6))
        clock = ManualClock(hour_start(HOUR) + 3 * 86_400 * 1_000_000)
        pruner = EventPruner(tables, made, clock, grace=60)
        assert pruner.run(flushes.source, 86_400).went == 1
        assert rows_of(made, source) == []
        made.place([late])
        assert made.folders(source) == []
        assert len(list(folder.rglob("hr=*/*.parquet"))) == 3
        clock.advance(60)
        assert pruner.run(flushes.source, 86_400).went == 0
        assert list(folder.rglob("hr=*/*.parquet")) == []
        assert rows_of(made, source) == []
        with pytest.raises(PrunedError, match="over its retention"):
            made.read(file_of(source))
        made.show_all(source, COLUMNS)
        flushes.clock.advance(3600)
        flushes.flush(flushes.writer(), 1)  # the owner of the index loads, and goes on
        assert len(rows_of(made, source)) == 2
        made.close()

    def test_a_merged_hour_shows_each_event_once_and_takes_further_files(
        self, warehouse: Any, tables: MemoryTables, source: str
    ) -> None:
        flushes = Flushes(warehouse, tables, source)
        writer = flushes.writer()
        flushes.flush(writer, 6)
        columns = "log_offset, event_id, event_time, account, data"
        before = rows_of(warehouse, source, columns)
        assert len(before) == 12
        flushes.clock.advance(2 * 3600)
        settings = MergeSettings(files=3)
        merger = Merger(tables, warehouse, flushes.clock, settings)
        assert (done := merger.run(source)).files == 5, done
        assert rows_of(warehouse, source, columns) == before
        flushes.flush(flushes.writer(at=hour_start(HOUR)), 1)
        flushes.flush(flushes.writer(), 1)
        assert rows_of(warehouse, source) == sorted(range(16), key=repr)
        flushes.clock.advance(settings.grace)
        assert merger.run(source).removed == 1
        assert rows_of(warehouse, source) == sorted(range(16), key=repr)
        assert rows_of(warehouse, source, "DISTINCT dt, hr") == [("2026-01-02", "03"), ("2026-01-02", "05")]
