"""Lines of one template, cut into columns of text.

The bytes around each value are overwritten by a separator that no line holds, and polars' CSV reader does the rest: it
makes text columns of a byte buffer faster than anything else at hand.
"""

import io

import numpy as np
import polars as pl

from paystorm.validity.words import Bytes, Ints

_MARK = 1
"""The separator: lines that come here hold no control character."""
Span = tuple[Ints, Ints]
"""Where a value starts and ends in the buffer, for each line."""


def cut(buffer: Bytes, starts: Ints, ends: Ints, spans: list[Span]) -> pl.DataFrame | None:
    """The texts of the spans as columns `0`, `1`, …; None where the reader did not give what it should.

    starts, ends: where the lines lie; each has a newline behind it. spans: in the order in which they stand in a line,
    apart from each other by two bytes or more. The bytes around the spans are overwritten in the buffer, and stay so:
    a copy of it would cost more than all the rest here.
    """
    for start, end in spans:
        buffer[start - 1] = _MARK
        buffer[end] = _MARK
    text = _lines(buffer, starts, ends)
    frame = pl.read_csv(
        io.BytesIO(text),
        has_header=False,
        separator=chr(_MARK),
        quote_char=None,
        empty_string_is_null=False,
        schema={f"c{i}": pl.String for i in range(2 * len(spans) + 1)},
        columns=list(range(1, 2 * len(spans) + 1, 2)),
    )
    # By construction; held against all the same, because a shifted row would be silent.
    if frame.height != len(starts) or any(column.null_count() for column in frame.get_columns()):
        return None
    frame.columns = [str(i) for i in range(len(spans))]
    return frame


def _lines(buffer: Bytes, starts: Ints, ends: Ints) -> bytes:
    """The lines with their newlines, one after the other."""
    breaks = np.flatnonzero(starts[1:] != ends[:-1] + 1)
    first = starts[np.concatenate(([0], breaks + 1))].tolist()
    last = (ends[np.concatenate((breaks, [len(ends) - 1]))] + 1).tolist()
    view = buffer.data
    return b"".join([view[a:b] for a, b in zip(first, last, strict=True)])
