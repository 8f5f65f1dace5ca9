"""The bytes of a replay: what is changed in a record, and how it says what it replays. Pure.

What is not changed stays as it stands: numbers keep their literal text.
"""

import difflib
import json
from collections.abc import Mapping, Sequence

import msgspec

from paystorm.errors import UsageError
from paystorm.source import Source
from paystorm.validity import ReplayOf
from paystorm.validity.strict import NotJsonError, read_outermost

BY_LITERAL = frozenset({"amount", "integer"})
"""Types of field whose values may be numbers: for these a bare number of `--set` is one."""
MAX_STEPS = 64

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def with_replay_of(value: bytes, replayed: ReplayOf) -> bytes | None:
    """The record with `replay_of`, every other byte as it was; None: it is no JSON object, which cannot carry it."""
    try:
        text = value.decode()
        members = read_outermost(text)
    except (UnicodeDecodeError, NotJsonError):
        return None
    if members is None:
        return None
    named = json.dumps(replayed._asdict(), ensure_ascii=False, separators=(",", ":"))
    there = next((m for m in members if m.key == "replay_of"), None)
    if there is not None:  # the letter is a replay itself, and failed
        return f"{text[: there.start]}{named}{text[there.end :]}".encode()
    start = text.index("{") + 1
    return f'{text[:start]}"replay_of":{named}{"," if members else ""}{text[start:]}'.encode()


def changed(value: bytes, sets: Mapping[str, str], unsets: Sequence[str], source: Source) -> bytes:
    """The record with the values at paths such as `data.amount` set, and others taken out.

    A value is JSON where it is JSON, else text; a bare number is text where the field is declared to be. Raises
    UsageError where the record is no JSON object, or a path leads nowhere.
    """
    for path, text in sets.items():
        value = _at(value, _steps(path), _literal(path, text, source), path)
    for path in unsets:
        value = _at(value, _steps(path), None, path)
    return value


def parse_sets(texts: Sequence[str]) -> dict[str, str]:
    """`path=value` texts. Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise UsageError(f"--set must be path=value, such as data.amount=12.50, got {text!r}")
        if path in found:
            raise UsageError(f"--set {path}: named twice")
        found[path] = value
    return found


def _steps(path: str) -> list[str]:
    steps = path.split(".")
    if not all(steps) or len(steps) > MAX_STEPS:
        raise UsageError(f"path {path!r}: names joined by dots are wanted, such as data.amount")
    return steps


def _literal(path: str, text: str, source: Source) -> bytes:
    """The JSON text of a value."""
    steps = path.split(".")
    declared = {f.name: f.type for f in source.fields} if steps[0] == "data" and len(steps) == 2 else {}
    textual = len(steps) == 1 or declared.get(steps[-1], "amount") not in BY_LITERAL
    try:
        read_outermost(text)
    except NotJsonError:
        return _encode(text)
    plain = text.strip()
    if textual and plain[:1] not in ('"', "{", "[") and plain != "null":
        return _encode(text)
    return plain.encode()


def _at(value: bytes, steps: list[str], literal: bytes | None, path: str) -> bytes:
    """The object with what stands at the end of the steps replaced (None: taken out)."""
    try:
        members = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UsageError(
            f"{path}: what should hold {steps[0]!r} is no JSON object: give the whole record with --value FILE"
        ) from None
    step = steps[0]
    if len(steps) == 1:
        if literal is None:
            if step not in members:
                raise UsageError(f"--unset {path}: there is no {step!r}")
            del members[step]
        else:
            members[step] = msgspec.Raw(literal)
    else:
        inner = members.get(step)
        if inner is None:
            raise UsageError(f"{path}: there is no {step!r}")
        members[step] = msgspec.Raw(_at(bytes(inner), steps[1:], literal, path))
    return _encode(members)


def difference(old: bytes, new: bytes) -> list[str]:
    """The lines that differ, as `diff -u` shows them, without a head; JSON is laid out a member a line."""
    lines = difflib.unified_diff(_lines(old), _lines(new), lineterm="", n=1)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def _lines(value: bytes) -> list[str]:
    try:
        text = msgspec.json.format(value, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = value.decode(errors="backslashreplace")
    return text.split("\n")


def shown_value(value: bytes) -> str | None:
    """A record's value as text, or None where it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
