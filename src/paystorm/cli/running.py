"""Runs the topologies of sources in this process, and tells how far they are."""

import gc
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from random import Random
from typing import Any

from paystorm.cli.common import Here
from paystorm.cli.folder import SourceLock, folder_error, lock_source
from paystorm.errors import ConfigError
from paystorm.garbage import collect_rarely
from paystorm.local.engine import StopReport
from paystorm.local.runner import LocalCluster
from paystorm.local.settings import MAX_SPOUT_PENDING, MESSAGE_TIMEOUT, SPOUT_WAIT_MS, TICK_FREQUENCY
from paystorm.local.threads import ThreadDriver
from paystorm.resources import HANDED_OVER
from paystorm.settings import check_options
from paystorm.source import Source
from paystorm.stores.checkpoints import load_checkpoints
from paystorm.stores.lists import register_source

DEFAULTS: Mapping[str, Any] = {
    TICK_FREQUENCY: 0.02,  # a sink may wait this much longer than flushMs; Storm's ticks are whole seconds
    MAX_SPOUT_PENDING: 64,
    "chunkRecords": 60_000,  # the more, the less a record costs; on Storm 40,000 do, where a chunk goes through pipes
    "chunkBytes": 16 << 20,
    "maxPendingRecords": 360_000,  # a second's worth here; a cluster may take far longer for as many
    SPOUT_WAIT_MS: 5,
    MESSAGE_TIMEOUT: 60,
}
"""Options where neither the environment nor -o says otherwise."""
PROBLEM_SECONDS = 3.0
"""A spout's problem that lasts so long is no hiccup."""
FAILING_SECONDS = 20.0
FAILING_TUPLES = 5
"""So many failed tuples and none completed in this time: it keeps failing."""
FAILING_RESTARTS = 5
LOG_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class SourceProgress:
    """How far a source is."""

    source: str
    read: int
    """Records below the committed offsets, since the source first started."""
    in_flight: int
    lag: int
    """Records in the log behind the committed offsets."""
    parked: int
    problem: str | None
    opened: bool
    """Its spouts know where they stand; before, all figures are 0."""


@dataclass(slots=True)
class _Running:
    """A topology that runs, and when it was last seen to get on."""

    driver: ThreadDriver
    lock: SourceLock
    topic: str
    acked: int = 0
    moved_at: float = 0.0
    failed: int = 0
    restarts: int = 0
    problem_since: float | None = None
    last: SourceProgress | None = None


class Runner:
    """The topologies of some sources, from `start` to `stop`. To be used from one thread."""

    def __init__(self, here: Here, sources: Sequence[str], options: Mapping[str, Any]) -> None:
        """`options`: of -o, over those of the environment. Raises ConfigError for what they cannot be."""
        self._here, self._folder = here, here.embedded()
        self._clock = here.resources.clock
        check_options(options, here.project.sources(), "-o")
        self._config = {**DEFAULTS, **here.env.options, **options, HANDED_OVER: here.resources}
        self._sources = here.sources(sources)
        self._cluster = LocalCluster(self._clock, Random(), logger=logging.getLogger("paystorm.local"))
        self._running: dict[str, _Running] = {}
        self._thresholds = gc.get_threshold()

    def start(self) -> None:
        """Take the locks and start everything. Raises DataFolderError where another process runs one of the sources."""
        topologies = self._here.project.topologies()
        locks: dict[str, SourceLock] = {}
        try:
            for name in self._sources:
                locks[name] = lock_source(self._folder, name)
            for name, source in self._sources.items():
                self._check(name, source)
                driver = self._cluster.submit(name, topologies[name], self._config, env=self._here.env.name)
                lock = locks.pop(name)
                self._running[name] = _Running(driver, lock, source.topic, moved_at=self._clock.monotonic())
        except BaseException:
            self.stop(0)
            raise
        finally:
            for lock in locks.values():
                lock.release()

    def _check(self, name: str, source: Source) -> None:
        """Make the topic, and look whether log and tables can be used: better said now than by six components."""
        resources = self._here.resources
        resources.log.create_topic(source.topic, self._here.partitions)
        resources.log.topic_id(source.topic)
        load_checkpoints(resources.tables, name)
        register_source(resources.tables, name)

    def freeze_when_started(self) -> bool:
        """Take what is in memory by now out of the garbage collector's sight, once all components have started."""
        for running in self._running.values():
            if any(task.host is None for task in running.driver.engine.tasks.values()):
                return False
        collect_rarely()
        return True

    def progress(self) -> dict[str, SourceProgress]:
        """How far each source is."""
        return {name: self._progress(name, running) for name, running in self._running.items()}

    def idle(self) -> bool:
        """Everything is read, committed, and no retry is due."""
        return all(self._idle(name, running) for name, running in self._running.items())

    def hopeless(self, last_error: str = "") -> dict[str, str]:
        """The sources that will not get on without help, and why. `last_error`: the last that was logged."""
        found = {}
        for name, running in self._running.items():
            why = self._hopeless(running, last_error)
            if why is not None:
                found[name] = why
        return found

    def stop(self, timeout: float = 30.0) -> dict[str, StopReport]:
        """Stop in order: what is under way is finished first, within `timeout` seconds. Locks are given up."""
        try:
            return self._cluster.stop(timeout)
        finally:
            for running in self._running.values():
                running.lock.release()
            self._running = {}
            gc.unfreeze()
            gc.set_threshold(*self._thresholds)

    def _idle(self, name: str, running: _Running) -> bool:
        # The engine is asked twice: what the spouts do not see must not have been emitted meanwhile.
        if not self._cluster.idle(name):
            return False
        spouts = _spouts(running.driver)
        return all(spout is not None and spout.idle() for spout in spouts) and self._cluster.idle(name)

    def _progress(self, name: str, running: _Running) -> SourceProgress:
        read = in_flight = lag = parked = 0
        problem, opened = None, True
        log = self._here.resources.log
        for spout in _spouts(running.driver):
            if spout is None:
                opened = False
                continue
            opened = opened and spout.version is not None
            told = spout.progress()
            read += told.read
            in_flight += told.in_flight
            parked += told.parked
            problem = problem or spout.problem
            lag += sum(max(0, log.end_offset(running.topic, p) - at) for p, at in told.committed.items())
        running.last = SourceProgress(name, read, in_flight, lag, parked, problem, opened)
        return running.last

    def _hopeless(self, running: _Running, last_error: str) -> str | None:
        now = self._clock.monotonic()
        tasks = list(running.driver.engine.tasks.values())
        acked = sum(task.acked for task in tasks if task.plan.is_spout)
        failed = sum(task.failed for task in tasks if task.plan.is_spout)
        restarts = sum(task.restarts for task in tasks)
        if acked > running.acked:
            running.acked, running.moved_at, running.failed, running.restarts = acked, now, failed, restarts
        problem = running.last.problem if running.last is not None else None
        if problem is None:
            running.problem_since = None
        elif running.problem_since is None:
            running.problem_since = now
        elif now - running.problem_since >= PROBLEM_SECONDS:
            return problem
        if restarts - running.restarts >= FAILING_RESTARTS:
            return f"its components keep dying; the last error: {_last_error(tasks)}"
        stuck = now - running.moved_at >= FAILING_SECONDS
        if stuck and failed - running.failed >= FAILING_TUPLES:
            return f"its tuples keep failing and none is completed; the last error: {last_error or 'none was told'}"
        return None


def _spouts(driver: ThreadDriver) -> list[Any]:
    """The spouts of a topology, None for one that has not started (yet)."""
    hosts = [task.host for task in driver.engine.tasks.values() if task.plan.is_spout]
    found = [host.component if host is not None else None for host in hosts]
    # Between construction and `initialize` it has none of what is asked for.
    return [spout if spout is not None and hasattr(spout, "readers") else None for spout in found]


def _last_error(tasks: Sequence[Any]) -> str:
    errors = sorted((error for task in tasks for error in list(task.last_errors)), key=lambda error: error.at)
    return errors[-1].text.strip().splitlines()[-1] if errors else "none was told"


def log_to(folder: Path, show: logging.Handler | None) -> list[logging.Handler]:
    """Send the log lines of all components to `logs/run.log` below the folder, and warnings to `show`.

    Raises DataFolderError where the file cannot be written.
    """
    try:
        (folder / "logs").mkdir(exist_ok=True)
        file = RotatingFileHandler(folder / "logs" / "run.log", maxBytes=LOG_BYTES, backupCount=3, encoding="utf-8")
    except OSError as error:
        raise folder_error(folder, error) from error
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers: list[logging.Handler] = [file]
    if show is not None:
        show.setLevel(logging.WARNING)
        handlers.append(show)
    root = logging.getLogger()
    for handler in handlers:
        root.addHandler(handler)
    if root.level > logging.INFO or root.level == logging.NOTSET:
        root.setLevel(logging.INFO)
    return handlers


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """`name=value` options; values as JSON where they are, else as text. Raises ConfigError."""
    out: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"-o must be name=value, got {text!r}")
        if name.startswith("paystorm."):
            raise ConfigError(f"-o {name}: set by the topology, config.json or --data, not by an option")
        try:
            out[name] = json.loads(value)
        except ValueError:
            out[name] = value
    return out
