"""The hours of a source's stored events: which folder is in force for each, and what its merged files hold.

A row a source and hour in the table `<source>.hours`, under key(hour); none for an hour that was never merged, whose
folder is number 0. Every change is a conditional put, so of two that merge an hour one loses (decision 0009).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from paystorm.offsets import Range
from paystorm.tables.base import Tables
from paystorm.tables.keys import key, parts


class MergedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that holds the events of many files of one hour."""

    name: str
    rows: int
    of: tuple[tuple[int, tuple[Range, ...]], ...]
    """For each partition the numbers of the index rows whose files are in it, as ranges [first, after)."""

    def holds(self, partition: int, n: int) -> bool:
        """Whether the file of that index row is in it."""
        return any(p == partition and any(first <= n < after for first, after in ranges) for p, ranges in self.of)


class Hour(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of an hour. As it is made here: that of an hour without a row."""

    folder: int = 0
    """The number of the folder in force: files go there, queries read it and no other."""
    merged: tuple[MergedFile, ...] = ()
    """The merged files in it."""
    merging: int = 0
    """The folder that a merge is preparing; 0: none is at work."""
    since: int = 0
    """When that merge last gave a sign of life, µs since 1970-01-01 UTC."""
    late: int = 0
    """Files placed in the folder in force since the merge began: it must bring them along."""
    last: int = 0
    """The highest number that a folder of this hour was ever given."""
    left: tuple[int, ...] = ()
    """Folders that were in force and are not removed yet."""
    swapped_at: int = 0
    shown: int = 0
    """The folder that the query engine was told of last, where it keeps a note of its own (Hive)."""
    pruned: int = 0
    """When its events went out of sight for good (decision 0012), µs since 1970-01-01 UTC; 0: they have not."""
    removed: bool = False
    """Its files have been removed since."""

    def merged_with(self, partition: int, n: int) -> MergedFile | None:
        """The merged file that holds the file of that index row, or None."""
        return next((file for file in self.merged if file.holds(partition, n)), None)


UNMERGED = Hour()


def hours_table(source: str) -> str:
    """The name of the table of a source's hours."""
    return f"{source}.hours"


@dataclass(frozen=True, slots=True)
class Hours:
    """The hours of all sources. Every method raises TablesError."""

    tables: Tables

    def get(self, source: str, hour: str) -> Hour:
        """An hour as it is now."""
        value = self.tables.get(hours_table(source), key(hour))
        return UNMERGED if value is None else msgspec.msgpack.decode(value, type=Hour)

    def all(self, source: str) -> Mapping[str, Hour]:
        """Every hour that has a row."""
        rows = self.tables.scan(hours_table(source))
        return {str(parts(where)[0]): msgspec.msgpack.decode(value, type=Hour) for where, value in rows}

    def replace(self, source: str, hour: str, was: Hour, now: Hour) -> bool:
        """Change an hour that is as it `was`; says whether it still was so."""
        table, where, value = hours_table(source), key(hour), msgspec.msgpack.encode(now)
        if was == UNMERGED:
            return self.tables.put_if_absent(table, [(where, value)])[0]
        return self.tables.replace(table, where, msgspec.msgpack.encode(was), value)
