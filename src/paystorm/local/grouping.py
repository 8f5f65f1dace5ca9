"""How a tuple finds its tasks: one grouper for each subscription and emitting task."""

import random
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paystorm.local.plan import StreamPlan, Subscription

Values = tuple[Any, ...]
Grouper = Callable[[Values], Sequence[int]]
"""From a tuple's values to the task ids that get it."""

INT_MIN, INT_MAX = -(2**31), 2**31 - 1
MASK = 0xFFFFFFFF


def make_grouper(sub: Subscription, stream: StreamPlan, tasks: Sequence[int], rng: random.Random) -> Grouper:
    """The grouper of a subscription onto `tasks` (ascending). For a direct one it is never asked: see the engine."""
    if sub.grouping == "all":
        return lambda values: tasks
    if sub.grouping == "fields" and not sub.fields:  # how streamparse writes the global grouping
        lowest = tasks[:1]
        return lambda values: lowest
    if sub.grouping == "fields":
        places = [stream.fields.index(field) for field in sub.fields]
        return lambda values: (tasks[stable_hash([values[i] for i in places]) % len(tasks)],)
    if sub.grouping == "none":
        return lambda values: (tasks[rng.randrange(len(tasks))],)
    return _shuffle(tasks, rng)


def _shuffle(tasks: Sequence[int], rng: random.Random) -> Grouper:
    """Turns in a random order: every task gets the same number of tuples. All tasks are local here."""
    turns = [(task,) for task in tasks]
    rng.shuffle(turns)
    place = 0

    def choose(values: Values) -> Sequence[int]:
        nonlocal place
        place = (place + 1) % len(turns)
        return turns[place]

    return choose


def stable_hash(value: Any) -> int:
    """Java's hash of a value as Storm's fields grouping takes it (`Arrays.deepHashCode`), signed 32 bits.

    The same in every process, unlike Python's own hash, and meant to choose the same task as Storm does.
    Raises TypeError for what JSON could not carry to Storm (bytes excepted).
    """
    return (_unsigned(value) ^ 0x80000000) - 0x80000000


def _unsigned(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool):
        return 1231 if value else 1237
    if isinstance(value, str):
        units = value.encode("utf-16-le", "surrogatepass")
        return _fold(0, struct.unpack(f"<{len(units) // 2}H", units))
    if isinstance(value, int):
        if INT_MIN <= value <= INT_MAX:
            return value & MASK
        return (value ^ (value >> 32)) & MASK
    if isinstance(value, float):
        bits = int.from_bytes(struct.pack("<d", value), "little")
        return (bits ^ (bits >> 32)) & MASK
    if isinstance(value, bytes):
        return _fold(1, struct.unpack(f"{len(value)}b", value))
    if isinstance(value, list | tuple):
        return _fold(1, [_unsigned(item) for item in value])
    if isinstance(value, Mapping):
        return sum(_unsigned(k) ^ _unsigned(v) for k, v in value.items()) & MASK
    raise TypeError(f"a fields grouping needs values that JSON can carry, got {type(value).__name__}")


def _fold(start: int, items: Sequence[int]) -> int:
    result = start
    for item in items:
        result = (31 * result + item) & MASK
    return result
