"""What a component works with: clock, log, tables, warehouse; handed over in process, else opened from settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from paystorm.clock import Clock, SystemClock
from paystorm.errors import ConfigError
from paystorm.log.base import Log
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

    clock = clock or SystemClock()
    return Resources(
        clock=clock,
        log=EmbeddedLog(folder / "log", clock),
        tables=SqliteTables(folder / "tables"),
        warehouse=LocalWarehouse(folder / "warehouse"),
    )


def of_configuration(conf: Mapping[str, Any]) -> Resources:
    """The resources that a component's configuration names: those handed over, or `paystorm.data`, a folder."""
    handed = conf.get(HANDED_OVER)
    if isinstance(handed, Resources):
        return handed
    folder = conf.get("paystorm.data")
    if not isinstance(folder, str):
        raise ConfigError("options.paystorm.data: no data folder is named for the embedded log, tables and warehouse")
    return open_embedded(Path(folder))
