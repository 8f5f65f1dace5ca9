"""Strict JSON (RFC 8259) of one record: what the standard library's scanner takes, and what it should not take.

Its scanner, with hooks, keeps what validity needs and faster parsers drop: repeated keys, the literal text of numbers,
and where a value stands in the text. It lets by lone surrogates, NaN, and any depth; those are found here.
"""

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # it is there, but not in the types
from typing import Any, NamedTuple, NoReturn

MAX_DEPTH = 64


class Number(str):
    """The literal text of a JSON number. Another type than the text of a string, which is plain `str`."""

    __slots__ = ()


Members = tuple[tuple[str, Any], ...]
"""An object: its members in order, repeats included. Arrays are lists, so the two cannot be confused."""


class Member(NamedTuple):
    """A member of the outermost object."""

    key: str
    value: Any
    start: int
    """Where the value's literal text starts in the record's text, in characters."""
    end: int


class NotJsonError(ValueError):
    """The text is not strict JSON; the message says where."""


def _refuse(constant: str) -> NoReturn:
    raise NotJsonError(f"{constant} is not JSON")


_scan = json.JSONDecoder(
    object_pairs_hook=tuple, parse_int=Number, parse_float=Number, parse_constant=_refuse
).scan_once  # type: ignore[attr-defined]  # likewise
_space = re.compile(r"[ \t\n\r]*").match
_STRINGS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = re.compile(r"[\[\]{}]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def read_outermost(text: str) -> list[Member] | None:
    """The members of the object that `text` is; None where it is JSON of another kind. Raises NotJsonError."""
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(text)
    try:
        found = _read_object(text)
    except NotJsonError:
        raise
    except StopIteration as error:
        raise NotJsonError(f"no value at character {error.value}") from None
    except ValueError as error:
        raise NotJsonError(str(error)) from None
    if _SURROGATE_ESCAPE.search(text) is not None:
        _check_surrogates(_scan(text, _end(text, 0))[0])
    return found


def _end(text: str, at: int) -> int:
    """Where the white space from `at` on ends."""
    match = _space(text, at)
    assert match is not None
    return match.end()


def _read_object(text: str) -> list[Member] | None:
    at = _end(text, 0)
    if text[at : at + 1] != "{":
        _, at = _scan(text, at)
        _finish(text, at)
        return None
    members: list[Member] = []
    at = _end(text, at + 1)
    if text[at : at + 1] == "}":
        _finish(text, at + 1)
        return members
    while True:
        if text[at : at + 1] != '"':
            raise NotJsonError(f"a key is wanted at character {at}")
        key, at = scanstring(text, at + 1, True)
        at = _end(text, at)
        if text[at : at + 1] != ":":
            raise NotJsonError(f"a colon is wanted at character {at}")
        start = _end(text, at + 1)
        value, end = _scan(text, start)
        members.append(Member(key, value, start, end))
        at = _end(text, end)
        after = text[at : at + 1]
        if after == "}":
            _finish(text, at + 1)
            return members
        if after != ",":
            raise NotJsonError(f"a comma or the end of the object is wanted at character {at}")
        at = _end(text, at + 1)


def _finish(text: str, at: int) -> None:
    end = _end(text, at)
    if end != len(text):
        raise NotJsonError(f"text after the value, at character {end}")


def _check_depth(text: str) -> None:
    """Raises NotJsonError where arrays and objects are nested too deep.

    Before the first error of text that is not JSON the count is right, which keeps the scanner from a depth that
    would end in a RecursionError; behind it the count may be wrong, and the text is `not_json` either way.
    """
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise NotJsonError(f"nested deeper than {MAX_DEPTH}")


def _check_surrogates(value: Any) -> None:
    """Raises NotJsonError where a string or key, at any depth, holds half of a pair."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, tuple | list):
            todo.extend(one)
        elif isinstance(one, str) and not one.isascii():
            try:
                one.encode()
            except UnicodeEncodeError:
                raise NotJsonError("a lone surrogate") from None
