"""The test kit: a world in memory that fails as it is told, and topologies that run in it under a seed."""

from typing import TYPE_CHECKING, Any

from paystorm.testing.checking import balance, check, verified
from paystorm.testing.faulty import Faults, Write, WriteFault
from paystorm.testing.invariants import BrokenInvariantError, Watcher
from paystorm.testing.log import MemoryLog
from paystorm.testing.topology import RULES, SOURCE, NamingBolt, Shape, make_topology
from paystorm.testing.warehouse import MemoryWarehouse
from paystorm.testing.workload import Workload, act_at_random
from paystorm.testing.world import Process, Stuck, World

if TYPE_CHECKING:
    from paystorm.testing.kit import Kit
    from paystorm.testing.sink_contract import SinkContract

__all__ = [
    "RULES",
    "SOURCE",
    "BrokenInvariantError",
    "Faults",
    "Kit",
    "MemoryLog",
    "MemoryWarehouse",
    "NamingBolt",
    "Process",
    "Shape",
    "SinkContract",
    "Stuck",
    "Watcher",
    "Workload",
    "World",
    "Write",
    "WriteFault",
    "act_at_random",
    "balance",
    "check",
    "make_topology",
    "verified",
]


def __getattr__(name: str) -> Any:
    """`Kit`, and `SinkContract`, which needs pytest: loaded when they are asked for."""
    if name == "Kit":
        from paystorm.testing.kit import Kit  # noqa: PLC0415

        return Kit
    if name == "SinkContract":
        from paystorm.testing.sink_contract import SinkContract  # noqa: PLC0415

        return SinkContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
