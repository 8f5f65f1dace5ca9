"""A sample of a source's data, by column: what guesses are made from."""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from paystorm.errors import UsageError

MAX_RECORDS = 10_000
MAX_BYTES = 64 << 20
"""Records and bytes of a sample that are looked at."""
MAX_LINE = 1 << 20
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
"""What a declared field may be called: a column in every warehouse."""


@dataclass(slots=True)
class Column:
    """A key of `data`: its values in the records that have it (null counts as absent), and in which they are."""

    name: str
    values: list[Any] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    @property
    def distinct(self) -> int:
        """How many different values; those that cannot be compared count as different."""
        return len({value if isinstance(value, str | int | Decimal) else json.dumps(value) for value in self.values})


@dataclass(slots=True)
class Sample:
    """The records of a sample: their `data` objects, and what was found around them."""

    file: str
    records: list[dict[str, Any]]
    columns: list[Column]
    applications: list[str] = field(default_factory=list)
    """The ApplicationRefs of envelopes, the most frequent first."""
    broken: int = 0
    """Lines that are no JSON object."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Of a CSV: field → the column that it is in, where the names differ."""


def read_sample(file: str) -> Sample:
    """Read a sample: NDJSON (envelopes or bare data objects) or CSV with a header, by its name; .gz too.

    Raises UsageError where it cannot be read or holds no record.
    """
    path = Path(file)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            raw = stream.read(MAX_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        text = getattr(error, "strerror", None) or error
        raise UsageError(f"{file}: {text}: name a sample that can be read") from None
    tabular = file.lower().removesuffix(".gz").endswith(".csv")
    sample = _of_csv(file, raw) if tabular else _of_lines(file, raw)
    if not sample.records:
        raise UsageError(f"{file}: no record in it: a sample is NDJSON, an object a line, or CSV with a header")
    return sample


def _of_lines(file: str, raw: bytes) -> Sample:
    records: list[dict[str, Any]] = []
    applications: dict[str, int] = {}
    broken = 0
    for line in raw.splitlines()[:MAX_RECORDS]:
        if not line.strip():
            continue
        try:
            found = _object(line) if len(line) <= MAX_LINE else None
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and isinstance(found.get("data"), dict) and "ApplicationRef" in found:
            name = found["ApplicationRef"]
            if isinstance(name, str) and name:
                applications[name] = applications.get(name, 0) + 1
            found = found["data"]
        if isinstance(found, dict):
            records.append(found)
        else:
            broken += 1
    named = sorted(applications, key=lambda name: -applications[name])
    return Sample(file, records, _columns(records), named, broken)


def _object(line: bytes) -> Any:
    """A line's JSON, numbers exact. Raises ValueError."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    return json.loads(line.decode(), parse_float=Decimal, parse_constant=refuse)


def _of_csv(file: str, raw: bytes) -> Sample:
    try:
        rows = csv.reader(raw.decode("utf-8-sig").splitlines(keepends=True), strict=True)
        header = [name.strip() for name in next(rows, [])]
        names, renamed = _field_names(header, file)
        records: list[dict[str, Any]] = []
        broken = 0
        for row in rows:
            if len(records) == MAX_RECORDS:
                break
            if len(row) == len(names):
                records.append({name: cell for name, cell in zip(names, row, strict=True) if cell != ""})
            elif row:
                broken += 1
    except UnicodeDecodeError:
        raise UsageError(f"{file}: not UTF-8: convert it first") from None
    except csv.Error as error:
        raise UsageError(f"{file}: not CSV: {error}") from None
    return Sample(file, records, _columns(records), broken=broken, renamed=renamed)


def _field_names(header: list[str], file: str) -> tuple[list[str], dict[str, str]]:
    """A field's name for each column, and which column each renamed field is in. Raises UsageError."""
    names: list[str] = []
    for column in header:
        name = column
        if NAME.fullmatch(column) is None:
            name = re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")
            name = name if name[:1].isalpha() else f"f_{name}".rstrip("_")
        if name in names:
            raise UsageError(f"{file}: two columns would be called {name!r}: rename one of them in the header")
        names.append(name)
    return names, {name: column for name, column in zip(names, header, strict=True) if name != column}


def _columns(records: list[dict[str, Any]]) -> list[Column]:
    columns: dict[str, Column] = {}
    for row, record in enumerate(records):
        for name, value in record.items():
            if value is not None:
                column = columns.setdefault(name, Column(name))
                column.values.append(value)
                column.rows.append(row)
    return list(columns.values())


def typed(records: list[dict[str, Any]], whole: set[str]) -> Iterator[dict[str, Any]]:
    """The records with the text of whole numbers as numbers: what `paystorm send` makes of a CSV."""
    for record in records:
        yield {
            name: int(value) if name in whole and isinstance(value, str) and value.lstrip("-").isdigit() else value
            for name, value in record.items()
        }
