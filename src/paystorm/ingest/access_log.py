"""The access log: a line of JSON for each request, without anything of its content."""

import sys
import time
from pathlib import Path
from typing import TextIO

import msgspec

from paystorm.errors import UsageError

MAX_LINES = 10_000
"""Lines in memory; more are dropped and counted."""
MAX_BYTES = 64 << 20
"""A file that is longer is renamed to `.1`, whose former content goes."""


class AccessLog:
    """Lines are gathered and written now and then: a file is slower than a request."""

    def __init__(self, path: Path | None) -> None:
        """`path`: the file; None: standard error. Raises UsageError where it cannot be written to."""
        self._path = path
        self._lines: list[bytes] = []
        self._dropped = 0
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.open("a").close()
            except OSError as error:
                raise UsageError(f"access log {path}: {error.strerror}: name another with --access-log") from None

    def note(
        self, *, method: str, route: str, status: int, seconds: float, key: str | None, client: str | None
    ) -> None:
        """Note a request. `route`: the end point's pattern, never the path: that holds ids."""
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        at = time.time()
        self._lines.append(
            msgspec.json.encode(
                {
                    "at": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at % 1 * 1000):03d}Z",
                    "method": method,
                    "route": route,
                    "status": status,
                    "ms": round(seconds * 1000, 2),
                    "key": key,
                    "client": client,
                }
            )
        )

    def flush(self) -> None:
        """Write what has gathered. Raises OSError."""
        if self._dropped:
            self._lines.append(b'{"dropped":%d}' % self._dropped)
            self._dropped = 0
        if not self._lines:
            return
        text = (b"\n".join(self._lines) + b"\n").decode()
        self._lines.clear()
        if self._path is None:
            _write(sys.stderr, text)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            _write(file, text)
            long = file.tell() > MAX_BYTES
        if long:
            self._path.replace(self._path.with_name(self._path.name + ".1"))


def _write(file: TextIO, text: str) -> None:
    file.write(text)
    file.flush()
