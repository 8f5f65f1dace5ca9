"""The bare limit: read a log and parse it with polars, nothing else; prints one JSON object.

The log holds the same records without the malformed ones, which read_ndjson cannot pass over.
"""

import io
import json
import sys
import time
from pathlib import Path

import polars as pl

from paystorm.clock import SystemClock
from paystorm.log.embedded import EmbeddedLog

FIELDS = (
    "transaction_id",
    "event_time",
    "from_party",
    "to_party",
    "to_kind",
    "amount",
    "currency",
    "message",
    "device",
    "ip",
)
SCHEMA = {"ApplicationRef": pl.String, "data": pl.Struct(dict.fromkeys(FIELDS, pl.String))}


def main() -> None:
    """Read every partition once."""
    log = EmbeddedLog(Path(sys.argv[1]) / "log", SystemClock())
    began, cpu, records = time.perf_counter(), time.process_time(), 0
    for partition in range(log.partitions("purchase")):
        offset = 0
        while (batch := log.read("purchase", partition, offset, max_records=20_000, max_bytes=8 << 20)) is not None:
            records += len(pl.read_ndjson(io.BytesIO(batch.values), schema=SCHEMA))
            offset = batch.next
    wall = time.perf_counter() - began
    used = time.process_time() - cpu
    print(json.dumps({"records": records, "rate": records / wall, "cpu_per_million": used / records * 1e6}))


if __name__ == "__main__":
    main()
