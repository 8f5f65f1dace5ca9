"""Parts of lines as columns of text, without a copy of each: Arrow's text columns are offsets into a buffer.

polars makes no column of a buffer by itself; it takes one over by Arrow's C interface, which nanoarrow speaks.
"""

import nanoarrow as na
import numpy as np
import polars as pl

from paystorm.validity.words import Bytes, Ints

Span = tuple[Ints, Ints]
"""Where a value starts and ends in the buffer, for each line; the lines ascending."""


def cut(buffer: Bytes, span: Span) -> pl.Series:
    """The texts of a span. The caller vouches for it that each is UTF-8: polars believes it."""
    starts, ends = span
    # Texts lie end to end in Arrow: what stands between two values is a text too, and passed over.
    offsets = np.empty(2 * len(starts) + 1, dtype=np.int64)
    offsets[0:-1:2] = starts
    offsets[1::2] = ends
    offsets[-1] = offsets[-2] if len(starts) else 0
    texts = pl.Series(na.c_array_from_buffers(na.large_string(), 2 * len(starts), [None, offsets, buffer]))
    return texts[pl.Series(np.arange(0, len(texts), 2, dtype=np.uint32))]
