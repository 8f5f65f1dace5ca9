"""Cases: what is opened for a party when one of its events is denied or a rule asks for a review.

A case's events are not copied here: they are the warehouse's rows whose `entry_kind` and `entry_party` name the party,
and the caught-late rows of the journals.
"""

from collections.abc import Iterable

import msgspec

from paystorm.tables.base import Tables
from paystorm.tables.keys import key

TABLE = "cases"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A party under investigation."""

    kind: str
    party: str
    opened_at: int
    """µs since 1970-01-01 UTC."""
    source: str
    """The source whose event or rule opened it."""
    cause: str
    """What opened it: a rule's name, or `person`."""


def open_cases(tables: Tables, cases: Iterable[Case]) -> None:
    """Open a case for each party that has none; the others join the one they have."""
    rows = {key(c.kind, c.party): msgspec.msgpack.encode(c) for c in cases}
    if rows:
        tables.put_if_absent(TABLE, list(rows.items()))


def all_cases(tables: Tables) -> list[Case]:
    """Every case, in order of kind and party."""
    return [msgspec.msgpack.decode(value, type=Case) for _, value in tables.scan(TABLE)]
