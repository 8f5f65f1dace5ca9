"""Apache HBase: master, region server and its ZooKeeper in one process, and the Thrift 1 server in another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from paystorm.stack.server import Server, Site, hadoop_xml, log4j1, opened

MASTER_HEAP_MIB = 384
THRIFT_HEAP_MIB = 128
TOOL_HEAP_MIB = 128
DIRECT_MIB = 256
READY = "Master has completed initialization"
_MASTER = "org.apache.hadoop.hbase.master.HMaster"
_JAVA_OPTIONS = [
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    f"-XX:MaxDirectMemorySize={DIRECT_MIB}m",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.apache.hbase.thirdparty.io.netty.tryReflectionSetAccessible=true",
    "--add-modules",
    "jdk.unsupported",
    *opened(
        "java.base/java.nio",
        "java.base/sun.nio.ch",
        "java.base/java.lang",
        "java.base/jdk.internal.ref",
        "java.base/java.lang.reflect",
        "java.base/java.util",
        "java.base/java.util.concurrent",
        "java.base/java.net",
    ),
    "--add-exports",
    "java.base/jdk.internal.misc=ALL-UNNAMED",
    "--add-exports",
    "java.security.jgss/sun.security.krb5=ALL-UNNAMED",
]


def _java(site: Site, heap: int, *arguments: str) -> list[str]:
    options = [f"-Xmx{heap}m", *_JAVA_OPTIONS, f"-Djava.io.tmpdir={site.folder}/tmp"]
    return site.run_java(*options, *arguments, conf=site.folder / "conf")


def _client_settings(site: Site) -> dict[str, object]:
    """Where the tables are found."""
    return {
        "hbase.zookeeper.quorum": site.hosts("hbase")[0],
        "hbase.zookeeper.property.clientPort": site.port_of("hbase", "zookeeper"),
    }


@dataclass(frozen=True, kw_only=True)
class HBase(Server):
    """The tables, in one process that writes to this machine's disk."""

    kind: ClassVar[str] = "hbase"
    port_names: ClassVar[tuple[str, ...]] = ("region", "master", "zookeeper")

    @property
    def pom(self) -> str:
        """HBase's."""
        return "hbase"

    @property
    def memory(self) -> int:
        """Heap, and what the JVM has beside it."""
        return MASTER_HEAP_MIB + 300

    def files(self, site: Site) -> Mapping[str, str]:
        """Settings under which no row that was acknowledged is lost when the process is killed."""
        settings = _client_settings(site) | {
            "hbase.cluster.distributed": False,
            "hbase.rootdir": f"file://{site.folder}/root",
            "hbase.tmp.dir": site.folder / "tmp",
            "hbase.zookeeper.property.dataDir": site.folder / "zookeeper",
            "hbase.zookeeper.property.clientPortAddress": self.host,
            # The plain local file system buffers in Java and calls that a flush; the raw one does not.
            "fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
            "hbase.unsafe.stream.capability.enforce": True,
            "hbase.wal.provider": "filesystem",
            "hbase.procedure.store.region.wal.hsync.override": False,
            "hbase.master.hostname": "localhost" if self.host == "127.0.0.1" else self.host,
            "hbase.regionserver.hostname": "localhost" if self.host == "127.0.0.1" else self.host,
            "hbase.master.ipc.address": self.host,
            "hbase.regionserver.ipc.address": self.host,
            "hbase.master.port": site.ports["master"],
            "hbase.regionserver.port": site.ports["region"],
            "hbase.master.info.port": -1,
            "hbase.regionserver.info.port": -1,
            # A table's memory begins with one piece of this size, 2 MiB by default: with 25 tables a source the heap is
            # soon full of pieces that are nearly empty.
            "hbase.hregion.memstore.mslab.chunksize": 262_144,
            "hbase.hregion.memstore.mslab.max.allocation": 65_536,
            "hbase.regionserver.handler.count": 8,
            "hbase.regionserver.metahandler.count": 4,
            "hbase.regionserver.msginterval": 200,
            "hbase.splitlog.manager.timeout": 10_000,
            # All in one process take 10 s by the second name: a machine that stands still so long ends the master.
            "zookeeper.session.timeout": 40_000,
            "zookeeper.session.timeout.localHBaseCluster": 40_000,
            "hbase.master.wait.on.regionservers.mintostart": 1,
            "hbase.master.wait.on.regionservers.maxtostart": 1,
            "hbase.master.wait.on.regionservers.interval": 100,
        }
        return {"conf/hbase-site.xml": hadoop_xml(settings), "conf/log4j.properties": log4j1(site.log), "tmp/.keep": ""}

    def command(self, site: Site) -> Sequence[str]:
        """Master and all."""
        return _java(site, MASTER_HEAP_MIB, _MASTER, "start")

    def stop_command(self, site: Site) -> Sequence[str]:
        """After SIGTERM its ZooKeeper is the first to go, and the region server hangs on it for half a minute."""
        return _java(site, TOOL_HEAP_MIB, _MASTER, "stop", "--shutDownCluster")

    def is_ready(self, site: Site, said: str) -> bool:
        """The master's log says so; ports are open seconds earlier."""
        return READY in said and self.listens(site)


@dataclass(frozen=True, kw_only=True)
class HBaseThrift(Server):
    """The door to the tables for clients that are not Java."""

    kind: ClassVar[str] = "hbase-thrift"
    port_names: ClassVar[tuple[str, ...]] = ("thrift",)
    requires: ClassVar[tuple[str, ...]] = (HBase.kind,)

    @property
    def pom(self) -> str:
        """HBase's."""
        return "hbase"

    @property
    def memory(self) -> int:
        """Heap, and what the JVM has beside it."""
        return THRIFT_HEAP_MIB + 200

    def files(self, site: Site) -> Mapping[str, str]:
        """Few threads to begin with; they grow with the clients."""
        settings = _client_settings(site) | {
            "hbase.regionserver.thrift.ipaddress": self.host,
            "hbase.regionserver.thrift.port": site.ports["thrift"],
            "hbase.thrift.info.port": -1,
            "hbase.thrift.minWorkerThreads": 4,
        }
        return {"conf/hbase-site.xml": hadoop_xml(settings), "conf/log4j.properties": log4j1(site.log), "tmp/.keep": ""}

    def command(self, site: Site) -> Sequence[str]:
        """The Thrift 1 server."""
        place = ("-p", str(site.ports["thrift"]), "--bind", self.host)
        return _java(site, THRIFT_HEAP_MIB, "org.apache.hadoop.hbase.thrift.ThriftServer", "start", *place)

    def is_ready(self, site: Site, said: str) -> bool:
        """Its port is open: HBase is ready before it is started."""
        return self.listens(site)
