"""`paystorm metrics`: the figures of `status` in the format of Prometheus, for the topologies of an environment."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import start_http_server
from prometheus_client.registry import Collector

from paystorm.cli.common import DataOption, EnvOption, SourcesArgument, complain, one_line, open_here
from paystorm.cli.looks import Look, Looks
from paystorm.cli.run import INTERRUPTED, signals
from paystorm.connections import address_of
from paystorm.errors import PaystormError, UsageError

LISTEN = "127.0.0.1:9464"
PORT = 9464
"""Where Prometheus' own registry of ports has exporters of this kind."""
FRESH = 5.0
"""Seconds for which what was read is given again: however often it is scraped, the tables are read no more often."""
PATIENCE = 8.0
"""Seconds that a scrape waits for a new reading (Prometheus gives up after 10); then it gets the last one."""
LOOK = 0.2

GAUGE, COUNTER = "gauge", "counter"


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric: its kind, its labels and what it means. Counters are told with `_total` behind the name."""

    kind: str
    labels: tuple[str, ...]
    doc: str


PARTITION = ("source", "topic", "partition")
TASK = ("source", "component", "task", "host")
COMPONENT = ("source", "topology", "component")
METRICS: dict[str, Declared] = {
    "paystorm_log_start_offset": Declared(GAUGE, PARTITION, "First offset that the log still holds."),
    "paystorm_log_end_offset": Declared(GAUGE, PARTITION, "Offset that the next record will have."),
    "paystorm_committed_offset": Declared(GAUGE, PARTITION, "Offset below which every record is complete or parked."),
    "paystorm_lag_records": Declared(GAUGE, PARTITION, "Offsets between the committed one and the end of the log."),
    "paystorm_records_read": Declared(COUNTER, PARTITION, "Records below the committed offset."),
    "paystorm_records": Declared(
        COUNTER, (*PARTITION, "outcome"), "Records with an outcome: accepted, denied or dead-lettered."
    ),
    "paystorm_parked_records": Declared(GAUGE, PARTITION, "Records below the committed offset that wait for a retry."),
    "paystorm_missing_records": Declared(
        GAUGE, PARTITION, "Records read that have no outcome and are not parked; other than 0: run paystorm verify."
    ),
    "paystorm_waiting_records": Declared(GAUGE, ("source",), "All parked records, also those in flight."),
    "paystorm_held_records": Declared(GAUGE, ("source",), "Parked records that a sink holds: they are never given up."),
    "paystorm_late_events": Declared(COUNTER, ("source",), "Events whose interval had left memory when they came."),
    "paystorm_caught_late_events": Declared(
        COUNTER, ("source",), "Events accepted while an entry of one of their parties was in force."
    ),
    "paystorm_spout_problems": Declared(GAUGE, ("source",), "Spout tasks that have stopped with a problem."),
    "paystorm_breaker_open": Declared(GAUGE, ("source", "rule"), "1 while the breaker of the rule is open."),
    "paystorm_rules_version": Declared(GAUGE, ("source",), "Number of the newest version of the rules, from 0 on."),
    "paystorm_running": Declared(GAUGE, ("source",), "1 while the source runs: as a process here, or on the cluster."),
    "paystorm_task_busy_ratio": Declared(
        GAUGE, TASK, "Share of the time that the task worked on tuples or flushed; near 1 it is the bottleneck."
    ),
    "paystorm_task_cpu_cores": Declared(GAUGE, TASK, "Cores that the task's process used; only under Storm."),
    "paystorm_task_memory_bytes": Declared(GAUGE, TASK, "Memory of the task's process; only under Storm."),
    "paystorm_task_records": Declared(COUNTER, TASK, "Records that reached the task since it started."),
    "paystorm_task_records_per_second": Declared(GAUGE, TASK, "Records a second that reached the task."),
    "paystorm_task_tuples_per_second": Declared(GAUGE, TASK, "Tuples a second that the task worked on."),
    "paystorm_task_slowest_seconds": Declared(
        GAUGE, TASK, "Of a sink: the longest from the spout's reading a record to its being durable."
    ),
    "paystorm_task_age_seconds": Declared(GAUGE, TASK, "How long ago the task told this; it is left out after 60."),
    "paystorm_storm_emitted": Declared(COUNTER, COMPONENT, "Tuples emitted, as Nimbus estimates it."),
    "paystorm_storm_acked": Declared(COUNTER, COMPONENT, "Tuples acknowledged, as Nimbus estimates it."),
    "paystorm_storm_failed": Declared(COUNTER, COMPONENT, "Tuples failed, as Nimbus estimates it."),
    "paystorm_storm_latency_seconds": Declared(
        GAUGE, COMPONENT, "Of the last ten minutes. Spout: from a tuple to its ack; bolt: from its arrival to its ack."
    ),
    "paystorm_storm_tasks": Declared(GAUGE, COMPONENT, "Tasks of the component."),
    "paystorm_storm_last_error_timestamp_seconds": Declared(GAUGE, COMPONENT, "When the component last had an error."),
    "paystorm_storm_uptime_seconds": Declared(GAUGE, ("source", "topology"), "How long the topology has been running."),
    "paystorm_up": Declared(GAUGE, ("part",), "1 where the part (`tables`, `nimbus`) could be read for this answer."),
    "paystorm_reading_seconds": Declared(GAUGE, (), "How long the reading took that this answer is of."),
    "paystorm_reading_timestamp_seconds": Declared(GAUGE, (), "When the reading was begun that this answer is of."),
}
"""Every metric by name."""


class Families:
    """The metrics of one reading."""

    def __init__(self) -> None:
        self._made: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}

    def add(self, name: str, labels: Sequence[object], value: float | None) -> None:
        """Add a value; None is left out."""
        if name not in self._made:
            declared = METRICS[name]
            make = CounterMetricFamily if declared.kind == COUNTER else GaugeMetricFamily
            self._made[name] = make(name, declared.doc, labels=declared.labels)
        if value is not None:
            self._made[name].add_metric([str(label) for label in labels], value)

    def all(self) -> list[Metric]:
        """Those that have a value."""
        return [family for family in self._made.values() if family.samples]


def families_of(looks: Iterable[Look], now: int) -> Families:
    """The metrics of sources. `now` in µs."""
    found = Families()
    for look in looks:
        _of_source(found, look)
        _of_tasks(found, look, now)
        _of_cluster(found, look)
    return found


def _of_source(found: Families, look: Look) -> None:
    b = look.balance
    for p in b.partitions:
        labels = (b.source, b.topic, p.partition)
        found.add("paystorm_log_start_offset", labels, p.start)
        found.add("paystorm_log_end_offset", labels, p.end)
        found.add("paystorm_committed_offset", labels, p.committed)
        found.add("paystorm_lag_records", labels, p.lag)
        found.add("paystorm_records_read", labels, p.read)
        outcomes = {"accepted": p.accepted, "denied": p.denied, "dead-lettered": p.dead_lettered}
        for outcome, records in outcomes.items():
            found.add("paystorm_records", (*labels, outcome), records)
        found.add("paystorm_parked_records", labels, p.parked)
        found.add("paystorm_missing_records", labels, p.missing)
    found.add("paystorm_waiting_records", [b.source], b.waiting)
    found.add("paystorm_held_records", [b.source], b.held)
    found.add("paystorm_late_events", [b.source], b.late)
    found.add("paystorm_caught_late_events", [b.source], b.caught_late)
    found.add("paystorm_spout_problems", [b.source], len(b.problems))
    for rule in dict.fromkeys([*(r.name for r in look.source.rules), *b.breakers]):
        found.add("paystorm_breaker_open", (b.source, rule), rule in b.breakers)
    found.add("paystorm_rules_version", [b.source], b.version)
    found.add("paystorm_running", [b.source], look.running is not None)


def _of_tasks(found: Families, look: Look, now: int) -> None:
    for g in look.gauges:
        labels = (look.source.name, g.component, g.task, g.host)
        found.add("paystorm_task_busy_ratio", labels, g.busy)
        found.add("paystorm_task_cpu_cores", labels, g.cpu)
        found.add("paystorm_task_memory_bytes", labels, g.memory)
        found.add("paystorm_task_records", labels, g.all_records)
        if g.seconds > 0:
            found.add("paystorm_task_records_per_second", labels, g.records / g.seconds)
            found.add("paystorm_task_tuples_per_second", labels, g.tuples / g.seconds)
        found.add("paystorm_task_slowest_seconds", labels, g.slowest_ms / 1000 if g.slowest_ms else None)
        found.add("paystorm_task_age_seconds", labels, max(0, now - g.at) / 1e6)


def _of_cluster(found: Families, look: Look) -> None:
    if look.topology is None:
        return
    found.add("paystorm_storm_uptime_seconds", (look.source.name, look.topology.name), look.topology.uptime)
    for c in look.components:
        labels = (look.source.name, look.topology.name, c.name)
        found.add("paystorm_storm_emitted", labels, c.emitted)
        found.add("paystorm_storm_acked", labels, c.acked)
        found.add("paystorm_storm_failed", labels, c.failed)
        found.add("paystorm_storm_latency_seconds", labels, None if c.latency is None else c.latency / 1000)
        found.add("paystorm_storm_tasks", labels, c.tasks)
        found.add("paystorm_storm_last_error_timestamp_seconds", labels, c.errors[0][0] if c.errors else None)


class Exporter(Collector):
    """Reads when it is scraped, in one thread, and gives the last reading where a new one takes too long."""

    def __init__(self, looks: Looks, *, cluster: bool, fresh: float = FRESH, patience: float | None = PATIENCE) -> None:
        """cluster: whether Nimbus is asked too. `fresh`, `patience`: seconds; no patience: as long as it takes."""
        self._looks, self._cluster = looks, cluster
        self._fresh, self._patience = fresh, patience
        self._lock = threading.Lock()
        self._reading: threading.Thread | None = None
        self._held: list[Metric] = []
        self._begun = -float("inf")
        self.problem = ""
        """What the last reading could not read."""

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that a registry does not read when it is told of this."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics, at most `fresh` seconds old unless reading takes longer than `patience`."""
        with self._lock:
            if self._reading is None and time.monotonic() - self._begun >= self._fresh:
                self._begun = time.monotonic()
                self._reading = threading.Thread(target=self._read, name="reading", daemon=True)
                self._reading.start()
            reading = self._reading
        if reading is not None:
            reading.join(self._patience)
        if not self._held:
            nothing = Families()
            nothing.add("paystorm_up", ["tables"], 0)
            yield from nothing.all()
        yield from self._held

    def _read(self) -> None:
        at, begin = time.time(), time.monotonic()
        try:
            looks = self._looks.look()
            found, self.problem = families_of(looks, int(at * 1e6)), self._looks.cluster.problem or ""
            found.add("paystorm_up", ["tables"], 1)
        except Exception as error:  # whatever it was, the next scrape reads anew
            found, self.problem = Families(), one_line(str(error)) or type(error).__name__
            found.add("paystorm_up", ["tables"], 0)
        if self._cluster:
            found.add("paystorm_up", ["nimbus"], self._looks.cluster.problem is None)
        found.add("paystorm_reading_seconds", (), time.monotonic() - begin)
        found.add("paystorm_reading_timestamp_seconds", (), at)
        self._held = found.all()
        with self._lock:
            self._reading = None

    def text(self) -> bytes:
        """What a scraper is given."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)


def metrics(
    sources: SourcesArgument = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to answer a scraper, under /metrics.")
    ] = LISTEN,
    once: Annotated[bool, typer.Option("--once", help="Print the metrics and end.")] = False,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Give the figures of the topologies in the format of Prometheus, until Ctrl-C or SIGTERM.

    For topologies in this process's data folder and for those on a cluster alike.
    """
    with open_here(env, data) as here:
        looks = Looks(here, here.sources(sources))
        if once:
            exporter = Exporter(looks, cluster=here.folder is None, patience=None)
            sys.stdout.write(exporter.text().decode())
            if exporter.problem:
                complain(exporter.problem)
                raise typer.Exit(PaystormError.exit_code)
            return
        with _served(listen, Exporter(looks, cluster=here.folder is None)), signals() as came:
            print(f"metrics of {', '.join(here.sources(sources))} at http://{listen}/metrics", flush=True)
            while not came:
                time.sleep(LOOK)
        if signal.SIGINT in came:
            raise typer.Exit(INTERRUPTED)


@contextlib.contextmanager
def _served(listen: str, exporter: Exporter) -> Iterator[None]:
    """Answer over HTTP meanwhile. Raises UsageError where the address is none or is taken."""
    host, port = address_of(listen, PORT, "--listen")
    registry = CollectorRegistry()
    registry.register(exporter)
    try:
        server, thread = start_http_server(port, host, registry=registry)
    except OSError as error:
        raise UsageError(
            f"--listen {listen}: {one_line(error.strerror or str(error))}: name another HOST:PORT"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(metrics)
