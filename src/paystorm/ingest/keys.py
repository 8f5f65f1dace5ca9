"""API keys: made and revoked by `paystorm keys`, kept as hashes in the table `api_keys`, looked up by the service.

A key is 256 random bits, so a plain SHA-256 of it is enough: there is nothing to guess.
"""

import hashlib
import secrets
from collections.abc import Iterator
from typing import Literal, get_args

import msgspec

from paystorm.errors import UsageError
from paystorm.ingest.problems import Problem
from paystorm.tables.base import Tables
from paystorm.tables.keys import key

Role = Literal["ingest", "analyst", "approver", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
TABLE = "api_keys"
MAX_NAME = 100
_PREFIX = "ps"
_SECRET_BYTES = 32


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key: never the key itself."""

    id: str
    name: str
    hash: bytes
    """SHA-256 of the key's text."""
    role: Role
    applications: tuple[str, ...] | None
    """The applications that it is for; None: all."""
    made_at: int
    """µs since 1970-01-01 UTC, as the other times."""
    made_by: str
    expires_at: int | None = None
    revoked_at: int | None = None
    revoked_by: str | None = None

    def valid(self, now: int) -> bool:
        """Whether it may be used at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Caller(msgspec.Struct, frozen=True):
    """Who sends a request."""

    id: str
    role: Role
    applications: frozenset[str] | None
    """None: all."""

    def require(self, *roles: Role) -> None:
        """Raises Problem where the caller has none of the roles; an admin has all."""
        if self.role != "admin" and self.role not in roles:
            raise Problem("forbidden", f"this needs the role {' or '.join(roles)}; the API key has {self.role}")

    def require_application(self, application: str) -> None:
        """Raises Problem where the caller's key is not for the application."""
        if self.applications is not None and application not in self.applications:
            raise Problem("forbidden", f"this API key is not for application {application!r}")


EVERYBODY = Caller("everybody", "admin", None)
"""The caller of a service that asks for no keys."""


def hash_of(text: str) -> bytes:
    """The hash of a key's text."""
    return hashlib.sha256(text.encode()).digest()


def make_key(
    tables: Tables,
    *,
    name: str,
    role: Role,
    applications: tuple[str, ...] | None,
    now: int,
    by: str,
    expires_at: int | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its text, which is told this once.

    Raises UsageError for a name that is empty or too long, or an end that has passed.
    """
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise UsageError(f"a key's name must have 1 to {MAX_NAME} printable characters, got {name!r}")
    if expires_at is not None and expires_at <= now:
        raise UsageError(f"key {name!r}: its end (--expires) must lie ahead, got a time that has passed")
    made = secrets.token_hex(6)
    text = f"{_PREFIX}_{made}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    row = ApiKey(
        id=made,
        name=name,
        hash=hash_of(text),
        role=role,
        applications=applications,
        made_at=now,
        made_by=by,
        expires_at=expires_at,
    )
    tables.put_if_absent(TABLE, [(key(made), msgspec.msgpack.encode(row))])
    return row, text


def all_keys(tables: Tables) -> Iterator[ApiKey]:
    """Every key that was ever made, revoked ones too."""
    for _, value in tables.scan(TABLE):
        yield msgspec.msgpack.decode(value, type=ApiKey)


def revoke_key(tables: Tables, key_id: str, *, now: int, by: str) -> ApiKey:
    """Revoke a key; the service knows within a second. Raises UsageError where there is none, or it is revoked."""
    value = tables.get(TABLE, key(key_id))
    if value is None:
        raise UsageError(f"no API key has the id {key_id!r}; see paystorm keys list")
    held = msgspec.msgpack.decode(value, type=ApiKey)
    if held.revoked_at is not None:
        raise UsageError(f"API key {key_id} ({held.name}) has been revoked already, by {held.revoked_by}")
    new = msgspec.structs.replace(held, revoked_at=now, revoked_by=by)
    if not tables.replace(TABLE, key(key_id), value, msgspec.msgpack.encode(new)):
        raise UsageError(f"API key {key_id} was changed by somebody else meanwhile: look at it again")
    return new


class KeyRing:
    """The keys in force, in memory."""

    def __init__(self) -> None:
        self._keys: dict[bytes, ApiKey] = {}
        self._callers: dict[str, Caller] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def load(self, keys: list[ApiKey]) -> None:
        """Take over what the table holds."""
        self._keys = {k.hash: k for k in keys if k.revoked_at is None}
        self._callers = {
            k.id: Caller(k.id, k.role, None if k.applications is None else frozenset(k.applications)) for k in keys
        }

    def caller(self, text: str, now: int) -> Caller:
        """Whose key it is. Raises Problem where it is nobody's."""
        found = self._keys.get(hash_of(text))
        if found is None or not found.valid(now):
            raise Problem("unauthorized", "the API key is not valid", headers=_CHALLENGE)
        return self._callers[found.id]


_CHALLENGE = (("WWW-Authenticate", 'Bearer realm="paystorm"'),)


def bearer(header: str | None) -> str:
    """The key in an Authorization header. Raises Problem where there is none."""
    if header is None:
        raise Problem("unauthorized", "send an API key: Authorization: Bearer KEY", headers=_CHALLENGE)
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        raise Problem("unauthorized", "the Authorization header must be: Bearer KEY", headers=_CHALLENGE)
    return text.strip()
