"""Verdicts: what goes back to who asked, on the topic `<source>-verdicts` (SEMANTICS.md §3).

A verdict is a JSON object with the keys ApplicationRef, id, topic, partition, offset, verdict, reason, entry and, only
where it is true, would_deny. The same event always gives the same bytes, whichever way they are built.
"""

import json
from collections.abc import Sequence
from itertools import repeat
from typing import Literal

import polars as pl

from paystorm.log.base import ColumnLog, Log, OutRecord

Verdict = Literal["accepted", "denied", "caught_late", "dead_lettered"]


def verdict_topic(source: str) -> str:
    """The name of a source's verdict topic."""
    return f"{source}-verdicts"


def verdict_record(
    *,
    application: str | None,
    event_id: str | None,
    topic: str,
    partition: int,
    offset: int,
    verdict: Verdict,
    reason: str | None = None,
    entry: tuple[str, str] | None = None,
    would_deny: bool = False,
) -> OutRecord:
    """One verdict; `entry` is the (kind, id) of the listed party that covers the event."""
    value = {
        "ApplicationRef": application,
        "id": event_id,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "verdict": verdict,
        "reason": reason,
        "entry": None if entry is None else f"{entry[0]}:{entry[1]}",
    }
    if would_deny:
        value["would_deny"] = True
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return OutRecord(text.encode(), f"{topic}/{partition}/{offset}".encode(), partition)


def verdict_records(events: pl.DataFrame, *, accepted: bool) -> list[OutRecord]:
    """The verdicts of stored events of one partition, in their order; of the accepted ones only with `accepted`.

    `events` has the columns log_topic, log_partition, log_offset, application, event_id, verdict, verdict_reason,
    entry_kind, entry_party and would_deny.
    """
    built = _built(events, accepted)
    if built is None:
        return []
    partition = int(events["log_partition"][0])
    values = built["value"].cast(pl.Binary).to_list()
    return list(map(OutRecord, values, built["key"].cast(pl.Binary).to_list(), repeat(partition)))


_FIELDS = [
    pl.col("application").alias("ApplicationRef"),
    pl.col("event_id").alias("id"),
    pl.col("log_topic").alias("topic"),
    pl.col("log_partition").alias("partition"),
    pl.col("log_offset").alias("offset"),
    pl.col("verdict"),
    pl.col("verdict_reason").cast(pl.String).alias("reason"),
    pl.concat_str("entry_kind", pl.lit(":"), "entry_party").alias("entry"),
]
_VALUE = pl.struct(_FIELDS).struct.json_encode().alias("value")
_MARKED = (
    pl.when(pl.col("would_deny").fill_null(False))
    .then(pl.struct([*_FIELDS, pl.lit(True).alias("would_deny")]).struct.json_encode())
    .otherwise(_VALUE)
    .alias("value")
)
"""The value, where some event would be denied."""
_KEY = pl.concat_str("log_topic", "log_partition", "log_offset", separator="/").alias("key")


def _built(events: pl.DataFrame, accepted: bool) -> pl.DataFrame | None:
    """Verdicts as columns of text, `value` and `key`; None where there is none."""
    if not accepted:
        events = events.filter(pl.col("verdict") != "accepted")
    if not len(events):
        return None
    return events.select(_MARKED if events["would_deny"].any() else _VALUE, _KEY)


class VerdictLog:
    """The verdict topic of a source, made with as many partitions as the source's topic when it is first needed."""

    def __init__(self, log: Log, source: str, topic: str) -> None:
        """`topic`: the source's own topic."""
        self.topic = topic
        self._log = log
        self._verdicts = verdict_topic(source)
        self._partitions = 0
        """Of the verdict topic: the source's topic may have more by now. 0: not known yet."""

    def append_events(self, events: pl.DataFrame, *, accepted: bool) -> None:
        """Append the verdicts of stored events of one partition (see `verdict_records`). Raises LogError."""
        if not isinstance(self._log, ColumnLog):
            self.append(verdict_records(events, accepted=accepted))
            return
        built = _built(events, accepted)
        if built is None:
            return
        self._make()
        # JSON text has no newline in it, so the lines are the records.
        values = f"{built['value'].str.join(chr(10)).item()}\n".encode()
        lengths = built["value"].str.len_bytes().cast(pl.Int64).to_numpy()
        keys = built["key"].cast(pl.Binary).to_list()
        partition = int(events["log_partition"][0]) % self._partitions
        self._log.append_keyed(self._verdicts, partition, values, lengths, keys)

    def append(self, records: Sequence[OutRecord]) -> None:
        """Append verdicts; durable on return. Raises LogError."""
        if not records:
            return
        self._make()
        placed = [OutRecord(r.value, r.key, (r.partition or 0) % self._partitions) for r in records]
        self._log.append(self._verdicts, placed)

    def _make(self) -> None:
        if not self._partitions:
            self._log.create_topic(self._verdicts, self._log.partitions(self.topic))
            self._partitions = self._log.partitions(self._verdicts)
