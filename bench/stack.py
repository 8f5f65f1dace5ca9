"""The purchase topology on real Storm, Kafka, HBase and Hive, beside plain streamparse on the same Storm.

    python bench/stack.py [--records N] [--only plain count all latency crossing]

All servers, the workers and this script share the machine. A backlog is put into Kafka first; the rate is that of
committed records between the first and the last commit, so that starting the workers is not in it.
"""

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.stack.deployed import Deployed, deploy  # noqa: E402

from paystorm.connections import Connections  # noqa: E402
from paystorm.generate import purchase_blocks  # noqa: E402
from paystorm.log.base import OutRecord  # noqa: E402
from paystorm.nimbus import NimbusClient  # noqa: E402
from paystorm.project import Project  # noqa: E402
from paystorm.resources import Resources, open_resources  # noqa: E402
from paystorm.stack import Stack, standard  # noqa: E402
from paystorm.stores.checkpoints import load_checkpoints  # noqa: E402
from paystorm.stores.gauges import load_gauges  # noqa: E402

PARTITIONS = 2
BATCH = 20
"""Records of an append where a rate is offered."""
NUMBERS = itertools.count()
OPTIONS = ("publishAccepted=false", "flushMs=500", "gaugeSeconds=3", f"paystorm.kafka.partitions={PARTITIONS}")
LIMIT = 900.0
TICKS = os.sysconf("SC_CLK_TCK")
WARM_UP = 10.0
"""Seconds of a latency run that are left out: tables are made and the servers' code is compiled in them."""
PARTIES, LIMIT_PER_DAY = [f"crossing-{n}" for n in range(200)], 30
"""Parties that cross account_per_day in a crossing run, and its limit."""
TICK, TICKS_EACH, TICKS_BETWEEN = 0.02, 100, 10
"""Seconds between two events of a party that has crossed, how many there are, and how many later the next crosses."""
LOOKUPS = 2
"""Look-up tasks of a crossing run."""
COUNT_RULE = """

import msgspec as _msgspec

Purchase.config.update(topology_config(_msgspec.structs.replace(SOURCE, rules=SOURCE.rules[:1])))
"""
"""Behind the purchase topology's file: the count rule alone."""


def main() -> None:
    """Start everything, measure, stop everything."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--records", type=int, default=5_000_000, help="of the backlog")
    every = ["plain", "count", "all", "latency", "crossing"]
    arguments.add_argument("--only", choices=every, nargs="+", default=every, help="one or several of them")
    arguments.add_argument("--seconds", type=float, default=30.0, help="of plain streamparse, and of a latency run")
    given = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="paystorm-bench-stack-"))
    stack = Stack(folder / "servers", standard(slots=2), tell=lambda text: print(text, file=sys.stderr))
    try:
        stack.up()
        addresses = {name: stack.address(name) for name in ("nimbus", "kafka", "hbase-thrift", "hive")}
        plain_rate = 0.0
        if "plain" in given.only:
            plain_rate = plain(folder / "plain", addresses, given.seconds)
            print(f"plain streamparse, a JSON message a tuple: {plain_rate:,.0f}/s", flush=True)
        for rules in ("count", "all"):
            if rules in given.only:
                backlog(folder / rules, addresses, rules, given.records, plain_rate, stack)
        if "latency" in given.only:
            latency(folder / "latency", addresses, given.seconds)
        if "crossing" in given.only:
            crossing(folder / "crossing", addresses)
    finally:
        stack.down()
        shutil.rmtree(folder, ignore_errors=True)


def plain(root: Path, addresses: dict[str, str], seconds: float) -> float:
    """Messages a second that plain streamparse acknowledges."""
    shutil.copytree(ROOT / "bench" / "plain", root)
    shutil.copy(ROOT / "project.clj", root)
    (root / "virtualenvs").mkdir()
    progress = root / "progress"
    environment = {
        "nimbus": addresses["nimbus"],
        "workers": ["127.0.0.1"],
        "use_ssh_for_nimbus": False,
        "use_virtualenv": False,
        "options": {"plain.progress": str(progress), "topology.max.spout.pending": 1000},
    }
    config = {"serializer": "json", "topology_specs": "topologies/", "virtualenv_specs": "virtualenvs/"}
    (root / "config.json").write_text(json.dumps({**config, "envs": {"stack": environment}}))
    made = Deployed(root, NimbusClient(addresses["nimbus"]))
    made.submit("plain")
    begun = time.monotonic()
    while not progress.exists() and time.monotonic() - begun < LIMIT:
        time.sleep(0.5)
    time.sleep(seconds)
    made.kill("plain")
    looks = [(float(at), int(done)) for at, done in (line.split() for line in progress.read_text().splitlines())]
    # The first fifth is the JVM warming up.
    warm = looks[len(looks) // 5 :]
    return (warm[-1][1] - warm[0][1]) / (warm[-1][0] - warm[0][0])


@contextmanager
def deployed(root: Path, addresses: dict[str, str], rules: str) -> Iterator[tuple[Deployed, Resources]]:
    """A project folder with the rules, and its log and tables."""
    prefix = f"bench{root.name}"
    made = deploy(root, addresses, {"paystorm.hbase.prefix": prefix, "paystorm.hive.database": prefix})
    if rules == "count":
        (root / "topologies").unlink()
        shutil.copytree(ROOT / "topologies", root / "topologies")
        with (root / "topologies" / "purchase.py").open("a") as file:
            file.write(COUNT_RULE)
    os.chdir(root)
    resources = open_resources(Connections(Project.load(root).env("stack").options))
    for topic in {"purchase", "purchase-verdicts"} & set(resources.log.topics()):
        resources.log.delete_topic(topic)
    resources.log.create_topic("purchase", PARTITIONS)
    try:
        yield made, resources
    finally:
        if "purchase" in made.nimbus.topologies():
            made.kill("purchase")
        resources.close()


def backlog(root: Path, addresses: dict[str, str], rules: str, records: int, plain_rate: float, stack: Stack) -> None:
    """Records a second from a backlog in Kafka to HBase and Hive, and the CPU of each process."""
    with deployed(root, addresses, rules) as (made, resources):
        for i, block in enumerate(purchase_blocks(records, seed=1, days=records / 440_000, malformed=0.001)):
            values = block.records()
            resources.log.append("purchase", [OutRecord(v, None, i % PARTITIONS) for v in values])
        made.submit("purchase", *OPTIONS)
        looks: list[tuple[float, int]] = []
        cpu: dict[str, float] = {}
        begun = time.monotonic()
        while time.monotonic() - begun < LIMIT:
            done = sum(held.read for held in load_checkpoints(resources.tables, "purchase").values())
            if done and (not looks or done > looks[-1][1]):
                if not looks:
                    cpu = cpu_by_process(stack)
                looks.append((time.monotonic(), done))
            if done >= records:
                break
            time.sleep(1.0)  # each look costs HBase something, too
        after = cpu_by_process(stack)
        busy = busiest(resources)
        counted, seconds = looks[-1][1] - looks[0][1], looks[-1][0] - looks[0][0]
        rate = counted / seconds
        ratio = f", {rate / plain_rate:.1f} × plain" if plain_rate else ""
        print(f"{rules} rules, {records:,} records: {rate:,.0f}/s{ratio}", flush=True)
        for name in sorted(after, key=lambda n: cpu.get(n, 0.0) - after[n]):
            used = after[name] - cpu.get(name, 0.0)
            print(f"  {name:40s} {used / counted * 1e6:6.2f} CPU-s/M {used / seconds:5.2f} cores", flush=True)
        print(f"  busy, waits for servers included: {busy}", flush=True)


def busiest(resources: Resources) -> str:
    """The share of its time in which each task worked on a tuple, as it said last while records flowed."""
    gauges = load_gauges(resources.tables, "purchase", resources.clock.now())
    return ", ".join(f"{g.component} {g.busy:.2f}" for g in gauges if g.records)


def latency(root: Path, addresses: dict[str, str], seconds: float, rate: int = 1000) -> None:
    """Milliseconds from append to durable verdict, at so many records a second, after a warm-up."""
    with deployed(root, addresses, "all") as (made, resources):
        made.submit("purchase", f"paystorm.kafka.partitions={PARTITIONS}")
        begin(resources)
        records = int(rate * (WARM_UP + seconds))
        with Offered(resources, rate, records) as offered:
            offered.until(records)
        until_committed(resources, BATCH + records)
        begun = offered.begun + WARM_UP
        warm = {key: at for key, at in offered.sent.items() if at >= begun}
        took = sorted(seen - warm[key] for key, seen in verdicts(resources) if key in warm)
        print(
            f"{rate:,}/s offered for {seconds:.0f} s after {WARM_UP:.0f}: append to durable verdict, "
            f"{len(took):,} verdicts: {spread(took)}",
            flush=True,
        )


def crossing(root: Path, addresses: dict[str, str], rate: int = 1000) -> None:
    """Milliseconds from the append of a record that crosses a limit to the first denial by every look-up task.

    Beside so many records a second of others, one party after another, at its limit, crosses it and is seen again every
    20 ms; Storm spreads those events over the look-up tasks at random. Their decisions are stored with the time at
    which they were made: until the last that is accepted some task did not know of the crossing, and the next one that
    is denied is the figure. So it holds for the slowest task, and is too long by the time between two of its chunks.
    """
    options = (f"paystorm.kafka.partitions={PARTITIONS}", f"parallelism.lookup={LOOKUPS}")
    with deployed(root, addresses, "all") as (made, resources):
        made.submit("purchase", *options)
        begin(resources)
        crossed: dict[str, float] = {}
        offered = Offered(resources, rate, 10_000_000)
        with offered:
            offered.until(int(rate * WARM_UP))
            sent = send(resources, [party for party in PARTIES for _ in range(LIMIT_PER_DAY)])
            time.sleep(2.0)
            begun = time.monotonic()
            for tick in range(TICKS_BETWEEN * len(PARTIES) + TICKS_EACH):
                time.sleep(max(begun + tick * TICK - time.monotonic(), 0.0))
                newest = tick // TICKS_BETWEEN
                if tick % TICKS_BETWEEN == 0 and newest < len(PARTIES):
                    crossed[PARTIES[newest]] = time.time()
                sent += send(resources, PARTIES[max(0, newest - TICKS_EACH // TICKS_BETWEEN) : newest + 1])
        until_committed(resources, BATCH + offered.records + sent)
        took = sorted(first_denial(probes, crossed[party]) for party, probes in decisions(root / "warehouse").items())
        assert len(took) == len(PARTIES)
        print(
            f"{rate:,}/s offered, {LOOKUPS} look-up tasks: crossing record to first denial by each, "
            f"{len(PARTIES)} parties: {spread(took)}",
            flush=True,
        )


def first_denial(probes: list[tuple[float, str]], crossed: float) -> float:
    """Seconds from the crossing to the first denial behind the last acceptance. `probes`: decided at, verdict."""
    blind = max((at for at, verdict in probes if verdict == "accepted"), default=crossed)
    denied = [at for at, verdict in probes if verdict == "denied" and at > blind]
    return min(denied, default=float("inf")) - crossed


def decisions(warehouse: Path) -> dict[str, list[tuple[float, str]]]:
    """By crossing party, when its events were decided, seconds, and how."""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for file in (warehouse / "purchase").rglob("hr=*/*.parquet"):
        events = pl.read_parquet(file, hive_partitioning=False).filter(
            pl.col("from_party").str.starts_with("crossing-")
        )
        for party, at, verdict in events.select(
            "from_party", pl.col("decided_at").cast(pl.Int64), "verdict"
        ).iter_rows():
            found[party].append((at / 1e6, verdict))
    return found


def send(resources: Resources, parties: list[str]) -> int:
    """Append a payment of each party, each to its own receiver, all of a party to one partition; how many."""
    out = []
    for party in parties:
        data = {"event_time": "2026-01-01T12:00:00Z", "from_party": party, "to_party": f"receiver-{next(NUMBERS)}"}
        value = json.dumps({"ApplicationRef": "shop", "data": data}).encode()
        out.append(OutRecord(value, None, PARTIES.index(party) % PARTITIONS))
    return len(resources.log.append("purchase", out))


def begin(resources: Resources) -> None:
    """Append the first records, and wait until they are committed."""
    (block,) = purchase_blocks(BATCH, seed=3, malformed=0.0)
    resources.log.append("purchase", [OutRecord(v, None, i % PARTITIONS) for i, v in enumerate(block.records())])
    until_committed(resources, BATCH)


class Offered:
    """Made-up purchases at a steady rate from a thread, by a log of its own."""

    def __init__(self, resources: Resources, rate: int, most: int) -> None:
        self.sent: dict[tuple[int, int], float] = {}
        """When each record's append began, seconds, by partition and offset."""
        self.records = 0
        self.begun = 0.0
        self._log, self._rate, self._most = resources.log, rate, most // BATCH * BATCH
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._offer)

    def __enter__(self) -> "Offered":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def until(self, records: int) -> None:
        """Wait until so many are appended."""
        while self.records < records // BATCH * BATCH and self._thread.is_alive():
            time.sleep(0.1)

    def _offer(self) -> None:
        blocks = purchase_blocks(self._most, seed=2, malformed=0.0)
        values = (value for block in blocks for value in block.records())
        self.begun, begun = time.time(), time.monotonic()
        while self.records < self._most and not self._stop.is_set():
            time.sleep(max(begun + self.records / self._rate - time.monotonic(), 0.0))
            batch = [OutRecord(v, None, i % PARTITIONS) for i, v in enumerate(islice(values, BATCH))]
            now = time.time()
            self.sent.update(dict.fromkeys(self._log.append("purchase", batch), now))
            self.records += len(batch)


def spread(took: list[float]) -> str:
    """The middle, the 99th percentile and the longest of sorted seconds, as milliseconds."""
    at = {"p50": len(took) // 2, "p99": int(len(took) * 0.99), "longest": len(took) - 1}
    return ", ".join(f"{name} {took[i] * 1000:,.0f} ms" for name, i in at.items())


def until_committed(resources: Resources, records: int) -> None:
    """Wait until so many records are committed."""
    begun = time.monotonic()
    while sum(held.read for held in load_checkpoints(resources.tables, "purchase").values()) < records:
        if time.monotonic() - begun > LIMIT:
            raise SystemExit("the topology does not get on")
        time.sleep(0.2)


def verdicts(resources: Resources) -> Iterator[tuple[tuple[int, int], float]]:
    """Each verdict's record (partition, offset), and when the log took the verdict, seconds."""
    topic = "purchase-verdicts"
    for partition in range(resources.log.partitions(topic)):
        at = resources.log.start_offset(topic, partition)
        while (batch := resources.log.read(topic, partition, at, max_records=10_000, max_bytes=1 << 24)) is not None:
            for value, stamp in zip(batch.all_values(), batch.timestamps.tolist(), strict=True):
                said: dict[str, Any] = json.loads(value)
                yield (said["partition"], said["offset"]), stamp / 1000
            at = batch.next


def cpu_by_process(stack: Stack) -> dict[str, float]:
    """CPU seconds so far, by what the process is."""
    used: dict[str, float] = defaultdict(float)
    for server in stack.servers:
        for pid in stack.processes(server):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            name = command.split()[-1] if "streamparse_run" in command else server
            name = "worker (JVM)" if "storm.daemon.worker.Worker" in command else name
            used[name] += (int(fields[11]) + int(fields[12])) / TICKS
    return used


if __name__ == "__main__":
    main()
