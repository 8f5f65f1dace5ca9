"""Hits: rows of their own, put by the counting bolt for people, lists and other topologies to look up.

Table `<source>.hits`, key (rule, kind, party, interval start, currency). Put with the number of the journal row that
caused it as version, so that an older one never covers a newer; a party is of one shard, so the numbers are in order.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from paystorm.rules import Action
from paystorm.tables.base import Tables
from paystorm.tables.keys import key, under

Status = Literal["standing", "withdrawn"]


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """That a rule's condition holds, or held, for a party in an interval."""

    source: str
    rule: str
    kind: str
    party: str
    interval_start: int
    """Seconds since 1970-01-01 UTC."""
    currency: str
    """Of a sum; else empty."""
    status: Status
    version: int
    """The rule's version: the earliest that holds (the last that held, once withdrawn)."""
    action: Action
    limit: str
    """What was exceeded: the limit, or `×factor` for growth."""
    figure: str
    """The measure at the crossing."""
    topic: str
    partition: int
    offset: int
    """The crossing record: where the rule's condition came to hold."""
    since: int
    """When it was made (made again), µs since 1970-01-01 UTC."""
    changed_at: int = 0
    """When the row last changed: when it was withdrawn, of a withdrawn hit; µs."""
    expires_after: int | None
    """Seconds after `since`, or None."""
    shard: int
    row: int
    """The journal row of its last change."""
    before: dict[int, list[tuple[int, int]]] = {}
    """By partition, what the shard had applied up to and including the crossing record, as ranges."""

    def name(self) -> tuple[str, str, str, str, int, str]:
        """What identifies the hit: (source, rule, kind, party, interval start, currency)."""
        return self.source, self.rule, self.kind, self.party, self.interval_start, self.currency


def row_key(hit: Hit) -> bytes:
    """The hit's row in `<source>.hits`."""
    return key(hit.rule, hit.kind, hit.party, hit.interval_start, hit.currency)


def put_hits(tables: Tables, source: str, row: int, hits: Iterable[Hit]) -> None:
    """Put hits that the shard's journal row `row` changed."""
    rows = [(row_key(h), msgspec.msgpack.encode(h)) for h in hits]
    if rows:
        tables.put(f"{source}.hits", rows, version=row)


def load_hits(tables: Tables, source: str, rule: str | None = None) -> Iterator[Hit]:
    """The hits of a source, or of one of its rules, in order of key."""
    start, stop = under(rule) if rule is not None else (b"", None)
    for _, value in tables.scan(f"{source}.hits", start, stop):
        yield msgspec.msgpack.decode(value, type=Hit)


def party_hits(tables: Tables, source: str, rules: Iterable[str], kind: str, party: str) -> Iterator[Hit]:
    """The hits of one party, by rule and interval. `rules`: all that the source ever had."""
    for rule in sorted(rules):
        start, stop = under(rule, kind, party)
        for _, value in tables.scan(f"{source}.hits", start, stop):
            yield msgspec.msgpack.decode(value, type=Hit)
