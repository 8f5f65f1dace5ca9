"""What is checked and filled in before `sparse submit` uploads anything: `fabfile.py` calls it as sparse's hook."""

import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from streamparse.dsl.topology import TopologyType

from paystorm.connections import Connections
from paystorm.errors import ConfigError, PaystormError
from paystorm.project import SOURCE, Project, absolute_paths
from paystorm.settings import PARALLELISM, Settings, check_options

SERVERS = ("paystorm.kafka.brokers", "paystorm.hbase", "paystorm.warehouse")
"""What workers on several machines need: the embedded parts are for one."""
OF_SPARSE = (
    "sudo_user",
    "use_virtualenv",
    "install_virtualenv",
    "virtualenv_name",
    "virtualenv_flags",
    "virtualenv_root",
)
"""Options that sparse itself adds."""
DEFAULTS: Mapping[str, Any] = {
    # Each task is a process, and as many run as there are cores: a pool of threads in each only gets in their way.
    "topology.environment": {"POLARS_MAX_THREADS": "1"},
    # A component that waits for a slow server does not answer Storm's heart-beat; Storm would kill it after 30 s.
    "topology.subprocess.timeout.secs": 180,
    # A task with nothing to do looks again so soon. At Storm's 1 ms each executor wakes a thousand times a second, and
    # idle topologies take a good part of a core each; the chunks here come some ten times a second.
    "topology.bolt.wait.progressive.level2.count": 0,
    "topology.bolt.wait.progressive.level3.sleep.millis": 10,
    "topology.spout.wait.progressive.level1.count": 0,
    "topology.spout.wait.progressive.level2.count": 0,
    "topology.spout.wait.progressive.level3.sleep.millis": 10,
}
"""Storm's options where nobody says otherwise."""
MESSAGE_TIMEOUT = "topology.message.timeout.secs"
STORM_TIMEOUT = 30
"""Seconds: Storm's default for it."""
SECRET_WORDS = ("password", "passwd", "secret", "token")


def prepare_submit(root: Path, topology: str, env: str, options: dict[str, Any]) -> None:
    """Check the options that a topology is to be submitted with, and make their paths absolute, in place.

    `topology`: the name it is submitted under. Parallelism is set on the class that sparse has loaded.
    Raises ConfigError.
    """
    project = Project.load(root)
    project.env(env)
    where = f"{topology} -e {env}: options"
    own = {name: value for name, value in options.items() if name not in OF_SPARSE}
    check_options(own, project.sources(), where)
    named = Connections(options, where)
    if not named["paystorm.data"]:
        for name in SERVERS:
            if not named[name]:
                raise ConfigError(f"{where}.{name} is missing: a cluster's workers share no data folder")
    for name in options:
        if name != "paystorm.secrets" and any(word in name.lower() for word in SECRET_WORDS):
            raise ConfigError(
                f"{where}.{name}: the Storm UI shows a topology's options to everybody: put secrets into the "
                "workers' environment, or into the file that paystorm.secrets names"
            )
    _check_flush(options, where)
    options.update({**DEFAULTS, **absolute_paths(options, root)})
    _set_parallelism(project, options, where)


def check_submit(root: Path, topology: str, env: str, options: dict[str, Any]) -> None:
    """As `prepare_submit`; ends the process with one line and code 2 where something is wrong."""
    try:
        prepare_submit(root, topology, env, options)
    except PaystormError as error:
        print(f"paystorm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _check_flush(options: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError where tuples time out before a sink writes what they brought."""
    seconds, flush_ms = options.get(MESSAGE_TIMEOUT, STORM_TIMEOUT), Settings(options)["flushMs"]
    if flush_ms >= seconds * 1000:
        raise ConfigError(
            f"{where}.flushMs must be below {MESSAGE_TIMEOUT}, {seconds} s, got {flush_ms}: every tuple would time out "
            "and be sent again"
        )


def _set_parallelism(project: Project, options: dict[str, Any], where: str) -> None:
    """Set what `parallelism.<component>` says on the topology class: sparse reads it from there."""
    wanted = {name.removeprefix(PARALLELISM): tasks for name, tasks in options.items() if name.startswith(PARALLELISM)}
    file = project.topology_names()[options[SOURCE]["name"]]
    # sparse imports the topology's file as a module of its name.
    loaded = [value for value in vars(sys.modules[file]).values() if isinstance(value, TopologyType) and value.specs]
    components = dict(chain(loaded[0].thrift_spouts.items(), loaded[0].thrift_bolts.items()))
    for name, tasks in wanted.items():
        if name not in components:
            raise ConfigError(f"{where}.{PARALLELISM}{name}: no such component; there are {', '.join(components)}")
        components[name].common.parallelism_hint = tasks
