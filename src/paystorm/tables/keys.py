"""Row keys: tuples of text and whole numbers as bytes that sort as the tuples do.

Text is UTF-8 with NUL written as 00 FF and ended by 00 00; a number is eight bytes, big-endian, with the sign bit
turned. Each part starts with a byte for its type, so that keys can be taken apart again.
"""

from collections.abc import Iterable

Part = str | int

_TEXT = b"\x01"
_NUMBER = b"\x02"
_OFFSET = 1 << 63


def key(*parts: Part) -> bytes:
    """The key of a tuple. Raises OverflowError for a number outside 64 bits."""
    out = bytearray()
    for part in parts:
        if isinstance(part, str):
            out += _TEXT + part.encode("utf-8", "surrogatepass").replace(b"\x00", b"\x00\xff") + b"\x00\x00"
        else:
            out += _NUMBER + (part + _OFFSET).to_bytes(8, "big")
    return bytes(out)


def parts(encoded: bytes) -> tuple[Part, ...]:
    """The tuple of a key. Raises ValueError where it is not one."""
    out: list[Part] = []
    i = 0
    while i < len(encoded):
        mark = encoded[i : i + 1]
        i += 1
        if mark == _NUMBER and i + 8 <= len(encoded):
            out.append(int.from_bytes(encoded[i : i + 8], "big") - _OFFSET)
            i += 8
        elif mark == _TEXT:
            end = encoded.find(b"\x00\x00", i)
            if end == -1:
                raise ValueError(f"not a row key: {encoded!r}")
            out.append(encoded[i:end].replace(b"\x00\xff", b"\x00").decode("utf-8", "surrogatepass"))
            i = end + 2
        else:
            raise ValueError(f"not a row key: {encoded!r}")
    return tuple(out)


def prefix_end(prefix: bytes) -> bytes | None:
    """The first key behind every key that starts with `prefix`; None where there is none (all FF)."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def under(*head: Part) -> tuple[bytes, bytes | None]:
    """(start, stop) of the keys whose first parts are `head`, for a scan."""
    start = key(*head)
    return start, prefix_end(start)


def keys(tuples: Iterable[tuple[Part, ...]]) -> list[bytes]:
    """`key` of each."""
    return [key(*t) for t in tuples]
