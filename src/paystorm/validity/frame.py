"""The columns of valid events, and frames of them."""

from collections.abc import Sequence

import polars as pl

from paystorm.errors import ConfigError
from paystorm.source import Field, Source
from paystorm.validity.exact import Event

MAX_DIGITS = 38
"""Digits of a polars Decimal."""
TIME = pl.Datetime("us")
"""Without a zone, meaning UTC."""


def column_type(field: Field) -> pl.DataType:
    """The polars type of a declared field. Raises ConfigError where an amount could need more than 38 digits."""
    if field.type == "amount":
        if field.integer_digits + field.fraction_digits > MAX_DIGITS:
            raise ConfigError(
                f"field {field.name}: integer_digits + fraction_digits must be at most {MAX_DIGITS}, "
                f"got {field.integer_digits + field.fraction_digits}"
            )
        return pl.Decimal(MAX_DIGITS, field.fraction_digits)
    if field.type == "integer":
        return pl.Int64()
    return TIME if field.type == "time" else pl.String()


def event_schema(source: Source) -> dict[str, pl.DataType]:
    """Column names and types of valid events, in order. Raises ConfigError as `column_type` does."""
    schema: dict[str, pl.DataType] = {
        "log_offset": pl.Int64(),
        "event_id": pl.String(),
        "application": pl.String(),
        "received_at": TIME,
        "event_time": TIME,
    }
    schema.update({f.name: column_type(f) for f in source.fields if f.name != source.event_time})
    schema["data"] = pl.String()
    return schema


def event_frame(schema: dict[str, pl.DataType], events: Sequence[Event]) -> pl.DataFrame:
    """Events of the exact path as columns."""
    columns = list(zip(*events, strict=True)) if events else [()] * len(schema)
    return pl.DataFrame(
        [_column(name, dtype, values) for (name, dtype), values in zip(schema.items(), columns, strict=True)]
    )


def _column(name: str, dtype: pl.DataType, values: Sequence[object]) -> pl.Series:
    if isinstance(dtype, pl.Datetime):
        return pl.Series(name, values, pl.Int64).cast(TIME)
    if isinstance(dtype, pl.Decimal):
        # By way of plain digits: exact, whatever exponent the Decimal carries.
        texts = [None if value is None else f"{value:f}" for value in values]
        return pl.Series(name, texts, pl.String).cast(dtype)
    return pl.Series(name, values, dtype)
