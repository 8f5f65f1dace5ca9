"""What commands ask of spout tasks, and what those answer. Table `<source>.control`.

("hold") → a request to hold; ("held", task index) → that this task holds; ("problem", task index) → why it has stopped.
"""

import msgspec

from paystorm.tables.base import Tables
from paystorm.tables.keys import key, parts, under


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A request to emit nothing new until nothing is in flight."""

    by: str
    until: int
    """When it ends by itself, µs since 1970-01-01 UTC, should its maker have died."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A spout task's answer: nothing of it is in flight."""

    at: int
    """µs since 1970-01-01 UTC."""
    committed: dict[int, int]
    """The committed offset of each of its partitions; there all below is complete or parked."""


def control_table(source: str) -> str:
    """The name of a source's control table."""
    return f"{source}.control"


def put_hold(tables: Tables, source: str, hold: Hold) -> None:
    """Ask the spout tasks to hold."""
    tables.put(control_table(source), [(key("hold"), msgspec.msgpack.encode(hold))])


def lift_hold(tables: Tables, source: str) -> None:
    """Let them go on."""
    tables.delete(control_table(source), [key("hold")])


def load_hold(tables: Tables, source: str) -> Hold | None:
    """The request that is there, expired or not."""
    value = tables.get(control_table(source), key("hold"))
    return None if value is None else msgspec.msgpack.decode(value, type=Hold)


def put_held(tables: Tables, source: str, index: int, held: Held) -> None:
    """Spout task `index` holds."""
    tables.put(control_table(source), [(key("held", index), msgspec.msgpack.encode(held))])


def delete_held(tables: Tables, source: str, index: int) -> None:
    """Spout task `index` goes on."""
    tables.delete(control_table(source), [key("held", index)])


def load_held(tables: Tables, source: str) -> dict[int, Held]:
    """The spout tasks that hold, by index. All do when their partitions are all of the topic's."""
    rows = tables.scan(control_table(source), *under("held"))
    return {int(parts(k)[1]): msgspec.msgpack.decode(value, type=Held) for k, value in rows}


def put_problem(tables: Tables, source: str, index: int, text: str | None) -> None:
    """Why spout task `index` has stopped; None: it has not."""
    row_key = key("problem", index)
    if text is None:
        tables.delete(control_table(source), [row_key])
    else:
        tables.put(control_table(source), [(row_key, text.encode())])


def load_problems(tables: Tables, source: str) -> dict[int, str]:
    """Why spout tasks have stopped, by index."""
    rows = tables.scan(control_table(source), *under("problem"))
    return {int(parts(k)[1]): value.decode() for k, value in rows}
