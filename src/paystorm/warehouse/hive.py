"""The warehouse in Apache Hive: the same files in the same folders, as partitions of external tables.

Hive keeps a note of its own of tables, columns and of the folder of each hour. It is told before a file is placed, so
that a file in place is a file that Hive sees; who dies in between has only told of a folder that is still empty.
"""

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from paystorm.errors import ConfigError, TablesError
from paystorm.stores.hours import Hours
from paystorm.warehouse.base import NONE, QUERY_ROWS, QUERY_SECONDS, Columns, EventFile
from paystorm.warehouse.folders import EventFolders
from paystorm.warehouse.hive_client import HiveAddress, HiveClient, StatementError, literal, quoted
from paystorm.warehouse.hive_sql import checked_query, hive_type, table_of

KNOWN_HOURS = 10_000
"""Hours that are remembered as told to Hive, at most."""

_LOCATION = re.compile(r"[A-Za-z0-9/._-]+")
"""What SET LOCATION takes: it fails at a space, encoded or not."""


class HiveWarehouse(EventFolders):
    """A `Warehouse` whose tables are in Hive. Several processes may stage, place and query at the same time."""

    def __init__(
        self,
        folder: Path,
        host: str,
        port: int,
        hours: Hours | None = None,
        *,
        database: str = "paystorm",
        location: str | None = None,
        auth: str = "NOSASL",
        user: str | None = None,
        password: str | None = None,
        timeout: float = 60.0,
        tls: bool = False,
        cafile: str | None = None,
        query_seconds: float = QUERY_SECONDS,
        query_rows: int = QUERY_ROWS,
    ) -> None:
        """Nothing is reached yet. Raises ConfigError.

        location: the URI under which Hive reaches the folder, where that is not `file://` and its path. timeout:
        seconds that Hive may take to answer. hours, query_seconds, query_rows: as of `LocalWarehouse`.
        """
        super().__init__(folder, hours)
        if not database.replace("_", "").isalnum() or not database.isascii():
            raise ConfigError(f"hive: a database's name has letters, digits and _ only, got {database!r}")
        if not _LOCATION.fullmatch(str(self.folder)):
            raise ConfigError(
                f"paystorm.warehouse: Hive takes a folder of letters, digits and /._- only, got {str(self.folder)!r}"
            )
        self._database = database
        self._location = (location or f"file://{self.folder}").rstrip("/")
        self._client = HiveClient(
            HiveAddress(
                host=host, port=port, auth=auth, user=user, password=password, timeout=timeout, tls=tls, cafile=cafile
            )
        )
        self._query_seconds = query_seconds
        self._query_rows = query_rows
        self._lock = threading.RLock()
        self._columns: dict[str, set[str]] = {}
        """The columns of each source's table, in lower case as Hive has them."""
        self._shown: dict[tuple[str, str], int] = {}
        """The folder that Hive knows of each hour."""

    def query(self, sql: str, known: Mapping[str, Columns] = NONE) -> tuple[list[str], list[tuple[Any, ...]]]:
        """As `Warehouse.query`, in HiveQL: one SELECT, WITH, SHOW or DESCRIBE.

        Raises UsageError with Hive's message, or where the query takes too long or gives too many rows; TablesError
        where Hive cannot be reached.
        """
        sql = checked_query(sql)
        text = sql.lower()
        with self._lock:
            for source, columns in known.items():
                if table_of(source) in text:
                    self._have_table(source, columns)
            self._have_database()
        return self._client.query(self._database, sql, self._query_seconds, self._query_rows)

    def show(self, source: str, hour: str, number: int) -> None:
        """As `EventFolders.show`."""
        with self._lock:
            if source not in self._columns and not self._is_table(source):
                return  # nothing of it was ever placed by way of Hive
            self._show(source, hour, number)

    def hide(self, source: str, hour: str) -> None:
        """As `EventFolders.hide`. The table is external: Hive forgets the partition and removes no file."""
        with self._lock:
            self._shown.pop((source, hour), None)
            if source not in self._columns and not self._is_table(source):
                return
            day, of_day = hour.split("T")
            with self._refused("take an hour from table", source):
                self._client.run(
                    f"ALTER TABLE {self._table(source)} DROP IF EXISTS "
                    f"PARTITION (`dt`={literal(day)}, `hr`={literal(of_day)})"
                )

    def show_all(self, source: str, columns: Columns) -> int:
        """As `EventFolders.show_all`: after a move to Hive, or where its metastore was restored from a backup."""
        folders = {f"{folder.parent.name}/{folder.name}": folder for folder in self.folders(source)}
        if not folders:
            return 0
        with self._lock:
            self._columns.pop(source, None)
            self._have_table(source, columns)
            with self._refused("show the hours of", source):
                known = {str(row[0]) for row in self._client.run(f"SHOW PARTITIONS {self._table(source)}")}
            missing = sorted(folders.keys() - known)
            for name in missing:
                hour = name.removeprefix("dt=").replace("/hr=", "T")
                self._show(source, hour, self.hour(source, hour).folder)
        return len(missing)

    def table(self, source: str) -> str:
        """As `Warehouse.table`."""
        return quoted(table_of(source))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _before(self, file: EventFile, number: int) -> None:
        """Have Hive know the table, its columns and the hour's folder."""
        with self._lock:
            self._have_table(file.source, self._schema(file, number))
            if self._shown.get((file.source, file.hour)) != number:
                self._make(self.hour_folder(file.source, file.hour, number))
                self._show(file.source, file.hour, number)

    def _schema(self, file: EventFile, number: int) -> Columns:
        """The columns of a file, staged or in place."""
        with self._errors("read"):
            for path in (self._staged(file), self.path(file, number), *self._elsewhere(file, number)):
                with contextlib.suppress(FileNotFoundError):
                    return {name: _instance(kind) for name, kind in pl.read_parquet_schema(path).items()}
        return {}  # it is nowhere: placing it says so

    # Statements. Each can be repeated, and be run by several at once.

    def _have_database(self) -> None:
        if self._columns:
            return
        with self._refused("make database", self._database):
            self._make_once(f"CREATE DATABASE IF NOT EXISTS {quoted(self._database)}")

    def _have_table(self, source: str, columns: Columns) -> None:
        """Have the table with at least these columns; one that it lacks comes behind those it has."""
        wanted = {name.lower(): hive_type(name, kind) for name, kind in columns.items() if name not in ("dt", "hr")}
        held = self._columns.get(source)
        if held is not None and held >= wanted.keys():
            return
        table = self._table(source)
        with self._refused("make table", source):
            if held is None:
                self._have_database()
                self._make_once(
                    f"CREATE EXTERNAL TABLE IF NOT EXISTS {table} ({_listed(wanted)}) "
                    "PARTITIONED BY (`dt` STRING, `hr` STRING) STORED AS PARQUET "
                    f"LOCATION {literal(f'{self._location}/{source}')}"
                )
            held = self._described(source)
            lacking = {name: kind for name, kind in wanted.items() if name not in held}
            if lacking:
                try:
                    # CASCADE: the hours that there are would go on without the column
                    self._client.run(f"ALTER TABLE {table} ADD COLUMNS ({_listed(lacking)}) CASCADE")
                except StatementError:
                    if not self._described(source) >= lacking.keys():  # else somebody else was faster
                        raise
        self._columns[source] = held | lacking.keys()

    def _make_once(self, statement: str) -> None:
        """Run a statement with IF NOT EXISTS. Hive looks and makes in two steps: of two at once one may fail."""
        try:
            self._client.run(statement)
        except StatementError:
            self._client.run(statement)

    def _described(self, source: str) -> set[str]:
        rows = self._client.run(f"DESCRIBE {self._table(source)}")
        names = [str(row[0]).strip().lower() for row in rows]
        return set(names[: names.index("")] if "" in names else names)

    def _is_table(self, source: str) -> bool:
        try:
            self._client.run(f"DESCRIBE {self._table(source)}")
        except StatementError:
            return False
        return True

    def _show(self, source: str, hour: str, number: int) -> None:
        """Have the hour's partition at the folder of that number."""
        day, of_day = hour.split("T")
        partition = f"PARTITION (`dt`={literal(day)}, `hr`={literal(of_day)})"
        path = self.hour_folder(source, hour, number).relative_to(self.folder)
        location = literal(f"{self._location}/{path}")
        with self._refused("add the hour to table", source):
            self._make_once(f"ALTER TABLE {self._table(source)} ADD IF NOT EXISTS {partition} LOCATION {location}")
            if number:  # an hour that was merged may stand there with an older folder
                self._client.run(f"ALTER TABLE {self._table(source)} {partition} SET LOCATION {location}")
        if len(self._shown) >= KNOWN_HOURS:
            self._shown.clear()
        self._shown[source, hour] = number

    def _table(self, source: str) -> str:
        return f"{quoted(self._database)}.{quoted(table_of(source))}"

    @contextlib.contextmanager
    def _refused(self, what: str, name: str) -> Iterator[None]:
        """A statement that Hive refuses, in one line; it is forgotten what Hive knows."""
        try:
            yield
        except StatementError as error:
            self._columns.clear()
            self._shown.clear()
            raise TablesError(f"hive: cannot {what} {name}: {error}") from error


def _listed(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{quoted(name)} {kind}" for name, kind in columns.items())


def _instance(kind: Any) -> pl.DataType:
    made: pl.DataType = kind() if isinstance(kind, type) else kind
    return made
