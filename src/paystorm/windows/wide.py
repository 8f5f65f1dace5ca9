"""Exact sums of up to 38 digits as arrays of three int64 limbs, base 10^13, lowest first.

Polars' own decimal sum may wrap past 38 digits; numpy has no 128-bit integer. Three limbs of 13 digits hold 39; one
of more than 38 digits saturates at 10^38 − 1 (SEMANTICS.md §2). Units: the last fraction digit of the field.
"""

from decimal import Decimal

import numpy as np
import numpy.typing as npt
import polars as pl

Limbs = npt.NDArray[np.int64]
"""Shape (n, 3)."""

BASE = 10**13
TOP = 10**12
"""A top limb of this much means more than 38 digits."""
MAX = 10**38 - 1
MAX_ROWS = 500_000
"""Rows that may be added up before carrying: 500,000 × 10^13 fits 63 bits."""


def _limbs() -> list[pl.Expr]:
    whole = pl.col("amount").to_physical()
    base, square = pl.lit(BASE, dtype=pl.Int128), pl.lit(BASE * BASE, dtype=pl.Int128)
    parts = whole % base, whole // base % base, whole // square
    return [part.cast(pl.Int64).alias(f"l{n}") for n, part in enumerate(parts)]


_LIMBS = _limbs()


def from_decimals(amounts: pl.Series) -> Limbs:
    """The limbs of a decimal column (≥ 0, no nulls); shape (n, 3)."""
    frame = amounts.to_frame("amount").select(_LIMBS)
    return frame.to_numpy().astype(np.int64, copy=False)


def carried(limbs: Limbs) -> Limbs:
    """The same figures with every limb below its base; those of more than 38 digits saturated."""
    out = limbs.copy()
    for low in (0, 1):
        out[:, low + 1] += out[:, low] // BASE
        out[:, low] %= BASE
    over = out[:, 2] >= TOP
    if over.any():
        out[over] = (BASE - 1, BASE - 1, TOP - 1)
    return out


def to_int(limbs: npt.NDArray[np.int64]) -> int:
    """One figure as a whole number; limbs of shape (3,)."""
    return int(limbs[0]) + BASE * (int(limbs[1]) + BASE * int(limbs[2]))


def from_int(figure: int) -> tuple[int, int, int]:
    """The limbs of a whole number from 0 to 10^38 − 1."""
    figure = min(figure, MAX)
    return figure % BASE, figure // BASE % BASE, figure // (BASE * BASE)


def units(figure: Decimal, digits: int, *, up: bool = False) -> int:
    """A decimal ≥ 0 in units of 10^−digits, exactly; what lies behind the last digit is dropped (`up`: counted up).

    A limit is exceeded from its dropped figure on, a baseline is reached from its figure counted up.
    """
    _, whole, exponent = figure.as_tuple()
    assert isinstance(exponent, int)
    number = int("".join(map(str, whole)))
    shift = exponent + digits
    if shift >= 0:
        return number * int(10**shift)
    unit = int(10**-shift)
    return -(-number // unit) if up else number // unit


def exceeds(limbs: Limbs, limit: int) -> npt.NDArray[np.bool_]:
    """For each figure whether it is above `limit`, or saturated; shape (n,)."""
    l0, l1, l2 = from_int(limit)
    a0, a1, a2 = limbs[:, 0], limbs[:, 1], limbs[:, 2]
    above = (a2 > l2) | ((a2 == l2) & ((a1 > l1) | ((a1 == l1) & (a0 > l0))))
    saturated = (a2 == TOP - 1) & (a1 == BASE - 1) & (a0 == BASE - 1)
    return np.asarray(above | saturated)


def approximate(limbs: Limbs) -> npt.NDArray[np.float64]:
    """The figures as binary floats, right to about 15 digits; shape (n,)."""
    return limbs[:, 0] + float(BASE) * (limbs[:, 1] + float(BASE) * limbs[:, 2])


def grown(now: Limbs, before: Limbs, factor: tuple[int, int], baseline: int) -> npt.NDArray[np.bool_]:
    """Whether now ≥ factor × before and before ≥ baseline, exactly; factor is (numerator, denominator)."""
    b0, b1, b2 = from_int(baseline)
    a0, a1, a2 = before[:, 0], before[:, 1], before[:, 2]
    out = np.asarray((a2 > b2) | ((a2 == b2) & ((a1 > b1) | ((a1 == b1) & (a0 >= b0)))))
    enough = np.flatnonzero(out)
    if not len(enough):
        return out
    now, before = now[enough], before[enough]
    up, down = factor
    near_now, near_before = approximate(now) * down, approximate(before) * up
    held = near_now >= near_before
    # Floats decide all but the near ties, and those are few: whole numbers decide them.
    slack = 1e-12 * np.maximum(near_now, near_before)
    for i in np.flatnonzero(np.abs(near_now - near_before) <= slack).tolist():
        held[i] = to_int(now[i]) * down >= to_int(before[i]) * up
    out[enough] = held
    return out
