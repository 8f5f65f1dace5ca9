"""What the servers of a cluster say: versions, topics, table schemas, columns, clocks. Nothing is changed."""

import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from paystorm.connections import Connections, read_secrets
from paystorm.doctor.checks import SECONDS, Finding, failed, ok, warning
from paystorm.nimbus import NimbusClient
from paystorm.project import Env, Project
from paystorm.source import Source
from paystorm.stores.checkpoints import load_checkpoints
from paystorm.stores.gauges import load_gauges
from paystorm.tables.base import Tables

STORM = "2."
HIVE_SECONDS = 10
"""Hive may take longer than the others: for its first session it starts much."""
SKEW_SECONDS = 2.0
"""That two machines' clocks may differ, before it is told; a second of it may be the answer's way."""
RETENTION_SHARE = 0.5
"""A record not yet read that is older than this share of the log's retention is told."""


# Storm.


def nimbus(env: Env) -> Iterator[Finding]:
    """The servers of the cluster. Raises ClusterError."""
    found = NimbusClient(env.nimbus_seeds, timeout=SECONDS).cluster()
    leaders = [m for m in found.masters if m.leads]
    if not leaders:
        yield failed("no Nimbus leads the cluster", "see Nimbus' log and ZooKeeper; start Nimbus: storm nimbus")
    for master in found.masters:
        text = f"Storm {master.version} at {master.host}:{master.port}{', leads' if master.leads else ''}"
        if master.version.startswith(STORM):
            yield ok(text)
        else:
            yield warning(text, "use Storm 2: nothing else is tested")
    if not found.supervisors:
        yield failed("no supervisor: nothing can run", "storm supervisor (on each worker machine)", "supervisors")
        return
    free = sum(s.slots - s.used for s in found.supervisors)
    hosts = ", ".join(f"{s.host} ({s.version}, {s.used} of {s.slots} slots used)" for s in found.supervisors)
    if free:
        yield ok(hosts, "supervisors")
    else:
        yield warning(f"no free slot: {hosts}", "raise supervisor.slots.ports, or kill a topology", "supervisors")


def topologies(project: Project, env: Env) -> Iterator[Finding]:
    """Whether each source runs. Raises ClusterError."""
    there = NimbusClient(env.nimbus_seeds, timeout=SECONDS).topologies()
    for source, topology in project.topology_names().items():
        submit = f"sparse submit -n {topology} -e {env.name}"
        if topology not in there:
            yield warning(f"{source} does not run", submit)
        elif there[topology].status != "ACTIVE":
            yield warning(f"{source} is {there[topology].status}", f"sparse kill -n {topology} -e {env.name}; {submit}")
        else:
            yield ok(f"{source} runs as {there[topology].id}")


# Kafka.


def _cluster(named: Connections) -> Any:
    from paystorm.log.kafka_client import Cluster  # noqa: PLC0415  drivers are loaded where they are used
    from paystorm.log.kafka_common import kafka_security  # noqa: PLC0415

    security = kafka_security(named, read_secrets(named["paystorm.secrets"]))
    return Cluster(named["paystorm.kafka.brokers"], security, SECONDS)


def _settings(cluster: Any, kind: str, name: str) -> dict[str, str]:
    """The settings of a broker or topic. Raises LogError."""
    from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]  # noqa: PLC0415

    resource = ConfigResource(ResourceType[kind], name)
    (future,) = cluster.admin.describe_configs([resource], request_timeout=SECONDS).values()
    found = cluster.result(future, f"{kind.lower()} {name}")
    return {key: str(entry.value) for key, entry in found.items() if entry.value is not None}


def _metadata(cluster: Any) -> Any:
    from confluent_kafka import KafkaException  # noqa: PLC0415

    try:
        return cluster.admin.list_topics(timeout=SECONDS)
    except KafkaException as error:
        raise cluster.error(error.args[0], "topics") from error


def kafka(named: Connections) -> Iterator[Finding]:
    """The brokers and their release. Raises LogError, ConfigError."""
    cluster = _cluster(named)
    brokers = _metadata(cluster).brokers
    broker = next(iter(brokers))
    release = _settings(cluster, "BROKER", str(broker)).get("inter.broker.protocol.version")
    said = f"Kafka {release.partition('-')[0]}" if release else "Kafka 4 or later"
    places = ", ".join(f"{b.host}:{b.port}" for b in brokers.values())
    if release is None and named["paystorm.kafka.driver"] == "pykafka":
        yield failed(f"{said} at {places}, which pykafka cannot speak to", 'set "paystorm.kafka.driver": "confluent"')
    else:
        yield ok(f"{said} at {places}")
    if named["paystorm.kafka.replication"] > len(brokers):
        yield warning(
            f"paystorm.kafka.replication is {named['paystorm.kafka.replication']}, there are {len(brokers)} brokers: "
            "no topic can be made",
            f'set "paystorm.kafka.replication": {len(brokers)}',
        )


def topics(named: Connections, sources: Mapping[str, Source]) -> Iterator[Finding]:
    """The topic of each source: there, its partitions and replicas. Raises LogError, ConfigError."""
    cluster = _cluster(named)
    there = _metadata(cluster).topics
    brokers = named["paystorm.kafka.brokers"]
    for source in sources.values():
        found = there.get(source.topic)
        if found is None:
            yield warning(
                f"{source.name}: there is no topic {source.topic} yet",
                f"kafka-topics.sh --bootstrap-server {brokers} --create --topic {source.topic} --partitions "
                f"{named['paystorm.kafka.partitions']} --replication-factor {named['paystorm.kafka.replication']}",
            )
            continue
        replicas = min((len(p.replicas) for p in found.partitions.values()), default=0)
        behind = [p.id for p in found.partitions.values() if len(p.isrs) < len(p.replicas)]
        text = f"{source.topic}: {len(found.partitions)} partitions, {replicas} replicas"
        if behind:
            yield warning(f"{text}; behind are replicas of partition {behind[0]}", "start the brokers that are down")
        elif replicas < named["paystorm.kafka.replication"]:
            yield warning(
                f"{text}; config.json wants {named['paystorm.kafka.replication']}",
                f"kafka-reassign-partitions.sh --bootstrap-server {brokers} …",
            )
        else:
            yield ok(text)


def retention(named: Connections, sources: Mapping[str, Source], log: Any, tables: Tables) -> Iterator[Finding]:
    """Whether the log may drop records before they are read. Raises LogError, TablesError."""
    cluster = _cluster(named)
    there = set(log.topics())
    fine = []
    for source in sources.values():
        if source.topic not in there:
            continue
        keeps = int(_settings(cluster, "TOPIC", source.topic).get("retention.ms", -1))
        oldest = _oldest_unread(source, log, tables)
        if 0 <= keeps < oldest / RETENTION_SHARE:
            yield warning(
                f"{source.topic} keeps records for {keeps / 3.6e6:,.1f} h, and one of {oldest / 3.6e6:,.1f} h ago is "
                "not read yet",
                f"kafka-configs.sh --bootstrap-server {named['paystorm.kafka.brokers']} --alter --topic {source.topic} "
                f"--add-config retention.ms={4 * keeps}",
            )
        else:
            fine.append(f"{source.topic} {'for ever' if keeps < 0 else f'{keeps / 3.6e6:,.0f} h'}")
    if fine:
        yield ok(f"kept: {', '.join(fine)}")


def _oldest_unread(source: Source, log: Any, tables: Tables) -> float:
    """The age of the oldest record that is not complete, by the log's own time; ms."""
    oldest = 0.0
    held = load_checkpoints(tables, source.name)
    for partition in range(log.partitions(source.topic)):
        at = held.get((source.topic, partition))
        start = log.start_offset(source.topic, partition)
        offset = max(start, at.committed if at is not None else start)
        if offset < log.end_offset(source.topic, partition):
            batch = log.read(source.topic, partition, offset, max_records=1, max_bytes=1)
            if batch is not None and len(batch):
                oldest = max(oldest, time.time() * 1000 - float(batch.timestamps[0]))
    return oldest


# HBase.


def hbase(named: Connections) -> Iterator[Finding]:
    """The Thrift server, and the schema of each of our tables. Raises TablesError, ConfigError."""
    from paystorm.tables.hbase_calls import ThriftServer  # noqa: PLC0415  drivers are loaded where they are used
    from paystorm.tables.hbase_cells import FAMILY  # noqa: PLC0415

    host, port = named.address("paystorm.hbase", 9090)
    context = ssl.create_default_context(cafile=named["paystorm.hbase.cafile"]) if named["paystorm.hbase.tls"] else None
    server = ThriftServer(host, port, timeout=SECONDS, context=context)
    try:
        names = [n.decode() for n in server.call("tables", lambda client: client.getTableNames(), repeat=False)]
        prefix = named["paystorm.hbase.prefix"]
        mine = sorted(name for name in names if name.startswith((f"{prefix}_", f"{prefix}-feed_")))
        yield ok(f"answers at {host}:{port} (Thrift 1 does not tell the release); {len(mine)} tables of {prefix}")
        wrong = 0
        for name in mine:
            for finding in _schema(server, name, FAMILY.decode()):
                wrong += 1
                yield finding
        if mine and not wrong:
            yield ok(f"{len(mine)} tables have the one family {FAMILY.decode()} of one version", "table schemas")
    finally:
        server.close()


def _schema(server: Any, name: str, family: str) -> Iterator[Finding]:
    """What is wrong with a table. Raises TablesError."""
    if not server.ask(name, "isTableEnabled", repeat=False):
        yield failed(f"{name} is disabled", f"echo \"enable '{name}'\" | hbase shell -n", "table schemas")
    found = {key.decode().rstrip(":"): f for key, f in server.ask(name, "getColumnDescriptors", repeat=False).items()}
    if family not in found:
        mend = f"echo \"alter '{name}', NAME => '{family}', VERSIONS => 1\" | hbase shell -n"
        yield failed(f"{name} has no column family {family}", mend, "table schemas")
        return
    if found[family].maxVersions != 1:
        mend = f"echo \"alter '{name}', NAME => '{family}', VERSIONS => 1\" | hbase shell -n"
        yield failed(
            f"{name} keeps {found[family].maxVersions} versions of a cell; 1 is counted on", mend, "table schemas"
        )
    if found[family].timeToLive not in (-1, 2**31 - 1):
        mend = f"echo \"alter '{name}', NAME => '{family}', TTL => 'FOREVER'\" | hbase shell -n"
        yield failed(f"{name} drops cells after {found[family].timeToLive} s", mend, "table schemas")


# Hive.


def _hive(named: Connections) -> Any:
    from paystorm.warehouse.hive_client import HiveAddress, HiveClient  # noqa: PLC0415

    secrets = read_secrets(named["paystorm.secrets"])
    host, port = named.address("paystorm.hive", 10_000)
    return HiveClient(
        HiveAddress(
            host=host,
            port=port,
            auth=named["paystorm.hive.auth"],
            user=secrets.get("PAYSTORM_HIVE_USER"),
            password=secrets.get("PAYSTORM_HIVE_PASSWORD"),
            timeout=HIVE_SECONDS,
            tls=named["paystorm.hive.tls"],
            cafile=named["paystorm.hive.cafile"],
        )
    )


def hive(named: Connections) -> Iterator[Finding]:
    """HiveServer2, its release and its clock. Raises TablesError, ConfigError."""
    client = _hive(named)
    try:
        before = time.time()
        ((release, seconds),) = client.run("SELECT version(), unix_timestamp()")
        after = time.time()
    finally:
        client.close()
    yield ok(f"Hive {str(release).split(' ', maxsplit=1)[0]} at {named['paystorm.hive']}")
    off = max(before - (float(seconds) + 1), float(seconds) - after, 0.0)
    yield _skew("Hive's server", off)


def columns(named: Connections, wanted: Mapping[str, Mapping[str, pl.DataType]]) -> Iterator[Finding]:
    """The tables' columns against what the sources declare. Raises TablesError, ConfigError."""
    from paystorm.warehouse.hive_client import StatementError, quoted  # noqa: PLC0415
    from paystorm.warehouse.hive_sql import hive_type, table_of  # noqa: PLC0415

    client = _hive(named)
    database = named["paystorm.hive.database"]
    fine = []
    try:
        for source, declared in wanted.items():
            table = f"{quoted(database)}.{quoted(table_of(source))}"
            try:
                rows = client.run(f"DESCRIBE {table}")
            except StatementError:
                fine.append(f"{source} not yet")
                continue
            held = {str(row[0]).strip().lower(): str(row[1]).strip().lower() for row in rows if row[1]}
            types = {name.lower(): hive_type(name, kind).lower() for name, kind in declared.items()}
            other = [f"{n} is {held[n]}, not {kind}" for n, kind in types.items() if held.get(n, kind) != kind]
            lacking = [name for name in types if name not in held]
            if other:
                mend = f"DROP TABLE {table} (it is external, files stay), then paystorm merge {source}"
                yield failed(f"{source}: {other[0]}", mend)
            elif lacking:
                yield warning(f"{source}: {lacking[0]} is added when the topology next stores", "nothing to be done")
            else:
                fine.append(f"{source} {len(held)} columns")
    finally:
        client.close()
    if fine:
        yield ok(", ".join(fine))


# Clocks.


def clocks(sources: Mapping[str, Source], tables: Tables) -> Iterator[Finding]:
    """The workers' clocks: what tasks told of themselves must not lie ahead. Raises TablesError."""
    now = time.time()
    ahead: dict[str, float] = {}
    for name in sources:
        for gauge in load_gauges(tables, name, int(now * 1e6)):
            ahead[gauge.host] = max(ahead.get(gauge.host, 0.0), gauge.at / 1e6 - time.time())
    if not ahead:
        yield ok("no task has told of itself in the last minute")
    for host, seconds in sorted(ahead.items()):
        yield _skew(f"worker {host}", max(0.0, seconds))


def _skew(what: str, seconds: float) -> Finding:
    if seconds > SKEW_SECONDS:
        mend = "chronyc makestep (on both), and keep chronyd running"
        return warning(f"the clock of {what} differs from this machine's by {seconds:,.0f} s", mend, "clocks")
    return ok(f"{what} is in step", "clocks")


def embedded_topics(sources: Mapping[str, Source], log: Any) -> Iterator[Finding]:
    """The topics of an embedded log. Raises LogError."""
    there = set(log.topics())
    told = [f"{s.topic} {log.partitions(s.topic)} partitions" for s in sources.values() if s.topic in there]
    yield ok(", ".join(told) or "none yet: paystorm send makes them")
