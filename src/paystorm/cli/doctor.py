"""`paystorm doctor`: checks the machine, the project and every server; names what is wrong and what mends it."""

import logging
from dataclasses import asdict
from pathlib import Path

import typer

from paystorm.cli.common import DataOption, EnvOption, JsonOption, out, show_json, table
from paystorm.cli.query import stored_columns
from paystorm.connections import Connections
from paystorm.doctor import Check, Finding, machine, project, run_checks, servers
from paystorm.doctor.checks import BOUND, SECONDS
from paystorm.errors import ConfigError, UsageError
from paystorm.project import CONFIG, Env, Project
from paystorm.resources import Resources, open_resources

FAILED = 1
"""The exit code where a check failed."""
COLUMNS = ("check", "result", "found", "what mends it")
STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}
DRIVERS = {
    "confluent-kafka": "it speaks to Kafka",
    "happybase": "it speaks to HBase",
    "pyhive": "it speaks to Hive",
    "thriftpy2": "it speaks to Nimbus",
}


def machine_checks() -> list[Check]:
    """Of the machine alone."""
    return [
        Check("Python", machine.python),
        Check("setuptools", machine.setuptools),
        Check("clock", machine.clock),
        Check("open files", machine.files),
        Check("sparse run", machine.sparse_run),
    ]


def project_checks(held: Project, env: str) -> list[Check]:
    """Of config.json and the topologies."""
    return [
        Check("config.json", lambda: project.config(held, env), f"mend {CONFIG}"),
        Check("topologies", lambda: project.topologies(held), "mend the topology that it names"),
    ]


def embedded_checks(held: Project, env: Env, folder: Path) -> list[Check]:
    """Of an embedded environment."""
    from paystorm.clock import SystemClock  # noqa: PLC0415
    from paystorm.log.embedded import EmbeddedLog  # noqa: PLC0415  loaded where it is used

    def topics() -> list[Finding]:
        if not (folder / "log").is_dir():
            return list(servers.embedded_topics({}, EmptyLog()))
        log = EmbeddedLog(folder / "log", SystemClock())
        try:
            return list(servers.embedded_topics(held.sources(), log))
        finally:
            log.close()

    return [
        Check("disk", lambda: machine.disk(folder, "data folder")),
        Check("data folder", lambda: project.data_folder(folder), f"name another folder than {folder} with --data"),
        Check("tables", lambda: project.tables(held, env, folder), "paystorm status"),
        Check("topics", topics, "paystorm status"),
    ]


class EmptyLog:
    """A log that nothing was ever sent to: looking must not make its folder."""

    def topics(self) -> list[str]:
        """None."""
        return []


def cluster_checks(held: Project, env: Env) -> list[Check]:
    """Of a cluster: each server by itself, so that one that is down hides no other."""
    named = Connections({**env.options, "paystorm.timeout": SECONDS})
    sources = held.sources()
    here = f"paystorm stack up -e {env.name}" if "stack" in env.plain else ""
    wanted = {name: stored_columns(source) for name, source in sources.items()}
    drivers = DRIVERS | ({"pykafka": "paystorm.kafka.driver"} if named["paystorm.kafka.driver"] == "pykafka" else {})
    checks = [
        Check("drivers", lambda: machine.packages(drivers)),
        Check("Java", machine.java, "apt-get install openjdk-17-jre-headless"),
        Check("lein", machine.lein),
        Check("virtualenvs", lambda: project.virtualenvs(held, env)),
        Check("Nimbus", lambda: servers.nimbus(env), here or "storm nimbus"),
        Check("on the cluster", lambda: servers.topologies(held, env), here or "storm nimbus"),
    ]

    def resources() -> Resources:
        return open_resources(named)  # for each check anew: they run in threads of their own

    if named["paystorm.kafka.brokers"]:
        checks += [
            Check("Kafka", lambda: servers.kafka(named), here or "kafka-server-start.sh server.properties"),
            Check("topics", lambda: servers.topics(named, sources), here or "kafka-server-start.sh server.properties"),
            Check(
                "retention",
                lambda: servers.retention(named, sources, resources().log, resources().tables),
                here or "start Kafka and HBase's Thrift server",
            ),
        ]
    if named["paystorm.hbase"]:
        checks.append(Check("HBase", lambda: servers.hbase(named), here or "hbase-daemon.sh start thrift"))
    checks += [
        Check("rules", lambda: project.versions(held, env, resources().tables), here or "hbase-daemon.sh start thrift"),
        Check("clocks", lambda: servers.clocks(sources, resources().tables), here or "hbase-daemon.sh start thrift"),
    ]
    if named["paystorm.hive"]:
        checks += [
            Check("Hive", lambda: servers.hive(named), here or "hive --service hiveserver2"),
            Check("Hive's columns", lambda: servers.columns(named, wanted), here or "hive --service hiveserver2"),
        ]
    if named["paystorm.warehouse"]:
        folder = Path(named["paystorm.warehouse"])
        mend = f"mount it, or mkdir -p {folder}"
        checks += [
            Check("warehouse", lambda: machine.writable(folder, "paystorm.warehouse", mend), mend),
            Check("disk", lambda: machine.disk(folder, "warehouse")),
        ]
    return checks


def doctor(env: EnvOption = "local", data: DataOption = None, as_json: JsonOption = False) -> None:
    """Check the machine, the project and every server; name what is wrong, and the command that mends it.

    All checks are run, whether or not others fail. Exit code 1 where one failed; warnings do not count.
    """
    logging.getLogger("thrift").setLevel(logging.CRITICAL)  # what it has to say is among the findings
    findings = run_checks(checks_of(env, data), BOUND)
    if as_json:
        show_json([asdict(finding) for finding in findings])
    else:
        show(findings)
    if any(finding.result == "failed" for finding in findings):
        raise typer.Exit(FAILED)


def checks_of(env: str, data: Path | None) -> list[Check]:
    """All checks of an environment; where config.json is broken those of the machine, and what is broken."""
    checks = machine_checks()
    try:
        held = Project.load()
    except ConfigError as error:
        said = str(error)
        return [*checks, Check("config.json", lambda: _broken(said), f"mend {CONFIG}")]
    checks += project_checks(held, env)
    try:
        chosen = held.env(env)
    except ConfigError:
        return checks  # the check of config.json says why
    if chosen.embedded is None:
        if data is not None:
            raise UsageError(f"config.json: envs.{env} names a cluster, which has no data folder: leave --data out")
        return [*checks, *cluster_checks(held, chosen)]
    return [*checks, *embedded_checks(held, chosen, data if data is not None else chosen.embedded.data)]


def _broken(said: str) -> list[Finding]:
    raise ConfigError(said)


def show(findings: list[Finding]) -> None:
    """For people."""
    made = table(None, COLUMNS, [(f.name, f.result, f.found, f.mend) for f in findings])
    made.columns[1].style = ""
    for finding, row in zip(findings, made.rows, strict=True):
        row.style = STYLES[finding.result] if finding.result != "ok" else ""
    out().print(made)
    counted = {result: sum(f.result == result for f in findings) for result in STYLES}
    print(f"{counted['ok']} ok, {counted['warning']} warnings, {counted['failed']} failed")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)
