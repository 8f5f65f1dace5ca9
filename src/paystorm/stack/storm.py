"""Apache Storm: ZooKeeper, Nimbus and Supervisor. Topologies, assignments and blobs outlive all of them."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from paystorm.stack.server import LOG_FILES, LOG_MIB, Server, Site, properties

ZOOKEEPER_HEAP_MIB = 128
DAEMON_HEAP_MIB = 256
WORKER_HEAP_MIB = 256
SLOTS = 4
MAX_SLOTS = 32
MAX_HEAP_MIB = 16_384
WORKER_START_SECONDS = 180
"""A worker that is not up after this time is started anew, on another slot. On a busy machine Storm's 120 were seen to
be too few: then no worker ever comes up."""
ASK_MS = 2000
"""Milliseconds that Nimbus may take to say who is there, while it is waited for."""
_PATTERN = "%d{yyyy-MM-dd HH:mm:ss.SSS} %c{1.} %t [%p] %msg%n"
_PRINTED = ("STDOUT", "STDERR")
"""Storm's loggers for what a worker prints."""
_DAEMON = ("-server", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError")


def _log4j2(log: str, printed: str = "") -> str:
    """log4j 2 as Storm wants it: XML. `printed`: where a worker's log writer puts what the worker prints."""
    files, loggers = [_appender("file", log)], []
    if printed:
        files.append(_appender("printed", printed))
        ref = '<appender-ref ref="printed"/>'
        loggers = [f'    <logger name="{name}" level="info" additivity="false">{ref}</logger>' for name in _PRINTED]
    root = '    <root level="info"><appender-ref ref="file"/></root>'
    return "\n".join(
        [
            '<configuration shutdownHook="disable">',
            "  <appenders>",
            *files,
            "  </appenders>",
            "  <loggers>",
            *loggers,
            root,
            "  </loggers>",
            "</configuration>",
            "",
        ]
    )


def _appender(name: str, path: str) -> str:
    """A file that is moved aside when it is full."""
    return f"""\
    <RollingFile name="{name}" fileName="{path}" filePattern="{path}.%i" createOnDemand="true">
      <PatternLayout pattern="{_PATTERN}"/>
      <Policies><SizeBasedTriggeringPolicy size="{LOG_MIB} MB"/></Policies>
      <DefaultRolloverStrategy max="{LOG_FILES - 1}"/>
    </RollingFile>"""


class _Storm(Server):
    """What Storm's servers share: the jars."""

    @property
    def pom(self) -> str:
        """Storm's; it brings ZooKeeper."""
        return "storm"


@dataclass(frozen=True, kw_only=True)
class ZooKeeper(_Storm):
    """What Storm keeps of topologies and assignments, on disk."""

    kind: ClassVar[str] = "zookeeper"
    port_names: ClassVar[tuple[str, ...]] = ("client",)

    @property
    def memory(self) -> int:
        """Heap, and what the JVM has beside it."""
        return ZOOKEEPER_HEAP_MIB + 70

    def files(self, site: Site) -> Mapping[str, str]:
        """One server alone, which clears away its old snapshots."""
        settings = {
            "dataDir": site.folder / "data",
            "clientPort": site.ports["client"],
            "clientPortAddress": self.host,
            "tickTime": 2000,
            "maxClientCnxns": 0,
            "admin.enableServer": False,
            "autopurge.snapRetainCount": 3,
            "autopurge.purgeInterval": 24,
            "4lw.commands.whitelist": "srvr",
        }
        return {"zoo.cfg": properties(settings), "log4j2.xml": _log4j2(str(site.log)), "data/.keep": ""}

    def command(self, site: Site) -> Sequence[str]:
        """Storm's own copy of ZooKeeper. Its DevZookeeper would do too, but empties the folder at each start."""
        return site.run_java(
            f"-Xmx{ZOOKEEPER_HEAP_MIB}m",
            *_DAEMON,
            f"-Dlog4j.configurationFile={site.folder}/log4j2.xml",
            "org.apache.storm.shade.org.apache.zookeeper.server.quorum.QuorumPeerMain",
            str(site.folder / "zoo.cfg"),
        )

    def is_ready(self, site: Site, said: str) -> bool:
        """It accepts clients."""
        return self.listens(site)


@dataclass(frozen=True, kw_only=True)
class _Daemon(_Storm):
    """Nimbus or a supervisor: they read the same storm.yaml, and have a STORM_HOME each."""

    main: ClassVar[str]

    slots: int = SLOTS
    """Workers that a supervisor can run."""
    worker_heap: int = WORKER_HEAP_MIB
    """MiB of heap of a worker."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Settings of storm.yaml over those here, such as Storm's time-outs."""

    def settings(self, site: Site) -> dict[str, Any]:
        """What storm.yaml says."""
        return {
            "storm.zookeeper.servers": site.hosts(ZooKeeper.kind),
            "storm.zookeeper.port": site.port_of(ZooKeeper.kind, "client"),
            "nimbus.seeds": site.hosts(Nimbus.kind),
            "nimbus.thrift.port": site.port_of(Nimbus.kind, "thrift"),
            "storm.local.dir": str(site.folder / "data"),
            "storm.local.hostname": self.host,
            "storm.log.dir": str(site.folder / "logs"),
            "nimbus.task.launch.secs": WORKER_START_SECONDS,
            # Longer than the supervisor's own time-out (30 s): it starts a silent worker anew before Nimbus moves it.
            "nimbus.task.timeout.secs": 45,
            # A worker that died is no reason to give its host no work for half an hour: there may be no other.
            "blacklist.scheduler.assume.supervisor.bad.based.on.bad.slot": False,
            # Of the cluster's own metrics nothing is asked for here, and RocksDB keeps them at a price.
            "storm.metricstore.class": "org.apache.storm.metricstore.NoOpMetricStore",
        }

    def files(self, site: Site) -> Mapping[str, str]:
        """storm.yaml (JSON is YAML too), and how daemons and workers log."""
        settings = {**self.settings(site), **self.more}
        of_worker = "${sys:workers.artifacts}/${sys:storm.id}/${sys:worker.port}"
        return {
            "conf/storm.yaml": "".join(f"{k}: {json.dumps(v)}\n" for k, v in settings.items()),
            "log4j2/cluster.xml": _log4j2(str(site.log)),
            "log4j2/worker.xml": _log4j2(f"{of_worker}/worker.log", f"{of_worker}/worker.out"),
            **{f"{folder}/.keep": "" for folder in ("data", "logs", "extlib", "extlib-daemon")},
        }

    def prepare(self, site: Site) -> None:
        """Write the files; the class path of daemons is `lib`, that of workers `lib-worker`."""
        super().prepare(site)
        for name in ("lib", "lib-worker"):
            link = site.folder / name
            if link.is_symlink():
                link.unlink()
            link.symlink_to(site.jars, target_is_directory=True)

    def command(self, site: Site) -> Sequence[str]:
        """The daemon."""
        return site.run_java(
            f"-Xmx{DAEMON_HEAP_MIB}m",
            *_DAEMON,
            f"-Ddaemon.name={self.kind}",
            "-Dstorm.options=",
            f"-Dstorm.home={site.folder}",
            "-Dstorm.conf.file=storm.yaml",
            f"-Dstorm.log.dir={site.folder}/logs",
            f"-Dlogfile.name={self.name}.log",
            f"-Dlog4j.configurationFile={site.folder}/log4j2/cluster.xml",
            self.main,
            conf=site.folder / "conf",
        )

    def environment(self, site: Site) -> Mapping[str, str]:
        """Workers find `streamparse_run` beside the Python that runs this, so they have the same packages."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return {
            "PATH": path,
            "JAVA_HOME": str(site.java.parent.parent),
            "STORM_HOME": str(site.folder),
            "STORM_CONF_DIR": str(site.folder / "conf"),
        }


@dataclass(frozen=True, kw_only=True)
class Nimbus(_Daemon):
    """The master of the cluster."""

    kind: ClassVar[str] = "nimbus"
    port_names: ClassVar[tuple[str, ...]] = ("thrift",)
    requires: ClassVar[tuple[str, ...]] = (ZooKeeper.kind,)
    main: ClassVar[str] = "org.apache.storm.daemon.nimbus.Nimbus"

    @property
    def memory(self) -> int:
        """Heap, and what the JVM has beside it."""
        return DAEMON_HEAP_MIB + 100

    def is_ready(self, site: Site, said: str) -> bool:
        """It answers, and there is a leader."""
        cluster = ask_nimbus(self.host, site.ports["thrift"])
        return cluster is not None and any(nimbus.isLeader for nimbus in cluster.nimbuses or ())


@dataclass(frozen=True, kw_only=True)
class Supervisor(_Daemon):
    """What starts workers on a host."""

    kind: ClassVar[str] = "supervisor"
    port_names: ClassVar[tuple[str, ...]] = ("thrift",)
    requires: ClassVar[tuple[str, ...]] = (Nimbus.kind,)
    main: ClassVar[str] = "org.apache.storm.daemon.supervisor.Supervisor"

    @property
    def ports(self) -> tuple[str, ...]:
        """Beside its own, one a worker."""
        return (*self.port_names, *(f"worker-{n}" for n in range(1, self.slots + 1)))

    @property
    def memory(self) -> int:
        """Its own, and for each worker: the worker, its log writer, and the Python children of a topology."""
        return DAEMON_HEAP_MIB + 50 + self.slots * (self.worker_heap + 400)

    def settings(self, site: Site) -> dict[str, Any]:
        """Also what it gives to workers. The serial collector: chunks are long strings, which G1 handles badly."""
        return super().settings(site) | {
            "supervisor.thrift.port": site.ports["thrift"],
            "supervisor.slots.ports": [site.ports[name] for name in self.ports if name.startswith("worker-")],
            "supervisor.worker.start.timeout.secs": WORKER_START_SECONDS,
            "worker.heap.memory.mb": self.worker_heap,
            "worker.childopts": f"-Xmx{self.worker_heap}m -XX:+UseSerialGC",
            "topology.worker.logwriter.childopts": "-Xmx32m -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        }

    def is_ready(self, site: Site, said: str) -> bool:
        """It has started, and Nimbus knows of it."""
        if "Starting supervisor with id" not in said:
            return False
        host, ports = site.peers[Nimbus.kind][0]
        cluster = ask_nimbus(host, ports["thrift"])
        return cluster is not None and any(s.host == self.host for s in cluster.supervisors or ())

    def more_logs(self, site: Site) -> Mapping[str, Path]:
        """The workers' logs."""
        folders = sorted((site.folder / "logs" / "workers-artifacts").glob("*/*"))
        return {
            f"worker {folder.parent.name} {folder.name}{printed}": folder / file
            for folder in folders
            for file, printed in (("worker.log", ""), ("worker.out", " (printed)"))
        }


def ask_nimbus(host: str, port: int) -> Any | None:
    """Nimbus's summary of the cluster, None where it does not answer (yet)."""
    from streamparse.thrift import Nimbus as Service  # noqa: PLC0415  reading the interface takes its time
    from thriftpy2.protocol import TBinaryProtocolFactory  # noqa: PLC0415
    from thriftpy2.rpc import make_client  # noqa: PLC0415
    from thriftpy2.thrift import TException  # noqa: PLC0415
    from thriftpy2.transport import TFramedTransportFactory  # noqa: PLC0415

    try:
        client = make_client(
            Service,
            host=host,
            port=port,
            proto_factory=TBinaryProtocolFactory(),  # type: ignore[no-untyped-call]
            trans_factory=TFramedTransportFactory(),
            timeout=ASK_MS,
        )
    except (TException, OSError):
        return None
    try:
        return client.getClusterInfo()
    except (TException, OSError):
        return None
    finally:
        client.close()
