"""The batch oracle: what the results must be, computed from the raw records alone (docs/oracle.md).

It is written apart from the streaming code and imports none of it, so that a mistake there cannot hide here: only the
standard library and DuckDB.
"""

from paystorm.oracle.compare import (
    compare,
    compare_counts,
    compare_events,
    compare_hits,
    compare_outcomes,
)
from paystorm.oracle.compute import Computed, compute
from paystorm.oracle.lists import ListHistory, check_crossings, check_denied
from paystorm.oracle.model import (
    Change,
    Count,
    Crossing,
    Denied,
    Difference,
    EventRow,
    Given,
    Held,
    Hit,
    OracleError,
    Outcome,
    Stored,
)

__all__ = [
    "Change",
    "Computed",
    "Count",
    "Crossing",
    "Denied",
    "Difference",
    "EventRow",
    "Given",
    "Held",
    "Hit",
    "ListHistory",
    "OracleError",
    "Outcome",
    "Stored",
    "check_crossings",
    "check_denied",
    "compare",
    "compare_counts",
    "compare_events",
    "compare_hits",
    "compare_outcomes",
    "compute",
]
