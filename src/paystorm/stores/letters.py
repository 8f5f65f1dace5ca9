"""Dead letters: records that are not valid or were given up, with their raw bytes, and what people did with them.

`<source>.letters`, key (partition, offset) → `DeadLetter`; of several that which died first stands.
`<source>.letters.acts`, key (partition, offset, n) → `LetterAct`, put only where absent and never changed: of two
people one is the n-th, and what has become of a letter follows from its acts.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from paystorm.chunk import Letter
from paystorm.log.base import OutRecord
from paystorm.tables.base import MAX_VERSION, Tables
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
    pruned: bool = False
    """Settled long ago: `value`, `detail` and `last_error` went with their retention (decision 0012)."""

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
    """Store dead letters and publish their verdicts. Of one offset that which died first stays and is published."""
    if not letters:
        return
    table = letters_table(source)
    # The earlier, the higher the version. Conditions would do it too, but each of them costs HBase a call.
    for dead_at in sorted({x.dead_at for x in letters}):
        rows = [(key(x.partition, x.offset), msgspec.msgpack.encode(x)) for x in letters if x.dead_at == dead_at]
        tables.put(table, rows, version=MAX_VERSION - dead_at)
    there = tables.get_many(table, [key(x.partition, x.offset) for x in letters])
    stored = [msgspec.msgpack.decode(value, type=DeadLetter) for value in there if value is not None]
    verdicts.append([x.verdict(verdicts.topic) for x in stored])


def put_pruned(tables: Tables, source: str, letter: DeadLetter) -> None:
    """Keep of a letter what is left of it, for good: whoever stores it again puts nothing back."""
    row = key(letter.partition, letter.offset), msgspec.msgpack.encode(letter)
    tables.put(letters_table(source), [row], version=MAX_VERSION)


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


def letters_below(tables: Tables, source: str, partition: int, below: int) -> int:
    """How many dead letters the partition has at offsets < below."""
    start, _ = under(partition)
    return sum(1 for _ in tables.scan(letters_table(source), start, key(partition, below)))


# What people did with them.

LetterState = Literal["open", "replaying", "replayed", "discarded"]
"""open: nothing was done; replaying: a replay was begun, and it is not known whether its record was appended."""


class LetterAct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that was done with a dead letter."""

    partition: int
    offset: int
    n: int
    """Its number among the letter's acts, from 0 on."""
    act: Literal["replay", "mend", "sent", "discard"]
    """replay and mend are put before the record is appended, sent behind it. A mend is a replay of other bytes."""
    at: int
    """µs since 1970-01-01 UTC."""
    by: str
    reason: str
    value: bytes | None = None
    """Of a mend: the bytes that take the place of the record's, `replay_of` included."""
    sent_as: int | None = None
    """Of sent: the offset of the replay, in the same partition."""


def acts_table(source: str) -> str:
    """The name of a source's table of acts on dead letters."""
    return f"{source}.letters.acts"


def put_acts(tables: Tables, source: str, acts: Sequence[LetterAct]) -> list[bool]:
    """Put each act where no other has its number; says for each whether it was put."""
    if not acts:
        return []
    rows = [(key(a.partition, a.offset, a.n), msgspec.msgpack.encode(a)) for a in acts]
    return tables.put_if_absent(acts_table(source), rows)


def acts_on(tables: Tables, source: str, partition: int, offset: int) -> list[LetterAct]:
    """The acts on a letter, in order."""
    start, stop = under(partition, offset)
    return [msgspec.msgpack.decode(value, type=LetterAct) for _, value in tables.scan(acts_table(source), start, stop)]


def acts_by_letter(tables: Tables, source: str) -> dict[tuple[int, int], list[LetterAct]]:
    """The acts on all letters of a source, by (partition, offset)."""
    out: dict[tuple[int, int], list[LetterAct]] = {}
    for _, value in tables.scan(acts_table(source)):
        act = msgspec.msgpack.decode(value, type=LetterAct)
        out.setdefault((act.partition, act.offset), []).append(act)
    return out


def state_after(acts: Sequence[LetterAct]) -> LetterState:
    """What has become of a letter with these acts."""
    if not acts:
        return "open"
    last = acts[-1].act
    return "discarded" if last == "discard" else "replayed" if last == "sent" else "replaying"


def replays_table(source: str) -> str:
    """The name of a source's table of claims: key (topic, partition, offset replayed) → the offset that claims it."""
    return f"{source}.replays"


def claims_on(tables: Tables, source: str, topic: str, letters: Iterable[tuple[int, int]]) -> list[int | None]:
    """For each record (partition, offset): the offset of the replay that counts; None while no spout has read one."""
    rows = tables.get_many(replays_table(source), [key(topic, p, o) for p, o in letters])
    return [None if value is None else int(value) for value in rows]
