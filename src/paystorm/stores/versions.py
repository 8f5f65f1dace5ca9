"""Versions of a source: its rules and validity settings, from a first offset of each partition on (decision 0001).

Table `<source>.versions`: ("version", n) → the version; ("first", n, partition) → its first offset there.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from paystorm.errors import ConfigError
from paystorm.rules import Rule
from paystorm.tables.base import Tables
from paystorm.tables.keys import key, parts, under


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version: what is counted and what is valid from its first offsets on."""

    number: int
    rules: tuple[Rule, ...]
    validity: dict[str, Any]
    """`earliest` (µs), `maxAhead` (s), `maxRecordBytes`, `countsRetention` (s or None)."""
    partitions: int
    """How many partitions the topic had; those added later begin at 0."""
    shards: int
    """How many shards parties are spread over: of version 0, and never changed."""
    made_at: int

    def same_as(self, rules: tuple[Rule, ...], validity: dict[str, Any]) -> bool:
        """Whether these rules and settings are those of the version."""
        return self.rules == rules and self.validity == validity


def _table(source: str) -> str:
    return f"{source}.versions"


def load_versions(tables: Tables, source: str) -> list[Version]:
    """All versions, in order of number; empty where the source has never started."""
    start, stop = under("version")
    return [msgspec.msgpack.decode(v, type=Version) for _, v in tables.scan(_table(source), start, stop)]


def add_version(tables: Tables, source: str, version: Version) -> bool:
    """Put a version where its number is free; says whether it was."""
    return tables.put_if_absent(_table(source), [(key("version", version.number), msgspec.msgpack.encode(version))])[0]


def check_subjects(source: str, versions: Iterable[Version], rules: Iterable[Rule] = ()) -> None:
    """Raise ConfigError where a rule's name stands for something else than it did in another version.

    A hit is named by its rule: under one name there can be one kind, role, measure and interval (a cap may change).
    """
    known: dict[str, Rule] = {}
    for rule in (*(r for version in versions for r in version.rules), *rules):
        first = known.setdefault(rule.name, rule)
        if first.subject() != rule.subject():
            raise ConfigError(
                f"rules.{source}.{rule.name}: it counted {first.measured().label()} in an earlier version "
                f"and would count {rule.measured().label()} now; give the new rule a name of its own"
            )


def load_firsts(tables: Tables, source: str) -> dict[tuple[int, int], int]:
    """First offsets by (version, partition), of those that have been put."""
    out: dict[tuple[int, int], int] = {}
    start, stop = under("first")
    for row_key, value in tables.scan(_table(source), start, stop):
        _, number, partition = parts(row_key)
        out[int(number), int(partition)] = int(value)
    return out


def first_offset(tables: Tables, source: str, version: Version, partition: int, end: int) -> int:
    """The version's first offset in a partition, put where absent: `end`; 0 for version 0 and later partitions."""
    first = 0 if version.number == 0 or partition >= version.partitions else end
    row = key("first", version.number, partition)
    tables.put_if_absent(_table(source), [(row, b"%d" % first)])
    held = tables.get(_table(source), row)
    assert held is not None
    return int(held)
