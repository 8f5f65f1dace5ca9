"""Searching and reading bytes of many lines at once, eight at a time.

A *word* is the eight bytes from some place on, as a little-endian 64-bit number; numpy gathers the words of any places
of a buffer in one step. The tricks with whole words are those of H. S. Warren, Hacker's Delight, ch. 6 and 7.
"""

from datetime import date

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

WORD = 8
_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)

TIME_LENGTH = len("2026-01-01T00:00:00Z")
_FIRST_YEAR, _LAST_YEAR = 1900, 2199
_NO_DAY = -(2**31)


def gather(buffer: Bytes, places: Ints, count: int) -> list[Words]:
    """The first, second, … word from each place on. The places must be at least 8 × count before the buffer's end."""
    size = WORD * count
    blocks: npt.NDArray[np.void] = np.ndarray(
        (len(buffer) - size + 1,), dtype=f"V{size}", buffer=buffer.data, strides=(1,)
    )  # one block at every byte: a view, not a copy; fetching a long one costs no more than a short one
    found: Words = blocks[places].view("<u8").reshape(-1, count)
    return [found[:, i] for i in range(count)]


def word_at(block: list[Words], byte: int) -> Words:
    """The word from a byte of the block on; what would lie behind the block is 0."""
    first, shift = divmod(byte, WORD)
    if shift == 0:
        return block[first]
    found: Words = block[first] >> np.uint64(8 * shift)
    if first + 1 < len(block):
        found |= block[first + 1] << np.uint64(64 - 8 * shift)
    return found


def word(text: bytes) -> np.uint64:
    """Up to eight bytes as a word."""
    return np.uint64(int.from_bytes(text, "little"))


def occurrences(values: bytes, text: bytes, pair: int = 0) -> list[int]:
    """Where `text` stands in `values`, ascending: six times as fast as bytes.find, and without the interpreter lock.

    Its two bytes from `pair` on are looked for first: choose a pair that is rare, or each costs a look.
    """
    wanted = np.frombuffer(text, "<u2", count=1, offset=pair)[0]
    places: list[int] = []
    for odd in range(min(2, len(values))):
        halves = np.frombuffer(values, "<u2", count=(len(values) - odd) // 2, offset=odd)
        places += (np.flatnonzero(halves == wanted) * 2 + (odd - pair)).tolist()
    return sorted(at for at in places if at >= 0 and values.startswith(text, at))


def find(buffer: Bytes, starts: Ints, firsts: Words, byte: int, steps: int) -> tuple[Ints, Ints]:
    """Where `byte` next stands from each start on, and which starts have none within `steps` words.

    firsts: the word at each start.
    """
    needle = np.uint64(byte) * _ONES
    ends = starts + _until(firsts, needle)
    missing = np.flatnonzero(ends - starts == WORD)
    for _ in range(steps - 1):
        if not len(missing):
            break
        at = ends[missing]
        further = _until(gather(buffer, at, 1)[0], needle)
        ends[missing] = at + further
        missing = missing[further == WORD]
    return ends, missing


def _until(found: Words, needle: np.uint64) -> npt.NDArray[np.uint8]:
    """How many bytes of each word stand before the needle's byte; 8 where it is not in it."""
    zero_there = found ^ needle
    # The lowest bit set marks the first byte that is zero; bits above it may be wrong.
    marks = (zero_there - _ONES) & ~zero_there & _HIGHS
    bits_below: npt.NDArray[np.uint8] = np.bitwise_count((marks - np.uint64(1)) & ~marks)
    return bits_below >> np.uint8(3)


def read_plain_times(day_word: Words, clock_word: Words, last_word: Words) -> tuple[Ints, Bools]:
    """Times written as 2026-01-01T00:00:00Z, as microseconds since 1970-01-01 UTC, and which are such times.

    The words are the three that each time starts with. Years outside 1900 to 2199 are left to others.
    """
    good = _shaped(day_word, b"0000-00-") & _shaped(clock_word, b"00T00:00") & _shaped(last_word, b":00Z")
    year = _two_digits(day_word, 0) * 100 + _two_digits(day_word, 2)
    month = np.minimum(_two_digits(day_word, 5), 13)
    day = np.minimum(_two_digits(clock_word, 0), 32)
    hour, minute, second = _two_digits(clock_word, 3), _two_digits(clock_word, 6), _two_digits(last_word, 1)
    good &= (year >= _FIRST_YEAR) & (year <= _LAST_YEAR) & (hour < 24) & (minute < 60) & (second < 60)
    days = _DAYS[np.clip(year - _FIRST_YEAR, 0, _LAST_YEAR - _FIRST_YEAR) * (14 * 33) + month * 33 + day]
    good &= days != _NO_DAY
    return (days * 86_400 + hour * 3600 + minute * 60 + second) * 1_000_000, good


def _shaped(found: Words, shape: bytes) -> Bools:
    """Whether each word starts as `shape`, up to eight bytes, where a 0 stands for any digit."""
    digits = bytes(0xFF if byte == ord("0") else 0 for byte in shape)
    others = bytes(byte ^ 0xFF for byte in digits)
    # A digit is 0x30 to 0x39: the high half is 3, and still is once 6 is added (which carries into no other byte).
    high = word(bytes(byte & 0xF0 for byte in digits))
    six = word(bytes(byte & 0x06 for byte in digits))
    threes = word(bytes(byte & 0x30 for byte in digits))
    fixed = word(bytes(a & b for a, b in zip(shape, others, strict=True)))
    right: Bools = (found & (high | word(others))) == (threes | fixed)
    right &= ((found + six) & high) == threes
    return right


def _two_digits(found: Words, byte: int) -> Ints:
    tens = (found >> np.uint64(8 * byte)) & np.uint64(15)
    ones = (found >> np.uint64(8 * byte + 8)) & np.uint64(15)
    return (tens * np.uint64(10) + ones).view(np.int64)


def _days() -> Ints:
    """Days since 1970-01-01, by (year - _FIRST_YEAR, month, day); _NO_DAY where there is none."""
    table = np.full((_LAST_YEAR - _FIRST_YEAR + 1, 14, 33), _NO_DAY, dtype=np.int64)
    start = date(_FIRST_YEAR, 1, 1).toordinal()
    for ordinal in range(start, date(_LAST_YEAR, 12, 31).toordinal() + 1):
        day = date.fromordinal(ordinal)
        table[day.year - _FIRST_YEAR, day.month, day.day] = ordinal - 719_163  # date(1970, 1, 1)
    return table.reshape(-1)


_DAYS = _days()
