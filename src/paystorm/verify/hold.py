"""Holding a running source still while its tables are read (SEMANTICS.md §7)."""

from paystorm.clock import SECOND
from paystorm.errors import UsageError
from paystorm.resources import Resources
from paystorm.source import Source
from paystorm.stores.control import Hold, lift_hold, load_held, load_hold, load_problems, put_hold

BY = "paystorm verify"
LOOK_EVERY = 0.1
"""Seconds between two looks whether all spout tasks hold."""
LEASE = 60 * SECOND
"""How long a hold stands when nobody renews it: what the source loses should this process die. µs."""
SETTLED = 2 * SECOND
"""An answer older than the request counts from then on: a task that had gone on would have taken it back. µs."""


class Holding:
    """A request to hold: every spout task emits nothing new. To be used in a `with`; it is always taken back."""

    def __init__(self, resources: Resources, source: Source, timeout: float) -> None:
        """`timeout`: seconds that the tasks have to finish what is in flight."""
        self._clock, self._tables, self._log = resources.clock, resources.tables, resources.log
        self._source, self._timeout = source, timeout
        self._until = 0

    def __enter__(self) -> "Holding":
        """Wait until nothing is in flight. Raises UsageError where that takes too long, or another holds already."""
        other = load_hold(self._tables, self._source.name)
        if other is not None and other.until > self._clock.now():
            raise UsageError(f"source {self._source.name}: it is held by {other.by} at present; try again later")
        try:
            self._put()
            self._wait()
        except BaseException:
            self._lift()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lift()

    def renew(self) -> None:
        """Hold for a further lease. Raises UsageError where the last one was over: what was read since may differ."""
        if self._clock.now() >= self._until:
            raise UsageError(
                f"source {self._source.name}: it went on while its tables were being read, which took more than "
                f"{LEASE // SECOND} s at a time; try again with less load, or stop it first"
            )
        self._put()

    def _put(self) -> None:
        self._until = self._clock.now() + LEASE
        put_hold(self._tables, self._source.name, Hold(by=BY, until=self._until))

    def _lift(self) -> None:
        lift_hold(self._tables, self._source.name)

    def _wait(self) -> None:
        asked, began = self._clock.now(), self._clock.monotonic()
        partitions = set(range(self._log.partitions(self._source.topic)))
        while True:
            old_too = self._clock.now() - asked >= SETTLED
            answers = load_held(self._tables, self._source.name).values()
            missing = partitions - {p for held in answers if old_too or held.at >= asked for p in held.committed}
            if not missing:
                return
            if self._clock.monotonic() - began >= self._timeout:
                problems = load_problems(self._tables, self._source.name)
                why = f" (stopped: {next(iter(problems.values()))})" if problems else ""
                raise UsageError(
                    f"source {self._source.name}: partition {min(missing)}{' and others' * (len(missing) > 1)} still "
                    f"in flight after {self._timeout:g} s{why}; allow more time, or stop the source first"
                )
            self._clock.sleep(LOOK_EVERY)
            if self._clock.now() >= self._until - LEASE // 2:
                self._put()
