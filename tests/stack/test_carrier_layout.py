"""Two Nimbus and two supervisors, each on a host of its own; one of either dies while records flow."""

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from tests.stack.deployed import Deployed, deploy, until
from tests.stack.servers import require

from paystorm.connections import Connections
from paystorm.errors import ClusterError, PaystormError
from paystorm.generate import purchases
from paystorm.log.base import OutRecord
from paystorm.nimbus import NimbusClient
from paystorm.resources import open_resources
from paystorm.stack import HBase, HBaseThrift, Hive, Kafka, Nimbus, Stack, Supervisor, ZooKeeper
from paystorm.stack.machine import choose_port
from paystorm.stack.namespaces import Host, Network, network, why_none
from paystorm.stores.checkpoints import load_checkpoints

pytestmark = pytest.mark.long

SESSION, TASK, MONITOR, START, MESSAGE = 20, 30, 10, 180, 60
"""Time-outs in seconds: Storm's own, but for the last two, which are the launcher's and config.json's."""
STORM = {
    "storm.zookeeper.session.timeout": SESSION * 1000,
    "nimbus.task.timeout.secs": TASK,
    "nimbus.monitor.freq.secs": MONITOR,
    "nimbus.task.launch.secs": START,
    # A worker that a busy machine keeps waiting is not to be taken for one that hangs.
    "supervisor.worker.timeout.secs": START,
    # A topology becomes active when both Nimbus have its code: whichever leads can place it.
    "topology.min.replication.count": 2,
    # In its first ten minutes a Nimbus that comes to lead would wait that long for hosts that are dead.
    "supervisor.worker.heartbeats.max.timeout.secs": TASK,
}
BOLTS = ("validation", "lookup", "warehouse", "counts", "dead_letters")
PARALLEL = 4
OPTIONS = ("topology.workers=2", *(f"parallelism.{name}={PARALLEL}" for name in ("spout", *BOLTS)))
OTHERS = {
    "refund": ("refund", "refund-online-retail.ndjson.gz"),
    "customer-service": ("customer_service", "customer-service-complaints.ndjson.gz"),
    "browser": ("browser", "browser-weblog.ndjson.gz"),
}
"""The other topologies, with one worker each, by source: file and records."""
SLOTS = 5
"""One supervisor can have all workers, when the other is dead."""
PARTITIONS = 4
AT_ONCE, EVERY = 20, 0.5
"""Records that are sent at once, and seconds between two such times."""
RECORDS = 100_000
"""More than are sent while the test may take."""
LOOK = 0.2
SECONDS = 600.0


@dataclass(frozen=True)
class Carrier:
    """The layout, with its topologies running."""

    stack: Stack
    hosts: Mapping[str, Host]
    """By the name of the server on it."""
    deployed: Deployed
    leader: str
    standby: str
    """Of the two Nimbus, at first."""


@dataclass
class Flow:
    """Records sent at a steady rate, and how the committed offsets follow."""

    deployed: Deployed
    records: list[bytes]
    sent: int = 0
    moves: dict[int, list[float]] = field(default_factory=lambda: {p: [] for p in range(PARTITIONS)})
    """By partition, when its committed offset was seen to have moved."""
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._watch)]

    def __enter__(self) -> "Flow":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60.0)

    def all_move(self, since: float) -> bool:
        """Each partition has been committed to after this time."""
        assert not self.problems, self.problems
        return all(times and times[-1] > since for times in self.moves.values())

    def longest_stop(self, since: float, until: float) -> tuple[float, float]:
        """The longest time between two commits: of the slowest partition, and of all of them together."""

        def longest(times: list[float]) -> float:
            within = [since, *(t for t in times if since < t < until), until]
            return max(b - a for a, b in pairwise(within))

        return max(map(longest, self.moves.values())), longest(sorted(t for ts in self.moves.values() for t in ts))

    def _send(self) -> None:
        resources = _resources(self.deployed)
        try:
            resources.log.create_topic("purchase", PARTITIONS)
            while not self._stop.wait(EVERY) and self.sent < len(self.records):
                some = self.records[self.sent : self.sent + AT_ONCE]
                resources.log.append(
                    "purchase", [OutRecord(value, partition=n % PARTITIONS) for n, value in enumerate(some)]
                )
                self.sent += len(some)
        except PaystormError as error:
            self.problems.append(str(error))
        finally:
            resources.close()

    def _watch(self) -> None:
        resources, seen = _resources(self.deployed), dict.fromkeys(range(PARTITIONS), 0)
        try:
            while not self._stop.wait(LOOK):
                for (_, partition), held in load_checkpoints(resources.tables, "purchase").items():
                    if held.committed > seen[partition]:
                        seen[partition] = held.committed
                        self.moves[partition].append(time.monotonic())
        except PaystormError as error:
            self.problems.append(str(error))
        finally:
            resources.close()


def _resources(deployed: Deployed) -> Any:
    options = json.loads((deployed.root / "config.json").read_text())["envs"]["stack"]["options"]
    return open_resources(Connections(options | {"paystorm.warehouse": str(deployed.root / "warehouse")}))


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """Four hosts. Skips where none can be made; on CI that is a failure."""
    why = why_none()
    if why:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{why}: the carrier's layout is left out")
    require([ZooKeeper().pom, Kafka().pom, HBase().pom, Hive().pom])
    with network(4) as found:
        yield found


@pytest.fixture(scope="module")
def carrier(net: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carrier]:
    """The servers, and the topologies on them."""
    folder = tmp_path_factory.mktemp("carrier")
    names = ("nimbus-1", "nimbus-2", "supervisor-1", "supervisor-2")
    hosts = dict(zip(names, net.hosts, strict=True))
    port = {"thrift": choose_port([])}
    everywhere = {"host": net.gateway}
    stack = Stack(
        folder / "servers",
        [
            ZooKeeper(**everywhere),
            *(
                Nimbus(name=name, host=hosts[name].address, prefix=hosts[name].prefix, given=port, more=STORM)
                for name in names[:2]
            ),
            *(
                Supervisor(name=name, host=hosts[name].address, prefix=hosts[name].prefix, slots=SLOTS, more=STORM)
                for name in names[2:]
            ),
            Kafka(**everywhere),
            HBase(),  # its own ZooKeeper is on loopback only; the hosts see its Thrift server
            HBaseThrift(**everywhere),
            Hive(**everywhere),
        ],
        tell=print,
        limit=SECONDS,
    )
    try:
        stack.up()
        addresses = {name: stack.address(name) for name in ("kafka", "hbase-thrift", "hive")}
        leader, standby = names[:2] if _leads(stack, "nimbus-1") else names[1::-1]
        deployed = deploy(
            folder / "project",
            {"nimbus": stack.address(leader), **addresses},
            {"paystorm.kafka.partitions": PARTITIONS, "topology.message.timeout.secs": MESSAGE},
            more={"nimbuses": [stack.address(standby)], "workers": [hosts[name].address for name in names[2:]]},
        )
        for source, (topology, file) in OTHERS.items():
            deployed.paystorm("send", source, f"examples/data/{file}", "-e", "stack")
            deployed.submit(topology)
            deployed.caught_up(source, SECONDS)  # one by one: they are 42 Python processes
        deployed.submit("purchase", *OPTIONS)
        yield Carrier(stack, hosts, deployed, leader, standby)
    finally:
        stack.down()


def _leads(stack: Stack, name: str) -> bool:
    masters = NimbusClient(stack.address(name)).cluster().masters
    return [m.host for m in masters if m.leads] == [stack.servers[name].host]


def _hosts_of(deployed: Deployed, topology: str) -> set[str]:
    with suppress(ClusterError):
        return {host for host, _ in deployed.nimbus.places(topology)}
    return set()


def _leaders(deployed: Deployed) -> list[str]:
    with suppress(ClusterError):
        return [master.host for master in deployed.nimbus.cluster().masters if master.leads]
    return []


def _kill_host(stack: Stack, name: str, host: Host) -> None:
    """As when the power goes: nobody hears of it, and all that ran there is gone."""
    host.cut()
    stack.kill(name)
    end = time.monotonic() + 30.0
    while left := stack.processes(name):  # workers, their log writers, the Python components
        assert time.monotonic() < end, left
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_records_flow_on_when_the_leading_nimbus_and_then_a_supervisor_die(carrier: Carrier) -> None:
    deployed, stack = carrier.deployed, carrier.stack
    records = [record for block in purchases(RECORDS, seed=1, days=1) for record in block]
    both = {carrier.hosts[name].address for name in ("supervisor-1", "supervisor-2")}
    until(lambda: _hosts_of(deployed, "purchase") == both, SECONDS, "purchase is not on both hosts")
    shape = {c.name: (c.executors, c.tasks) for c in deployed.nimbus.components("purchase")}
    assert shape == dict.fromkeys(("spout", *BOLTS), (PARALLEL, PARALLEL))
    assert deployed.nimbus.topologies()["purchase"].workers == 2
    assert all(deployed.nimbus.topologies()[topology].workers == 1 for topology, _ in OTHERS.values())

    with Flow(deployed, records) as flow:
        began = time.monotonic()
        until(lambda: flow.all_move(began), SECONDS, "nothing is committed")
        began = time.monotonic()
        time.sleep(15.0)
        until(lambda: flow.all_move(began + 10.0), SECONDS, "it stops by itself")
        _tell("nobody is killed", flow.longest_stop(began, time.monotonic()))

        killed = time.monotonic()
        stack.kill(carrier.leader)
        other = carrier.hosts[carrier.standby].address
        until(lambda: _leaders(deployed) == [other], SECONDS, lambda: f"leaders: {_leaders(deployed)}")
        led = time.monotonic()
        until(lambda: flow.all_move(led + 10.0), SECONDS, "it stops with the Nimbus")
        stops = flow.longest_stop(killed, time.monotonic())
        _tell(f"the leading Nimbus is killed, the other leads after {led - killed:.1f} s", stops)
        assert stops[0] < SESSION + MONITOR + TASK, stops
        assert _hosts_of(deployed, "purchase") == both
        through = dataclasses.replace(deployed, environment={"STREAMPARSE_NIMBUS": stack.address(carrier.standby)})
        assert "Topology-specific values" in through.sparse("list", "-e", "stack")

        killed = time.monotonic()
        _kill_host(stack, "supervisor-1", carrier.hosts["supervisor-1"])
        left = {carrier.hosts["supervisor-2"].address}
        until(lambda: _hosts_of(deployed, "purchase") == left, SECONDS, "the tasks are not placed on the other host")
        placed = time.monotonic()
        until(lambda: flow.all_move(placed), SECONDS, lambda: f"it does not go on: {flow.moves} {placed}")
        moved = time.monotonic()
        time.sleep(10.0)
        until(lambda: flow.all_move(moved + 5.0), SECONDS, "it does not go on")
        stops = flow.longest_stop(killed, time.monotonic())
        _tell(f"a supervisor's host is killed, its tasks are placed after {placed - killed:.1f} s", stops)
        # A tuple is failed at a turn of the spout's wheel: after one to two time-outs.
        assert stops[0] < TASK + MONITOR + START + 2 * MESSAGE, stops

    status = deployed.caught_up("purchase", SECONDS)
    assert status["totals"]["end"] == flow.sent
    assert status["adds_up"], status
    assert not flow.problems
    reports = json.loads(deployed.paystorm("verify", "-e", "stack", "--json", timeout=SECONDS))
    assert {report["source"] for report in reports} == {"purchase", *OTHERS}
    assert all(report["ok"] for report in reports), [report["differences"][:5] for report in reports]


def _tell(what: str, stops: tuple[float, float]) -> None:
    print(f"{what}: longest stop of a partition {stops[0]:.1f} s, of all partitions {stops[1]:.1f} s")
