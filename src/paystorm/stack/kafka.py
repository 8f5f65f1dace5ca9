"""Apache Kafka: a broker that is its own controller (KRaft)."""

import base64
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from paystorm.errors import StackError
from paystorm.stack.server import Server, Site, log4j1, log4j2, properties

VERSIONS = ("3.9", "4.3")
HEAP_MIB = 512
SESSION_MS = 9000
"""After a kill -9 the controller lets the broker in again when its old session has ended. Kafka's own value: on a busy
machine 4 s end where nothing was killed, and the cluster has no broker for a second or two."""


@dataclass(frozen=True, kw_only=True)
class Kafka(Server):
    """A broker."""

    kind: ClassVar[str] = "kafka"
    port_names: ClassVar[tuple[str, ...]] = ("broker", "controller")

    version: str = VERSIONS[0]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version not in VERSIONS:
            raise StackError(f"kafka: version must be one of {', '.join(VERSIONS)}, got {self.version!r}")

    @property
    def pom(self) -> str:
        """One a version."""
        return f"kafka-{self.version}"

    @property
    def memory(self) -> int:
        """Heap, and what the JVM has beside it."""
        return HEAP_MIB + 250

    def files(self, site: Site) -> Mapping[str, str]:
        """The broker's settings: one node, so one replica of everything."""
        broker = f"PLAINTEXT://{self.host}:{site.ports['broker']}"
        controller = f"{self.host}:{site.ports['controller']}"
        settings: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{broker},CONTROLLER://{controller}",
            "advertised.listeners": broker,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": site.folder / "data",
            "auto.create.topics.enable": False,
            "num.partitions": 1,
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "broker.session.timeout.ms": SESSION_MS,
            "broker.heartbeat.interval.ms": SESSION_MS // 8,
            "num.network.threads": 2,
            "num.io.threads": 2,
            "log.cleaner.dedupe.buffer.size": 8 * 1024 * 1024,
            "log.segment.bytes": 128 * 1024 * 1024,
        }
        if self.version == "3.9":
            return {"server.properties": properties(settings), "log4j.properties": log4j1(site.log)}
        settings |= {
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 1,
        }
        return {"server.properties": properties(settings), "log4j2.properties": log4j2(site.log)}

    def command(self, site: Site) -> Sequence[str]:
        """The broker; a new folder is formatted before. `exec` keeps the pid."""
        settings = str(site.folder / "server.properties")
        if self.version == "3.9":
            logs = f"-Dlog4j.configuration=file:{site.folder}/log4j.properties"
        else:
            logs = f"-Dlog4j2.configurationFile={site.folder}/log4j2.properties"
        small = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", logs)
        cluster = "p" + base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")[1:]  # no leading hyphen
        format_it = site.run_java(
            *small, "kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", cluster, "-c", settings
        )
        heap = (f"-Xmx{HEAP_MIB}m", "-XX:+UseG1GC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true", logs)
        run = site.run_java(*heap, "kafka.Kafka", settings)
        mark = shlex.quote(str(site.folder / "data" / "meta.properties"))
        return ["/bin/sh", "-c", f"test -f {mark} || {shlex.join(format_it)} || exit; exec {shlex.join(run)}"]

    def is_ready(self, site: Site, said: str) -> bool:
        """Its log says so: the port is open before the broker has been let into the cluster."""
        return "Kafka Server started" in said and self.listens(site)
