"""All stored events of a source by way of its index, each once, merged or not."""

from collections.abc import Iterator

import polars as pl

from paystorm.stores.hours import Hours
from paystorm.stores.index import index_table, rows_from
from paystorm.tables.base import Tables
from paystorm.tables.keys import parts, under
from paystorm.warehouse.base import EventFile, Warehouse


def stored_events(tables: Tables, warehouse: Warehouse, source: str) -> Iterator[pl.DataFrame]:
    """The stored events, by partition and about in the order of storing; a frame holds events of one partition.

    Which files are merged, and which hours pruned, is read once, at the start: the old files stand for a while longer
    (`MergeSettings.grace`).
    Raises TablesError.
    """
    hours = Hours(tables).all(source)
    for partition in indexed_partitions(tables, source):
        seen: set[EventFile] = set()
        for row in rows_from(tables, source, partition, 0):
            for file in row.files:
                hour = hours.get(file.hour)
                if hour is not None and hour.pruned:
                    continue
                merged = hour.merged_with(partition, row.n) if hour is not None else None
                if merged is None:
                    yield warehouse.read(file.of(source))
                    continue
                whole = EventFile(source, file.hour, merged.name)
                if whole not in seen:  # all that it holds of this partition at once
                    seen.add(whole)
                    yield warehouse.read(whole).filter(pl.col("log_partition") == partition)


def indexed_partitions(tables: Tables, source: str) -> list[int]:
    """The partitions that have an index."""
    found: list[int] = []
    start = b""
    while True:
        first = next(iter(tables.scan(index_table(source), start, limit=1)), None)
        if first is None:
            return found
        partition = int(parts(first[0])[0])
        found.append(partition)
        after = under(partition)[1]
        assert after is not None
        start = after
