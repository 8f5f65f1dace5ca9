"""Changes to inputs that know a little of JSON: values take the place of values, members come twice or go."""

import random
import re
from collections.abc import Iterator, Sequence

_VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|null|true|false')
_MEMBER = re.compile(rb'"(?:[^"\\]|\\.)*"\s*:\s*(?:"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|null|true|false)\s*,?')
_TEXTS = (
    *(
        b'""',
        b'"\\u0000"',
        b'"\\ud800"',
        b'"\xc3\xa9"',
        b'"\xf0\x9f\x98\x80"',
        b'"merchant"',
        b'"EUR"',
        b"null",
        b"{}",
        b"[]",
    ),
    *(b'"2026-01-01T12:00:00Z"', b'"2026-01-01T13:00:00Z"', b'"2026-01-01T13:00:01Z"', b'"2026-01-01T12:00:00"'),
    *(
        b'"2026-02-29T12:00:00Z"',
        b'"2026-01-01T12:00:60Z"',
        b'"2026-01-01t12:00:00.1234567-23:59"',
        b'"1999-12-31T23:59:59Z"',
    ),
    *(
        b'"2025-12-02T12:00:00Z"',
        b'"2025-12-02T11:59:59.999999Z"',
        b'"0000-01-01T00:00:00Z"',
        b'"9999-12-31T23:59:59-23:59"',
    ),
    *(
        b"9223372036854775807",
        b"9223372036854775808",
        b"-9223372036854775809",
        b"-0",
        b"-0.0",
        b"1e400",
        b"0e999999999",
    ),
)
_SIGNS = (b"[", b"{", b"}", b"]", b",", b":", b'"', b"\\", b"\n", b"\x00", b" ")
_KEPT = 0.02
"""Of the variants that are changed further."""
_LENGTHS = (1, 2, 3, 4, 15, 16, 17, 18, 19, 20, 21, 255, 256, 257)


def changed(data: bytes, rng: random.Random) -> bytes:
    """The input with one value or member changed; as it is where it has none."""
    found = list((_MEMBER if rng.random() < 0.25 else _VALUE).finditer(data))
    if not found:
        return data
    match = rng.choice(found)
    text = match[0]
    if match.re is _MEMBER:
        new = rng.choice((b"", text + text, text.rstrip(b",") + b"," + text))
    elif rng.random() < 0.5:
        new = rng.choice(_TEXTS)
    elif rng.random() < 0.5:
        new = b'"' + b"x" * rng.choice(_LENGTHS) + b'"'
    else:
        new = _number(rng)
    return data[: match.start()] + new + data[match.end() :]


def _number(rng: random.Random) -> bytes:
    """A number that is near some limit, as JSON has it or as text."""
    text = b"9" * rng.choice(_LENGTHS[:11])
    if rng.random() < 0.5:
        text += b"." + b"0" * rng.choice((0, 1, 16, 17, 18)) + b"1"
    if rng.random() < 0.25:
        text += b"e%d" % rng.choice((-20, -18, -1, 0, 1, 17, 20))
    return text if rng.random() < 0.5 else b'"' + text + b'"'


def variants(corpus: Sequence[bytes], seed: int, most: int) -> Iterator[bytes]:
    """Inputs without end, of at most `most` bytes, made from those of the corpus: the same for the same seed."""
    rng = random.Random(seed)
    pool = list(corpus)
    while True:
        data = rng.choice(pool)
        for _ in range(rng.choice((1, 1, 2, 3, 5, 9, 20))):
            data = changed(data, rng) if rng.random() < 0.5 else _broken(data, rng, pool)
        data = data[:most]
        if rng.random() < _KEPT:
            pool.append(data)
        yield data


def _broken(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """The input with a byte changed, a sign put in, a piece taken out or repeated, or the end of another one."""
    low, high = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    match rng.randrange(5):
        case 0:
            return data[:low] + bytes([rng.randrange(256)]) + data[low + 1 :]
        case 1:
            return data[:low] + rng.choice(_SIGNS) + data[low:]
        case 2:
            return data[:low] + data[high:]
        case 3:
            return data[:high] + data[low:high] * rng.choice((1, 1, 2, 8)) + data[high:]
        case _:
            other = rng.choice(pool)
            return data[:low] + other[rng.randint(0, len(other)) :]
