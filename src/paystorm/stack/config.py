"""The stack that an environment of `config.json` describes: its folder, its addresses, its versions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paystorm.connections import address_of
from paystorm.errors import ConfigError
from paystorm.project import CONFIG, Project
from paystorm.stack.hbase import HBaseThrift
from paystorm.stack.hive import Hive
from paystorm.stack.kafka import VERSIONS, Kafka
from paystorm.stack.standard import Addresses
from paystorm.stack.storm import MAX_HEAP_MIB, MAX_SLOTS, SLOTS, WORKER_HEAP_MIB, Nimbus

DEFAULT_PORTS: Mapping[str, tuple[str, int]] = {
    Kafka.kind: ("paystorm.kafka.brokers", 9092),
    HBaseThrift.kind: ("paystorm.hbase", 9090),
    Hive.kind: ("paystorm.hive", 10000),
}
"""By server: the option that says where it is, and its port where that names none."""
NIMBUS_PORT = 6627
KEYS = ("folder", "kafka", "slots", "worker_heap_mb", "supervisors", "storm")
MAX_SUPERVISORS = 8
LOCALHOST = "localhost"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class StackConfig:
    """What a stack is to be like."""

    folder: Path
    """Settings, data and logs of all servers."""
    kafka: str
    """Kafka's version."""
    addresses: Addresses
    """Where servers are to listen; those that are not named get free ports."""
    slots: int
    worker_heap_mb: int
    supervisors: int
    storm: Mapping[str, Any]
    """Settings of storm.yaml over the launcher's."""


def read_stack(project: Project, env: str) -> StackConfig:
    """The section `stack` of an environment and the addresses beside it. Raises ConfigError."""
    envs = project.config.get("envs")
    if not isinstance(envs, dict) or not isinstance(envs.get(env), dict):
        there = ", ".join(sorted(envs)) if isinstance(envs, dict) else "none"
        raise ConfigError(f"{CONFIG}: envs has no {env!r}; there are {there}")
    plain, where = envs[env], f"{CONFIG}: envs.{env}"
    section = plain.get("stack")
    if not isinstance(section, dict):
        others = [name for name, each in sorted(envs.items()) if isinstance(each, dict) and "stack" in each]
        raise ConfigError(
            f"{where}.stack is missing: it must be an object with folder: name an environment that has one with -e"
            f" ({', '.join(others) or 'there is none'})"
        )
    for key in section:
        if key not in KEYS:
            raise ConfigError(f"{where}.stack.{key}: no such setting; there are {', '.join(KEYS)}")
    folder = section.get("folder")
    if not isinstance(folder, str) or not folder:
        raise ConfigError(f"{where}.stack.folder must be a folder, got {folder!r}")
    kafka = section.get("kafka", VERSIONS[0])
    if kafka not in VERSIONS:
        raise ConfigError(f"{where}.stack.kafka must be one of {', '.join(VERSIONS)}, got {kafka!r}")
    storm = section.get("storm", {})
    if not isinstance(storm, dict):
        raise ConfigError(f"{where}.stack.storm must be an object of storm.yaml's settings, got {storm!r}")
    return StackConfig(
        folder=project.root / folder,
        kafka=kafka,
        addresses=_addresses(plain, where),
        slots=_whole(section, "slots", SLOTS, MAX_SLOTS, where),
        worker_heap_mb=_whole(section, "worker_heap_mb", WORKER_HEAP_MIB, MAX_HEAP_MIB, where),
        supervisors=_whole(section, "supervisors", 1, MAX_SUPERVISORS, where),
        storm=storm,
    )


def _addresses(plain: Mapping[str, Any], where: str) -> dict[str, tuple[str, int]]:
    options = plain.get("options", {})
    if not isinstance(options, dict):
        raise ConfigError(f"{where}.options must be an object, got {options!r}")
    found: dict[str, tuple[str, int]] = {}
    if "nimbus" in plain:
        found[Nimbus.kind] = _address(plain["nimbus"], NIMBUS_PORT, f"{where}.nimbus")
    for server, (option, port) in DEFAULT_PORTS.items():
        if options.get(option) is not None:
            found[server] = _address(options[option], port, f"{where}.options.{option}")
    return found


def _address(text: Any, port: int, name: str) -> tuple[str, int]:
    if not isinstance(text, str) or not text or "," in text:
        raise ConfigError(f"{name} must be one host:port for a stack, got {text!r}")
    host, number = address_of(text, port, name)
    return (LOOPBACK if host == LOCALHOST else host), number


def _whole(section: Mapping[str, Any], key: str, default: int, most: int, where: str) -> int:
    value = section.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"{where}.stack.{key} must be a whole number from 1 to {most}, got {value!r}")
    return value
