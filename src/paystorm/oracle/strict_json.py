"""Strict RFC 8259 JSON on top of Python's own json, which is laxer in what it takes and says less of what it read.

An object becomes a tuple of (key, value) pairs, so that repeated keys are seen; an array is a list; a number is a
`Number`, its literal text; strings, booleans and null are Python's.
"""

import json
import re
from typing import Any, NamedTuple, NoReturn

MAX_DEPTH = 64
"""Levels of arrays and objects; the outermost is level 1."""

_space = re.compile(r"[ \t\n\r]*").match
_STRING = r'"(?:[^"\\]|\\.)*+"'
_string_or_bracket = re.compile(_STRING + r"|[\[\]{}]", re.DOTALL)
_string = re.compile(_STRING, re.DOTALL)
_surrogate_escape = re.compile(r"\\u[dD][89a-fA-F]")
_surrogate = re.compile("[\ud800-\udfff]")


class NotJsonError(ValueError):
    """The text is not strict JSON."""


class Number(str):
    """The literal text of a JSON number: no figure is made of it here, so none can be rounded or be too long."""

    __slots__ = ()


class Member(NamedTuple):
    """A member of the outermost object, with the literal text of its value."""

    key: str
    value: Any
    text: str


def _refused(constant: str) -> NoReturn:
    raise NotJsonError(constant)


_decoder = json.JSONDecoder(
    object_pairs_hook=tuple, parse_float=Number, parse_int=Number, parse_constant=_refused, strict=True
)


def parse(text: str) -> list[Member] | None:
    """The members of the outermost object, in order, or None where the value is not an object.

    Raises NotJsonError where the text is not JSON, a string holds a lone surrogate, or the depth is above MAX_DEPTH.
    """
    _check_depth(text)
    try:
        members = _members(text)
    except (ValueError, RecursionError) as error:
        raise NotJsonError(str(error)) from error
    _check_surrogates(text)
    return members


def _members(text: str) -> list[Member] | None:
    at = _end_of_space(text, 0)
    if text[at : at + 1] != "{":
        _, end = _decoder.raw_decode(text, at)
        _expect_end(text, end)
        return None
    found: list[Member] = []
    at = _end_of_space(text, at + 1)
    if text[at : at + 1] == "}":
        _expect_end(text, at + 1)
        return found
    while True:
        if text[at : at + 1] != '"':
            raise NotJsonError("a key must be a string")
        key, at = _decoder.raw_decode(text, at)
        at = _end_of_space(text, at)
        if text[at : at + 1] != ":":
            raise NotJsonError("a key is followed by a colon")
        start = _end_of_space(text, at + 1)
        value, end = _decoder.raw_decode(text, start)
        found.append(Member(key, value, text[start:end]))
        at = _end_of_space(text, end)
        mark = text[at : at + 1]
        if mark == "}":
            _expect_end(text, at + 1)
            return found
        if mark != ",":
            raise NotJsonError("members are parted by commas")
        at = _end_of_space(text, at + 1)


def _end_of_space(text: str, at: int) -> int:
    found = _space(text, at)
    assert found is not None  # the pattern matches the empty text
    return found.end()


def _expect_end(text: str, at: int) -> None:
    if _end_of_space(text, at) != len(text):
        raise NotJsonError("something follows the value")


def _check_depth(text: str) -> None:
    """Measured before parsing, which would recurse. Of a text that is not JSON the depth may be wrong: no matter."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for found in _string_or_bracket.finditer(text):
        mark = found[0]
        if mark in ("[", "{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise NotJsonError(f"nested deeper than {MAX_DEPTH}")
        elif mark in ("]", "}"):
            depth -= 1


def _check_surrogates(text: str) -> None:
    """Python joins the two halves of an escaped pair; what is left of them in a string stands alone."""
    if not _surrogate_escape.search(text):
        return
    for found in _string.finditer(text):
        if _surrogate_escape.search(found[0]) and _surrogate.search(json.loads(found[0])):
            raise NotJsonError("a lone surrogate")
