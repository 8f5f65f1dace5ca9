"""Verdicts over their retention: the head of the verdict topic, by the log's own time.

Records are removed (`DroppingLog.drop_before`), also in Kafka: the topic's `retention.ms` belongs to whoever runs the
brokers, holds beside this and is left alone.
"""

from paystorm.clock import SECOND, Clock
from paystorm.errors import LogError
from paystorm.ingest.catching_up import first_since
from paystorm.log.base import DroppingLog, Log
from paystorm.retention.report import Went
from paystorm.source import Source
from paystorm.verdicts import verdict_topic

MILLI = 1000
"""µs."""


def prune_verdicts(log: Log, clock: Clock, source: Source, seconds: int, *, dry: bool = False) -> Went:
    """One pass over the verdict topic of a source. Raises LogError, also where the driver cannot remove records."""
    done = Went(source.name, "verdicts", seconds, "records")
    topic = verdict_topic(source.name)
    if topic not in log.topics():
        return done
    since_ms = (clock.now() - seconds * SECOND) // MILLI
    oldest: list[int] = []
    for partition in range(log.partitions(topic)):
        start, end = log.start_offset(topic, partition), log.end_offset(topic, partition)
        first = first_since(log, topic, partition, start, end, since_ms)
        if not dry and first > start:
            if not isinstance(log, DroppingLog):
                raise LogError(f"topic {topic}: this log cannot remove records")
            kept = log.drop_before(topic, partition, first)
            if kept < first:
                done.notes.append(
                    f"partition {partition}: {first - kept:,} stay until their segment of the log is full"
                )
            first = kept
        done.went += first - start
        if 0 < first < end:
            batch = log.read(topic, partition, first, max_records=1, max_bytes=0)
            oldest += [] if batch is None or not len(batch) else [int(batch.timestamps[0]) * MILLI]
    done.since = min(oldest, default=None)
    return done
