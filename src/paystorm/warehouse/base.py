"""The interface of the warehouse: event files in partitions by hour of storing, and queries over them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl

Columns = Mapping[str, pl.DataType]
NONE: Mapping[str, Columns] = {}
QUERY_SECONDS = 120.0
QUERY_ROWS = 1_000_000
"""A query with more rows is refused: they would stand in memory as Python values."""
_FLUSHED = re.compile(r"(\d{5,})-(\d{10,})-[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class EventFile:
    """A file of stored events, as the index names it."""

    source: str
    hour: str
    """The hour of storing, UTC, as `YYYY-MM-DDTHH`: partition columns `dt` and `hr`."""
    name: str


def flushed_name(partition: int, n: int, token: int) -> str:
    """The name of the file that index row n of a partition names; `token` tells it from those of owners that lost."""
    return f"{partition:05d}-{n:010d}-{token:016x}"


def row_of(name: str) -> tuple[int, int] | None:
    """(partition, n) of a name that `flushed_name` made, or None."""
    matched = _FLUSHED.fullmatch(name)
    return None if matched is None else (int(matched[1]), int(matched[2]))


class Warehouse(Protocol):
    """Where events are stored. Writes are in two steps, so that what is not in the index is never seen."""

    def stage(self, file: EventFile, frame: pl.DataFrame) -> None:
        """Write a file aside and sync it: not visible to queries yet."""
        ...

    def place(self, files: Sequence[EventFile]) -> None:
        """Rename staged files into place, passing over those that are in place already.

        Raises TablesError for one that is neither staged nor in place.
        """
        ...

    def discard_staged(self, source: str, keep: Sequence[str], *, prefix: str = "") -> None:
        """Remove what was staged under names that begin with `prefix` and never indexed, but for those in `keep`."""
        ...

    def read(self, file: EventFile) -> pl.DataFrame:
        """The events of a file, staged or in place."""
        ...

    def folders(self, source: str) -> list[Path]:
        """The folders in force that hold a source's files."""
        ...

    def query(self, sql: str, known: Mapping[str, Columns] = NONE) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run a query over the events of all sources (tables named as sources are, `-` as `_`): names and rows.

        `known`: the columns of sources that are a table also while nothing of them is stored.
        """
        ...

    def table(self, source: str) -> str:
        """The name of a source's table as a query writes it."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...
