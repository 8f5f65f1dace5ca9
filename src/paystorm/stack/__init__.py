"""Real servers on one machine: ZooKeeper, Storm, Kafka, HBase and Hive, for people, tests and CI alike."""

from paystorm.stack.hbase import HBase, HBaseThrift
from paystorm.stack.hive import Hive
from paystorm.stack.kafka import Kafka
from paystorm.stack.server import Server
from paystorm.stack.stack import ServerStatus, Stack
from paystorm.stack.standard import standard
from paystorm.stack.storm import Nimbus, Supervisor, ZooKeeper

__all__ = [
    "HBase",
    "HBaseThrift",
    "Hive",
    "Kafka",
    "Nimbus",
    "Server",
    "ServerStatus",
    "Stack",
    "Supervisor",
    "ZooKeeper",
    "standard",
]
