"""The settings that decide validity."""

import msgspec

from paystorm.errors import ConfigError

EARLIEST = 946_684_800_000_000
"""2000-01-01T00:00:00Z, microseconds since 1970-01-01 UTC."""


class ValiditySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a source's records are held against. A change of any of them makes a new version of the source.

    Raises ConfigError where a figure is negative.
    """

    max_record_bytes: int = 1_048_576
    earliest: int = EARLIEST
    """Event times before this are `too_early`; microseconds since 1970-01-01 UTC."""
    max_ahead: int = 3600
    """Seconds that an event time may lie ahead of `received_at`."""
    counts_retention: int | None = None
    """Seconds for which counts are kept; None: without end. Events older than that at their receipt are `too_old`."""

    def __post_init__(self) -> None:
        for name in ("max_record_bytes", "max_ahead", "counts_retention"):
            figure = getattr(self, name)
            if figure is not None and figure < 0:
                raise ConfigError(f"validity setting {name} must be ≥ 0, got {figure}")
