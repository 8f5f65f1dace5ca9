"""The verdict topic against the stored rows: what had to be said was said, and nothing else (SEMANTICS.md §3)."""

from collections.abc import Iterator

import msgspec
import polars as pl

from paystorm.log.base import Log
from paystorm.oracle import Difference
from paystorm.oracle.model import Words
from paystorm.source import Source
from paystorm.verdicts import verdict_topic
from paystorm.verify.reading import READ_BYTES, READ_RECORDS, Letter, Snapshot
from paystorm.verify.stored import StoredEvents

_SAID = {
    "topic": pl.String(),
    "partition": pl.Int64(),
    "offset": pl.Int64(),
    "verdict": pl.String(),
    "ApplicationRef": pl.String(),
    "id": pl.String(),
    "reason": pl.String(),
    "entry": pl.String(),
    "would_deny": pl.Boolean(),
}
_KEY = ["partition", "offset", "verdict"]
_TOLD = ["topic", "ApplicationRef", "id", "reason", "entry", "would_deny"]


class _Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A verdict as it must stand in the topic."""

    ApplicationRef: str | None
    id: str | None
    topic: str
    partition: int
    offset: int
    verdict: str
    reason: str | None
    entry: str | None
    would_deny: bool = False


class Verdicts:
    """The verdicts that were published up to the ends of the snapshot."""

    def __init__(self, log: Log, source: Source, snapshot: Snapshot) -> None:
        self.source = source
        self.records = 0
        self.gone = 0
        """Records that the verdict topic no longer holds: what is missing cannot be told then."""
        self.differences: list[Difference] = []
        """Records that are no verdicts."""
        self._snapshot = snapshot
        self._decoder = msgspec.json.Decoder(_Verdict)
        topic = verdict_topic(source.name)
        frames = []
        for partition, end in snapshot.verdict_ends.items():
            position = log.start_offset(topic, partition)
            self.gone += position
            while position < end:
                batch = log.read(topic, partition, position, max_records=READ_RECORDS, max_bytes=READ_BYTES, keys=True)
                if batch is None:
                    break
                values, keys = batch.all_values(), batch.keys or (None,) * len(batch)
                told = zip(batch.offsets.tolist(), keys, values, strict=True)
                # A batch may reach past the end: of a running source the topic has grown since.
                rows = [self._row(partition, *row) for row in told if row[0] < end]
                frames.append(pl.DataFrame([row for row in rows if row is not None], schema=_SAID, orient="row"))
                self.records += len(rows)
                position = batch.next
        self.said = pl.concat(frames).unique() if frames else pl.DataFrame(schema=_SAID)
        """Each different verdict once."""

    def _row(self, partition: int, offset: int, key: bytes | None, value: bytes) -> tuple[object, ...] | None:
        try:
            found = self._decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._odd(partition, offset, Words("a verdict"), Words(f"{value[:80]!r}: {error}"))
            return None
        wanted = f"{found.topic}/{found.partition}/{found.offset}".encode()
        if key != wanted:
            self._odd(partition, offset, wanted, key)
        return (
            found.topic,
            found.partition,
            found.offset,
            found.verdict,
            found.ApplicationRef,
            found.id,
            found.reason,
            found.entry,
            found.would_deny,
        )

    def _odd(self, partition: int, offset: int, expected: object, held: object) -> None:
        where = Words(f"{verdict_topic(self.source.name)}/{partition}/{offset}")
        self.differences.append(Difference("verdicts", (where,), expected, held))

    def compare(self, events: StoredEvents, publish_accepted: bool) -> Iterator[Difference]:
        """Every verdict that is missing, differs from the stored row, or says what no row says."""
        yield from self.differences
        told = self._of_events(events)
        caught, said = self._of_caught(told), self.said
        if len(events.pruned):  # of those nothing is left that their verdicts could be held against
            caught, said = _without(caught, events), _without(said, events)
        # One record for each entry that caught the event: of several the entry tells them apart.
        yield from self._held_against(caught, said.filter(pl.col("verdict") == "caught_late"), [*_KEY, "entry"])
        expected = pl.concat([told, self._of_letters()])
        others = said.filter(pl.col("verdict") != "caught_late")
        optional = () if publish_accepted else ("accepted",)
        yield from self._held_against(expected, others, _KEY, optional)

    def _of_events(self, events: StoredEvents) -> pl.DataFrame:
        entry = pl.concat_str("entry_kind", pl.lit(":"), "entry_party")
        return events.light.unique(["log_partition", "log_offset"], keep="first").select(
            pl.lit(self.source.topic).alias("topic"),
            pl.col("log_partition").cast(pl.Int64).alias("partition"),
            pl.col("log_offset").alias("offset"),
            pl.col("verdict"),
            pl.col("application").alias("ApplicationRef"),
            pl.col("event_id").alias("id"),
            pl.col("verdict_reason").alias("reason"),
            entry.alias("entry"),
            pl.col("would_deny").fill_null(False),
        )

    def _of_letters(self) -> pl.DataFrame:
        topic = self.source.topic
        rows = [
            (topic, x.partition, x.offset, "dead_lettered", x.application, x.event_id, _reason(x), None, False)
            for x in self._snapshot.letters
        ]
        return pl.DataFrame(rows, schema=_SAID, orient="row")

    def _of_caught(self, told: pl.DataFrame) -> pl.DataFrame:
        name = self.source.name
        rows = [(c.partition, c.offset, f"{c.kind}:{c.party}", f"{name}.{c.rule}") for c in self._snapshot.caught]
        caught = pl.DataFrame(
            rows,
            schema={"partition": pl.Int64, "offset": pl.Int64, "entry": pl.String, "reason": pl.String},
            orient="row",
        ).unique()
        rest = told.drop("verdict", "reason", "entry", "would_deny")
        return caught.join(rest, on=["partition", "offset"], how="left").select(
            pl.col("topic").fill_null(self.source.topic),
            "partition",
            "offset",
            pl.lit("caught_late").alias("verdict"),
            "ApplicationRef",
            "id",
            "reason",
            "entry",
            pl.lit(False).alias("would_deny"),
        )

    def _held_against(
        self, expected: pl.DataFrame, said: pl.DataFrame, key: list[str], optional: tuple[str, ...] = ()
    ) -> Iterator[Difference]:
        told = [name for name in _TOLD if name not in key]
        both = expected.join(said, on=key, how="full", suffix="_said", nulls_equal=True)
        missing = pl.col("topic_said").is_null()
        odd = both.filter(pl.col("topic").is_null())
        lacking = both.filter(missing & ~pl.col("verdict").is_in(optional)) if not self.gone else both.clear()
        differs = pl.any_horizontal(pl.col(n).ne_missing(pl.col(f"{n}_said")) for n in told)
        other = both.filter(~missing & pl.col("topic").is_not_null() & differs)
        for row in odd.iter_rows(named=True):
            where = (row["partition_said"], row["offset_said"])
            yield Difference("verdicts", where, None, Words(_shown(row, "_said")))
        for row in lacking.iter_rows(named=True):
            yield Difference("verdicts", (row["partition"], row["offset"]), Words(_shown(row, "")), None)
        for row in other.iter_rows(named=True):
            where = (row["partition"], row["offset"])
            yield Difference("verdicts", where, Words(_shown(row, "")), Words(_shown(row, "_said")))


def _without(verdicts: pl.DataFrame, events: StoredEvents) -> pl.DataFrame:
    """The verdicts but for those of pruned events."""
    gone = events.pruned.mask(verdicts["partition"].to_numpy(), verdicts["offset"].to_numpy())
    return verdicts.filter(pl.Series(~gone, dtype=pl.Boolean))


def _reason(letter: Letter) -> str:
    return f"{letter.field}: {letter.code}"


def _shown(row: dict[str, object], suffix: str) -> str:
    parts = [str(row[f"verdict{suffix}"])]
    for name in ("reason", "entry", "ApplicationRef", "id"):
        found = row[f"{name}{suffix}"]
        if found is not None:
            parts.append(f"{name} {found!r}")
    if row[f"would_deny{suffix}"]:
        parts.append("would_deny")
    return ", ".join(parts)
