"""The embedded warehouse: Hive-style folders of Parquet files, queried with DuckDB.

A file stands in `<folder>/<source>/dt=YYYY-MM-DD/hr=HH/<name>.parquet`. It is written to `<folder>/<source>/.staging/`
first, on the same file system, so that placing it is one rename; neither Hive nor the patterns here look into folders
that start with a dot.
"""

import contextlib
import errno
import io
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from paystorm.errors import TablesError, UsageError
from paystorm.warehouse.base import NONE, Columns, EventFile

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

STAGING = ".staging"
ZSTD_LEVEL = 1
"""Measured on 133-byte purchase events in 21 columns, CPU-seconds a million and bytes an event: level 1 0.92 and 48,
level 3 1.2 and 51, lz4 0.83 and 99, uncompressed 0.61 and 252."""
QUERY_MEMORY = "512MB"
QUERY_THREADS = 2
QUERY_SECONDS = 120.0
QUERY_ROWS = 1_000_000
"""A query with more rows is refused: they would stand in memory as Python values."""

ANY: Columns = {"log_offset": pl.Int64(), "data": pl.String()}
"""What a source without a file is shown with, where its columns are not known."""
_SQL_TYPES: Mapping[type[pl.DataType], str] = {
    pl.String: "VARCHAR",
    pl.Int32: "INTEGER",
    pl.Int64: "BIGINT",
    pl.Boolean: "BOOLEAN",
    pl.Datetime: "TIMESTAMP",
}
_HOUR = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d)")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class LocalWarehouse:
    """A `Warehouse` in a folder. Several processes may stage, place and query at the same time."""

    def __init__(self, folder: Path, *, query_seconds: float = QUERY_SECONDS, query_rows: int = QUERY_ROWS) -> None:
        """`query_seconds`, `query_rows`: a query that takes longer, or gives more, is refused."""
        self._folder = folder.absolute()
        self._query_seconds = query_seconds
        self._query_rows = query_rows
        self._known: set[Path] = set()

    def stage(self, file: EventFile, frame: pl.DataFrame) -> None:
        """As `Warehouse.stage`. Raises TablesError where the disk is full or not writable; nothing is left then."""
        out = io.BytesIO()
        frame.write_parquet(out, compression="zstd", compression_level=ZSTD_LEVEL, row_group_size=max(1, len(frame)))
        staged = self._staged(file)
        with self._errors("write"):
            self._make(staged.parent)
            try:
                with staged.open("wb") as target:
                    target.write(out.getbuffer())
                    target.flush()
                    os.fsync(target.fileno())
                _sync(staged.parent)
            except OSError:
                with contextlib.suppress(OSError):
                    staged.unlink()
                raise

    def place(self, files: Sequence[EventFile]) -> None:
        """As `Warehouse.place`."""
        folders: dict[Path, None] = {}
        with self._errors("write"):
            for file in files:
                target = self._placed(file)
                if not target.exists():
                    self._make(target.parent)
                    try:
                        self._staged(file).rename(target)
                    except FileNotFoundError:
                        if not target.exists():  # or somebody else has just placed it
                            raise TablesError(
                                f"warehouse {self._folder}: file {file.name} of {file.source} {file.hour} is neither "
                                "staged nor in place; restore it, its events are in the index"
                            ) from None
                folders[target.parent] = None
            for folder in folders:  # also where it was in place: whoever renamed it may not have come to sync it
                _sync(folder)

    def discard_staged(self, source: str, keep: Sequence[str], *, prefix: str = "") -> None:
        """As `Warehouse.discard_staged`, but for files whose names do not start with `prefix`: another task's."""
        kept = set(keep)
        with self._errors("write"):
            for path in self._in(self._folder / source / STAGING):
                if path.name.startswith(prefix) and path.suffix == ".parquet" and path.stem not in kept:
                    path.unlink(missing_ok=True)

    def read(self, file: EventFile) -> pl.DataFrame:
        """As `Warehouse.read`. Raises TablesError where there is no such file."""
        with self._errors("read"):
            for path in (self._placed(file), self._staged(file), self._placed(file)):  # it may be placed meanwhile
                with contextlib.suppress(FileNotFoundError):
                    return pl.read_parquet(io.BytesIO(path.read_bytes()), hive_partitioning=False)
        raise TablesError(
            f"warehouse {self._folder}: no file {file.name} of {file.source} {file.hour}; restore it from a backup"
        )

    def folders(self, source: str) -> list[Path]:
        """As `Warehouse.folders`: those of each hour, in order of time."""
        with self._errors("read"):
            days = [day for day in self._in(self._folder / source) if day.name.startswith("dt=")]
            return sorted(hour for day in days for hour in self._in(day) if hour.name.startswith("hr="))

    def sources(self) -> list[str]:
        """The sources that have a folder here, in order."""
        with self._errors("read"):
            return sorted(p.name for p in self._in(self._folder) if p.is_dir() and _NAME.fullmatch(p.name))

    def query(self, sql: str, known: Mapping[str, Columns] = NONE) -> tuple[list[str], list[tuple[Any, ...]]]:
        """As `Warehouse.query`: one SELECT; it reads this folder and nothing else, and writes nothing.

        Raises UsageError with DuckDB's message, or where the query takes too long or gives too many rows.
        """
        import duckdb  # noqa: PLC0415  only queries need it: the topologies neither load it nor hold its memory

        with duckdb.connect(":memory:", config={"memory_limit": QUERY_MEMORY, "threads": QUERY_THREADS}) as connection:
            stop = threading.Timer(self._query_seconds, connection.interrupt)
            stop.daemon = True
            try:
                stop.start()
                self._open_views(connection, sql.lower(), known)
                statements = connection.extract_statements(sql)
                if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                    raise UsageError("query: only one SELECT statement can be run")
                result = connection.execute(statements[0])
                names = [column[0] for column in result.description or ()]
                zoned = [str(c[0]) for c in result.description or () if "WITH TIME ZONE" in str(c[1])]
                if zoned:  # to read such a value Python would need a further package
                    raise UsageError(f"query: column {zoned[0]!r} is a time with a zone: add ::TIMESTAMP for UTC")
                rows = result.fetchmany(self._query_rows + 1)
            except duckdb.InterruptException:
                why = f"query: stopped after {self._query_seconds:g} s; narrow it down by dt and hr"
                raise UsageError(why) from None
            except duckdb.Error as error:
                raise UsageError(f"query: {' '.join(str(error).split())}") from None
            finally:
                stop.cancel()
        if len(rows) > self._query_rows:
            raise UsageError(f"query: more than {self._query_rows:,} rows; add a LIMIT or aggregate")
        return names, rows

    def close(self) -> None:
        """Nothing to release: every query has a database of its own."""

    def _open_views(self, connection: "DuckDBPyConnection", text: str, known: Mapping[str, Columns]) -> None:
        """A view for each source that the text can mean, then no way out of the warehouse's folder."""
        connection.execute("SET temp_directory = ''")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET allowed_directories = [{_quoted(self._folder)}]")
        connection.execute("SET enable_external_access = false")
        for source in sorted({*self.sources(), *known}):
            name = source.replace("-", "_")
            if name.lower() not in text:
                continue  # making a view reads the foot of every file
            folders = [f for f in self.folders(source) if next(f.glob("*.parquet"), None) is not None]
            rows = _nothing(known.get(source, ANY))
            if folders:
                patterns = ", ".join(_quoted(folder / "*.parquet") for folder in folders)
                rows = f"""SELECT * FROM read_parquet([{patterns}], union_by_name = true, hive_partitioning = true,
                    hive_types = {{'dt': VARCHAR, 'hr': VARCHAR}})"""
            connection.execute(f'CREATE VIEW "{name}" AS {rows}')
        connection.execute("SET lock_configuration = true")

    def _staged(self, file: EventFile) -> Path:
        return self._folder / file.source / STAGING / f"{_checked(file).name}.parquet"

    def _placed(self, file: EventFile) -> Path:
        hour = _HOUR.fullmatch(_checked(file).hour)
        if hour is None:
            raise ValueError(f"hour must be YYYY-MM-DDTHH, got {file.hour!r}")
        return self._folder / file.source / f"dt={hour[1]}" / f"hr={hour[2]}" / f"{file.name}.parquet"

    def _make(self, folder: Path) -> None:
        """Make a folder so that it outlives a power cut: its parents are synced too."""
        if folder in self._known and folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        parent = folder
        while parent != self._folder.parent:
            parent = parent.parent
            _sync(parent)
        self._known.add(folder)

    @staticmethod
    def _in(folder: Path) -> list[Path]:
        """What stands in a folder; nothing where it is absent."""
        try:
            return list(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """OSError as TablesError in one line with the folder and the way out."""
        try:
            yield
        except OSError as error:
            way_out = "make it accessible to this user"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                way_out = "free some space, nothing is lost meanwhile"
            why = error.strerror or str(error)
            raise TablesError(f"warehouse {self._folder}: cannot {what}: {why}; {way_out}") from error


def _nothing(columns: Columns) -> str:
    """SQL of no rows with these columns and the folders'."""
    named = [f'NULL::{_sql_type(kind)} "{name}"' for name, kind in columns.items()]
    return f"SELECT {', '.join([*named, 'NULL::VARCHAR dt', 'NULL::VARCHAR hr'])} LIMIT 0"


def _sql_type(kind: pl.DataType) -> str:
    if isinstance(kind, pl.Decimal):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    return _SQL_TYPES[type(kind)]


def _checked(file: EventFile) -> EventFile:
    """The file, where its source and name are plain names; a name must not lead out of the folder."""
    for part in (file.source, file.name):
        if not _NAME.fullmatch(part):
            raise ValueError(f"not a name for a source or file of the warehouse: {part!r}")
    return file


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
