"""The Storm options that the embedded engine obeys, with its defaults and its fixed limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paystorm.errors import ConfigError

MESSAGE_TIMEOUT = "topology.message.timeout.secs"
MAX_SPOUT_PENDING = "topology.max.spout.pending"
TICK_FREQUENCY = "topology.tick.tuple.freq.secs"
SPOUT_WAIT_MS = "topology.sleep.spout.wait.strategy.time.ms"
RECEIVE_BUFFER = "topology.executor.receive.buffer.size"
TASKS = "topology.tasks"
ACKERS = "topology.acker.executors"
RESTART_DELAY_MS = "paystorm.local.restart.delay.ms"

DEFAULT_MESSAGE_TIMEOUT = 30.0
"""Seconds, as in Storm's defaults.yaml."""
DEFAULT_SPOUT_WAIT_MS = 1.0
"""Milliseconds, as in Storm's defaults.yaml."""
DEFAULT_RECEIVE_BUFFER = 64
"""Messages in a task's inbox. Storm's 32768 is for single records; a tuple here is a chunk of thousands."""
DEFAULT_RESTART_DELAY_MS = 1000.0
"""Milliseconds from the death of a component to its replacement."""

MAX_TASKS = 1024
"""Tasks of a topology; in the threaded driver each is a thread."""
MAX_UNACKED = 100_000
"""Tuples that a bolt may hold without ack or fail; one that holds more has forgotten them."""
ERRORS_KEPT = 10
"""Last errors kept for a task."""
ERROR_CHARS = 10_000
"""Length to which an error's text is cut: it quotes the tuple, which may be a whole chunk."""


def number(conf: Mapping[str, Any], key: str, default: float, minimum: float) -> float:
    """The number under `key`, or `default` where it is absent or null.

    Raises ConfigError if it is not a finite number ≥ `minimum`.
    """
    value = conf.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value < float("inf"):
        raise ConfigError(f"{key} must be a number ≥ {minimum:g}, got {value!r}")
    return float(value)


@dataclass(frozen=True, slots=True)
class TopologySettings:
    """What holds for a whole topology."""

    message_timeout: float
    """Seconds until a tuple tree that is not complete fails."""
    receive_buffer: int
    restart_delay: float
    """Seconds."""
    tracked: bool
    """False: there are no ackers (`topology.acker.executors` is 0), so a spout's tuple is acked when emitted."""

    @classmethod
    def of(cls, conf: Mapping[str, Any]) -> "TopologySettings":
        """Read from the topology's options; raises ConfigError."""
        return cls(
            message_timeout=number(conf, MESSAGE_TIMEOUT, DEFAULT_MESSAGE_TIMEOUT, 0.001),
            receive_buffer=int(number(conf, RECEIVE_BUFFER, DEFAULT_RECEIVE_BUFFER, 1)),
            restart_delay=number(conf, RESTART_DELAY_MS, DEFAULT_RESTART_DELAY_MS, 0) / 1000,
            tracked=number(conf, ACKERS, 1, 0) > 0,
        )


@dataclass(frozen=True, slots=True)
class ComponentSettings:
    """What a component's own options may change."""

    max_pending: int | None
    """Tuple trees that a spout task may have open; None: no limit."""
    tick_every: float | None
    """Seconds between tick tuples; None: no ticks."""
    spout_wait: float
    """Seconds that a spout rests after it emitted nothing."""

    @classmethod
    def of(cls, conf: Mapping[str, Any]) -> "ComponentSettings":
        """Read from the topology's options overlaid with the component's; raises ConfigError."""
        return cls(
            max_pending=int(number(conf, MAX_SPOUT_PENDING, 0, 1)) or None,
            tick_every=number(conf, TICK_FREQUENCY, 0, 0) or None,
            spout_wait=number(conf, SPOUT_WAIT_MS, DEFAULT_SPOUT_WAIT_MS, 0) / 1000,
        )
