"""Rows of frames, and what is looked at one by one where there are few."""

import numpy as np
import polars as pl

from paystorm.rows import rows_of


def test_the_rows_of_a_frame_come_in_the_order_of_their_places() -> None:
    frame = pl.DataFrame({"n": [1, 2, None], "text": ["a", None, "c"], "at": [5, 6, 7]}).with_columns(
        pl.col("at").cast(pl.Datetime("us"))
    )
    places = np.array([2, 0, 0])
    assert rows_of(frame, places).equals(frame[places])
    assert rows_of(frame, places).schema == frame.schema
    assert rows_of(frame, np.array([], dtype=np.int64)).equals(frame.clear())
