"""Who takes an application's events: one instance at a time, with one id store.

On a machine a lock keeps a second process from the store. A row of the tables (`ingest_owners`, key application) names
the store that an application belongs to, so that an instance elsewhere, with a store of its own, is refused too.
"""

import contextlib
import fcntl
import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec

from paystorm.errors import DataFolderError
from paystorm.tables.base import Tables
from paystorm.tables.keys import key

TABLE = "ingest_owners"


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """The store that an application's ids are in."""

    store: str
    host: str
    folder: str
    since: int
    """µs since 1970-01-01 UTC."""


class StoreLock:
    """That this process uses a store. Given up with `release`, or when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Raises DataFolderError where another process uses the store."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DataFolderError(
                f"id store {folder}: {error.strerror}: make it accessible, then start again"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "another"
            os.close(self._fd)
            raise DataFolderError(
                f"id store {folder}: process {pid} serves with it already: one instance owns an application; stop that "
                "one first"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let others use the store."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def store_id(folder: Path) -> str:
    """The identity of a store, made where it has none. Raises OSError."""
    path = folder / "store-id"
    with contextlib.suppress(FileNotFoundError):
        text = path.read_text().strip()
        if text:
            return text
    text = secrets.token_hex(16)
    aside = path.with_suffix(".new")
    with aside.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    return text


def claim(
    tables: Tables, applications: Iterable[str], *, store: str, folder: Path, now: int, take_over: bool = False
) -> None:
    """Claim applications for a store. Raises DataFolderError where one belongs to another store (but `take_over`)."""
    mine = Owner(store=store, host=socket.gethostname(), folder=str(folder), since=now)
    for application in applications:
        row = (key(application), msgspec.msgpack.encode(mine))
        if tables.put_if_absent(TABLE, [row])[0]:
            continue
        held = owner_of(tables, application)
        if held is None or held.store == store:
            continue
        if not take_over:
            raise DataFolderError(
                f"application {application}: belongs to the id store {held.folder} on {held.host}: one instance owns "
                "an application; stop that one, then start this one with --take-over (its ids are read from the log)"
            )
        tables.put(TABLE, [row])


def owner_of(tables: Tables, application: str) -> Owner | None:
    """Whose an application is; None where nobody has claimed it."""
    value = tables.get(TABLE, key(application))
    return None if value is None else msgspec.msgpack.decode(value, type=Owner)


def lost(tables: Tables, applications: Iterable[str], store: str) -> str | None:
    """An application that another store has taken over meanwhile, or None."""
    for application in applications:
        held = owner_of(tables, application)
        if held is None or held.store != store:
            return application
    return None
