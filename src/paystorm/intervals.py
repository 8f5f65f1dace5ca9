"""Tumbling intervals of event time, in UTC (SEMANTICS.md §4).

`<n>s`, `<n>m`, `<n>h`: whole seconds that divide a day; `<n>d`: whole days counted from Monday 1970-01-05; `month`.
Points in time are seconds since 1970-01-01 UTC here.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from paystorm.errors import ConfigError

DAY = 86_400
MONDAY = 4 * DAY
"""1970-01-05, from which whole days are counted, so that 7 days begin on a Monday."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": DAY}
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A length of tumbling interval; `seconds` is 0 for calendar months."""

    text: str
    seconds: int

    @classmethod
    def parse(cls, text: str) -> "Interval":
        """The interval of a text such as `10s`, `1h`, `7d`, `month`. Raises ConfigError for another text."""
        if text == "month":
            return cls(text, 0)
        match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
        if match:
            seconds = int(match[1]) * _UNITS[match[2]]
            if match[2] == "d" and int(match[1]) <= 3660:
                return cls(text, seconds)
            if match[2] != "d" and seconds <= DAY and DAY % seconds == 0:
                return cls(text, seconds)
        raise ConfigError(
            "interval must be seconds, minutes or hours that divide a day (10s, 15m, 1h), days (1d, 7d) or month, "
            f"got {text!r}"
        )

    def start(self, at: int) -> int:
        """The start of the interval that holds `at` (seconds)."""
        return int(self.starts(np.array([at], dtype=np.int64))[0])

    def starts(self, at: Int64Array) -> Int64Array:
        """The start of the interval that holds each point in time (seconds, shape (n,))."""
        if self.seconds == 0:
            return at.astype("datetime64[s]").astype("datetime64[M]").astype("datetime64[s]").astype(np.int64)
        origin = MONDAY if self.seconds % DAY == 0 else 0
        return (at - origin) // self.seconds * self.seconds + origin

    def following(self, start: int) -> int:
        """The start of the next interval: the end of this one."""
        if self.seconds:
            return start + self.seconds
        day = datetime.fromtimestamp(start, UTC)
        year, month = (day.year + 1, 1) if day.month == 12 else (day.year, day.month + 1)
        return int(datetime(year, month, 1, tzinfo=UTC).timestamp())

    def previous(self, start: int) -> int:
        """The start of the interval right before."""
        return self.start(start - 1)
