"""Which seeds a test runs: fixed ones, and those that PAYSTORM_SEED names (one, or `first-last`)."""

import os


def seeds(first: int, count: int) -> list[int]:
    """The fixed seeds first … first + count − 1; those of PAYSTORM_SEED instead where it is set."""
    named = os.environ.get("PAYSTORM_SEED")
    if named is None:
        return list(range(first, first + count))
    low, _, high = named.partition("-")
    return list(range(int(low), int(high or low) + 1))
