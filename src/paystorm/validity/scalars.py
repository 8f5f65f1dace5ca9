"""Single values from their literal text: amounts, integers, times. Exact, never through a binary float."""

import re
from datetime import datetime, timedelta
from decimal import Decimal

from paystorm.validity.codes import Code

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EPOCH = datetime(1970, 1, 1)
MICROSECOND = timedelta(microseconds=1)

_NUMBER = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))?"
)
_EXPONENT_DIGITS = 15
"""An exponent of more digits moves the point past any digit that a record could hold."""


def read_amount(literal: str, integer_digits: int, fraction_digits: int) -> Decimal | Code:
    """The amount that `literal` (a JSON number's grammar) stands for, with no more fraction digits than it needs."""
    match = _NUMBER.fullmatch(literal)
    if match is None:
        return Code.NOT_A_NUMBER
    sign, whole, fraction, exponent_sign, exponent = match.groups()
    written = whole + (fraction or "")
    digits = written.lstrip("0")
    point = len(whole) - (len(written) - len(digits))  # where the point stands, from the first digit that is not 0
    digits = digits.rstrip("0")
    if not digits:
        return Decimal(0)
    if sign:
        return Code.NEGATIVE
    if exponent is not None:
        power = exponent.lstrip("0")
        if len(power) > _EXPONENT_DIGITS:
            return Code.TOO_MANY_DIGITS
        point += int(exponent_sign + (power or "0"))
    if point > integer_digits or len(digits) - point > fraction_digits:
        return Code.TOO_MANY_DIGITS
    # Not by arithmetic: that would round to the 28 digits of the default context.
    return Decimal(f"{digits}E{point - len(digits)}")


def read_integer(literal: str) -> int | Code:
    """The whole number within 64 bits that a JSON number's literal text stands for."""
    if len(literal) > 20 or _INTEGER.fullmatch(literal) is None:
        return Code.NOT_AN_INTEGER
    figure = int(literal)
    return figure if INT64_MIN <= figure <= INT64_MAX else Code.NOT_AN_INTEGER


def read_time(literal: str, zoneless_utc: bool) -> int | Code:
    """Microseconds since 1970-01-01 UTC of an RFC 3339 time; digits past microseconds are cut."""
    match = _TIME.fullmatch(literal)
    if match is None:
        return Code.BAD_TIME
    year, month, day, hour, minute, second, fraction, zulu, sign, zone_hours, zone_minutes = match.groups()
    micro = int(fraction[:6].ljust(6, "0")) if fraction else 0
    try:
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), micro)
    except ValueError:
        return Code.BAD_TIME
    if zulu:
        return (local - EPOCH) // MICROSECOND
    if sign is None:
        return (local - EPOCH) // MICROSECOND if zoneless_utc else Code.NO_ZONE
    if int(zone_hours) > 23 or int(zone_minutes) > 59:
        return Code.BAD_TIME
    east = timedelta(hours=int(zone_hours), minutes=int(zone_minutes))
    try:
        utc = local - east if sign == "+" else local + east
    except OverflowError:  # outside the years 1 to 9999
        return Code.BAD_TIME
    return (utc - EPOCH) // MICROSECOND
