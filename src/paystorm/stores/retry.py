"""Parked records, and what the sinks answer before one is given up (SEMANTICS.md §6).

`<source>.retry`, key (partition, offset) → `Parked`: put by the bolt that names the record (or by the spout), changed
by replacing the value that is known. `<source>.answers`, key (partition, offset, sink) → `held` or `refused`.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from paystorm.chunk import Head
from paystorm.errors import TablesError
from paystorm.tables.base import Tables
from paystorm.tables.keys import Part, key, parts, under

State = Literal["waiting", "giving_up", "held"]
HELD, REFUSED = b"held", b"refused"
ERROR_CHARS = 4000
"""A longer error text is cut."""
REPLACE_TRIES = 20


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """A record that could not be processed and waits for its next retry."""

    partition: int
    offset: int
    error: str
    """Of the last failure with a name."""
    attempts: int
    """How often it was tried: 1 + the retries that failed. The next retry has this number."""
    first_failed: int
    """µs since 1970-01-01 UTC."""
    last_failed: int
    epoch: int
    state: State = "waiting"
    """waiting: for its next retry; giving_up: the sinks are being asked; held: one has it, so it is never given up."""
    refused: bool = False
    """Held, but some sinks may still refuse it: the refusals are to be lifted before the next retry."""
    timestamp: int = 0
    """The log's time, ms; the spout fills it in with the value."""
    value: bytes | None = None
    """The raw bytes; None until the spout, before its committed offset passes the record, fills them in."""
    base: int = -1
    """The count of records of the partition that had been completed when it first failed; −1 until filled in.

    Counted as checkpoints count, records up to and including this one among them.
    """

    def encode(self) -> bytes:
        """The row's value."""
        return msgspec.msgpack.encode(self)


def retry_table(source: str) -> str:
    """The name of a source's table of parked records."""
    return f"{source}.retry"


def answers_table(source: str) -> str:
    """The name of a source's table of answers."""
    return f"{source}.answers"


def park(tables: Tables, source: str, head: Head, failures: Mapping[int, str], now: int) -> None:
    """Note the records of a chunk that a bolt cannot process: offset → error. To be called before its tuple is acked.

    A first failure is put only where the record is not parked; the failure of retry n makes n attempts n + 1. So a
    tuple that comes twice, or late, changes nothing. Raises TablesError; the tuple must then be failed.
    """
    if head.attempt == 0:
        rows = []
        for offset, error in sorted(failures.items()):
            row = Parked(
                partition=head.partition,
                offset=offset,
                error=error[:ERROR_CHARS],
                attempts=1,
                first_failed=now,
                last_failed=now,
                epoch=head.epoch,
            )
            rows.append((key(head.partition, offset), row.encode()))
        if rows:
            tables.put_if_absent(retry_table(source), rows)
        return
    for offset, error in failures.items():
        _fail_again(tables, source, head, offset, error=error[:ERROR_CHARS], now=now)


def _fail_again(tables: Tables, source: str, head: Head, offset: int, *, error: str, now: int) -> None:
    for _ in range(REPLACE_TRIES):
        held = load_parked(tables, source, head.partition, offset)
        if held is None or held.attempts != head.attempt or held.state == "giving_up":
            return
        new = msgspec.structs.replace(held, attempts=held.attempts + 1, error=error, last_failed=now)
        if replace_parked(tables, source, held, new):
            return
    raise TablesError(f"{source}: the parked record {head.partition}/{offset} keeps changing; the tuple is sent again")


def put_parked(tables: Tables, source: str, row: Parked) -> None:
    """Park a record where it is not parked yet."""
    tables.put_if_absent(retry_table(source), [(key(row.partition, row.offset), row.encode())])


def load_parked(tables: Tables, source: str, partition: int, offset: int) -> Parked | None:
    """The parked record at an offset, or None."""
    value = tables.get(retry_table(source), key(partition, offset))
    return None if value is None else msgspec.msgpack.decode(value, type=Parked)


def scan_parked(tables: Tables, source: str, partition: int, first: int, after: int) -> Iterator[Parked]:
    """The parked records of a partition with first ≤ offset < after, in order of offset."""
    for _, value in tables.scan(retry_table(source), key(partition, first), key(partition, after)):
        yield msgspec.msgpack.decode(value, type=Parked)


def all_parked(tables: Tables, source: str) -> Iterator[Parked]:
    """Every parked record of a source, in order of partition and offset."""
    for _, value in tables.scan(retry_table(source)):
        yield msgspec.msgpack.decode(value, type=Parked)


def replace_parked(tables: Tables, source: str, held: Parked, new: Parked) -> bool:
    """Put `new` in the place of `held` unless it has changed meanwhile; says whether it was put."""
    return tables.replace(retry_table(source), key(held.partition, held.offset), held.encode(), new.encode())


def delete_parked(tables: Tables, source: str, held: Parked) -> bool:
    """Remove a parked record unless it has changed meanwhile; says whether it was removed."""
    return tables.delete_if(retry_table(source), key(held.partition, held.offset), held.encode())


def still_asked(tables: Tables, source: str, partition: int, offset: int) -> bool:
    """Whether a record is being given up. A sink notes a refusal only where it is so.

    A question that timed out may arrive after its refusals were lifted; noted then, it would keep the record from that
    sink for good. The row leaves `giving_up` before a lift is sent, so a sink that asks here first cannot fall for it.
    """
    row = load_parked(tables, source, partition, offset)
    return row is not None and row.state == "giving_up"


def put_answer(tables: Tables, source: str, partition: int, offset: int, sink: Part, *, held: bool) -> None:
    """A sink's answer to a `Refusal`: whether it holds the record. To be called before the tuple is acked."""
    tables.put(answers_table(source), [(key(partition, offset, sink), HELD if held else REFUSED)])


def load_answers(tables: Tables, source: str, partition: int, offset: int) -> dict[Part, bool]:
    """What the sinks answered: for each whether it holds the record."""
    start, stop = under(partition, offset)
    return {parts(k)[2]: value == HELD for k, value in tables.scan(answers_table(source), start, stop)}


def delete_answers(tables: Tables, source: str, partition: int, offset: int) -> None:
    """Remove the answers about a record."""
    start, stop = under(partition, offset)
    doomed = [row_key for row_key, _ in tables.scan(answers_table(source), start, stop)]
    if doomed:
        tables.delete(answers_table(source), doomed)
