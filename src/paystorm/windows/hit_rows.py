"""The rows of hits that a flush changed: what was crossed, where, and what had been applied by then."""

import msgspec
import numpy as np

from paystorm.chunk import Head
from paystorm.errors import TablesError
from paystorm.offsets import OffsetSet
from paystorm.stores.hits import Hit
from paystorm.tables.base import Tables
from paystorm.tables.keys import key
from paystorm.windows.book import Span
from paystorm.windows.memory import Memory
from paystorm.windows.shard import Shard
from paystorm.windows.tally import Change
from paystorm.windows.touches import KindTouches


def changed_hits(
    memory: Memory,
    shards: dict[int, Shard],
    heads: list[Head],
    touches: dict[str, KindTouches],
    changes: list[Change],
    tables: Tables,
    now: int,
) -> dict[int, list[Hit]]:
    """The hits that a flush made, withdrew or gave to another version, as their rows are to be, by shard.

    heads: of the flush's chunks, in the order of application. now: µs. Reads the rows of hits that stood before.
    """
    if not changes:
        return {}
    out: dict[int, list[Hit]] = {}
    names = _party_names(memory, changes)
    befores: dict[tuple[int, int], dict[int, OffsetSet]] = {}
    withdrawn: list[tuple[int, Change, str]] = []
    for change, party in zip(changes, names, strict=True):
        number = int(memory.interners[change.kind].shards[change.code])
        shard = shards[number]
        if change.span is None or change.crossing is None:
            withdrawn.append((number, change, party))
            continue
        rows = touches[change.kind]
        arrival = int(rows.arrivals[change.crossing.row])
        offset = int(rows.offsets[change.crossing.row])
        head = heads[arrival]
        if (number, arrival) not in befores:
            befores[number, arrival] = _applied_before(shard, heads[:arrival])
        earlier = befores[number, arrival]
        ranges = {p: held.ranges() for p, held in earlier.items()}
        partial = earlier.get(head.partition, OffsetSet()).copy()
        for first, after in head.covered():
            partial.add(first, min(after, offset + 1))
        ranges[head.partition] = partial.ranges()
        digits = memory.book.measures[change.span.rule.measured().label()].digits
        out.setdefault(number, []).append(
            Hit(
                source=memory.source,
                rule=change.rule,
                kind=change.kind,
                party=party,
                interval_start=change.start,
                currency=change.currency,
                status="standing",
                version=change.span.first,
                action=change.span.rule.acts,
                limit=_limit(change.span, change.currency),
                figure=_decimal(change.crossing.figure, digits),
                topic=head.topic,
                partition=head.partition,
                offset=offset,
                since=now,
                changed_at=now,
                expires_after=change.span.rule.expires_after,
                shard=number,
                row=shard.n + 1,
                before=ranges,
            )
        )
    for number, hit in _stood_before(memory.source, tables, shards, withdrawn, now):
        out.setdefault(number, []).append(hit)
    return out


def _stood_before(
    source: str, tables: Tables, shards: dict[int, Shard], changed: list[tuple[int, Change, str]], now: int
) -> list[tuple[int, Hit]]:
    """Hits that stood before and are withdrawn now, or hold by another version: their rows, changed."""
    if not changed:
        return []
    keys = [key(change.rule, change.kind, party, change.start, change.currency) for _, change, party in changed]
    out = []
    for (number, change, party), value in zip(changed, tables.get_many(f"{source}.hits", keys), strict=True):
        if value is None:
            raise TablesError(f"{source}: the hit of rule {change.rule} for {party} is not in the table")
        hit = msgspec.msgpack.decode(value, type=Hit)
        row = shards[number].n + 1
        if change.span is None:
            out.append((number, msgspec.structs.replace(hit, status="withdrawn", changed_at=now, row=row)))
        else:
            out.append(
                (
                    number,
                    msgspec.structs.replace(
                        hit,
                        version=change.span.first,
                        action=change.span.rule.acts,
                        limit=_limit(change.span, change.currency),
                        expires_after=change.span.rule.expires_after,
                        changed_at=now,
                        row=row,
                    ),
                )
            )
    return out


def _party_names(memory: Memory, changes: list[Change]) -> list[str]:
    names: dict[tuple[str, int], str] = {}
    for kind in {change.kind for change in changes}:
        codes = np.unique(np.array([c.code for c in changes if c.kind == kind], dtype=np.uint32))
        found = memory.interners[kind].names(codes).to_list()
        names.update(((kind, code), name) for code, name in zip(codes.tolist(), found, strict=True))
    return [names[c.kind, c.code] for c in changes]


def _applied_before(shard: Shard, earlier: list[Head]) -> dict[int, OffsetSet]:
    """What a shard had applied once the chunks before one had been, by partition."""
    out = {partition: held.copy() for partition, held in shard.applied.items()}
    for head in earlier:
        out.setdefault(head.partition, OffsetSet()).update(head.covered())
    return out


def _limit(span: Span, currency: str) -> str:
    if span.rule.factor is not None:
        return f"×{span.rule.factor}"
    return str(span.rule.figures()[currency])


def _decimal(figure: int, digits: int) -> str:
    """A figure in units of 10^−digits as decimal text without trailing zeros."""
    if digits == 0:
        return str(figure)
    whole, rest = divmod(figure, 10**digits)
    fraction = f"{rest:0{digits}d}".rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)
