"""Measure the tables in HBase: each figure with its ratio to happybase's own calls, and to SQLite, in the same run.

python bench/hbase.py --host 127.0.0.1 --port 9090 [--rows 20000]

Writes to tables of a new prefix and drops them at the end.
"""

import argparse
import contextlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import happybase
from thriftpy2.protocol import TBinaryProtocol

from paystorm.tables.base import Tables
from paystorm.tables.hbase import HBaseTables
from paystorm.tables.hbase_calls import idl
from paystorm.tables.sqlite import SqliteTables

VALUE = os.urandom(100)
JOURNAL_ROW = os.urandom(200_000)
REPEATS = 3


Work = Callable[[int], int]
"""Does the work of one run, by its number, and says how many items that were."""


def rates(works: Sequence[Work | None]) -> list[float | None]:
    """The best of some runs of each, items a second. They take turns, as the machine's other work comes and goes."""
    best = [0.0] * len(works)
    for repeat in range(REPEATS):
        for i, work in enumerate(works):
            begin = time.perf_counter()
            items = work(repeat) if work is not None else 0
            best[i] = max(best[i], items / (time.perf_counter() - begin))
    return [figure or None for figure in best]


def keys_of(repeat: int, count: int) -> list[bytes]:
    """Keys of one run."""
    return [b"%d/%08d" % (repeat, i) for i in range(count)]


def of_tables(tables: Tables, rows: int) -> dict[str, Work]:
    """What is measured of any tables."""

    def put(repeat: int) -> int:
        tables.put("bench.rows", [(key, VALUE) for key in keys_of(repeat, rows)], version=1)
        return rows

    def put_if_absent(repeat: int) -> int:
        count = rows // 10
        assert all(tables.put_if_absent("bench.journal", [(key, VALUE) for key in keys_of(repeat, count)]))
        return count

    def put_one_if_absent(repeat: int) -> int:
        for key in keys_of(repeat, 300):
            tables.put_if_absent("bench.one", [(key, VALUE)])
        return 300

    def flush(repeat: int) -> int:
        for n in range(5):
            tables.put_if_absent("bench.flush", [(b"%d/%d/%d" % (shard, repeat, n), JOURNAL_ROW) for shard in range(8)])
        return 5

    def get_many(_: int) -> int:
        asked = keys_of(0, 1000)
        for _ in range(5):
            assert None not in tables.get_many("bench.rows", asked)
        return 5 * len(asked)

    def get(_: int) -> int:
        for key in keys_of(0, 500):
            tables.get("bench.rows", key)
        return 500

    def append(_: int) -> int:
        for _ in range(200):
            tables.feed_append("bench.feed", [VALUE])
        return 200

    return {
        "put, in batches: rows/s": put,
        "put_if_absent, many at once: rows/s": put_if_absent,
        "put_if_absent, one a call: rows/s": put_one_if_absent,
        "8 journal rows of 200 kB where absent: flushes/s": flush,
        "get, one a call: rows/s": get,
        "get_many of 1,000: rows/s": get_many,
        "scan: rows/s": lambda _: sum(1 for _ in tables.scan("bench.rows")),
        "feed_append: calls/s": append,
    }


def of_happybase(connection: happybase.Connection, name: str, rows: int) -> dict[str, Work]:
    """The same through happybase's own classes, without versions, sizes, marks of removal and retries."""
    connection.create_table(name, {"c": {"max_versions": 1}})
    table, raw = connection.table(name), name.encode()

    def put(repeat: int) -> int:
        with table.batch(batch_size=4000) as batch:
            for key in keys_of(repeat, rows):
                batch.put(b"k" + key, {b"c:v": VALUE})
        return rows

    def swap(tag: bytes, count: int, value: bytes = VALUE) -> int:
        for key in keys_of(0, count):
            connection.client.checkAndPut(raw, tag + key, b"c:v", None, idl.Mutation(column=b"c:v", value=value), {})
        return count

    def get_many(_: int) -> int:
        asked = [b"k" + key for key in keys_of(0, 1000)]
        for _ in range(5):
            assert len(table.rows(asked)) == len(asked)
        return 5 * len(asked)

    def scan(_: int) -> int:
        return sum(1 for _ in table.scan(row_prefix=b"k", batch_size=1000))

    def get(_: int) -> int:
        for key in keys_of(0, 500):
            table.row(b"k" + key)
        return 500

    return {
        "put, in batches: rows/s": put,
        "put_if_absent, many at once: rows/s": lambda repeat: swap(b"many%d/" % repeat, rows // 10),
        "put_if_absent, one a call: rows/s": lambda repeat: swap(b"one%d/" % repeat, 300),
        "8 journal rows of 200 kB where absent: flushes/s": lambda n: swap(b"rows%d/" % n, 40, JOURNAL_ROW) // 8,
        "get, one a call: rows/s": get,
        "get_many of 1,000: rows/s": get_many,
        "scan: rows/s": scan,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument("--rows", type=int, default=20_000)
    asked = parser.parse_args()
    prefix = f"bench{uuid.uuid4().hex[:8]}"
    tables = HBaseTables(asked.host, asked.port, prefix=prefix)
    connection = happybase.Connection(asked.host, asked.port, timeout=60_000)
    print(f"thriftpy2's protocol: {TBinaryProtocol.__module__}")
    print(f"{'':50} {'HBase':>10} {'× happybase':>12} {'× SQLite':>9}")
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(SqliteTables(Path(folder))) as embedded:
        bare = of_happybase(connection, f"{prefix}_bare", asked.rows)
        sqlite = of_tables(embedded, asked.rows)
        for what, work in of_tables(tables, asked.rows).items():
            ours, theirs, local = rates([work, bare.get(what), sqlite[what]])
            assert ours is not None
            assert local is not None
            beside = "–" if theirs is None else f"{ours / theirs:.2f}"
            print(f"{what:50} {ours:10,.0f} {beside:>12} {ours / local:9.3f}", flush=True)
    tables.close()
    for name in connection.tables():
        if name.startswith((f"{prefix}_".encode(), f"{prefix}-".encode())):
            connection.delete_table(name, disable=True)


if __name__ == "__main__":
    main()
