"""Checks of many values at once, as polars expressions. What is not plainly right is left to the exact path."""

from collections.abc import Callable

import polars as pl

from paystorm.source import CURRENCY_MAX, ID_MAX, TEXT_MAX, Field

Reading = tuple[pl.Expr, pl.Expr]
"""Of a column of literal texts: the values, and whether each is plainly right (null: not).

Times are Int64, microseconds since 1970-01-01 UTC, and right only if also `in_years` (apart, because an expression that
is used twice is computed twice). Where a text is not right, its value means nothing.
"""
Reader = Callable[[pl.Expr], Reading]

LENGTHS = {"id": (1, ID_MAX), "currency": (1, CURRENCY_MAX), "text": (0, TEXT_MAX)}
"""Least and most characters, of types of which nothing else is asked."""
_NUMBER = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$"
_INTEGER = r"^-?(?:0|[1-9][0-9]{0,17})$"
_CLOCK = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_ZONE = r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_CLOCK_LENGTH = len("2026-01-01T00:00:00")
_YEAR_1 = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z, microseconds since 1970-01-01 UTC."""
_YEAR_10000 = 253_402_300_800_000_000


def in_years(moments: pl.Expr) -> pl.Expr:
    """Whether each moment is within the years 1 to 9999. An impossible date is null here, and so is the answer."""
    return moments.is_between(_YEAR_1, _YEAR_10000, closed="left")


def is_number(texts: pl.Expr) -> pl.Expr:
    """Whether each text follows JSON's grammar of a number."""
    return texts.str.contains(_NUMBER)


def reader(field: Field, dtype: pl.DataType) -> Reader:
    """What reads a declared field of the column type `dtype`."""
    if field.type == "amount":
        return _amount(field, dtype)
    if field.type == "integer":
        return lambda texts: (texts.cast(pl.Int64, strict=False), texts.str.contains(_INTEGER))
    if field.type == "time":
        return time_reader(field.zoneless_utc)
    if field.type == "choice":
        return lambda texts: (texts, texts.is_in(list(field.values)))
    return text_reader(*LENGTHS[field.type])


def text_reader(least: int, most: int) -> Reader:
    """Reads texts of `least` to `most` characters."""
    return lambda texts: (texts, texts.str.len_chars().is_between(least, most))


def time_reader(zoneless_utc: bool) -> Reader:
    """Reads times; those without a zone only where they mean UTC."""

    def read(texts: pl.Expr) -> Reading:
        right = texts.str.contains(rf"^{_CLOCK}(?:\.[0-9]+)?{_ZONE}{'?' if zoneless_utc else ''}$")
        clock = texts.str.slice(0, _CLOCK_LENGTH)
        moments = clock.str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="us", strict=False).to_physical()
        moments = moments + _micros(texts) - _east(texts)
        return moments, right

    return read


def _micros(texts: pl.Expr) -> pl.Expr:
    digits = texts.str.extract(r"\.([0-9]{1,6})")
    return digits.str.pad_end(6, "0").cast(pl.Int64, strict=False).fill_null(0)


def _east(texts: pl.Expr) -> pl.Expr:
    """Microseconds east of UTC of the zone that a time ends with."""
    zone = texts.str.extract(r"([+-][0-9]{2}:[0-9]{2})$")
    hours = zone.str.slice(1, 2).cast(pl.Int64, strict=False)
    minutes = zone.str.slice(4, 2).cast(pl.Int64, strict=False)
    size = (hours * 60 + minutes) * 60_000_000
    return pl.when(zone.str.starts_with("-")).then(-size).otherwise(size).fill_null(0)


def _amount(field: Field, dtype: pl.DataType) -> Reader:
    """Reads plain decimal numbers with no more digits written than the field may have."""
    whole = f"(?:0|[1-9][0-9]{{0,{field.integer_digits - 1}}})" if field.integer_digits > 0 else "0"
    fraction = rf"(?:\.[0-9]{{1,{field.fraction_digits}}})?" if field.fraction_digits > 0 else ""
    pattern = f"^{whole}{fraction}$"
    return lambda texts: (texts.cast(dtype, strict=False), texts.str.contains(pattern))
