"""A project in a folder of its own whose environment `stack` names the servers of a test, and its commands."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paystorm.chaos.feeder import Feeder
from paystorm.clock import SystemClock
from paystorm.connections import Connections
from paystorm.nimbus import NimbusClient
from paystorm.resources import Resources, open_resources

ROOT = Path(__file__).resolve().parents[2]
SHARED = ("topologies", "src", "virtualenvs", "project.clj", "fabfile.py", "examples")
"""What the folder has of the project itself, by links."""
BIN = Path(sys.executable).parent
SPARSE_SECONDS = 600.0
"""Building a virtualenv is part of it."""
GONE_SECONDS = 90.0
PARTITIONS = 4


@dataclass(frozen=True)
class Deployed:
    """A project in a folder, and the cluster that it is submitted to."""

    root: Path
    nimbus: NimbusClient
    environment: Mapping[str, str] = field(default_factory=dict)
    """What its commands have in their environment beside what this process has."""

    def paystorm(self, *arguments: str, stdin: Path | None = None, check: bool = True, timeout: float = 600.0) -> str:
        """Run a paystorm command in the folder; its standard output."""
        with (stdin or Path(os.devnull)).open("rb") as given:
            return self._run([str(BIN / "paystorm"), *arguments], given, check, timeout)

    def sparse(self, *arguments: str, check: bool = True) -> str:
        """Run sparse in the folder; its output."""
        return self._run([str(BIN / "sparse"), *arguments], None, check, SPARSE_SECONDS)

    def submit(self, topology: str, *options: str) -> None:
        """`sparse submit` with the jar that lein builds once for the folder."""
        jar = self.root / "_build" / "paystorm-0.1.0-SNAPSHOT.jar"
        built = ["-j", str(jar)] if jar.exists() else []
        given = [part for option in options for part in ("-o", option)]
        self.sparse("submit", "-n", topology, "-e", "stack", *built, *given)

    @contextmanager
    def killed_in_the_end(self, *topologies: str) -> Iterator["Deployed"]:
        """The project; those of the topologies that are there in the end are killed."""
        try:
            yield self
        finally:
            for topology in topologies:
                if topology in self.nimbus.topologies():
                    self.kill(topology)

    def kill(self, topology: str, wait: int = 1) -> None:
        """`sparse kill`, and wait until it is gone."""
        self.sparse("kill", "-n", topology, "-e", "stack", "--wait", str(wait))
        until(lambda: topology not in self.nimbus.topologies(), GONE_SECONDS, f"{topology} does not go")

    def status(self, source: str) -> dict[str, Any]:
        """What `paystorm status --json` says of a source."""
        (found,) = json.loads(self.paystorm("status", source, "-e", "stack", "--json", check=False))
        return dict(found)

    def caught_up(self, source: str, seconds: float) -> dict[str, Any]:
        """Wait until everything sent to a source is committed; its status then."""
        found: dict[str, Any] = {}

        def done() -> bool:
            found.update(self.status(source))
            return bool(found["totals"]["end"] > 0 and found["totals"]["lag"] == 0)

        until(done, seconds, lambda: f"{source} does not get on: {found}", every=1.0)
        return found

    def verify(self, source: str, seconds: float = 180.0) -> dict[str, Any]:
        """What `paystorm verify --json` says of a source, which must be that nothing differs."""
        text = self.paystorm("verify", source, "-e", "stack", "--json", "--timeout", str(seconds), check=False)
        (found,) = json.loads(text)
        assert found["ok"], found
        return dict(found)

    @contextmanager
    def resources(self) -> Iterator[Resources]:
        """Log, tables and warehouse of the environment `stack`."""
        options = json.loads((self.root / "config.json").read_text())["envs"]["stack"]["options"]
        opened = open_resources(Connections(options | {"paystorm.warehouse": str(self.root / "warehouse")}))
        try:
            yield opened
        finally:
            opened.close()

    def fresh_topics(self, source: str) -> None:
        """Delete the topics of a source that is not running, which another test has left, and make its own anew."""
        with self.resources() as opened:
            for topic in {source, f"{source}-verdicts"} & set(opened.log.topics()):
                opened.log.delete_topic(topic)
            opened.log.create_topic(source, PARTITIONS)

    @contextmanager
    def fed(self, source: str, *, rate: int, seed: int = 1) -> Iterator[Feeder]:
        """Made-up purchases flow, so many a second."""
        with self.resources() as opened:
            feeder = Feeder(opened.log, source, SystemClock(), rate=rate, seed=seed)
            feeder.start()
            try:
                yield feeder
            finally:
                feeder.stop()

    def _run(self, command: list[str], stdin: Any, check: bool, timeout: float) -> str:
        environment = {**os.environ, "LEIN_ROOT": "1", "PYTHONWARNINGS": "ignore", "COLUMNS": "200", **self.environment}
        environment["PATH"] = f"{BIN}:{environment['PATH']}"
        done = subprocess.run(
            command,
            cwd=self.root,
            env=environment,
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            encoding="utf-8",
            errors="surrogateescape",  # made-up records hold broken bytes, too
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout if check else done.stdout or done.stderr


def deploy(
    root: Path,
    addresses: Mapping[str, str],
    options: Mapping[str, Any],
    *,
    more: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Deployed:
    """Make the folder. `addresses`: nimbus, kafka, hbase-thrift, hive. `more`: further keys of the environment in
    config.json."""
    root.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        (root / name).symlink_to(ROOT / name)
    config = json.loads((ROOT / "config.json").read_text())
    env = config["envs"]["stack"]
    env["nimbus"] = addresses["nimbus"]
    env["options"] |= {
        "paystorm.kafka.brokers": addresses["kafka"],
        "paystorm.hbase": addresses["hbase-thrift"],
        "paystorm.hive": addresses["hive"],
        "paystorm.warehouse": "warehouse",
        **options,
    }
    env |= more or {}
    (root / "config.json").write_text(json.dumps(config, indent=1))
    return Deployed(root, NimbusClient([env["nimbus"], *env.get("nimbuses", [])]), environment or {})


def until(done: Callable[[], bool], seconds: float, otherwise: str | Callable[[], str], *, every: float = 0.2) -> None:
    """Wait until `done`; an AssertionError with `otherwise` after so many seconds."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())
        time.sleep(every)
