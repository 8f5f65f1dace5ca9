"""A topology in this process: tasks, routes, tuple trees. Who runs what and when is the driver's affair.

`step.StepDriver` runs it in one thread under a seed, `threads.ThreadDriver` with a thread for each task.
"""

import logging
import random
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from paystorm.clock import Clock
from paystorm.local.acker import Acker, OpenTree, Tree, Trees
from paystorm.local.components import SYSTEM, TICK, Host, Message
from paystorm.local.grouping import Grouper, make_grouper
from paystorm.local.plan import ComponentPlan, plan_topology
from paystorm.local.settings import ERRORS_KEPT


class Inbox(Protocol):
    """Messages that wait for a task, in order."""

    def put(self, message: Message) -> bool:
        """Add a tuple; may wait until there is room. False: the driver is stopping, and it is lost."""
        ...

    def push(self, message: Message) -> None:
        """Add a message at once, room or no room: acks, fails and ticks, whose number is bounded elsewhere."""
        ...

    def clear(self) -> None:
        """Lose all messages."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ComponentError:
    """An error that a component reported or died of."""

    at: int
    """Microseconds since 1970-01-01 UTC."""
    task: int
    text: str


@dataclass(frozen=True, slots=True)
class ComponentStats:
    """Counts of a component since the start, over all its tasks."""

    tasks: int
    emitted: int
    """Tuples emitted."""
    transferred: int
    """Tuples sent: one for each receiving task."""
    acked: int
    """Bolt: tuples acked. Spout: trees completed."""
    failed: int
    latency_ms: float
    """Mean milliseconds from receipt to ack (bolt) or from emit to the tree's completion (spout)."""
    pending: int
    """Spout: open trees. Bolt: tuples neither acked nor failed."""
    waiting: int
    """Messages in the inboxes."""
    restarts: int
    errors: int
    last_errors: tuple[ComponentError, ...]
    """Oldest first."""


@dataclass(frozen=True, slots=True)
class StopReport:
    """How a shutdown went."""

    drained: bool
    """Everything that was under way is done."""
    remaining: tuple[OpenTree, ...] = ()
    """Trees that were not complete when the time was over."""
    stuck: tuple[str, ...] = ()
    """Tasks that did not end: their component does not return from a call."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where one stream of a task leads: one subscribing component."""

    component: str
    tasks: tuple[int, ...]
    choose: Grouper | None
    """None: direct."""


class Task:
    """A task of a component; instances (hosts) come and go."""

    def __init__(self, plan: ComponentPlan, task: int, inbox: Inbox) -> None:
        self.plan = plan
        self.id = task
        self.inbox = inbox
        self.host: Host | None = None
        self.routes: dict[str, tuple[Route, ...]] = {}
        self.next_tick: float | None = None
        self.tick_waits = False
        """A tick lies in the inbox: no second one joins it, so a busy task has no pile of them."""
        self.restart_at: float | None = None
        self.emitted = self.transferred = self.acked = self.failed = self.restarts = self.errors = 0
        self.latency = 0.0
        self.last_errors: deque[ComponentError] = deque(maxlen=ERRORS_KEPT)

    @property
    def may_emit(self) -> bool:
        """A spout that has not reached its limit of open trees."""
        limit = self.plan.settings.max_pending
        return self.host is not None and (limit is None or self.host.pending < limit)


class Engine:
    """One topology.

    `config`: Storm options (see `settings`); `env` chooses a parallelism given by environment; `new_inbox` is called
    with the limit of messages for each task. Raises ConfigError where the topology cannot be run here.
    """

    def __init__(
        self,
        topology: Any,
        config: Mapping[str, Any],
        clock: Clock,
        rng: random.Random,
        *,
        new_inbox: Callable[[int], Inbox],
        name: str = "local",
        env: str | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        self.plan = plan_topology(topology, config, name=name, env=env)
        self.clock = clock
        self.rng = rng
        self.logger = logger or logging.getLogger("paystorm.local")
        self.active = True
        """False: spouts are asked for no more tuples."""
        self.acker = Acker(self.plan.settings.message_timeout, self._settled)
        self._new_inbox = new_inbox
        self.tasks: dict[int, Task] = {}
        self.monotonic = clock.monotonic
        for component in self.plan.components.values():
            for number in component.tasks:
                self.tasks[number] = Task(component, number, self.new_inbox())
        for task in self.tasks.values():
            task.routes = self._routes(task.plan)

    def new_inbox(self) -> Inbox:
        """An empty inbox for a task."""
        return self._new_inbox(self.plan.settings.receive_buffer)

    def start(self, task: Task) -> None:
        """Make a new instance for a task and initialize it. If that fails it is due again after the restart delay."""
        task.restart_at = None
        try:
            host = Host(task.plan.cls, task.plan.name, task.id, self, self.logger)
        except (Exception, SystemExit):
            text = f"{task.plan.name} task {task.id} cannot be constructed\n{traceback.format_exc()}"
            self.logger.error("%s", text)
            self._note_error(task, text)
            self.restart_later(task)
            return
        host.inbox = task.inbox
        task.host = host
        if not host.start(task.plan.conf, self.plan.context(task.plan.name, task.id)):
            self.lose(task)
            return
        every = task.plan.settings.tick_every
        if every is not None and not task.plan.is_spout and task.next_tick is None:
            task.next_tick = self.monotonic() + every
        if task.plan.is_spout and self.active:
            self.run(task, Message("activate"))

    def run(self, task: Task, message: Message) -> None:
        """Let the task's instance process a message; if it dies of it, a new one is due after the restart delay."""
        if message.kind == "tick":
            task.tick_waits = False
        host = task.host
        if host is not None and not self.run_host(task, host, message) and task.host is host:
            self.lose(task)

    def run_host(self, task: Task, host: Host, message: Message) -> bool:
        """Let a given instance (perhaps one already replaced) process a message. False: it died of it."""
        tree = message.tree
        if tree is not None:
            if tree.owner is not host:
                return True  # for an earlier instance, which is gone
            host.pending -= 1
            if message.kind == "ack":
                task.acked += 1
                task.latency += self.monotonic() - tree.opened
            else:
                task.failed += 1
        return host.run(message)

    def lose(self, task: Task, *, inbox: bool = False) -> None:
        """The task's instance is dead; a new one is due. What it had been given is never acked, and times out.

        `inbox`: the messages that wait are lost too, as with a whole Storm worker. Those of a spout always are.
        """
        host, task.host = task.host, None
        if host is not None:
            self.discard(task, host)
        if inbox or task.plan.is_spout:
            task.inbox.clear()
            task.tick_waits = False
        self.restart_later(task)

    def discard(self, task: Task, host: Host) -> None:
        """Let an instance go for good."""
        host.bury()
        if task.plan.is_spout:
            self.acker.forget(host)

    def restart_later(self, task: Task) -> None:
        """A new instance is due after the restart delay."""
        task.restarts += 1
        task.restart_at = self.monotonic() + self.plan.settings.restart_delay

    def push_tick(self, task: Task, now: float) -> None:
        """Put a tick into a task's inbox and set the time of the next."""
        every = task.plan.settings.tick_every
        assert every is not None
        assert task.next_tick is not None
        # Ticks that a late driver has missed are not made up for.
        task.next_tick = task.next_tick + every if task.next_tick + every > now else now + every
        if not task.tick_waits:
            task.tick_waits = True
            task.inbox.push(self.tick(task))

    @staticmethod
    def tick(task: Task) -> Message:
        """A tick tuple, as Storm has it."""
        return Message("tick", source=SYSTEM, stream=TICK, values=(task.plan.settings.tick_every,))

    def open_trees(self) -> list[OpenTree]:
        """The trees that are not complete, oldest first."""
        now = self.monotonic()
        return [
            OpenTree(tree.owner.name, tree.owner.task, tree.message_id, now - tree.opened, tree.pending)
            for tree in self.acker.open_trees()
        ]

    def stats(self) -> dict[str, ComponentStats]:
        """Counts and last errors by component."""
        return {name: self._component_stats(plan) for name, plan in self.plan.components.items()}

    # What components send (components.Commands)

    def emit(self, host: Host, message: Mapping[str, Any]) -> list[int] | str:
        task = self.tasks[host.task]
        stream = message.get("stream") or "default"
        routes = task.routes.get(stream)
        if routes is None:
            return f"emit to a stream that {host.name} does not declare: {stream!r}"
        values = tuple(message["tuple"])
        try:
            targets = _targets(routes, values, message.get("task"))
        except (LookupError, TypeError, ValueError) as error:
            return f"emit to stream {stream!r}: {error}"
        trees: Trees = ()
        if task.plan.is_spout:
            trees = self._open(host, message.get("id"), len(targets))
        elif message.get("anchors"):
            found = host.anchors(message["anchors"])
            if isinstance(found, str):
                return found
            trees = found
            self.acker.grow(trees, len(targets))
        task.emitted += 1
        task.transferred += len(targets)
        for target in targets:
            sent = Message("tuple", source=host.name, stream=stream, task=host.task, values=values, trees=trees)
            self.tasks[target].inbox.put(sent)
        return targets

    def ack(self, host: Host, trees: Trees, received: float) -> None:
        task = self.tasks[host.task]
        task.acked += 1
        task.latency += self.monotonic() - received
        if trees:
            self.acker.ack(trees)

    def fail(self, host: Host, trees: Trees) -> None:
        self.tasks[host.task].failed += 1
        if trees:
            self.acker.fail(trees)

    def error(self, host: Host, text: str) -> None:
        self._note_error(self.tasks[host.task], text)

    # Private

    def _open(self, host: Host, message_id: Any, edges: int) -> Trees:
        if message_id is None:
            return ()
        host.pending += 1
        tracked = edges if self.plan.settings.tracked else 0
        tree = self.acker.open(host, message_id, tracked, self.monotonic())
        return (tree,) if tracked else ()

    def _settled(self, tree: Tree, acked: bool) -> None:
        if not tree.owner.dead:
            tree.owner.inbox.push(Message("ack" if acked else "fail", tree=tree))

    def _routes(self, plan: ComponentPlan) -> dict[str, tuple[Route, ...]]:
        routes: dict[str, tuple[Route, ...]] = {}
        for stream, out in plan.outputs.items():
            found: list[Route] = []
            for other in self.plan.components.values():
                for sub in other.inputs:
                    if (sub.source, sub.stream) == (plan.name, stream):
                        choose = None if out.direct else make_grouper(sub, out, other.tasks, self.rng)
                        found.append(Route(other.name, other.tasks, choose))
            routes[stream] = tuple(found)
        return routes

    def _note_error(self, task: Task, text: str) -> None:
        task.errors += 1
        task.last_errors.append(ComponentError(self.clock.now(), task.id, text))

    def _component_stats(self, plan: ComponentPlan) -> ComponentStats:
        tasks = [self.tasks[number] for number in plan.tasks]
        hosts = [task.host for task in tasks if task.host is not None]
        acked = sum(task.acked for task in tasks)
        errors = sorted((error for task in tasks for error in task.last_errors.copy()), key=lambda error: error.at)
        return ComponentStats(
            tasks=len(tasks),
            emitted=sum(task.emitted for task in tasks),
            transferred=sum(task.transferred for task in tasks),
            acked=acked,
            failed=sum(task.failed for task in tasks),
            latency_ms=sum(task.latency for task in tasks) / acked * 1000 if acked else 0.0,
            pending=sum(host.pending if plan.is_spout else host.unacked for host in hosts),
            waiting=sum(len(task.inbox) for task in tasks),
            restarts=sum(task.restarts for task in tasks),
            errors=sum(task.errors for task in tasks),
            last_errors=tuple(errors[-ERRORS_KEPT:]),
        )


def _targets(routes: tuple[Route, ...], values: tuple[Any, ...], direct: int | None) -> list[int]:
    """The tasks that get a tuple. Raises ValueError where direct and other emits are confused."""
    targets: list[int] = []
    for route in routes:
        if direct is None:
            if route.choose is None:
                raise ValueError("a direct stream needs direct_task")
            targets += route.choose(values)
        elif direct in route.tasks:
            if route.choose is not None:
                raise ValueError(f"direct_task {direct} on a stream that is not direct")
            targets.append(direct)
    return targets
