"""Amounts, whole numbers and times from their literal text (docs/validity.md).

Each reader raises WrongError with the code of what is wrong.
"""

import re
from datetime import date
from decimal import Decimal
from functools import lru_cache

SECOND = 1_000_000
"""Microseconds."""
DAY = 86_400 * SECOND
_EPOCH_DAY = date(1970, 1, 1).toordinal()
EARLIEST_DAY = date(1, 1, 1).toordinal() - _EPOCH_DAY
LATEST_DAY = date(9999, 12, 31).toordinal() - _EPOCH_DAY

_number = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?").fullmatch
_whole = re.compile(r"-?(?:0|[1-9][0-9]*)").fullmatch
_time = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))?"
).fullmatch

_FAR = 10**12
"""Stands for any exponent of more than 12 digits: beyond every declared number of digits, and no text is as long."""


class WrongError(Exception):
    """A value that is not what the field declares; `code` is from the closed list of docs/validity.md."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def amount(text: str, integer_digits: int, fraction_digits: int) -> Decimal:
    """The exact figure. Raises WrongError: not_a_number, negative, too_many_digits.

    Digits are counted on the text, so an exponent of a thousand million costs nothing.
    """
    match = _number(text)
    if match is None:
        raise WrongError("not_a_number")
    sign, whole, fraction, exponent_sign, exponent_text = match.groups()
    fraction = fraction or ""
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return Decimal(0)
    if sign:
        raise WrongError("negative")
    power = -len(fraction)
    if exponent_text:
        exponent_text = exponent_text.lstrip("0")
        size = _FAR if len(exponent_text) > 12 else int(exponent_text or "0")
        power += -size if exponent_sign == "-" else size
    significant = digits.rstrip("0")
    power += len(digits) - len(significant)
    if len(significant) + power > integer_digits or -power > fraction_digits:
        raise WrongError("too_many_digits")
    return Decimal(f"{significant}E{power}")


def integer(text: str) -> int:
    """A whole number of 64 bits with sign. Raises WrongError: not_an_integer."""
    # 64 bits are 19 digits; longer texts never reach int(), which refuses more than 4,300 digits with an error.
    if len(text) > 20 or not _whole(text):
        raise WrongError("not_an_integer")
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise WrongError("not_an_integer")
    return value


def time(text: str, zoneless_utc: bool) -> int:
    """Microseconds since 1970-01-01 UTC; digits past microseconds are cut. Raises WrongError: bad_time, no_zone."""
    match = _time(text)
    if match is None:
        raise WrongError("bad_time")
    day_text, hour, minute, second, fraction, utc, sign, zone_hour, zone_minute = match.groups()
    day = _day(day_text)
    if day is None or hour > "23" or minute > "59" or second > "59":
        raise WrongError("bad_time")
    seconds = int(hour) * 3600 + int(minute) * 60 + int(second)
    if sign:
        if zone_hour > "23" or zone_minute > "59":
            raise WrongError("bad_time")
        ahead = int(zone_hour) * 3600 + int(zone_minute) * 60
        seconds -= ahead if sign == "+" else -ahead
    elif not utc and not zoneless_utc:
        raise WrongError("no_zone")
    micros = int((fraction + "00000")[:6]) if fraction else 0
    at = day * DAY + seconds * SECOND + micros
    if not EARLIEST_DAY * DAY <= at < (LATEST_DAY + 1) * DAY:
        raise WrongError("bad_time")
    return at


@lru_cache(maxsize=4096)
def _day(text: str) -> int | None:
    """Days since 1970-01-01, or None where there is no such date (year 0000 included)."""
    try:
        return date(int(text[:4]), int(text[5:7]), int(text[8:10])).toordinal() - _EPOCH_DAY
    except ValueError:
        return None
