"""What a capable engineer writes in an afternoon: a loop of log, polars and Parquet for the count rule.

    loop.py DATA OUT [HOST:PORT]     the log below DATA, or a Kafka by confluent-kafka

It reads the same log as the topology, with the same limit (more than 30 a day) and the same parties listed first.
A batch is parsed at once (no line may be malformed: read_ndjson passes over none), an event is denied where a party is
listed, events go to a Parquet file, counts by party and day to a frame; every 10 s a snapshot of counts and offsets is
written and synced. Prints one JSON object.

What it leaves out: exact validation and dead letters, each record applied once over a crash between file and snapshot,
events that come behind a crossing, withdrawals, cases, people's acts on the lists, several processes at once, retries.
"""

import io
import json
import os
import resource
import sys
import time
from pathlib import Path
from random import Random

import polars as pl

from paystorm.clock import SystemClock
from paystorm.log.embedded import EmbeddedLog
from paystorm.log.kafka_confluent import KafkaLog

FIELDS = ("event_time", "from_party", "to_party", "to_kind", "amount", "currency", "message")
SCHEMA = {"ApplicationRef": pl.String, "data": pl.Struct(dict.fromkeys(FIELDS, pl.String))}
LIMIT = 30
SNAPSHOT = 10.0
LISTED = 2_000


def main() -> None:
    """Read every partition once, in turns."""
    data, out, *brokers = sys.argv[1:]
    log = KafkaLog(brokers[0], SystemClock()) if brokers else EmbeddedLog(Path(data) / "log", SystemClock())
    listed = pl.Series([f"u{n}" for n in Random(1).sample(range(200_000), LISTED)])
    counts = pl.DataFrame(schema={"party": pl.String, "day": pl.Date, "len": pl.UInt32})
    ends = {p: log.end_offset("purchase", p) for p in range(log.partitions("purchase"))}
    offsets = dict.fromkeys(ends, 0)
    began, cpu, saved, records, denied = time.perf_counter(), time.process_time(), time.perf_counter(), 0, 0
    while offsets != ends:
        for partition, offset in list(offsets.items()):
            batch = log.read("purchase", partition, offset, max_records=100_000, max_bytes=16 << 20)
            if batch is None:
                continue
            events = parsed(batch.values)
            is_denied = pl.col("from_party").is_in(listed.implode()) | pl.col("to_party").is_in(listed.implode())
            events = events.with_columns(denied=is_denied)
            denied += int(events["denied"].sum())
            write(Path(out) / f"events-{partition}-{batch.next}.parquet", events)
            day = pl.col("event_time").dt.date().alias("day")
            touched = pl.concat(
                [events.select(pl.col(name).alias("party"), day) for name in ("from_party", "to_party")]
            )
            new = touched.group_by("party", "day").len()
            counts = pl.concat([counts, new]).group_by("party", "day").agg(pl.col("len").sum())
            over = counts.filter(pl.col("len") > LIMIT)["party"]
            listed = pl.concat([listed, over]).unique()
            offsets[partition] = batch.next
            records += len(batch)
        if time.perf_counter() - saved > SNAPSHOT or offsets == ends:
            write(Path(out) / "counts.parquet", counts)
            (Path(out) / "offsets.json").write_text(json.dumps(offsets))
            saved = time.perf_counter()
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    print(
        json.dumps(
            {
                "rate": records / wall,
                "cpu_per_million": used / records * 1e6,
                "denied": denied,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def parsed(values: bytes) -> pl.DataFrame:
    """The events of a batch's lines."""
    frame = pl.read_ndjson(io.BytesIO(values), schema=SCHEMA)
    return (
        frame.unnest("data")
        .with_columns(
            pl.col("event_time").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", strict=False), pl.col("amount").cast(pl.Float64)
        )
        .drop_nulls(["event_time", "from_party", "to_party"])
    )


def write(path: Path, frame: pl.DataFrame) -> None:
    """A file, synced."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=1)
    with path.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
