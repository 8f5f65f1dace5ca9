"""Runs a topology with a thread for each task: what `paystorm run` uses."""

import logging
import random
import threading
import traceback
from collections import deque
from collections.abc import Mapping
from typing import Any

from paystorm.clock import Clock
from paystorm.local.components import Message
from paystorm.local.engine import Engine, StopReport, Task

PARKED = 0.1
"""Seconds between two looks of a spout that may not emit; acks and fails wake it at once."""
TIMER_MIN, TIMER_MAX = 0.001, 0.05
"""Seconds between two looks at ticks and time-outs."""
DRAIN_LOOK = 0.005
"""Seconds between two looks at whether all is done during a stop."""
JOIN_SECONDS = 10.0
"""Seconds that the components have to return from their last call and to close."""


class BlockingInbox:
    """A bounded queue with one reader. Tuples wait for room; acks, fails and ticks never do."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Writers wait until the queue is half empty: waking one for each message read would switch threads each time.
        self._low = limit // 2
        self._items: deque[Message] = deque()
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._closed = False
        self._blocked = 0
        self._idle = False
        self.busy = False
        """The reader has taken a message and not yet come back for another."""
        self.received = 0

    def put(self, message: Message) -> bool:
        with self._lock:
            if len(self._items) >= self._limit:
                self._blocked += 1
                while len(self._items) >= self._limit and not self._closed:
                    self._room.wait()
                self._blocked -= 1
            if self._closed:
                return False
            self._add(message)
            return True

    def push(self, message: Message) -> None:
        with self._lock:
            self._add(message)

    def get(self, timeout: float | None) -> Message | None:
        """The next message within `timeout` seconds (None: however long it takes); None if closed or none came."""
        with self._lock:
            self.busy = False
            if not self._items and not self._closed and timeout != 0:
                self._idle = True
                self._filled.wait(timeout)
                self._idle = False
            if not self._items or self._closed:
                return None
            self.busy = True
            message = self._items.popleft()
            if self._blocked and len(self._items) <= self._low:
                self._room.notify_all()
            return message

    def clear(self) -> None:
        with self._lock:
            self._items.clear()
            self._room.notify_all()

    def close(self) -> None:
        """Nothing more is taken in or handed out; whoever waits goes on."""
        with self._lock:
            self._closed = True
            self._filled.notify_all()
            self._room.notify_all()

    def __len__(self) -> int:
        return len(self._items)

    def _add(self, message: Message) -> None:
        self._items.append(message)
        self.received += 1
        if self._idle:
            self._filled.notify()


class ThreadDriver:
    """Drives an engine with a thread for each task, and one for ticks and time-outs.

    A component is constructed, initialized, run and closed in its task's thread.
    After `stop` a driver is of no more use.
    """

    def __init__(
        self,
        topology: Any,
        config: Mapping[str, Any],
        clock: Clock,
        rng: random.Random,
        *,
        name: str = "local",
        env: str | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        self.engine = Engine(topology, config, clock, rng, new_inbox=BlockingInbox, name=name, env=env, logger=logger)
        self._stopping = threading.Event()
        self._timer = threading.Thread(target=self._keep_time, name=f"{name}-timer", daemon=True)
        self._threads = {
            f"{task.plan.name} task {task.id}": threading.Thread(
                target=self._serve, args=(task,), name=f"{name}-{task.plan.name}-{task.id}", daemon=True
            )
            for task in self.engine.tasks.values()
        }

    def start(self) -> None:
        """Start all threads; returns at once. A component that cannot be initialized is tried again and again."""
        self._timer.start()
        for thread in self._threads.values():
            thread.start()

    def quiet(self) -> bool:
        """Nothing is under way: no open trees, no messages that wait or are being processed."""
        before = self._received()
        tasks = self.engine.tasks.values()
        return not len(self.engine.acker) and not any(map(_occupied, tasks)) and before == self._received()

    def stop(self, timeout: float) -> StopReport:
        """Deactivate the spouts, let what is under way finish for at most `timeout` seconds, close and join."""
        engine = self.engine
        end = engine.monotonic() + timeout
        engine.active = False
        for task in engine.tasks.values():
            if task.plan.is_spout:
                task.inbox.push(Message("deactivate"))
        while not (drained := self.quiet()) and engine.monotonic() < end:
            self._stopping.wait(DRAIN_LOOK)
        remaining = tuple(engine.open_trees())
        self._stopping.set()
        for task in engine.tasks.values():
            _inbox(task).close()
        end = engine.monotonic() + JOIN_SECONDS
        for thread in (self._timer, *self._threads.values()):
            if thread.ident is not None:
                thread.join(max(end - engine.monotonic(), 0.0))
        stuck = tuple(name for name, thread in self._threads.items() if thread.is_alive())
        return StopReport(drained, remaining, stuck)

    def _received(self) -> int:
        return sum(_inbox(task).received for task in self.engine.tasks.values())

    def _serve(self, task: Task) -> None:
        """A task's thread."""
        engine, turn = self.engine, self._spout_turn if task.plan.is_spout else self._bolt_turn
        engine.start(task)
        while not self._stopping.is_set():
            try:
                if task.host is None:
                    self._replace_when_due(task)
                else:
                    turn(task)
            except Exception:
                # A fault of the engine itself: the task must not end silently.
                engine.logger.critical("%s task %d: %s", task.plan.name, task.id, traceback.format_exc())
                engine.lose(task)
        if task.host is not None:
            task.host.close()

    def _bolt_turn(self, task: Task) -> None:
        inbox, run = _inbox(task), self.engine.run
        while (message := inbox.get(None)) is not None:
            run(task, message)
            if task.host is None:
                return

    def _spout_turn(self, task: Task) -> None:
        inbox, engine = _inbox(task), self.engine
        rest = 0.0
        while task.host is not None and not self._stopping.is_set():
            message = inbox.get(rest)
            if message is not None:
                engine.run(task, message)
                rest = 0.0
            elif engine.active and task.may_emit:
                before = task.emitted
                engine.run(task, Message("next"))
                rest = 0.0 if task.emitted != before else task.plan.settings.spout_wait
            else:
                rest = PARKED

    def _replace_when_due(self, task: Task) -> None:
        wait = 0.0 if task.restart_at is None else task.restart_at - self.engine.monotonic()
        _inbox(task).busy = False
        if wait > 0:
            self._stopping.wait(min(wait, PARKED))
        else:
            self.engine.start(task)

    def _keep_time(self) -> None:
        engine, wait = self.engine, TIMER_MIN
        ticking = [task for task in engine.tasks.values() if task.plan.settings.tick_every and not task.plan.is_spout]
        while not self._stopping.wait(wait):
            now = engine.monotonic()
            due = now + TIMER_MAX
            for task in ticking:
                if task.next_tick is not None:
                    if task.next_tick <= now:
                        engine.push_tick(task, now)
                    due = min(due, task.next_tick)
            engine.acker.expire(now)
            wait = min(max(due - now, TIMER_MIN), TIMER_MAX)


def _inbox(task: Task) -> BlockingInbox:
    assert isinstance(task.inbox, BlockingInbox)
    return task.inbox


def _occupied(task: Task) -> bool:
    if task.host is None and task.plan.is_spout:
        return False  # its trees and messages are forgotten
    return len(task.inbox) > 0 or _inbox(task).busy
