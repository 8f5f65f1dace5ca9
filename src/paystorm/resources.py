"""What a component works with: clock, log, tables, warehouse; handed over in process, else opened from settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from paystorm.clock import Clock, SystemClock
from paystorm.connections import Connections, read_secrets
from paystorm.errors import ConfigError
from paystorm.log.base import Log
from paystorm.log.renumbered import RenumberedLog
from paystorm.stores.former import load_former
from paystorm.stores.hours import Hours
from paystorm.tables.base import Tables
from paystorm.warehouse.base import Warehouse

HANDED_OVER = "paystorm.resources"
"""The key of the topology's configuration under which the embedded runner hands its own resources over."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything outside the process that a component reads or writes."""

    clock: Clock
    log: Log
    tables: Tables
    warehouse: Warehouse
    random: Random = field(default_factory=Random)

    def close(self) -> None:
        """Close log, tables and warehouse."""
        self.log.close()
        self.tables.close()
        self.warehouse.close()


def open_embedded(folder: Path, clock: Clock | None = None) -> Resources:
    """The embedded log, tables and warehouse below a data folder (made where absent)."""
    from paystorm.log.embedded import EmbeddedLog  # noqa: PLC0415  drivers are loaded where they are chosen
    from paystorm.tables.sqlite import SqliteTables  # noqa: PLC0415
    from paystorm.warehouse.local import LocalWarehouse  # noqa: PLC0415

    clock, tables = clock or SystemClock(), SqliteTables(folder / "tables")
    return Resources(
        clock=clock,
        log=RenumberedLog(EmbeddedLog(folder / "log", clock), partial(load_former, tables)),
        tables=tables,
        warehouse=LocalWarehouse(folder / "warehouse", Hours(tables)),
    )


def of_configuration(conf: Mapping[str, Any], clock: Clock | None = None) -> Resources:
    """The resources that a component's configuration names: those handed over, or by its `paystorm.*` options.

    Nothing is reached yet: each part connects when it is first used. Raises ConfigError.
    """
    handed = conf.get(HANDED_OVER)
    if isinstance(handed, Resources):
        return handed
    return open_resources(Connections(conf), clock)


def open_resources(named: Connections, clock: Clock | None = None) -> Resources:
    """Log, tables and warehouse as the connections name them; embedded ones for those without a server."""
    clock = clock or SystemClock()
    tables = _tables(named, clock)
    log = RenumberedLog(_log(named, clock), partial(load_former, tables))
    return Resources(clock=clock, log=log, tables=tables, warehouse=_warehouse(named, Hours(tables)))


def _embedded(named: Connections, what: str) -> Path:
    folder = named["paystorm.data"]
    if folder is None:
        raise ConfigError(f"options.paystorm.data: no data folder is named for the embedded {what}, nor a server")
    return Path(folder)


def _log(named: Connections, clock: Clock) -> Log:
    brokers = named["paystorm.kafka.brokers"]
    if brokers is None:
        from paystorm.log.embedded import EmbeddedLog  # noqa: PLC0415  drivers are loaded where they are chosen

        return EmbeddedLog(_embedded(named, "log") / "log", clock)
    from paystorm.log.kafka_common import kafka_security  # noqa: PLC0415

    security = kafka_security(named, read_secrets(named["paystorm.secrets"]))
    replication, timeout = named["paystorm.kafka.replication"], named["paystorm.timeout"]
    if named["paystorm.kafka.driver"] == "pykafka":
        from paystorm.log.kafka_pykafka import PyKafkaLog  # noqa: PLC0415

        return PyKafkaLog(brokers, clock, security=security, replication=replication, timeout=timeout)
    from paystorm.log.kafka_confluent import KafkaLog  # noqa: PLC0415

    return KafkaLog(brokers, clock, security=security, replication=replication, timeout=timeout)


def _tables(named: Connections, clock: Clock) -> Tables:
    if named["paystorm.hbase"] is None:
        from paystorm.tables.sqlite import SqliteTables  # noqa: PLC0415

        return SqliteTables(_embedded(named, "tables") / "tables")
    from paystorm.tables.hbase import HBaseTables  # noqa: PLC0415

    host, port = named.address("paystorm.hbase", 9090)
    return HBaseTables(
        host,
        port,
        prefix=named["paystorm.hbase.prefix"],
        timeout=named["paystorm.timeout"],
        tls=named["paystorm.hbase.tls"],
        cafile=named["paystorm.hbase.cafile"],
    )


def _warehouse(named: Connections, hours: Hours) -> Warehouse:
    from paystorm.warehouse.local import LocalWarehouse  # noqa: PLC0415

    folder = named["paystorm.warehouse"]
    if folder is None:
        return LocalWarehouse(_embedded(named, "warehouse") / "warehouse", hours)
    if named["paystorm.hive"] is None:
        return LocalWarehouse(Path(folder), hours)
    from paystorm.warehouse.hive import HiveWarehouse  # noqa: PLC0415

    secrets = read_secrets(named["paystorm.secrets"])
    host, port = named.address("paystorm.hive", 10_000)
    return HiveWarehouse(
        Path(folder),
        host,
        port,
        hours,
        database=named["paystorm.hive.database"],
        auth=named["paystorm.hive.auth"],
        user=secrets.get("PAYSTORM_HIVE_USER"),
        password=secrets.get("PAYSTORM_HIVE_PASSWORD"),
        tls=named["paystorm.hive.tls"],
        cafile=named["paystorm.hive.cafile"],
        timeout=named["paystorm.timeout"],
    )
