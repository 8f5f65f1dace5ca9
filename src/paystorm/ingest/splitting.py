"""Bodies of batches, cut into the bytes of single events as they come in: never the whole body in memory."""

import codecs
import json
import re
from typing import Protocol

import msgspec

from paystorm.ingest.problems import Problem

WHOLE_BYTES = 1 << 20
"""A JSON list up to this size is read at once, and taken as a whole or not at all."""
_LONGEST_NUMBER = 1000
_space = re.compile(r"[ \t\n\r]*").match
_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_raw_decode = json.JSONDecoder().raw_decode


class Splitter(Protocol):
    """Cuts a body into events."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that are whole by now. Raises Problem where the rest cannot be read."""
        ...

    def finish(self) -> list[bytes]:
        """The events left at the end of the body. Raises Problem where it ends too early."""
        ...


class Lines:
    """NDJSON: an event a line; empty lines are passed over."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = b""
        self._long = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """As `Splitter.feed`. Of a line that is too long only so much is kept that it is refused as too large."""
        lines = chunk.split(b"\n")
        if len(lines) == 1:
            self._keep(chunk)
            return []
        first = self._rest + lines[0] if not self._long else self._rest
        self._rest, self._long = b"", False
        out = [first, *lines[1:-1]]
        self._keep(lines[-1])
        return [line for line in out if line and not line.isspace()]

    def _keep(self, part: bytes) -> None:
        if not self._long:
            self._rest += part
            self._long = len(self._rest) > self._max_bytes

    def finish(self) -> list[bytes]:
        """As `Splitter.finish`: the last line needs no newline."""
        rest, self._rest = self._rest, b""
        return [rest] if rest and not rest.isspace() else []


class Items:
    """A JSON list of events."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._start = bytearray()
        self._streamed = False
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._after = "["
        """What is wanted next: [ the list; first or , an item; ] nothing more."""
        self._broken: Problem | None = None

    def feed(self, chunk: bytes) -> list[bytes]:
        """As `Splitter.feed`."""
        if not self._streamed:
            self._start += chunk
            if len(self._start) <= WHOLE_BYTES:
                return []
            self._streamed = True
            chunk = bytes(self._start)
            self._start.clear()
        return self._cut(chunk, False)

    def finish(self) -> list[bytes]:
        """As `Splitter.finish`."""
        if self._streamed:
            return self._cut(b"", True)
        body = bytes(self._start)
        try:
            body.decode()
            return [bytes(item) for item in _raw_list(body)]
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise _problem(error) from None

    def _cut(self, chunk: bytes, last: bool) -> list[bytes]:
        if self._broken is not None:
            raise self._broken
        try:
            self._text += self._decoder.decode(chunk, last)
        except UnicodeDecodeError as error:
            raise Problem("not_json", f"not UTF-8: {error.reason}") from None
        text, at = self._text, 0
        out: list[bytes] = []
        try:
            while True:
                start = self._skip(text, at)
                if start == len(text):
                    at = start
                    break
                if self._after == "]":
                    raise Problem("not_json", "text after the list")
                if self._after == "[":
                    if text[start] != "[":
                        raise Problem("not_json", "a list of events is wanted")
                    self._after, at = "first", start + 1
                    continue
                if self._after == "first" and text[start] == "]":
                    self._after, at = "]", start + 1
                    continue
                end = self._item(text, start, last)
                if end is None:
                    at = start
                    break
                behind = self._skip(text, end)
                if behind == len(text):
                    if behind > end:  # of the blanks behind it one is enough to know that it has ended
                        text, at = text[start:end] + " ", 0
                    else:
                        at = start
                    break
                if not last and text[behind] in ".eE+-" and len(text) - start < _LONGEST_NUMBER:
                    at = start  # a number was cut
                    break
                if text[behind] not in ",]":
                    raise Problem("not_json", "a comma or the end of the list is wanted")
                out.append(text[start:end].encode())
                self._after, at = "," if text[behind] == "," else "]", behind + 1
        except Problem as problem:
            self._broken = problem
            if not out:
                raise
            return out  # those before are taken; the next call tells
        self._text = text[at:]
        if last and (self._after != "]" or self._text):
            raise Problem("not_json", "the list does not end")
        return out

    @staticmethod
    def _skip(text: str, at: int) -> int:
        match = _space(text, at)
        assert match is not None
        return match.end()

    def _item(self, text: str, start: int, last: bool) -> int | None:
        """Where the item that starts here ends; None where that has not come yet."""
        try:
            return int(_raw_decode(text, start)[1])
        except RecursionError:
            raise Problem("too_deep", "nested too deeply") from None
        except ValueError as error:
            if last or len(text) - start > self._max_bytes + WHOLE_BYTES:
                raise Problem("not_json", f"from here on: {error}"[:200]) from None
            return None


def _problem(error: Exception) -> Problem:
    if isinstance(error, RecursionError):
        return Problem("too_deep", "nested too deeply")
    if isinstance(error, msgspec.ValidationError):
        return Problem("invalid_envelope", f"a list of events is wanted: {error}"[:200])
    return Problem("not_json", str(error)[:200])
