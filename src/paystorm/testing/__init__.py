"""The test kit: a world in memory that fails as it is told, and topologies that run in it under a seed."""

from paystorm.testing.checking import BrokenInvariantError, Watcher, balance, check, verified
from paystorm.testing.faulty import Faults, Write, WriteFault
from paystorm.testing.log import MemoryLog
from paystorm.testing.topology import RULES, SOURCE, NamingBolt, Shape, make_topology
from paystorm.testing.warehouse import MemoryWarehouse
from paystorm.testing.workload import Workload, act_at_random
from paystorm.testing.world import Process, Stuck, World

__all__ = [
    "RULES",
    "SOURCE",
    "BrokenInvariantError",
    "Faults",
    "MemoryLog",
    "MemoryWarehouse",
    "NamingBolt",
    "Process",
    "Shape",
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
