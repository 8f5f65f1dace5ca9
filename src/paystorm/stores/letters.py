"""Dead letters: records that are not valid or were given up, with their raw bytes, in the table `<source>.letters`."""

from collections.abc import Iterator, Sequence

import msgspec

from paystorm.chunk import Letter
from paystorm.log.base import OutRecord
from paystorm.tables.base import Tables
from paystorm.tables.keys import key, under
from paystorm.verdicts import VerdictLog, verdict_record


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A record that has the outcome dead-lettered."""

    partition: int
    offset: int
    timestamp: int
    """The log's time, ms."""
    dead_at: int
    """When it was first stored, µs since 1970-01-01 UTC."""
    field: str
    code: str
    detail: str
    event_id: str | None
    application: str | None
    value: bytes
    attempts: int = 0
    """How often it was tried before it was given up; 0 for a record that is not valid."""
    last_error: str | None = None
    state: str = "open"

    @classmethod
    def of(cls, letter: Letter, dead_at: int) -> "DeadLetter":
        """The dead letter of a record that validation found invalid."""
        return cls(
            partition=letter.partition,
            offset=letter.offset,
            timestamp=letter.timestamp,
            dead_at=dead_at,
            field=letter.field,
            code=letter.code,
            detail=letter.detail,
            event_id=letter.event_id,
            application=letter.application,
            value=letter.value,
        )

    def verdict(self, topic: str) -> OutRecord:
        """Its verdict; `topic` is the source's."""
        return verdict_record(
            application=self.application,
            event_id=self.event_id,
            topic=topic,
            partition=self.partition,
            offset=self.offset,
            verdict="dead_lettered",
            reason=f"{self.field}: {self.code}",
        )


def letters_table(source: str) -> str:
    """The name of a source's table of dead letters."""
    return f"{source}.letters"


def store_letters(tables: Tables, source: str, verdicts: VerdictLog, letters: Sequence[DeadLetter]) -> None:
    """Store dead letters and publish their verdicts. Of one offset the first to be stored stays and is published."""
    if not letters:
        return
    table = letters_table(source)
    rows = [(key(x.partition, x.offset), msgspec.msgpack.encode(x)) for x in letters]
    stored = list(letters)
    repeated = [i for i, put in enumerate(tables.put_if_absent(table, rows)) if not put]
    if repeated:
        there = tables.get_many(table, [rows[i][0] for i in repeated])
        for i, value in zip(repeated, there, strict=True):
            if value is not None:
                stored[i] = msgspec.msgpack.decode(value, type=DeadLetter)
    verdicts.append([x.verdict(verdicts.topic) for x in stored])


def bury(
    tables: Tables,
    source: str,
    verdicts: VerdictLog,
    *,
    partition: int,
    offset: int,
    timestamp: int,
    value: bytes,
    event_id: str | None,
    application: str | None,
    attempts: int,
    last_error: str,
    now: int,
) -> None:
    """Dead-letter a record that is given up, once no sink holds it (SEMANTICS.md §6). `timestamp` ms, `now` µs."""
    letter = DeadLetter(
        partition=partition,
        offset=offset,
        timestamp=timestamp,
        dead_at=now,
        field="record",
        code="gave_up",
        detail=f"given up after {attempts} attempts: {last_error}",
        event_id=event_id,
        application=application,
        value=value,
        attempts=attempts,
        last_error=last_error,
    )
    store_letters(tables, source, verdicts, [letter])


def letter_at(tables: Tables, source: str, partition: int, offset: int) -> DeadLetter | None:
    """The dead letter of an offset, or None."""
    value = tables.get(letters_table(source), key(partition, offset))
    return None if value is None else msgspec.msgpack.decode(value, type=DeadLetter)


def all_letters(tables: Tables, source: str, partition: int | None = None) -> Iterator[DeadLetter]:
    """The dead letters of a source or of one partition, in order of partition and offset."""
    start, stop = (b"", None) if partition is None else under(partition)
    for _, value in tables.scan(letters_table(source), start, stop):
        yield msgspec.msgpack.decode(value, type=DeadLetter)


def change_letter(tables: Tables, source: str, old: DeadLetter, new: DeadLetter) -> bool:
    """Put `new` in the place of `old` unless somebody else has changed it meanwhile; says whether it was put."""
    if (old.partition, old.offset) != (new.partition, new.offset):
        raise ValueError(f"{source}: the dead letters of two offsets, {old.offset} and {new.offset}")
    where = key(old.partition, old.offset)
    return tables.replace(letters_table(source), where, msgspec.msgpack.encode(old), msgspec.msgpack.encode(new))


def letters_below(tables: Tables, source: str, partition: int, below: int) -> int:
    """How many dead letters the partition has at offsets < below."""
    start, _ = under(partition)
    return sum(1 for _ in tables.scan(letters_table(source), start, key(partition, below)))
