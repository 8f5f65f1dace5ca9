"""Runs a topology in one thread, step by step: the same seed, components and faults give the same run."""

import heapq
import itertools
import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from paystorm.clock import ManualClock
from paystorm.local.components import Host, Message
from paystorm.local.engine import Engine, StopReport, Task
from paystorm.local.faults import (
    ZOMBIE_ROUNDS,
    Delay,
    Delivery,
    Drop,
    Duplicate,
    FailTree,
    Fault,
    FaultPlan,
    Kill,
    MakeZombie,
)

MAX_STEPS = 1_000_000
"""Steps that one call may take unless told otherwise."""


class Step(NamedTuple):
    """What happened in one step."""

    number: int
    now: float
    """Seconds of the clock's monotonic time."""
    kind: str
    """deliver, next, tick, timeout, restart, arrive (of a delayed message) or zombie."""
    component: str
    task: int
    detail: str
    """The kind of the message, where it came from, and the fault put on it."""


class StepInbox(deque[Message]):
    """A plain queue. The limit is kept by asking no spout for more while any inbox is full."""

    def __init__(self, limit: int) -> None:
        del limit
        super().__init__()

    def put(self, message: Message) -> bool:
        self.append(message)
        return True

    push = deque.append


class Zombie:
    """An instance that has been replaced and does not know it."""

    def __init__(self, task: Task, host: Host, wakes: float, rounds: int) -> None:
        self.task = task
        self.host = host
        self.wakes = wakes
        self.rounds = rounds


class StepDriver:
    """Drives an engine step by step. Time stands still but for `advance`, `run_until` and `stop`.

    `faults` is asked before each delivery (see `faults`); `on_step` is told of every step.
    """

    def __init__(
        self,
        topology: Any,
        config: Mapping[str, Any],
        clock: ManualClock,
        rng: random.Random,
        *,
        name: str = "local",
        env: str | None = None,
        logger: logging.Logger | None = None,
        faults: FaultPlan | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        self.engine = Engine(topology, config, clock, rng, new_inbox=StepInbox, name=name, env=env, logger=logger)
        self._tasks = list(self.engine.tasks.values())
        self.clock = clock
        self.zombies: list[Zombie] = []
        self.steps = 0
        self._rng = rng
        self._faults = faults
        self._on_step = on_step
        self._rests: dict[int, float] = {}
        self._delayed: list[tuple[float, int, Task, Message]] = []
        self._sequence = itertools.count()
        self._running: tuple[Task, Host] | None = None

    def start(self) -> None:
        """Initialize every task's component, in order of task ids."""
        for task in self.engine.tasks.values():
            self.engine.start(task)

    def replace_running(self, seconds: float, rounds: int = ZOMBIE_ROUNDS) -> bool:
        """To be called by what a component calls: it stands still there while it is replaced and all others go on.

        After `seconds` it goes on where it was, not knowing it, and then is what `MakeZombie` makes of it. False: what
        runs is no instance that can be replaced, and nothing is done.
        """
        if self._running is None:
            return False
        task, host = self._running
        if task.host is not host:
            return False
        self._running = None  # one at a time stands still
        self._replace(task)
        end = self.clock.monotonic() + seconds
        self.run_until(lambda: self.clock.monotonic() >= end, seconds=seconds)
        self.zombies.append(Zombie(task, host, self.clock.monotonic(), rounds))
        return True

    def step(self) -> bool:
        """Do one thing of all that can be done now, chosen at random. False: there is none until time moves on."""
        now = self.clock.monotonic()
        choices = self._runnable(now)
        if not choices:
            return False
        kind, subject = self._rng.choice(choices)
        self.steps += 1
        if isinstance(subject, Zombie):
            task, detail = subject.task, self._run_zombie(subject)
        elif subject is None:
            task, detail = self._run_due(kind, now)
        else:
            task, detail = subject, self._run_task(kind, subject, now)
        if self._on_step is not None:
            self._on_step(Step(self.steps, now, kind, task.plan.name, task.id, detail))
        return True

    def run(self, max_steps: int = MAX_STEPS) -> int:
        """Take steps until nothing can be done before time moves on, or `max_steps`; returns their number."""
        return next((taken for taken in range(max_steps) if not self.step()), max_steps)

    def run_until(self, done: Callable[[], bool], *, seconds: float, max_steps: int = MAX_STEPS) -> bool:
        """Take steps, and move time on to what is due next, until `done()`.

        False: `seconds` of the clock or `max_steps` were over first.
        """
        end = self.clock.monotonic() + seconds
        for _ in range(max_steps):
            if done():
                return True
            if not self.step():
                due = self.next_due()
                now = self.clock.monotonic()
                if due is None or due > end:
                    self.clock.advance(max(end - now, 0.0))
                    return done()
                self.clock.advance(due - now)
        return done()

    def advance(self, seconds: float) -> None:
        """Move time on. What falls due is done by later steps."""
        self.clock.advance(seconds)

    def next_due(self) -> float | None:
        """Monotonic time, later than now, at which something falls due; None: nothing ever will."""
        engine, now = self.engine, self.clock.monotonic()
        times = [engine.acker.next_timeout(), *(zombie.wakes for zombie in self.zombies)]
        if self._delayed:
            times.append(self._delayed[0][0])
        for task in engine.tasks.values():
            times += (task.restart_at, task.next_tick if task.host is not None else None)
            if task.plan.is_spout and engine.active and task.may_emit:
                times.append(self._rests.get(task.id))
        return min((time for time in times if time is not None and time > now), default=None)

    def quiet(self) -> bool:
        """Nothing is under way: no open trees, no waiting or delayed messages."""
        return not len(self.engine.acker) and not self._delayed and not self._waiting()

    def stop(self, timeout: float) -> StopReport:
        """Deactivate the spouts, let what is under way finish for at most `timeout` seconds of the clock, close."""
        self.engine.active = False
        for task in self.engine.tasks.values():
            if task.plan.is_spout and task.host is not None:
                task.inbox.push(Message("deactivate", exempt=True))
        drained = self.run_until(self.quiet, seconds=timeout)
        remaining = tuple(self.engine.open_trees())
        for task in self.engine.tasks.values():
            if task.host is not None:
                task.host.close()
                task.host = None
            task.restart_at = None
        for zombie in self.zombies:
            zombie.host.bury()
        self.zombies.clear()
        return StopReport(drained, remaining)

    # Private

    def _waiting(self) -> int:
        return sum(len(task.inbox) for task in self.engine.tasks.values() if task.host or not task.plan.is_spout)

    def _runnable(self, now: float) -> list[tuple[str, Task | Zombie | None]]:
        engine = self.engine
        choices: list[tuple[str, Task | Zombie | None]] = []
        for task in self._tasks:
            if task.host is None:
                if task.restart_at is not None and task.restart_at <= now:
                    choices.append(("restart", task))
                continue
            if task.inbox:
                choices.append(("deliver", task))
            if task.next_tick is not None and task.next_tick <= now:
                choices.append(("tick", task))
            if task.plan.is_spout and self._may_ask(task, now):
                choices.append(("next", task))
        if self.zombies:
            choices += [("zombie", zombie) for zombie in self.zombies if zombie.wakes <= now]
        if self._delayed and self._delayed[0][0] <= now:
            choices.append(("arrive", None))
        timeout = engine.acker.next_timeout()
        if timeout is not None and timeout <= now:
            choices.append(("timeout", None))
        return choices

    def _may_ask(self, spout: Task, now: float) -> bool:
        """Whether a spout does not rest, may emit, and all others have room."""
        if self._rests.get(spout.id, now) > now or not self.engine.active or not spout.may_emit:
            return False
        limit = self.engine.plan.settings.receive_buffer
        return all(len(task.inbox) < limit for task in self._tasks)

    def _run_due(self, kind: str, now: float) -> tuple[Task, str]:
        if kind == "timeout":
            (tree,) = self.engine.acker.expire(now, limit=1)
            return self.engine.tasks[tree.owner.task], repr(tree.message_id)
        _, _, task, message = heapq.heappop(self._delayed)
        task.inbox.push(message)
        return task, message.kind

    def _run_task(self, kind: str, task: Task, now: float) -> str:
        if kind == "restart":
            self.engine.start(task)
            return ""
        if kind == "tick":
            self.engine.push_tick(task, now)
            return ""
        if kind == "next":
            before = task.emitted
            detail = self._deliver(task, Message("next"), now)
            # A spout that has nothing rests, as in Storm; else time would never move on.
            self._rests[task.id] = now + task.plan.settings.spout_wait if task.emitted == before else now
            return detail
        self._rests.pop(task.id, None)
        assert isinstance(task.inbox, StepInbox)
        return self._deliver(task, task.inbox.popleft(), now)

    def _deliver(self, task: Task, message: Message, now: float) -> str:
        fault: Fault | None = None
        if self._faults is not None and not message.exempt:
            fault = self._faults(Delivery(task.plan.name, task.id, now, message))
        if fault is None:
            self._run(task, message)
        else:
            self._inflict(fault, task, message, now)
        source = f" from {message.source} {message.task}" if message.source else ""
        tree = f" {message.tree.message_id!r}" if message.tree else ""
        return f"{message.kind}{source}{tree}{f' {fault}' if fault else ''}"

    def _run(self, task: Task, message: Message) -> None:
        host, before = task.host, self._running
        self._running = (task, host) if host is not None else None
        try:
            self.engine.run(task, message)
        finally:
            self._running = before
        if host is not None and host.doomed:  # it may have died after it stood still and was replaced
            for zombie in [zombie for zombie in self.zombies if zombie.host is host]:
                self._end_zombie(zombie)

    def _inflict(self, fault: Fault, task: Task, message: Message, now: float) -> None:
        if isinstance(fault, Drop):
            self._drop(task, message, now)
        elif isinstance(fault, Delay):
            if message.kind == "next":
                return  # it is asked again anyway
            self._later(now + fault.seconds, task, message)
        elif isinstance(fault, Duplicate):
            if message.kind in ("tuple", "tick"):
                self.engine.acker.grow(message.trees, 1)
                self._later(now + fault.seconds, task, _copy(message))
            self._run(task, message)
        elif isinstance(fault, FailTree):
            self.engine.acker.fail(message.trees)
            self._run(task, message)
        elif isinstance(fault, Kill):
            if fault.silenced and task.host is not None:
                task.host.dead = True
                self.engine.run_host(task, task.host, message)
            if task.host is not None:
                self.engine.lose(task, inbox=True)
        else:
            self._make_zombie(fault, task, message, now)

    def _drop(self, task: Task, message: Message, now: float) -> None:
        task.tick_waits = task.tick_waits and message.kind != "tick"
        if message.tree is not None:
            # The spout waits for it until its own time-out.
            end = max(message.tree.opened + self.engine.plan.settings.message_timeout, now)
            self._later(end, task, Message("fail", tree=message.tree))

    def _later(self, due: float, task: Task, message: Message) -> None:
        message.exempt = True
        task.tick_waits = task.tick_waits and message.kind != "tick"
        heapq.heappush(self._delayed, (due, next(self._sequence), task, message))

    def _make_zombie(self, fault: MakeZombie, task: Task, message: Message, now: float) -> None:
        host = task.host
        assert host is not None
        assert isinstance(task.inbox, StepInbox)
        task.inbox.appendleft(message)
        self._replace(task)
        self.zombies.append(Zombie(task, host, now + fault.seconds, fault.rounds))

    def _replace(self, task: Task) -> None:
        """A new instance is due; the old one keeps what waited for it."""
        task.host, task.inbox, task.tick_waits = None, self.engine.new_inbox(), False
        self.engine.restart_later(task)

    def _run_zombie(self, zombie: Zombie) -> str:
        """The next message of a zombie; with the last of them it is gone."""
        task, settings = zombie.task, zombie.task.plan.settings
        if len(zombie.host.inbox):
            message = zombie.host.inbox.popleft()
        elif zombie.rounds > 0 and (task.plan.is_spout or settings.tick_every):
            zombie.rounds -= 1
            message = Message("next") if task.plan.is_spout else self.engine.tick(task)
            zombie.wakes = self.clock.monotonic() + (settings.tick_every or settings.spout_wait)
        else:
            self._end_zombie(zombie)
            return "gone"
        if not self.engine.run_host(task, zombie.host, message):
            self._end_zombie(zombie)
        return str(message.kind)

    def _end_zombie(self, zombie: Zombie) -> None:
        self.zombies.remove(zombie)
        self.engine.discard(zombie.task, zombie.host)


def _copy(message: Message) -> Message:
    return Message(
        message.kind,
        source=message.source,
        stream=message.stream,
        task=message.task,
        values=message.values,
        trees=message.trees,
    )
