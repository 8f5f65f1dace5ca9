"""The purchase topology on real Storm, Kafka, HBase and Hive, beside plain streamparse on the same Storm.

    python bench/stack.py [--records N] [--only plain|count|all|latency]

All servers, the workers and this script share the machine. A backlog is put into Kafka first; the rate is that of
committed records between the first and the last commit, so that starting the workers is not in it.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
OPTIONS = ("publishAccepted=false", "flushMs=500", "gaugeSeconds=3", f"paystorm.kafka.partitions={PARTITIONS}")
LIMIT = 900.0
TICKS = os.sysconf("SC_CLK_TCK")
COUNT_RULE = """

import msgspec as _msgspec

Purchase.config.update(topology_config(_msgspec.structs.replace(SOURCE, rules=SOURCE.rules[:1])))
"""
"""Behind the purchase topology's file: the count rule alone."""


def main() -> None:
    """Start everything, measure, stop everything."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--records", type=int, default=2_000_000)
    arguments.add_argument("--only", choices=["plain", "count", "all", "latency"])
    arguments.add_argument("--seconds", type=float, default=30.0, help="of plain streamparse, and of the latency run")
    given = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="paystorm-bench-stack-"))
    stack = Stack(folder / "servers", standard(slots=2), tell=lambda text: print(text, file=sys.stderr))
    try:
        stack.up()
        addresses = {name: stack.address(name) for name in ("nimbus", "kafka", "hbase-thrift", "hive")}
        plain_rate = 0.0
        if given.only in (None, "plain"):
            plain_rate = plain(folder / "plain", addresses, given.seconds)
            print(f"plain streamparse, a JSON message a tuple: {plain_rate:,.0f}/s", flush=True)
        for rules in ("count", "all"):
            if given.only in (None, rules):
                backlog(folder / rules, addresses, rules, given.records, plain_rate, stack)
        if given.only in (None, "latency"):
            latency(folder / "latency", addresses, given.seconds)
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
    prefix = f"bench{rules}"
    made = deploy(root, addresses, {"paystorm.hbase.prefix": prefix, "paystorm.hive.database": prefix})
    if rules == "count":
        (root / "topologies").unlink()
        shutil.copytree(ROOT / "topologies", root / "topologies")
        with (root / "topologies" / "purchase.py").open("a") as file:
            file.write(COUNT_RULE)
    os.chdir(root)
    resources = open_resources(Connections(Project.load(root).env("stack").options))
    if "purchase" in resources.log.topics():
        resources.log.delete_topic("purchase")
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
            time.sleep(0.25)
        after = cpu_by_process(stack)
        busy = busiest(resources)
        counted, seconds = looks[-1][1] - looks[0][1], looks[-1][0] - looks[0][0]
        rate = counted / seconds
        ratio = f", {rate / plain_rate:.0f} × plain" if plain_rate else ""
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
    """Milliseconds from append to durable verdict, at so many records a second."""
    with deployed(root, addresses, "all") as (made, resources):
        made.submit("purchase", f"paystorm.kafka.partitions={PARTITIONS}")
        sent: dict[tuple[int, int], float] = {}
        batch = 20
        values = [
            v for block in purchase_blocks(int(rate * seconds * 2), seed=2, malformed=0.0) for v in block.records()
        ]
        resources.log.append("purchase", [OutRecord(v, None, i % PARTITIONS) for i, v in enumerate(values[:batch])])
        until_committed(resources, batch)
        begun = time.monotonic()
        for n in range(batch, int(rate * seconds), batch):
            time.sleep(max(begun + n / rate - time.monotonic(), 0.0))
            now = time.time()
            for at in resources.log.append(
                "purchase", [OutRecord(v, None, i % PARTITIONS) for i, v in enumerate(values[n : n + batch])]
            ):
                sent[at] = now
        until_committed(resources, int(rate * seconds) // batch * batch)
        took = sorted(seen - sent[key] for key, seen in verdicts(resources) if key in sent)
        print(
            f"{rate:,}/s offered for {seconds:.0f} s: append to durable verdict, {len(took):,} verdicts: "
            f"p50 {took[len(took) // 2] * 1000:,.0f} ms, p99 {took[int(len(took) * 0.99)] * 1000:,.0f} ms",
            flush=True,
        )


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
