"""Speaks Storm's multilang protocol (JSON) to a real component process, in Storm's place: for tests.

The protocol: https://storm.apache.org/releases/2.8.2/Multilang-protocol.html
"""

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from paystorm.clock import Clock, SystemClock

READ_TIMEOUT = 10.0
"""Seconds that one message may take to come."""
END_TIMEOUT = 5.0
"""Seconds from the end of its input to the kill."""
MAX_WAITING = 10_000
"""Messages from the child that may wait unread; then it is held up by its full pipe."""
STDERR_LINES = 200


class MultilangError(Exception):
    """The child said nothing in time, ended, or did not speak the protocol."""


class MultilangChild:
    """A spout or bolt run as `python -m streamparse.run module.Class`, as Storm's worker runs it.

    `component` is `module.Class`, importable from `folder` or by `env`; `pid_dir` is where the child leaves its pid
    file (Storm's pidDir). A context manager: the child is ended by its own pid on leaving.
    """

    def __init__(
        self,
        component: str,
        *,
        folder: Path,
        pid_dir: Path,
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
        timeout: float = READ_TIMEOUT,
        clock: Clock | None = None,
    ) -> None:
        self.timeout = timeout
        self._clock = clock or SystemClock()
        self.pid = 0
        """As the child reports it in the handshake."""
        self._pid_dir = pid_dir
        self._ids = 0
        self._messages: queue.Queue[Any] = queue.Queue(MAX_WAITING)
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._process = subprocess.Popen(
            [python, "-m", "streamparse.run", component],
            cwd=folder,
            env=None if env is None else dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_stdout, self._read_stderr)]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def stderr(self) -> str:
        """The last lines that the child wrote there."""
        return "".join(self._stderr)

    def handshake(self, conf: Mapping[str, Any], context: Mapping[str, Any]) -> int:
        """Send pidDir, conf and context; returns the child's pid, after checking that it left its pid file."""
        self.send({"pidDir": str(self._pid_dir), "conf": dict(conf), "context": dict(context)})
        answer = self.read()
        self.pid = int(answer["pid"])
        if not (self._pid_dir / str(self.pid)).exists():
            raise MultilangError(f"the child left no file {self.pid} in {self._pid_dir}")
        return self.pid

    def send(self, message: Any) -> None:
        """Write one message."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(message) + "\nend\n")
            stdin.flush()
        except (OSError, ValueError) as error:
            raise MultilangError(f"the child takes no more messages: {error}\n{self.stderr}") from error

    def read(self, timeout: float | None = None) -> Any:
        """The next message, whatever it is. Raises MultilangError after `timeout` seconds (default: the child's)."""
        seconds = self.timeout if timeout is None else timeout
        try:
            message = self._messages.get(timeout=max(seconds, 0.0))
        except queue.Empty:
            raise MultilangError(f"no message within {seconds:g} s\n{self.stderr}") from None
        if isinstance(message, MultilangError):
            self._messages.put(message)  # for the next reader too
            raise MultilangError(f"{message}\n{self.stderr}")
        return message

    def read_until(self, last: Callable[[dict[str, Any]], bool], timeout: float | None = None) -> list[dict[str, Any]]:
        """Messages up to the first for which `last` is true, without log messages; `timeout` seconds for all."""
        end = self._clock.monotonic() + (self.timeout if timeout is None else timeout)
        messages: list[dict[str, Any]] = []
        while True:
            message = self.read(end - self._clock.monotonic())
            if message.get("command") != "log":
                messages.append(message)
            if last(message):
                return messages

    # To a bolt

    def send_tuple(self, values: Sequence[Any], *, component: str, stream: str = "default", task: int = 1) -> str:
        """Send a tuple; returns its id."""
        self._ids += 1
        tuple_id = str(self._ids)
        self.send({"id": tuple_id, "comp": component, "stream": stream, "task": task, "tuple": list(values)})
        return tuple_id

    def process(
        self, values: Sequence[Any], *, component: str, stream: str = "default", task: int = 1
    ) -> list[dict[str, Any]]:
        """Send a tuple and read what the bolt sends, up to its ack or fail of that tuple."""
        tuple_id = self.send_tuple(values, component=component, stream=stream, task=task)
        return self.read_until(lambda message: settles(message, tuple_id))

    def tick(self, seconds: float = 1) -> str:
        """Send a tick tuple; returns its id."""
        return self.send_tuple([seconds], component="__system", stream="__tick", task=-1)

    def heartbeat(self) -> list[dict[str, Any]]:
        """Send a heartbeat and read up to the sync that answers it."""
        self.send_tuple([], component="__system", stream="__heartbeat", task=-1)
        return self.read_until(lambda message: message.get("command") == "sync")

    def send_task_ids(self, tasks: Sequence[int]) -> None:
        """Answer an emit that asked for task ids."""
        self.send(list(tasks))

    # To a spout

    def command(self, command: str, tuple_id: Any = None) -> list[dict[str, Any]]:
        """Send next, ack, fail, activate or deactivate, and read up to the sync that ends the spout's turn."""
        self.send({"command": command} if tuple_id is None else {"command": command, "id": tuple_id})
        return self.read_until(lambda message: message.get("command") == "sync")

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the child to end by itself; returns its exit status. Raises MultilangError after `timeout` s."""
        try:
            return self._process.wait(self.timeout if timeout is None else timeout)
        except subprocess.TimeoutExpired as error:
            raise MultilangError(f"the child has not ended within {error.timeout:g} s\n{self.stderr}") from error

    def close(self) -> None:
        """End the child: by the end of its input, as when Storm goes away, and by force if that does not do it."""
        process = self._process
        if process.stdin is not None:
            with contextlib.suppress(OSError):  # it has ended, with something unread in the pipe
                process.stdin.close()
        try:
            process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # The reader of stdout may wait for room.
        while self._readers[0].is_alive():
            with contextlib.suppress(queue.Empty):
                self._messages.get(timeout=0.05)
        for reader in self._readers:
            reader.join(END_TIMEOUT)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        lines: list[str] = []
        for line in self._process.stdout:
            if line != "end\n":
                lines.append(line)
                continue
            try:
                self._messages.put(json.loads("".join(lines)))
            except ValueError:
                self._messages.put(MultilangError(f"not a message: {''.join(lines)[:1000]!r}"))
                break
            lines = []
        self._messages.put(MultilangError("the child has closed its output"))

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        self._stderr.extend(self._process.stderr)


def settles(message: Mapping[str, Any], tuple_id: str) -> bool:
    """Whether a message is the ack or fail of a tuple."""
    return message.get("command") in ("ack", "fail") and message.get("id") == tuple_id
