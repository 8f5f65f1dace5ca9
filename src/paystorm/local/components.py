"""Hosts one pystorm spout or bolt in this process, unchanged.

A host stands where Storm and its pipes stand for a component in a process of its own: it replaces the component's
serializer, so that pystorm's own loop body (`_run`, with reading, anchoring, acking and failing) does its usual work
on messages that never become JSON. Values are passed by reference.
"""

import io
import itertools
import logging
import traceback
from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol

from pystorm.component import StormHandler

from paystorm.local.acker import Tree, Trees
from paystorm.local.settings import ERROR_CHARS, MAX_UNACKED

SYSTEM, TICK, SYSTEM_TASK = "__system", "__tick", -1
TICK_ID = "tick"
LEVELS = {
    0: logging.DEBUG,
    1: logging.DEBUG,
    2: logging.INFO,
    3: logging.WARNING,
    4: logging.ERROR,
}
"""From Storm's log levels (STORM-414; 0 is trace) to Python's."""
LEVEL_NAMES = {"critical": 50, "error": 40, "warning": 30, "warn": 30, "info": 20, "debug": 10, "trace": 10}


class Message:
    """What lies in a task's inbox. For a bolt a `tuple` or a `tick`; for a spout one of the other kinds."""

    __slots__ = ("exempt", "kind", "source", "stream", "task", "tree", "trees", "values")

    def __init__(
        self,
        kind: str,
        *,
        source: str = "",
        stream: str = "",
        task: int = SYSTEM_TASK,
        values: tuple[Any, ...] = (),
        trees: Trees = (),
        tree: Tree | None = None,
        exempt: bool = False,
    ) -> None:
        self.kind = kind
        """tuple, tick, next, ack, fail, activate or deactivate."""
        self.source = source
        self.stream = stream
        self.task = task
        """The emitting task."""
        self.values = values
        self.trees = trees
        self.tree = tree
        """The tree that is complete or failed, for ack and fail."""
        self.exempt = exempt
        """No further fault is put on it."""


class Commands(Protocol):
    """Takes what a component sends. A returned string is a breach of protocol, for which Storm kills the worker."""

    def emit(self, host: "Host", message: Mapping[str, Any]) -> list[int] | str: ...

    def ack(self, host: "Host", trees: Trees, received: float) -> None: ...

    def fail(self, host: "Host", trees: Trees) -> None: ...

    def error(self, host: "Host", text: str) -> None: ...

    def monotonic(self) -> float: ...


class Host:
    """One instance of a component: what Storm would have as a process."""

    def __init__(self, cls: type, component: str, task: int, commands: Commands, logger: logging.Logger) -> None:
        self.name = component
        self.task = task
        self.pending = 0
        """Open trees of a spout; changed only where the spout runs."""
        self.inbox: Any = None
        """Where acks and fails of this instance's trees go."""
        self.dead = False
        """A dead instance's messages come from nowhere: nothing that it sends has any effect."""
        self.doomed = False
        """It has died or broken the protocol, and must be replaced after the present message."""
        self._commands = commands
        self._logger = logger
        self._ids = itertools.count(1)
        self._unacked: dict[str, tuple[Trees, float]] = {}
        self._message: dict[str, Any] | None = None
        self._replies: deque[list[int]] = deque()
        self._starting = True
        self._reported = False
        self.component: Any = cls(input_stream=io.BytesIO(), output_stream=io.BytesIO(), rdb_signal=None)
        self.component.serializer = _Wire(self)

    @property
    def unacked(self) -> int:
        """Tuples that a bolt was given and has neither acked nor failed."""
        return len(self._unacked)

    def start(self, conf: dict[str, Any], context: dict[str, Any]) -> bool:
        """Set up and `initialize` as pystorm's `run` does after the handshake. False: it failed, and is dead."""
        try:
            self._set_up(conf, context)
            self._starting = False
            self.component.initialize(conf, context)
        except (Exception, SystemExit):
            self._report(f"{self.name} task {self.task} failed to start\n{traceback.format_exc()}")
            self.doomed = True
        return not self.doomed

    def run(self, message: Message) -> bool:
        """Let the component process one message. False: it died of it, as its process would have."""
        self._message = self._encode(message)
        self._replies.clear()
        try:
            self.component._run()
        except (Exception, SystemExit) as error:
            self._crashed(error)
        self._message = None
        return not self.doomed

    def anchors(self, ids: list[str]) -> Trees | str:
        """The distinct trees of the tuples with these ids, or what is wrong with an id."""
        if len(ids) == 1:
            return self._trees_of(ids[0])
        trees: dict[int, Tree] = {}
        for tuple_id in ids:
            found = self._trees_of(tuple_id)
            if isinstance(found, str):
                return found
            trees.update((tree.number, tree) for tree in found)
        return tuple(trees.values())

    def close(self) -> None:
        """Call the component's own `close`, if it has one, and let go of it."""
        close = getattr(self.component, "close", None)
        if callable(close):
            try:
                close()
            except (Exception, SystemExit):
                self._report(f"{self.name} task {self.task} failed to close\n{traceback.format_exc()}")
        self.bury()

    def bury(self) -> None:
        """It is no more; what it held (connections, memory) goes as soon as nothing else refers to it."""
        self.dead = True
        self.component = None
        self._unacked.clear()

    def read(self) -> Any:
        """What the component reads: replies with task ids first, since it waits for them within its message."""
        if self._replies:
            return self._replies.popleft()
        message, self._message = self._message, None
        if message is None:
            raise RuntimeError(f"{self.name} read a second message while it processes one")
        return message

    def send(self, message: Mapping[str, Any]) -> None:
        """Obey a command of the component."""
        command = message["command"]
        if command == "emit":
            self._emit(message)
        elif command == "sync" or self.dead:
            return
        elif command in ("ack", "fail"):
            self._settle(message["id"], command)
        elif command == "log":
            if not self._starting:  # pystorm announces a handler there which this host removes
                self._logger.log(LEVELS.get(message.get("level", 2), logging.INFO), *self._line(message["msg"]))
        elif command == "error":
            self._report(str(message["msg"]))
        elif command == "metrics":
            self._logger.debug(*self._line(f"metric {message.get('name')} = {message.get('params')!r}"))
        else:
            self._breach(f"unknown command {command!r}")

    def _emit(self, message: Mapping[str, Any]) -> None:
        sent = [] if self.dead else self._commands.emit(self, message)
        if isinstance(sent, str):
            self._breach(sent)
            sent = []
        if message.get("need_task_ids", True) and message.get("task") is None:
            self._replies.append(sent)

    def _settle(self, tuple_id: str, command: str) -> None:
        entry = self._unacked.pop(tuple_id, None)
        if entry is None:
            if not str(tuple_id).startswith(TICK_ID):
                # The wording is that of Storm's ShellBolt.
                self._breach(f"{command} of a non-existent or already acked/failed id: {tuple_id}")
            return
        trees, received = entry
        if command == "ack":
            self._commands.ack(self, trees, received)
        else:
            self._commands.fail(self, trees)

    def _trees_of(self, tuple_id: str) -> Trees | str:
        entry = self._unacked.get(tuple_id)
        if entry is not None:
            return entry[0]
        return () if str(tuple_id).startswith(TICK_ID) else f"anchored onto {tuple_id} after ack/fail"

    def _encode(self, message: Message) -> dict[str, Any]:
        """A message in the shape in which pystorm reads it."""
        kind = message.kind
        if kind == "tuple":
            tuple_id = str(next(self._ids))
            self._unacked[tuple_id] = (message.trees, self._commands.monotonic())
            if len(self._unacked) > MAX_UNACKED:
                self._breach(f"more than {MAX_UNACKED} tuples without ack or fail")
        elif kind == "tick":
            tuple_id = f"{TICK_ID}{next(self._ids)}"
        elif message.tree is None:
            return {"command": kind}
        else:
            return {"command": kind, "id": message.tree.message_id}
        return {
            "id": tuple_id,
            "comp": message.source,
            "stream": message.stream,
            "task": message.task,
            "tuple": message.values,
        }

    def _crashed(self, error: BaseException) -> None:
        """What pystorm's `run` does about an exception, and Storm about a process that ends."""
        self._reported = False
        text = f"{type(error).__name__} in {self.name} task {self.task}\n{traceback.format_exc()}"
        try:
            if isinstance(error, Exception):
                self.component._handle_run_exception(error)
        except (Exception, SystemExit):
            text += f"\nand while that was handled:\n{traceback.format_exc()}"
        if not self._reported:
            self._report(text)
        if self.component.exit_on_exception or not isinstance(error, Exception):
            self.doomed = True

    def _breach(self, text: str) -> None:
        self._report(f"{self.name} task {self.task} broke the protocol: {text}")
        self.doomed = True

    def _report(self, text: str) -> None:
        self._reported = True
        self._logger.error(*self._line(text[:ERROR_CHARS]))
        self._commands.error(self, text[:ERROR_CHARS])

    def _line(self, text: str) -> tuple[str, str, int, str]:
        return "%s task %d: %s", self.name, self.task, str(text)

    def _set_up(self, conf: dict[str, Any], context: dict[str, Any]) -> None:
        """Let pystorm set up the component, without the handler that it leaves on the root logger each time."""
        component = self.component
        component._setup_component({k: v for k, v in conf.items() if k != "pystorm.log.path"}, context)
        root = logging.getLogger()
        for handler in root.handlers[:]:
            if isinstance(handler, StormHandler) and handler.serializer is component.serializer:
                root.removeHandler(handler)
        component.storm_conf = conf
        level = logging.DEBUG if component.debug else LEVEL_NAMES.get(conf.get("pystorm.log.level", "info"), 20)
        component.logger = _ComponentLogger(self._logger, self.name, self.task, level)


class _Wire:
    """Takes the place of a pystorm serializer."""

    def __init__(self, host: Host) -> None:
        self.input_stream = self.output_stream = None
        self.read_message = host.read
        self.send_message = host.send


class _ComponentLogger(logging.LoggerAdapter[logging.Logger]):
    """A component's `logger`: the engine's, with the component's own threshold, its name and its task."""

    def __init__(self, logger: logging.Logger, component: str, task: int, level: int) -> None:
        super().__init__(logger, {"component": component, "task": task})
        self._prefix = f"{component} task {task}: ".replace("%", "%%")
        self._level = level

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  the name is logging's
        return level >= self._level and self.logger.isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return f"{self._prefix}{msg}", kwargs
