"""Several topologies in one process, each by its name: a Storm cluster for one machine alone."""

import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from paystorm.clock import Clock
from paystorm.errors import UsageError
from paystorm.local.engine import ComponentStats, StopReport
from paystorm.local.threads import ThreadDriver

STOP_TIMEOUT = 30.0
"""Seconds that what is under way has to finish when a topology is stopped, unless told otherwise."""


class LocalCluster:
    """Runs topologies with a thread for each task. To be used from one thread."""

    def __init__(self, clock: Clock, rng: random.Random, *, logger: logging.Logger | None = None) -> None:
        self._clock = clock
        self._rng = rng
        self._logger = logger or logging.getLogger("paystorm.local")
        self._drivers: dict[str, ThreadDriver] = {}
        self._idle: dict[str, Callable[[], bool]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The running topologies."""
        return tuple(self._drivers)

    def submit(
        self,
        name: str,
        topology: Any,
        config: Mapping[str, Any],
        *,
        env: str | None = None,
        is_idle: Callable[[], bool] | None = None,
    ) -> ThreadDriver:
        """Start a streamparse Topology class with these Storm options.

        `is_idle` tells what the engine cannot know: whether the spouts have anything left to emit.

        Raises UsageError if the name is taken, ConfigError if the topology cannot be run here.
        """
        if name in self._drivers:
            raise UsageError(f"topology {name} is running already; kill it first or choose another name")
        rng = random.Random(self._rng.getrandbits(64))
        driver = ThreadDriver(topology, config, self._clock, rng, name=name, env=env, logger=self._logger)
        driver.start()
        self._drivers[name] = driver
        if is_idle is not None:
            self._idle[name] = is_idle
        return driver

    def kill(self, name: str, timeout: float = STOP_TIMEOUT) -> StopReport:
        """Stop a topology in order; the report names what was not done within `timeout` seconds. Raises UsageError."""
        driver = self._driver(name)
        report = driver.stop(timeout)
        for tree in report.remaining:
            self._logger.warning("topology %s stopped before it was done: %s", name, tree)
        for task in report.stuck:
            self._logger.error("topology %s: %s does not end", name, task)
        del self._drivers[name]
        self._idle.pop(name, None)
        return report

    def stop(self, timeout: float = STOP_TIMEOUT) -> dict[str, StopReport]:
        """Stop all topologies, the last one submitted first; `timeout` seconds for all together."""
        end = self._clock.monotonic() + timeout
        return {name: self.kill(name, max(end - self._clock.monotonic(), 0.0)) for name in reversed(self.names)}

    def idle(self, name: str) -> bool:
        """Nothing is under way, and the caller's `is_idle` (if any) says the same. Raises UsageError."""
        is_idle = self._idle.get(name)
        # The engine is asked twice: what `is_idle` does not see must not have been emitted meanwhile.
        driver = self._driver(name)
        return driver.quiet() and (is_idle is None or (is_idle() and driver.quiet()))

    def stats(self, name: str) -> dict[str, ComponentStats]:
        """Counts and last errors by component. Raises UsageError."""
        return self._driver(name).engine.stats()

    def _driver(self, name: str) -> ThreadDriver:
        driver = self._drivers.get(name)
        if driver is None:
            raise UsageError(f"topology {name} is not running; running: {', '.join(self._drivers) or 'none'}")
        return driver
