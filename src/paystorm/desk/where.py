"""`--where`: a condition in SQL over rows that are handed in, evaluated by DuckDB with every way out closed.

The text must be one expression: DuckDB's own parser takes it as a filter, so that no statement can hide in it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import polars as pl

from paystorm.errors import UsageError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY = "512MB"
SECONDS = 60.0
"""All evaluations of one filter may take so long together."""
MAX_TEXT = 10_000


class Where:
    """A condition, open for several frames of the same columns. Use `opened`."""

    def __init__(self, text: str, connection: "DuckDBPyConnection", folder: Path) -> None:
        self._text = text
        self._connection = connection
        self._file = folder / "rows.parquet"

    def holds(self, rows: pl.DataFrame) -> list[int]:
        """The numbers of the rows for which the condition is true. Raises UsageError with DuckDB's message."""
        import duckdb  # noqa: PLC0415  only queries need it

        # By way of a file that only this user can read: without a further package DuckDB takes no frame.
        rows.with_row_index("_row").write_parquet(self._file, compression="uncompressed")
        try:
            found = self._connection.read_parquet(str(self._file)).filter(self._text).project("_row").fetchall()
        except duckdb.InterruptException:
            raise UsageError(f"--where: stopped after {SECONDS:g} s: narrow it down by --source or --since") from None
        except duckdb.Error as error:
            raise UsageError(f"--where {self._text!r}: {' '.join(str(error).split())}") from None
        return sorted(row for (row,) in found)


@contextmanager
def opened(text: str) -> Iterator[Where]:
    """A condition ready to be evaluated. Raises UsageError where it is too long."""
    import duckdb  # noqa: PLC0415

    if len(text) > MAX_TEXT:
        raise UsageError(f"--where must have at most {MAX_TEXT:,} characters, got {len(text):,}")
    config: dict[str, str | bool | int | float | list[str]] = {"memory_limit": MEMORY, "threads": 1}
    with (
        TemporaryDirectory(prefix="paystorm-where-") as folder,
        duckdb.connect(":memory:", config=config) as connection,
    ):
        connection.execute("SET temp_directory = ''")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET allowed_directories = ['{folder}']")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        stop = threading.Timer(SECONDS, connection.interrupt)
        stop.daemon = True
        stop.start()
        try:
            yield Where(text, connection, Path(folder))
        finally:
            stop.cancel()
