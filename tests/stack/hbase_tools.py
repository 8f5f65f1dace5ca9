"""What tests of HBase share: tables of a prefix of their own, dropped at the end."""

import contextlib
import uuid
from collections.abc import Iterator

import happybase

from paystorm.tables.hbase import HBaseTables

PATIENCE = 120.0
"""Seconds that a call waits: a machine that is busy with other tests makes a table slowly."""


def new_prefix() -> str:
    """A prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:10]}"


@contextlib.contextmanager
def tables_of(host: str, port: int, prefix: str | None = None, kind: type[HBaseTables] = HBaseTables) -> Iterator:
    """New tables under a prefix, dropped at the end: each costs the server memory."""
    prefix = prefix or new_prefix()
    tables = kind(host, port, prefix=prefix, timeout=PATIENCE)
    try:
        yield tables
    finally:
        tables.close()
        drop(host, port, prefix)


def drop(host: str, port: int, prefix: str) -> None:
    """Drop the tables of a prefix."""
    connection = happybase.Connection(host, port, timeout=PATIENCE * 1000)
    for name in connection.tables():
        if name.startswith((f"{prefix}_".encode(), f"{prefix}-feed_".encode())):
            connection.delete_table(name, disable=True)
    connection.close()
