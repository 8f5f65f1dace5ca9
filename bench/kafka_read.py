"""How fast the Kafka drivers read: generated purchases from one partition to columns, nothing else.

    python bench/kafka_read.py --brokers 127.0.0.1:9092 [--records 1000000] [--driver confluent] [--driver pykafka]

Each driver reads the same topic in a process of its own; the last column is the ratio to the first driver.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from paystorm.clock import SystemClock
from paystorm.log.base import Log

DRIVERS = ("confluent", "pykafka")
READ_RECORDS, READ_BYTES = 20_000, 8 << 20
APPEND = 20_000
PYKAFKA_SHARE = 20
"""pykafka reads only this part of the records: it would take minutes."""


def open_log(driver: str, brokers: str) -> Log:
    """The log behind a driver."""
    if driver == "pykafka":
        from paystorm.log.kafka_pykafka import PyKafkaLog  # noqa: PLC0415

        return PyKafkaLog(brokers, SystemClock())
    from paystorm.log.kafka_confluent import KafkaLog  # noqa: PLC0415

    return KafkaLog(brokers, SystemClock())


def fill(brokers: str, topic: str, records: int) -> float:
    """Append records of 140 bytes; returns records a second."""
    from paystorm.log.kafka_confluent import KafkaLog  # noqa: PLC0415

    log = KafkaLog(brokers, SystemClock())
    log.create_topic(topic, 1)
    value = b'{"ApplicationRef":"shop","data":{"transaction_id":"%08d","from_party":"u%05d","amount":"%d.34"%s}}'
    began = time.perf_counter()
    for first in range(0, records, APPEND):
        count = min(APPEND, records - first)
        values = [(value % (i, i * 7919 % 99991, i % 500, b"")).ljust(140) for i in range(first, first + count)]
        lengths = np.full(count, 140, dtype=np.int64)
        keys = [b"%d" % i for i in range(first, first + count)]
        log.append_keyed(topic, 0, b"\n".join([*values, b""]), lengths, keys)
    rate = records / (time.perf_counter() - began)
    log.close()
    return rate


def read(driver: str, brokers: str, topic: str, records: int) -> dict[str, float]:
    """Read that many records in order; what it took."""
    log = open_log(driver, brokers)
    log.end_offset(topic, 0)
    began, cpu, offset, seen, reads = time.perf_counter(), time.process_time(), 0, 0, 0
    while seen < records:
        batch = log.read(topic, 0, offset, max_records=READ_RECORDS, max_bytes=READ_BYTES)
        if batch is None:
            raise SystemExit(f"only {seen} of {records} records are there")
        offset, seen, reads = batch.next, seen + len(batch), reads + 1
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    log.close()
    return {"records": seen, "rate": seen / wall, "cpu_per_million": used / seen * 1e6, "reads": reads}


def main() -> None:
    """Fill a topic, read it with each driver in turn, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default="127.0.0.1:9092")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--driver", action="append", choices=DRIVERS, help="default: all")
    parser.add_argument("--topic", default=f"bench-read-{time.time_ns()}")
    parser.add_argument("--only", choices=DRIVERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(read(given.only, given.brokers, given.topic, given.records)))
        return
    print(f"appended {fill(given.brokers, given.topic, given.records):,.0f} records a second")
    rates: dict[str, float] = {}
    for driver in given.driver or DRIVERS:
        records = given.records // (PYKAFKA_SHARE if driver == "pykafka" else 1)
        command = [sys.executable, __file__, "--only", driver, "--brokers", given.brokers, "--topic", given.topic]
        command += ["--records", str(records)]
        told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        found = json.loads(told.stdout)
        rates[driver] = found["rate"]
        ratio = rates[driver] / next(iter(rates.values()))
        print(
            f"{driver:10} {found['records']:>9,} records in {found['reads']:>4} reads {found['rate']:>9,.0f} a second  "
            f"{found['cpu_per_million']:.2f} CPU-seconds a million  ratio {ratio:.3f}"
        )
    open_log("confluent", given.brokers).delete_topic(given.topic)


if __name__ == "__main__":
    main()
