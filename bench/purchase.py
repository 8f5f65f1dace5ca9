"""One measured run of the purchase topology, with the options of `paystorm run`, in a process of its own.

Prints one JSON object.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from random import Random

import msgspec

from paystorm.cli.running import DEFAULTS
from paystorm.clock import SystemClock
from paystorm.connections import Connections
from paystorm.garbage import collect_rarely
from paystorm.local.threads import ThreadDriver
from paystorm.project import Project
from paystorm.resources import HANDED_OVER, open_resources
from paystorm.storm import topology_config

RULES = {
    "count": ["account_per_day"],
    "safepay": ["account_per_day", "account_growth"],
    "all": None,
}
TIMEOUT = 1800.0


def main() -> None:
    """Run until the log is read, committed and idle."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--rules", choices=RULES, default="count")
    arguments.add_argument("--records", type=int, required=True)
    arguments.add_argument("--seconds", type=float, default=0.0, help="run for so long instead of until idle")
    arguments.add_argument("--brokers", help="of a Kafka to read from, in the place of the log below DATA")
    arguments.add_argument("--option", action="append", default=[])
    given = arguments.parse_args()
    project = Project.load(Path(__file__).resolve().parents[1])
    topology, source = project.topologies()["purchase"], project.sources()["purchase"]
    names = RULES[given.rules]
    if names is not None:
        source = msgspec.structs.replace(source, rules=tuple(r for r in source.rules if r.name in names))
    options = {name: json.loads(value) for name, _, value in (o.partition("=") for o in given.option)}
    kafka = {"paystorm.kafka.brokers": given.brokers} if given.brokers else {}
    resources = open_resources(Connections({"paystorm.data": str(given.data), **kafka}))
    config = {
        **topology.config,
        **topology_config(source),
        **DEFAULTS,
        "pystorm.log.level": "warning",
        **options,
        HANDED_OVER: resources,
    }
    driver = ThreadDriver(topology, config, SystemClock(), Random(1), name="purchase")
    collect_rarely()
    began, cpu = time.perf_counter(), time.process_time()
    driver.start()
    while time.perf_counter() - began < (given.seconds or TIMEOUT):
        time.sleep(0.02)
        spouts = [
            t.host.component for t in driver.engine.tasks.values() if type(t.host.component).__name__ == "KafkaSpout"
        ]
        problem = next((s.problem for s in spouts if s.problem), None)
        if problem:
            sys.exit(f"bench: {problem}")
        if not given.seconds and all(s.idle() for s in spouts):
            break
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    stats = driver.engine.stats()
    driver.stop(30)
    print(
        json.dumps(
            {
                "records": given.records,
                "wall": wall,
                "rate": given.records / wall,
                "cpu_per_million": used / given.records * 1e6,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "failed": sum(s.failed for s in stats.values()),
            }
        )
    )


if __name__ == "__main__":
    main()
