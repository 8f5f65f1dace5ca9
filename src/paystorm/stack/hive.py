"""Apache Hive: HiveServer2 with its metastore (Derby) and its engine (Tez in local mode) in one process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from paystorm.stack.server import Server, Site, hadoop_xml, log4j2, opened

HEAP_MIB = 512
TASK_MIB = 128
SORT_MIB = 16


@dataclass(frozen=True, kw_only=True)
class Hive(Server):
    """HiveServer2, without authentication, for external tables: the metastore made at start has no ACID tables."""

    kind: ClassVar[str] = "hive"
    port_names: ClassVar[tuple[str, ...]] = ("thrift",)

    @property
    def pom(self) -> str:
        """Hive's."""
        return "hive"

    @property
    def memory(self) -> int:
        """Heap, and what the JVM has beside it."""
        return HEAP_MIB + 350

    def files(self, site: Site) -> Mapping[str, str]:
        """The settings; Tez reads the same ones under a name of its own."""
        at = site.folder
        settings = hadoop_xml(
            {
                "fs.defaultFS": "file:///",
                "javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={at}/metastore;create=true",
                "javax.jdo.option.ConnectionDriverName": "org.apache.derby.jdbc.EmbeddedDriver",
                "datanucleus.schema.autoCreateAll": True,
                "hive.metastore.schema.verification": False,
                "hive.metastore.warehouse.dir": f"file://{at}/warehouse",
                "metastore.warehouse.dir": f"file://{at}/warehouse",
                "hive.metastore.warehouse.external.dir": f"file://{at}/external",
                "hive.metastore.event.db.notification.api.auth": False,
                "hive.metastore.metrics.enabled": False,
                "hive.exec.scratchdir": f"file://{at}/scratch",
                "hive.exec.local.scratchdir": at / "tmp",
                "hive.downloaded.resources.dir": at / "tmp" / "resources",
                "hive.server2.thrift.port": site.ports["thrift"],
                "hive.server2.thrift.bind.host": self.host,
                "hive.server2.thrift.min.worker.threads": 2,
                "hive.server2.authentication": "NOSASL",
                "hive.server2.enable.doAs": False,
                "hive.server2.webui.port": -1,
                "hive.server2.logging.operation.enabled": False,
                "hive.server2.tez.initialize.default.sessions": False,
                "hive.server2.materializedviews.registry.impl": "DUMMY",
                "hive.execution.engine": "tez",
                "hive.tez.container.size": TASK_MIB,
                "hive.tez.java.opts": "",
                "tez.local.mode": True,
                "tez.local.mode.without.network": True,
                "tez.runtime.optimize.local.fetch": True,
                "tez.runtime.io.sort.mb": SORT_MIB,
                "tez.ignore.lib.uris": True,
                "tez.staging-dir": at / "scratch" / "tez",
                "tez.am.resource.memory.mb": TASK_MIB,
                "tez.task.resource.memory.mb": TASK_MIB,
                "mapreduce.framework.name": "local",
                "mapreduce.jobtracker.address": "local",
                "mapreduce.task.io.sort.mb": SORT_MIB,
                "hive.exec.mode.local.auto": True,
                "hive.exec.submitviachild": False,
                "hive.auto.convert.join.noconditionaltask.size": 10_000_000,
                "hive.support.concurrency": False,
                "hive.txn.manager": "org.apache.hadoop.hive.ql.lockmgr.DummyTxnManager",
                "hive.compactor.initiator.on": False,
                "hive.stats.autogather": False,
                "hive.security.authorization.enabled": False,
                "hive.notification.event.poll.interval": "0s",
                "hive.query.reexecution.enabled": False,
                "hive.scheduled.queries.executor.enabled": False,
            }
        )
        logs = log4j2(site.log)
        return {
            "conf/hive-site.xml": settings,
            "conf/tez-site.xml": settings,
            "conf/hive-log4j2.properties": logs,
            "conf/log4j2.properties": logs,
            "tmp/.keep": "",
        }

    def prepare(self, site: Site) -> None:
        """Write the files; the scratch folder must be open to all users of Hive."""
        super().prepare(site)
        scratch = site.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        scratch.chmod(0o777)

    def command(self, site: Site) -> Sequence[str]:
        """HiveServer2."""
        options = [
            f"-Xmx{HEAP_MIB}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.net.preferIPv4Stack=true",
            f"-Djava.io.tmpdir={site.folder}/tmp",
            f"-Dderby.stream.error.file={site.folder}/derby.log",
            *opened(
                "java.base/java.lang",
                "java.base/java.lang.reflect",
                "java.base/java.util",
                "java.base/java.util.concurrent",
                "java.base/java.util.concurrent.atomic",
                "java.base/java.util.regex",
                "java.base/java.net",
                "java.base/java.nio",
                "java.base/java.io",
                "java.base/java.time",
                "java.base/sun.nio.ch",
                "java.base/sun.net.www.protocol.jar",
                "java.sql/java.sql",
            ),
        ]
        return site.run_java(*options, "org.apache.hive.service.server.HiveServer2", conf=site.folder / "conf")

    def is_ready(self, site: Site, said: str) -> bool:
        """Its port is open, which it opens last."""
        return self.listens(site)
