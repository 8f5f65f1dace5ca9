"""What a real server is to the launcher: its jars, files, command, ports, needs, and the sign that it is ready."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from paystorm.stack.machine import is_open

LOG_MIB = 16
"""Size of a log file; beyond it is moved aside."""
LOG_FILES = 4
"""Log files of a server that are kept."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Site:
    """Where a server runs, and beside what."""

    folder: Path
    """The server's own folder: settings and data."""
    log: Path
    java: Path
    jars: Path
    ports: Mapping[str, int]
    peers: Mapping[str, Sequence[tuple[str, Mapping[str, int]]]]
    """Host and ports of all instances of each kind of server, this one's too."""

    def hosts(self, kind: str) -> list[str]:
        """The hosts with a server of the kind."""
        return [host for host, _ in self.peers[kind]]

    def port_of(self, kind: str, name: str) -> int:
        """A port of the servers of a kind, which is the same on all hosts."""
        return self.peers[kind][0][1][name]

    def run_java(self, *arguments: str, conf: Path | None = None) -> list[str]:
        """A command of java with the server's jars as its class path, and before them the folder `conf`."""
        path = f"{conf}:{self.jars}/*" if conf is not None else f"{self.jars}/*"
        return [str(self.java), "-cp", path, *arguments]


@dataclass(frozen=True, kw_only=True)
class Server(ABC):
    """A server at a place. One of each kind is called as its kind; several are, say, nimbus-1 and nimbus-2."""

    kind: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]]
    """Its ports; the first is the one that its clients use."""
    requires: ClassVar[tuple[str, ...]] = ()
    """The kinds of servers that must be ready before it is started."""

    name: str = ""
    """Of this instance; default: its kind."""
    host: str = LOOPBACK
    """The address that it listens on, and where the others find it."""
    given: Mapping[str, int] = field(default_factory=dict)
    """Ports that are given; the others are chosen free and kept."""
    prefix: tuple[str, ...] = ()
    """What its command is run with, such as `ip netns exec host1`."""
    version: str = ""
    """Where there are several: data that a newer one has written is not for an older one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.kind)

    @property
    @abstractmethod
    def pom(self) -> str:
        """The name of its pom; empty for what is not Java."""

    @property
    @abstractmethod
    def memory(self) -> int:
        """MiB that it comes to need, its children's too."""

    @property
    def ports(self) -> tuple[str, ...]:
        """The names of its ports."""
        return self.port_names

    @abstractmethod
    def files(self, site: Site) -> Mapping[str, str]:
        """Its files of configuration, written before each start: text by path in its folder."""

    @abstractmethod
    def command(self, site: Site) -> Sequence[str]:
        """The command that becomes the server: its pid is the server's."""

    @abstractmethod
    def is_ready(self, site: Site, said: str) -> bool:
        """Whether it serves by now. `said`: what it has logged since its start."""

    def environment(self, site: Site) -> Mapping[str, str]:
        """What it has in its environment beside what the launcher has."""
        return {}

    def prepare(self, site: Site) -> None:
        """Write its files."""
        for path, text in self.files(site).items():
            target = site.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)

    def stop_command(self, site: Site) -> Sequence[str] | None:
        """The command that ends it in order, where SIGTERM does not."""
        return None

    def more_logs(self, site: Site) -> Mapping[str, Path]:
        """Logs of what it has started itself, by a name for people."""
        return {}

    def listens(self, site: Site) -> bool:
        """Its clients can connect."""
        return is_open(self.host, site.ports[self.port_names[0]])


def properties(values: Mapping[str, object]) -> str:
    """A Java properties file."""
    return "".join(f"{key}={_plain(value)}\n" for key, value in values.items())


def hadoop_xml(values: Mapping[str, object]) -> str:
    """A file of settings as Hadoop, HBase and Hive read it."""
    rows = [f"  <property><name>{k}</name><value>{_escaped(_plain(v))}</value></property>" for k, v in values.items()]
    return "\n".join(["<configuration>", *rows, "</configuration>", ""])


def log4j1(log: Path) -> str:
    """INFO into a file that is moved aside when it is full, for log4j 1 (reload4j)."""
    return properties(
        {
            "log4j.rootLogger": "INFO, file",
            "log4j.appender.file": "org.apache.log4j.RollingFileAppender",
            "log4j.appender.file.File": log,
            "log4j.appender.file.MaxFileSize": f"{LOG_MIB}MB",
            "log4j.appender.file.MaxBackupIndex": LOG_FILES - 1,
            "log4j.appender.file.layout": "org.apache.log4j.PatternLayout",
            "log4j.appender.file.layout.ConversionPattern": "%d{ISO8601} %p %c{2}: %m%n",
        }
    )


def log4j2(log: Path) -> str:
    """The same for log4j 2."""
    return properties(
        {
            "status": "error",
            "appender.file.type": "RollingFile",
            "appender.file.name": "file",
            "appender.file.fileName": log,
            "appender.file.filePattern": f"{log}.%i",
            "appender.file.layout.type": "PatternLayout",
            "appender.file.layout.pattern": "%d{ISO8601} %p %c{2}: %m%n",
            "appender.file.policies.type": "Policies",
            "appender.file.policies.size.type": "SizeBasedTriggeringPolicy",
            "appender.file.policies.size.size": f"{LOG_MIB}MB",
            "appender.file.strategy.type": "DefaultRolloverStrategy",
            "appender.file.strategy.max": LOG_FILES - 1,
            "rootLogger.level": "info",
            "rootLogger.appenderRef.file.ref": "file",
        }
    )


def opened(*packages: str) -> list[str]:
    """Java's options that open packages to the reflection of older libraries."""
    return [word for package in packages for word in ("--add-opens", f"{package}=ALL-UNNAMED")]


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
