"""What a capable engineer writes in an afternoon: a loop of log, polars and Parquet for the count rule.

    loop.py DATA OUT [--lean] [--brokers HOST:PORT]     the log below DATA, or a Kafka by confluent-kafka

It reads the records that the topology reads, with the same limit (more than 30 a day) and the same parties listed
first, and keeps what the topology keeps of an event: offset, declared fields, verdict, and the text as it came;
malformed records go to files of their own, and so do the verdicts of what is denied. A batch is parsed at once, an
event is denied where a party is listed, counts by party and day are a frame; every 10 s a snapshot of counts and
offsets is written and synced. Prints one JSON object.

--lean: the least that still counts and denies. No line may be malformed; no offset, no text and but seven fields stay,
and nobody is told.

What both leave out: exact validation, each record applied once over a crash between file and snapshot, events that come
behind a crossing, withdrawals, cases, people's acts on the lists, several processes at once, retries.
"""

import argparse
import io
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import polars as pl

from paystorm.clock import SystemClock
from paystorm.log.embedded import EmbeddedLog
from paystorm.log.kafka_confluent import KafkaLog

LEAN = ("event_time", "from_party", "to_party", "to_kind", "amount", "currency", "message")
FIELDS = (*LEAN, "transaction_id", "device", "ip")
PLAIN = r'^\{"ApplicationRef":"[^"\\]{1,200}","data":\{("[^"\\]*":"[^"\\]*",?)*\}\}$'
"""A line whose data are texts without escapes. polars' JSON readers end at the first broken line, so it is left out."""
NOT_UTF8 = "\ufffd"
CURRENCY = 16
"""Bytes of a currency, at most."""
LIMIT = 30
SNAPSHOT = 10.0
LISTED = 2_000

Parse = Callable[[bytes, int], tuple[pl.DataFrame, pl.DataFrame]]
"""From a batch's lines and its first offset: the events, and the lines that are none."""


def main() -> None:
    """Read every partition once, in turns."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("data", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--lean", action="store_true")
    arguments.add_argument("--brokers", metavar="HOST:PORT")
    given = arguments.parse_args()
    log = KafkaLog(given.brokers, SystemClock()) if given.brokers else EmbeddedLog(given.data / "log", SystemClock())
    run(log, given.out, lean if given.lean else full)


def run(log: KafkaLog | EmbeddedLog, out: Path, parse: Parse) -> None:
    """Screen the topic and print what it took."""
    listed = pl.Series([f"u{n}" for n in Random(1).sample(range(200_000), LISTED)])
    counts = pl.DataFrame(schema={"party": pl.String, "day": pl.Date, "len": pl.UInt32})
    ends = {p: log.end_offset("purchase", p) for p in range(log.partitions("purchase"))}
    offsets = dict.fromkeys(ends, 0)
    began, cpu, saved = time.perf_counter(), time.process_time(), time.perf_counter()
    records = denied = malformed = 0
    while offsets != ends:
        for partition, offset in list(offsets.items()):
            batch = log.read("purchase", partition, offset, max_records=100_000, max_bytes=16 << 20)
            if batch is None:
                continue
            events, letters = parse(batch.values, offset)
            is_denied = pl.col("from_party").is_in(listed.implode()) | pl.col("to_party").is_in(listed.implode())
            events = events.with_columns(denied=is_denied)
            denied += int(events["denied"].sum())
            malformed += len(letters)
            write(out / f"events-{partition}-{batch.next}.parquet", events)
            if len(letters):
                write(out / f"malformed-{partition}-{batch.next}.parquet", letters)
            if "offset" in events.columns:
                verdicts = events.filter("denied").select("ApplicationRef", "offset", verdict=pl.lit("denied"))
                synced(out / f"verdicts-{partition}-{batch.next}.ndjson", verdicts.write_ndjson().encode())
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
            write(out / "counts.parquet", counts)
            (out / "offsets.json").write_text(json.dumps(offsets))
            saved = time.perf_counter()
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    print(
        json.dumps(
            {
                "rate": records / wall,
                "cpu_per_million": used / records * 1e6,
                "denied": denied,
                "malformed": malformed,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def full(values: bytes, first: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events with offset and text; whatever is not plainly an event is malformed.

    By polars' streaming engine, which is the fastest way here: it uses both cores.
    """
    lines = pl.read_csv(
        io.BytesIO(values),
        has_header=False,
        separator="\x01",
        quote_char=None,
        schema={"line": pl.String},
        encoding="utf8-lossy",
    ).with_row_index("offset", first)
    line = pl.col("line")
    plain = line.str.contains(PLAIN) & ~line.str.contains(NOT_UTF8, literal=True)
    right = pl.all_horizontal(
        pl.col("event_time", "from_party", "to_party").is_not_null(),
        pl.col("amount").is_null() | (pl.col("amount") >= 0),
        pl.col("currency").is_null() | (pl.col("currency").str.len_bytes() <= CURRENCY),
        pl.col("amount").is_null() == pl.col("amount_text").is_null(),
    )
    schema = pl.Struct({"ApplicationRef": pl.String, "data": pl.Struct(dict.fromkeys(FIELDS, pl.String))})
    events = (
        _typed(
            lines.lazy()
            .filter(plain)
            .with_columns(line.str.json_decode(schema).alias("event"))
            .unnest("event")
            .unnest("data")
            .with_columns(pl.col("amount").alias("amount_text"))
        )
        .filter(right)
        .drop("amount_text")
        .collect(engine="streaming")
    )
    return events, lines.join(events.select("offset"), on="offset", how="anti")


def lean(values: bytes, first: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Seven fields of each line, none of which may be malformed: read_ndjson passes over nothing."""
    del first
    schema: dict[str, pl.DataType] = {
        "ApplicationRef": pl.String(),
        "data": pl.Struct(dict.fromkeys(LEAN, pl.String)),
    }
    frame = pl.read_ndjson(io.BytesIO(values), schema=schema)
    events = _typed(frame.unnest("data").lazy()).collect().drop_nulls(["event_time", "from_party", "to_party"])
    return events, pl.DataFrame()


def _typed(texts: pl.LazyFrame) -> pl.LazyFrame:
    """With times and numbers."""
    return texts.with_columns(
        pl.col("event_time").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", strict=False),
        pl.col("amount").cast(pl.Float64, strict=False),
    )


def write(path: Path, frame: pl.DataFrame) -> None:
    """A Parquet file, synced."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=1)
    synced(path, buffer.getbuffer())


def synced(path: Path, content: bytes | memoryview) -> None:
    """A file, synced."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
