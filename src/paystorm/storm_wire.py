"""Storm's multilang messages over pipes, for tasks with processes of their own.

pystorm's serializer reads lines of text and waits without an end. Chunks are long strings: here they are taken from the
pipe as bytes, in large pieces, and a task can wait for the next message until its own deadline.
"""

import fcntl
import os
import select
from contextlib import suppress
from io import UnsupportedOperation
from typing import Any

import msgspec
from pystorm.exceptions import StormWentAwayError
from pystorm.serializers.json_serializer import JSONSerializer

from paystorm.garbage import collect_rarely

PIPE_BYTES = 1 << 20
"""What the pipes are asked to hold: Linux gives that to everybody, and 64 KiB where nobody asks."""
END = b"\nend\n"


class Wire(JSONSerializer):  # type: ignore[misc]  # pystorm is not typed
    """The messages of one task. Takes the place of a serializer that has read nothing yet."""

    def __init__(self, former: JSONSerializer) -> None:
        """Raises OSError where the streams of `former` are no files."""
        # Its streams close their files with it.
        self._former = former
        self._reader_lock, self._writer_lock = former._reader_lock, former._writer_lock
        self.input_stream, self.output_stream = former.input_stream, former.output_stream
        self._in, self._out = self.input_stream.fileno(), self.output_stream.fileno()
        self._held = bytearray()
        """What was read and not handed out."""
        self._searched = 0
        """No message ends within so many bytes of it."""
        for descriptor in (self._in, self._out):
            with suppress(OSError):  # no pipe, or its user has too many
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def waits(self, seconds: float) -> bool:
        """Whether a message, or a part of one, comes within so many seconds."""
        return bool(self._held) or bool(select.select([self._in], [], [], max(seconds, 0.0))[0])

    def read_message(self) -> Any:
        """The next message. Raises StormWentAwayError at the end of the input."""
        with self._reader_lock:
            while True:
                end = self._held.find(END, self._searched)
                if end >= 0:
                    break
                self._searched = max(0, len(self._held) - len(END) + 1)
                read = os.read(self._in, PIPE_BYTES)
                if not read:
                    raise StormWentAwayError
                self._held += read
            text = bytes(memoryview(self._held)[:end])
            del self._held[: end + len(END)]
            self._searched = 0
        return msgspec.json.decode(text)

    def send_message(self, msg_dict: Any) -> None:
        """Write a message whole. Raises StormWentAwayError where nobody reads any more."""
        with self._writer_lock:
            left = memoryview(self.serialize_dict(msg_dict))
            try:
                while left:
                    left = left[os.write(self._out, left) :]
            except OSError as error:
                raise StormWentAwayError from error

    def serialize_dict(self, msg_dict: Any) -> bytes:
        """A message as it stands on the wire."""
        try:
            return msgspec.json.encode(msg_dict) + END
        except (TypeError, ValueError):  # a text that is no UTF-8, or an object that pystorm's own way knows
            return bytes(super().serialize_dict(msg_dict).encode())


def in_own_process(serializer: Any) -> Any:
    """Called where a task starts in a process of its own: its serializer, `wired`.

    What was imported is never garbage: Python's collector, which took 3 % of all work, looks at it no more.
    """
    collect_rarely()
    return wired(serializer)


def wired(serializer: Any) -> Any:
    """A serializer of pystorm as a `Wire`, where it speaks over files."""
    with suppress(OSError, UnsupportedOperation, AttributeError):
        return Wire(serializer) if isinstance(serializer, JSONSerializer) else serializer
    return serializer
