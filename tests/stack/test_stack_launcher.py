"""The launcher with the real servers: what survives what, and that nothing is left running."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import happybase
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from pyhive import hive
from tests.stack.servers import HBaseServers, RunningServer, StormCluster, require

from paystorm.nimbus import NimbusClient
from paystorm.stack import Stack
from paystorm.stack.process import start_of

pytestmark = pytest.mark.long

PATIENCE = 300.0
"""Seconds for what Storm does in its own time: workers of a killed topology, new workers on a busy machine."""
AGAIN_SECONDS = 30.0
"""For Kafka after a kill -9: 6 s where nothing else keeps the machine busy, 13 s with the session's default."""
COMPONENTS = """
import os
import sys
from pathlib import Path
from time import sleep

from streamparse import Bolt, Spout


class Numbers(Spout):
    outputs = ["n"]

    def initialize(self, conf, context):
        self.n = 0

    def next_tuple(self):
        sleep(0.05)
        self.n += 1
        self.emit([self.n], tup_id=self.n)


class Write(Bolt):
    outputs = []

    def initialize(self, conf, context):
        self.path = Path(conf["numbers.file"])

    def process(self, tup):
        with self.path.open("a") as file:
            file.write(f"{tup.values[0]} {os.getpid()} {sys.executable} {os.environ.get('PYTHONPATH')}\\n")
"""
TOPOLOGY = """
from streamparse import Topology

from number_parts import Numbers, Write


class Counting(Topology):
    numbers = Numbers.spec()
    write = Write.spec(inputs=[numbers])
"""


def eventually(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The first true answer. Fails after `seconds`."""
    until = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < until, f"not within {seconds:.0f} s"
        time.sleep(0.2)
    return answer


def produce(address: str, topic: str, value: str) -> None:
    producer = Producer({"bootstrap.servers": address, "message.timeout.ms": 60_000})
    failed: list[Any] = []
    producer.produce(topic, value.encode(), on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(60) == 0
    assert not failed


def values(address: str, topic: str) -> list[str]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "none", "enable.auto.commit": False})
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30)
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [m.value().decode() for m in consumer.consume(end, timeout=30)] if end else []
    finally:
        consumer.close()


def make_topic(address: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic(topic, 1)])[topic].result(timeout=30)


def hbase_at(address: str) -> happybase.Connection:
    host, _, port = address.rpartition(":")
    return happybase.Connection(host, int(port), timeout=30_000)


def ask_hive(address: str, *statements: str) -> list[tuple[Any, ...]]:
    host, _, port = address.rpartition(":")
    connection = hive.connect(host, int(port), auth="NOSASL")
    try:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found
    finally:
        connection.close()


def test_data_outlives_down_and_up(
    stack: Stack, kafka_server: RunningServer, hbase_server: HBaseServers, hive_server: RunningServer
) -> None:
    servers = ["hbase", "hbase-thrift", "hive", "kafka"]
    pids = [pid for name in servers for pid in stack.processes(name)]
    make_topic(kafka_server.address, "kept")
    produce(kafka_server.address, "kept", "one")
    connection = hbase_at(hbase_server.address)
    connection.create_table("kept", {"f": {}})
    connection.table("kept").put(b"row", {b"f:a": b"one"})
    connection.close()
    made = ("create external table kept (a string)", "insert into kept values ('one')", "select a from kept")
    assert ask_hive(hive_server.address, *made) == [("one",)]

    assert sorted(stack.down(servers)) == servers
    assert [pid for pid in pids if start_of(pid) is not None] == []
    stack.up(servers)

    assert values(kafka_server.address, "kept") == ["one"]
    connection = hbase_at(hbase_server.address)
    assert connection.table("kept").row(b"row") == {b"f:a": b"one"}
    connection.close()
    assert ask_hive(hive_server.address, "select a from kept") == [("one",)]


def test_a_killed_broker_is_back_soon_with_what_it_had_acknowledged(kafka_server: RunningServer) -> None:
    make_topic(kafka_server.address, "killed")
    produce(kafka_server.address, "killed", "one")
    address, pid = kafka_server.address, kafka_server.pid
    kafka_server.kill()
    (status,) = kafka_server.stack.status(["kafka"])[:1]
    assert (status.state, status.pid) == ("died", None)
    began = time.monotonic()
    kafka_server.start()
    produce(address, "killed", "two")
    seconds = time.monotonic() - began
    print(f"kafka wrote again {seconds:.1f} s after up")
    assert kafka_server.address == address
    assert kafka_server.pid != pid
    assert values(address, "killed") == ["one", "two"]
    assert seconds < AGAIN_SECONDS


def test_a_halted_broker_answers_when_it_is_let_go_on(kafka_server: RunningServer) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_server.address, "socket.timeout.ms": 2000})
    kafka_server.kill(signal.SIGSTOP)
    try:
        with pytest.raises(KafkaException):
            admin.list_topics(timeout=3)
    finally:
        kafka_server.kill(signal.SIGCONT)
    assert eventually(lambda: AdminClient({"bootstrap.servers": kafka_server.address}).list_topics(timeout=30), 60)


def test_a_second_up_changes_nothing(kafka_server: RunningServer) -> None:
    pid = kafka_server.pid
    assert kafka_server.stack.up(["kafka"]) == []
    assert kafka_server.pid == pid


def test_kafka_4_is_a_server_beside_kafka_3(kafka4_server: RunningServer, kafka_server: RunningServer) -> None:
    assert kafka4_server.address != kafka_server.address
    make_topic(kafka4_server.address, "newer")
    produce(kafka4_server.address, "newer", "one")
    assert values(kafka4_server.address, "newer") == ["one"]


@pytest.fixture
def numbers(storm_cluster: StormCluster, tmp_path: Path) -> Path:
    """The file into which a topology writes numbers, submitted as `sparse` does it."""
    for path, text in {"src/number_parts.py": COMPONENTS, "topologies/counting.py": TOPOLOGY}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    env = {
        "nimbus": storm_cluster.address,
        "user": "",
        "workers": [],
        "use_ssh_for_nimbus": False,
        "use_virtualenv": False,
        "virtualenv_root": "",
        "log": {"path": "", "max_bytes": 1_000_000, "backup_count": 1, "level": "info"},
    }
    config = {"serializer": "json", "topology_specs": "topologies/", "virtualenv_specs": "", "envs": {"stack": env}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with zipfile.ZipFile(tmp_path / "topology.jar", "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n")
        jar.write(tmp_path / "src" / "number_parts.py", "resources/number_parts.py")
    written = tmp_path / "numbers.txt"
    sparse = [str(Path(sys.executable).parent / "sparse"), "submit", "-n", "counting", "-e", "stack"]
    sparse += ["-j", "topology.jar", "-o", f'numbers.file="{written}"']
    environment = {**os.environ, "LEIN_ROOT": "1"}
    done = subprocess.run(
        sparse, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return written


def test_workers_run_what_is_submitted_and_end_with_their_supervisor(
    storm_cluster: StormCluster, numbers: Path
) -> None:
    stack, supervisor = storm_cluster.stack, storm_cluster.supervisor
    eventually(numbers.exists)
    _, child, python, path = numbers.read_text().splitlines()[0].split()
    assert int(child) in stack.processes("supervisor")
    assert Path(python).parent == Path(sys.executable).parent
    assert path == "None", "no PYTHONPATH is needed"
    logs = stack.logs(["supervisor"])
    assert [name for name in logs if name.startswith("worker counting-")], logs

    storm_cluster.kill()
    supervisor.kill()
    left = stack.processes("supervisor")
    assert int(child) in left, "workers outlive a supervisor that was killed"
    supervisor.stop()
    assert [pid for pid in left if start_of(pid) is not None] == []

    before = len(numbers.read_text().splitlines())
    supervisor.start()
    eventually(lambda: len(numbers.read_text().splitlines()) > before)
    nimbus = NimbusClient(storm_cluster.address)
    assert list(nimbus.topologies()) == ["counting"], "Nimbus knows it after its end too"
    nimbus.kill("counting", 0)
    eventually(lambda: not nimbus.topologies())
    eventually(lambda: len(stack.processes("supervisor")) == 1)


def test_topologies_outlive_the_whole_of_storm(storm_cluster: StormCluster, numbers: Path) -> None:
    eventually(numbers.exists)
    everything = ["zookeeper", "nimbus", "supervisor"]
    storm_cluster.stack.down(everything)
    before = len(numbers.read_text().splitlines())
    storm_cluster.stack.up(everything)
    nimbus = NimbusClient(storm_cluster.address)
    assert list(nimbus.topologies()) == ["counting"]
    eventually(lambda: len(numbers.read_text().splitlines()) > before)
    nimbus.kill("counting", 0)
    eventually(lambda: not nimbus.topologies())


def test_the_command_starts_shows_and_ends_a_server(tmp_path: Path) -> None:
    require(["storm"])
    env = {"nimbus": "127.0.0.1:1", "stack": {"folder": "stack-data"}}
    (tmp_path / "config.json").write_text(json.dumps({"envs": {"stack": env}}))

    def paystorm(*arguments: str) -> str:
        command = [sys.executable, "-c", "import sys; from paystorm.cli.main import main; sys.exit(main(sys.argv[1:]))"]
        done = subprocess.run(
            [*command, "stack", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        assert paystorm("up", "zookeeper").startswith("zookeeper 127.0.0.1:")
        (found,) = json.loads(paystorm("status", "zookeeper", "--json"))
        assert found["state"] == "running"
        assert found["memory"] > 10_000_000
        assert "zookeeper.log <==" in paystorm("logs", "zookeeper")
    finally:
        assert paystorm("down") == "stopped: zookeeper\n"
    assert start_of(found["pid"]) is None
