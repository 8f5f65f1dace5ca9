"""The embedded warehouse: event files in Hive's folders (`paystorm.warehouse.folders`), queried with DuckDB."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from paystorm.errors import UsageError
from paystorm.stores.hours import Hours
from paystorm.warehouse.base import NONE, QUERY_ROWS, QUERY_SECONDS, Columns
from paystorm.warehouse.folders import EventFolders

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

QUERY_MEMORY = "512MB"
QUERY_THREADS = 2

ANY: Columns = {"log_offset": pl.Int64(), "data": pl.String()}
"""What a source without a file is shown with, where its columns are not known."""
_SQL_TYPES: Mapping[type[pl.DataType], str] = {
    pl.String: "VARCHAR",
    pl.Int32: "INTEGER",
    pl.Int64: "BIGINT",
    pl.Boolean: "BOOLEAN",
    pl.Datetime: "TIMESTAMP",
}


class LocalWarehouse(EventFolders):
    """A `Warehouse` in a folder. Several processes may stage, place and query at the same time."""

    def __init__(
        self,
        folder: Path,
        hours: Hours | None = None,
        *,
        query_seconds: float = QUERY_SECONDS,
        query_rows: int = QUERY_ROWS,
    ) -> None:
        """`hours`: as of `EventFolders`. `query_seconds`, `query_rows`: a query beyond these is refused."""
        super().__init__(folder, hours)
        self._query_seconds = query_seconds
        self._query_rows = query_rows

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

    def table(self, source: str) -> str:
        """As `Warehouse.table`."""
        return f'"{source.replace("-", "_")}"'

    def close(self) -> None:
        """Nothing to release: every query has a database of its own."""

    def _open_views(self, connection: "DuckDBPyConnection", text: str, known: Mapping[str, Columns]) -> None:
        """A view for each source that the text can mean, then no way out of the warehouse's folder."""
        connection.execute("SET temp_directory = ''")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET allowed_directories = [{_quoted(self.folder)}]")
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


def _nothing(columns: Columns) -> str:
    """SQL of no rows with these columns and the folders'."""
    named = [f'NULL::{_sql_type(kind)} "{name}"' for name, kind in columns.items()]
    return f"SELECT {', '.join([*named, 'NULL::VARCHAR dt', 'NULL::VARCHAR hr'])} LIMIT 0"


def _sql_type(kind: pl.DataType) -> str:
    if isinstance(kind, pl.Decimal):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    return _SQL_TYPES[type(kind)]


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
