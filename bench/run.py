"""`make bench`: every figure, with its ratio to the bare limit of the same run."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from paystorm.clock import SystemClock
from paystorm.generate import Block, purchase_blocks
from paystorm.log.embedded import EmbeddedLog
from paystorm.log.kafka_confluent import KafkaLog
from paystorm.stores.lists import add_entry
from paystorm.tables.sqlite import SqliteTables

HERE = Path(__file__).parent
PARTITIONS = 2
A_DAY = 440_000
"""SafePay's transactions a day."""
LISTED = 2_000
MALFORMED = 0.001
"""The share of records that are."""
OPTIONS = ("flushMs=40",)
"""As in the row of the latency; under a backlog sinks gather for as long as they write."""


def made(records: int, malformed: float) -> Iterator[tuple[int, Block]]:
    """Generated purchases in blocks, with the partition of each."""
    blocks = purchase_blocks(records, seed=1, days=max(records / A_DAY, 0.1), malformed=malformed)
    return ((i % PARTITIONS, block) for i, block in enumerate(blocks))


def fill(data: Path, records: int, malformed: float) -> None:
    """A log of generated purchases, and the parties that are listed from the start."""
    log = EmbeddedLog(data / "log", SystemClock())
    log.create_topic("purchase", PARTITIONS)
    for partition, block in made(records, malformed):
        log.append_columns("purchase", partition, block.values, block.lengths)
    log.close()
    list_first(data)


def list_first(data: Path) -> None:
    """The parties that are listed from the start."""
    clock, tables = SystemClock(), SqliteTables(data / "tables")
    with tables.together():
        for party in Random(1).sample(range(200_000), LISTED):
            add_entry(tables, now=clock.now(), by="bench", kind="account", party=f"u{party}", reason="bench")
    tables.close()


def measured(script: str, *arguments: str) -> dict[str, Any]:
    """What a script in a process of its own prints."""
    done = subprocess.run([sys.executable, HERE / script, *arguments], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def throughput(name: str, records: int, bare: dict[str, Any], *options: str) -> None:
    """One row: the topology with the rules of this name."""
    what = f"{name} rules{', ' + ', '.join(options) if options else ''}"
    show(what, records, screened(name, records, *options), bare)


def screened(name: str, records: int, *options: str) -> dict[str, Any]:
    """The topology over a log of its own."""
    with tempfile.TemporaryDirectory(prefix="paystorm-bench-") as folder:
        fill(Path(folder), records, MALFORMED)
        given = [f"--option={o}" for o in (*OPTIONS, *options)]
        return measured("purchase.py", folder, f"--rules={name}", f"--records={records}", *given)


def looped(records: int, malformed: float, *options: str) -> dict[str, Any]:
    """`bench/loop.py` over a log of its own."""
    with tempfile.TemporaryDirectory(prefix="paystorm-bench-") as folder:
        fill(Path(folder), records, malformed)
        return measured("loop.py", folder, folder, *options)


def compare(records: int, bare: dict[str, Any], turns: int) -> None:
    """Three rows: the loop that keeps what the topology keeps, the leanest loop, and the count rule."""
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "a loop of polars and Parquet": lambda: looped(records, MALFORMED),
        "the same, lean": lambda: looped(records, 0.0, "--lean"),
        "count rules, publishAccepted=false": lambda: screened("count", records, "publishAccepted=false"),
    }
    in_turns(runs, turns, records, bare)


def compare_on_kafka(brokers: str, records: int, bare: dict[str, Any], turns: int) -> None:
    """Two rows: the loop and the count rule, both reading the same records from Kafka, as others with the job do."""
    log = KafkaLog(brokers, SystemClock())
    if "purchase" in log.topics():
        sys.exit(f"bench: the Kafka at {brokers} has a topic purchase already: name one that is empty")

    def loop() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="paystorm-bench-") as folder:
            return measured("loop.py", folder, folder, f"--brokers={brokers}")

    def count() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="paystorm-bench-") as folder:
            list_first(Path(folder))
            given = ["--rules=count", f"--records={records}", f"--brokers={brokers}"]
            given += [f"--option={o}" for o in (*OPTIONS, "publishAccepted=false")]
            try:
                return measured("purchase.py", folder, *given)
            finally:
                if "purchase-verdicts" in log.topics():
                    log.delete_topic("purchase-verdicts")

    log.create_topic("purchase", PARTITIONS)
    try:
        for partition, block in made(records, MALFORMED):
            log.append_keyed("purchase", partition, block.values, block.lengths, [b""] * len(block))
        runs = {"a loop of polars and Parquet": loop, "count rules, publishAccepted=false": count}
        in_turns(runs, turns, records, bare)
    finally:
        log.delete_topic("purchase")
        log.close()


def in_turns(runs: dict[str, Callable[[], dict[str, Any]]], turns: int, records: int, bare: dict[str, Any]) -> None:
    """A row for each of what is compared, run in turns with the others: its run of median rate (of two the slower)."""
    found: dict[str, list[dict[str, Any]]] = {what: [] for what in runs}
    for _ in range(turns):
        for what, run in runs.items():
            found[what].append(run())
    for what, of_it in found.items():
        show(what, records, sorted(of_it, key=lambda run: float(run["rate"]))[(turns - 1) // 2], bare)


def show(what: str, records: int, run: dict[str, Any], bare: dict[str, Any]) -> None:
    """Print a row: rate, ratio, time, CPU, memory."""
    rate, cpu, row = run["rate"], run["cpu_per_million"], f"{what}, {records:,} records"
    print(
        f"{row:70s} {rate:>9,.0f}/s  {rate / bare['rate']:.2f} × bare  {records / rate:6.1f} s  "
        f"{cpu:.1f} CPU-s/M ({cpu / bare['cpu_per_million']:.1f} × bare)  peak {run['peak_mb']:,.0f} MB",
        flush=True,
    )


def backtest(records: int) -> None:
    """A changed limit over the events that a run has stored."""
    with tempfile.TemporaryDirectory(prefix="paystorm-bench-") as folder:
        fill(Path(folder), records, MALFORMED)
        measured("purchase.py", folder, "--rules=count", f"--records={records}")
        command = ["backtest", "purchase.account_per_day", "--set", "limit=20", "--json", "--data", folder]
        program = "import sys; from paystorm.cli.main import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", program, *command], cwd=HERE.parent, stdout=subprocess.PIPE, check=True
        )
    (found,) = json.loads(done.stdout)
    print(f"backtest of a count rule: {found['events'] / found['seconds']:,.0f} events/s", flush=True)


def main() -> None:
    """All figures, or one."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--records", type=int, default=2_000_000)
    arguments.add_argument("--only", choices=["count", "safepay", "all", "backtest", "latency"])
    arguments.add_argument("--long", action="store_true", help="also 44 M records over 100 days")
    arguments.add_argument("--turns", type=int, default=1, help="how often the count rule and the loops are run")
    arguments.add_argument("--brokers", metavar="HOST:PORT", help="only the count rule and the loop, from this Kafka")
    given = arguments.parse_args()
    if given.turns < 1:
        arguments.error(f"--turns must be 1 or more, got {given.turns}")
    with tempfile.TemporaryDirectory(prefix="paystorm-bench-") as folder:
        fill(Path(folder), given.records, 0.0)
        bare = measured("bare.py", folder)
        print(f"bare limit: {bare['rate']:,.0f}/s, {bare['cpu_per_million']:.2f} CPU-s/M", flush=True)
    if given.brokers:
        compare_on_kafka(given.brokers, given.records, bare, given.turns)
        return
    if given.only in (None, "count"):
        compare(given.records, bare, given.turns)
    for name in ("safepay", "all"):
        if given.only in (None, name):
            throughput(name, given.records, bare, "publishAccepted=false")
    if given.only in (None, "safepay"):
        throughput("safepay", A_DAY, bare, "publishAccepted=false")
    if given.only in (None, "all"):
        throughput("all", given.records, bare, "publishAccepted=true")
    if given.long:
        throughput("safepay", 100 * A_DAY, bare, "publishAccepted=false")
    if given.only in (None, "backtest"):
        backtest(given.records)
    if given.only in (None, "latency"):
        with tempfile.TemporaryDirectory(prefix="paystorm-bench-") as folder:
            wait = measured("latency.py", folder)
        print(
            f"append to durable verdict at {wait['offered']:,.0f}/s, all rules: p50 {wait['p50_ms']:.0f} ms, "
            f"p99 {wait['p99_ms']:.0f} ms, worst {wait['max_ms']:.0f} ms ({wait['verdicts']:,} verdicts)"
        )


if __name__ == "__main__":
    main()
