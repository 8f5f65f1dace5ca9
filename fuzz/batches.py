"""Any lines as a batch: the fast path takes what the exact path takes, with the same values, and nothing else.

The input is cut into lines, at most `MOST`; each stands in the batch so often that the fast path learns its shape,
among lines that are plainly valid.
"""

import numpy as np

from fuzz.records import LIMITS, NOON_MS, SOURCE
from paystorm.log.base import RecordBatch
from paystorm.validity import ExactValidator, Invalid, Validator, event_frame, event_schema, replay_claims

MOST = 4
BATCH = 64
"""Records of a batch: more than go the exact way only."""
PLAIN = (
    b'{"ApplicationRef":"shop","data":{"event_time":"2026-01-01T11:00:00Z","customer":"u1","amount":"12.50",'
    b'"currency":"EUR"}}'
)
_validator = Validator(SOURCE, SOURCE.topic, LIMITS)
"""One for all inputs: what it has learned of shapes before must change nothing."""
_exact = ExactValidator(SOURCE, SOURCE.topic, LIMITS)
_schema = event_schema(SOURCE)


def check(data: bytes) -> None:
    """Raises AssertionError where the two differ; whatever else is raised is a finding too."""
    lines = data.split(b"\n", MOST - 1)
    values = [lines[i % len(lines)] if i % 8 else PLAIN for i in range(BATCH)]
    batch = RecordBatch(
        topic=SOURCE.topic,
        partition=0,
        offsets=np.arange(100, 100 + BATCH, dtype=np.int64),
        timestamps=np.full(BATCH, NOON_MS, dtype=np.int64),
        values=b"".join(value + b"\n" for value in values),
        lengths=np.array([len(value) for value in values], dtype=np.int64),
        next=100 + BATCH,
    )
    frame, invalid = _validator.validate(batch)
    words = [_exact.check(0, 100 + i, NOON_MS, value) for i, value in enumerate(values)]
    assert invalid == [word for word in words if isinstance(word, Invalid)], lines
    expected = event_frame(_schema, [word for word in words if not isinstance(word, Invalid)])
    assert frame.schema == expected.schema
    assert frame.rows() == expected.rows(), lines
    replay_claims(batch, LIMITS)
