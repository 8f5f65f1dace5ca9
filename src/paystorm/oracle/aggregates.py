"""Figures by party and interval, in DuckDB, over facts that are whole numbers only.

Texts never reach DuckDB: parties, currencies and ids are numbered as they come, so no quote, line end or NUL in one can
be mistaken for something of a file format.

A sum of amounts below 10^38 does not fit 128 bits. An amount is split into two limbs of 19 digits, each summed exactly
as HUGEINT (10^19 amounts would be needed to overflow), and the two put together again, cut at 10^38 - 1.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import duckdb

from paystorm.oracle.model import OracleError
from paystorm.oracle.versions import MOST_UNITS, Measure

LIMB = 10**19
DAY = 86_400
MONDAY = 4 * DAY
"""1970-01-05, from which whole days are counted."""
MEMORY = "768MB"
FEW_BYTES = 1 << 20
"""Facts of a smaller file stay in memory, in a database that all of these share."""
_BLOCK = 20_000
"""Rows fetched at a time."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": DAY}
Cell = tuple[int, int, int, int, int, int]
"""Party, interval start, currency, figure now, figure of the interval before, last epoch of a record."""


_schemas = itertools.count()


@cache
def _of_the_few() -> duckdb.DuckDBPyConnection:
    """The database in memory. To make one takes longer than to count a few facts: each `Facts` has a schema in it."""
    return duckdb.connect(":memory:", config={"threads": 1, "memory_limit": MEMORY, "temp_directory": ""})


def start_of(interval: str, at: str) -> str:
    """SQL for the start of the interval that holds the point in time `at` (SQL, whole seconds, also below 0).

    Raises OracleError for a text that is no interval.
    """
    if interval == "month":
        return f"epoch_us(date_trunc('month', make_timestamp(({at}) * 1000000))) // 1000000"
    match = re.fullmatch(r"([1-9][0-9]*)([smhd])", interval)
    if match is None:
        raise OracleError(f"interval must be such as 10s, 15m, 1h, 7d or month, got {interval!r}")
    seconds = int(match[1]) * _UNITS[match[2]]
    origin = MONDAY if match[2] == "d" else 0
    since = f"(({at}) - {origin})"
    # DuckDB's remainder takes the sign of the dividend; adding the divisor once more makes it floor division.
    return f"({at}) - (({since} % {seconds}) + {seconds}) % {seconds}"


class Facts:
    """One row for each party (kind and id) of each valid event, with all that any rule counts of it."""

    def __init__(self, folder: Path, amounts: Sequence[str], ids: Sequence[str]) -> None:
        self._amounts = {name: f"amount{n}" for n, name in enumerate(amounts)}
        self._ids = {name: f"id{n}" for n, name in enumerate(ids)}
        self._path = folder / "facts.csv"
        self._file: TextIO = self._path.open("w", encoding="ascii")
        self._cells: dict[tuple[Measure, int, int], str] = {}
        self._folder = folder
        self._database: duckdb.DuckDBPyConnection | None = None
        self._schema: str | None = None
        """Of few facts, in memory; None for those in a file of their own."""
        self._by_party: dict[int, list[tuple[int, int]]] | None = None

    @property
    def database(self) -> duckdb.DuckDBPyConnection:
        """A file of its own; few facts are held in memory."""
        if self._database is None:
            if self._file.closed and self._path.exists() and self._path.stat().st_size < FEW_BYTES:
                self._schema = f"facts{next(_schemas)}"
                self._database = _of_the_few().cursor()
                self._database.execute(f"CREATE SCHEMA {self._schema}; SET schema = '{self._schema}'")
            else:
                self._database = duckdb.connect(
                    str(self._folder / "facts.duckdb"),
                    config={"threads": 1, "memory_limit": MEMORY, "temp_directory": str(self._folder / "spill")},
                )
        return self._database

    def add(self, head: str, tail: str) -> None:
        """Write a row; see `load` for the columns. `head` are those of event and party, `tail` those of the fields."""
        self._file.write(f"{head},{tail}\n")

    @staticmethod
    def tail(currency: int, amounts: Iterable[int | None], ids: Iterable[int | None]) -> str:
        """The columns of an event's fields: currency (0 for none), amounts in units, numbered ids."""
        parts = [str(currency)]
        for units in amounts:
            parts.append("," if units is None else f"{units // LIMB},{units % LIMB}")
        parts.extend("" if number is None else str(number) for number in ids)
        return ",".join(parts)

    def load(self) -> None:
        """Bring the written rows into the database."""
        self._file.close()
        columns = {"epoch": "INTEGER", "seconds": "BIGINT", "log_partition": "INTEGER", "log_offset": "BIGINT"}
        columns |= {"kind": "INTEGER", "roles": "BIGINT", "party": "INTEGER", "currency": "INTEGER"}
        for column in self._amounts.values():
            columns |= {f"{column}_high": "UBIGINT", f"{column}_low": "UBIGINT"}
        columns |= dict.fromkeys(self._ids.values(), "INTEGER")
        self.load_csv("facts", self._path, columns)

    def load_csv(self, table: str, path: Path, columns: dict[str, str]) -> None:
        """Make a table of a file of whole numbers, and remove the file."""
        described = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
        self.database.execute(
            f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM read_csv('{str(path).replace(chr(39), chr(39) * 2)}',"
            f" header = false, auto_detect = false, delim = ',', quote = '', escape = '', nullstr = '',"
            f" columns = {{{described}}})"
        )
        path.unlink()

    def cells(self, measure: Measure, kind: int, role: int | None, epochs: tuple[int, int]) -> str:
        """The name of the table of a measure's figures over the records of `epochs`, both included.

        Columns: party, start, currency, value (units, cut where the measure is), latest (the last epoch of a record).
        role: the bit of the role, None for either.
        """
        key = (measure, *epochs)
        if key in self._cells:
            return self._cells[key]
        table = self._cells[key] = f"cells{len(self._cells)}"
        where = f"kind = {kind} AND epoch BETWEEN {epochs[0]} AND {epochs[1]}"
        if role is not None:
            where += f" AND roles & {role} <> 0"
        currency = "0"
        if measure.what == "count":
            value = "count(*)"
        elif measure.what == "distinct":
            column = self._ids[measure.field]
            value = f"least(count(DISTINCT {column}), {measure.cap})"
            where += f" AND {column} IS NOT NULL"
        else:
            column = self._amounts[measure.field]
            currency = "currency"
            where += f" AND {column}_high IS NOT NULL AND currency <> 0"
            value = _whole_sum(f"sum({column}_high)", f"sum({column}_low)")
        self.database.execute(
            f"CREATE TABLE {table} AS SELECT party, {start_of(measure.interval, 'seconds')} AS start,"
            f" {currency} AS currency, CAST({value} AS HUGEINT) AS value, max(epoch) AS latest"
            f" FROM facts WHERE {where} GROUP BY ALL"
        )
        return table

    def judged(self, cells: str, interval: str, growth: bool, latest: int) -> Iterator[Cell]:
        """The cells that hold a record of epoch `latest` or later, each with the figure of the interval before."""
        if growth:
            before, joined = (
                "coalesce(b.value, 0)",
                f"LEFT JOIN {cells} b ON b.party = n.party AND b.currency = n.currency"
                f" AND b.start = {start_of(interval, 'n.start - 1')}",
            )
        else:
            before, joined = "0", ""
        return self.rows(
            f"SELECT n.party, n.start, n.currency, n.value, {before}, n.latest FROM {cells} n {joined}"
            f" WHERE n.latest >= {latest}"
        )

    def events_of(self, party: int) -> Iterator[tuple[int, int]]:
        """Partition and offset of each event of a party, in whatever role."""
        if self._schema is None:
            return self.rows(f"SELECT log_partition, log_offset FROM facts WHERE party = {party} ORDER BY ALL")
        if self._by_party is None:
            self._by_party = {}
            for number, *place in self.rows("SELECT party, log_partition, log_offset FROM facts ORDER BY ALL"):
                self._by_party.setdefault(number, []).append((place[0], place[1]))
        return iter(self._by_party.get(party, ()))

    def rows(self, query: str) -> Iterator[Any]:
        """The rows of a query, fetched in blocks; of few facts, all at once."""
        if self._schema is not None:
            yield from self.database.execute(query).fetchall()
            return
        cursor = self.database.cursor()
        cursor.execute(query)
        while block := cursor.fetchmany(_BLOCK):
            yield from block
        cursor.close()

    def close(self) -> None:
        """Close file and database."""
        self._file.close()
        if self._database is None:
            return
        if self._schema is not None:
            self._database.execute(f"SET schema = 'main'; DROP SCHEMA {self._schema} CASCADE")
        self._database.close()


def _whole_sum(high: str, low: str) -> str:
    """SQL for high × 10^19 + low, cut at MOST_UNITS before it can overflow."""
    limb = f"{LIMB}::HUGEINT"
    carried = f"({high} + {low} // {limb})"
    return f"CASE WHEN {carried} >= {limb} THEN {MOST_UNITS}::HUGEINT ELSE {carried} * {limb} + {low} % {limb} END"
