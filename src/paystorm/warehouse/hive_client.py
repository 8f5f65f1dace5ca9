"""HiveServer2 through PyHive: every wait bounded, connected when first used, connected anew when it was lost."""

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyhive import hive  # type: ignore[import-untyped]
from pyhive.exc import Error as HiveError  # type: ignore[import-untyped]
from TCLIService.ttypes import TOperationState  # type: ignore[import-untyped]
from thrift.Thrift import TException  # type: ignore[import-untyped]
from thrift.transport.TSocket import TSocket  # type: ignore[import-untyped]
from thrift.transport.TSSLSocket import TSSLSocket  # type: ignore[import-untyped]
from thrift.transport.TTransport import TBufferedTransport  # type: ignore[import-untyped]

from paystorm.errors import ConfigError, TablesError, UsageError

PASSWORDS = ("LDAP", "CUSTOM")
"""The kinds of authentication that take a user and a password."""
AUTHS = ("NOSASL", "NONE", *PASSWORDS)
FETCH_ROWS = 10_000
_POLL_SECONDS = (0.01, 0.25)
"""The shortest and the longest time between two questions whether a query is done."""
_SESSION = {
    "hive.resultset.use.unique.column.names": "false",  # `verdict`, not `purchase.verdict`
    "hive.query.reexecution.enabled": "true",  # else a wrong column's name is answered with "ReCompileException null"
    "hive.compute.query.using.stats": "false",  # Hive keeps none of files that it did not write
}
_WAITING = (TOperationState.INITIALIZED_STATE, TOperationState.PENDING_STATE, TOperationState.RUNNING_STATE)
_MESSAGE_CHARACTERS = 500
_LOST = (TException, OSError, EOFError)
"""What is raised where the connection, not the statement, is at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveAddress:
    """Where HiveServer2 is, and how one speaks to it. Raises ConfigError."""

    host: str
    port: int
    auth: str = "NOSASL"
    """Its `hive.server2.authentication`: NOSASL, NONE, LDAP or CUSTOM."""
    user: str | None = None
    password: str | None = None
    timeout: float = 60.0
    """Seconds that it may take to accept a connection, and to answer."""
    tls: bool = False
    cafile: str | None = None
    """PEM file of the authority that signed its certificate; None: those that the system trusts."""

    def __post_init__(self) -> None:
        if self.auth not in AUTHS:
            raise ConfigError(f"hive: auth must be one of {', '.join(AUTHS)}, got {self.auth!r}")
        if self.auth in PASSWORDS and not (self.user and self.password):
            raise ConfigError(f"hive: auth {self.auth} needs PAYSTORM_HIVE_USER and PAYSTORM_HIVE_PASSWORD")
        if self.cafile is not None and not Path(self.cafile).is_file():
            raise ConfigError(f"hive: there is no certificate file {self.cafile}")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def open(self) -> Any:
        """A PyHive connection to the database `default`."""
        if self.tls:
            context = ssl.create_default_context(cafile=self.cafile)
            socket = TSSLSocket(self.host, self.port, ssl_context=context, server_hostname=self.host)
        else:
            socket = TSocket(self.host, self.port)
        socket.setTimeout(self.timeout * 1000)
        user = self.user or "paystorm"
        transport: Any = TBufferedTransport(socket)
        if self.auth != "NOSASL":
            from thrift_sasl import TSaslClientTransport  # type: ignore[import-untyped]  # noqa: PLC0415  rarely needed

            def client() -> Any:
                password = self.password or "none"  # NONE wants one and looks at none
                return hive.get_installed_sasl(
                    host=self.host, sasl_auth="PLAIN", service=None, username=user, password=password
                )

            transport = TSaslClientTransport(client, "PLAIN", socket)
        return hive.connect(thrift_transport=transport, username=user, configuration=_SESSION)


class HiveClient:
    """Runs statements one after the other over one connection; each query over one of its own. Safe for threads."""

    def __init__(self, address: HiveAddress) -> None:
        self._address = address
        self._connection: Any = None
        self._lock = threading.Lock()

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement that can be repeated; its rows, none where it gives none.

        Raises StatementError where Hive refuses it, TablesError where Hive cannot be reached or does not answer.
        """
        if not self._lock.acquire(timeout=2 * self._address.timeout):
            raise TablesError(f"hive {self._address}: busy for {2 * self._address.timeout:g} s; it is tried again")
        try:
            reused = self._connection is not None
            try:
                return self._once(statement)
            except (*_LOST, SessionLostError) as error:
                # A server that was started anew meanwhile does not know the old connection
                if not reused or _timed_out(error):
                    raise
            return self._once(statement)
        except (*_LOST, SessionLostError) as error:
            raise self._unreachable(error) from error
        finally:
            self._lock.release()

    def query(self, database: str, sql: str, seconds: float, rows: int) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The column names and the rows of a query. Raises UsageError where it is bad, too slow, or gives more rows."""
        deadline = time.monotonic() + seconds
        try:
            with (
                _statement_errors(),
                _closed(self._address.open()) as connection,
                _closed(connection.cursor()) as cursor,
            ):
                cursor.execute(f"USE {quoted(database)}")
                cursor.arraysize = min(FETCH_ROWS, rows + 1)
                cursor.execute(sql, async_=True)
                _wait(cursor, deadline, seconds)
                names = [str(column[0]) for column in cursor.description or ()]
                found: list[tuple[Any, ...]] = []
                while len(found) <= rows and (more := cursor.fetchmany(min(FETCH_ROWS, rows + 1 - len(found)))):
                    found += more
                    _check(cursor, deadline, seconds)
        except StatementError as error:
            raise UsageError(f"query: {error}") from None
        except (*_LOST, SessionLostError) as error:
            raise self._unreachable(error) from error
        if len(found) > rows:
            raise UsageError(f"query: more than {rows:,} rows; add a LIMIT or aggregate")
        return names, found

    def close(self) -> None:
        """Close the connection; a later statement opens a new one."""
        with self._lock:
            self._drop()

    def _once(self, statement: str) -> list[tuple[Any, ...]]:
        try:
            if self._connection is None:
                with _statement_errors():
                    self._connection = self._address.open()
            with _statement_errors(), _closed(self._connection.cursor()) as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []
        except (*_LOST, SessionLostError):
            self._drop()
            raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*_LOST, HiveError):
                connection.close()

    def _unreachable(self, error: BaseException) -> TablesError:
        if _timed_out(error):
            why = f"no answer within {self._address.timeout:g} s; check that auth is its hive.server2.authentication"
        else:
            why = one_line(str(getattr(error, "message", None) or getattr(error, "strerror", None) or error))
        return TablesError(f"hive {self._address}: cannot be reached: {why or type(error).__name__}")


class StatementError(Exception):
    """Hive refuses a statement; says why in one line."""


class SessionLostError(Exception):
    """Hive no longer knows the session."""


def quoted(name: str) -> str:
    """A name of a table, column or database as Hive reads it."""
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    """A text as Hive reads it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def one_line(text: str) -> str:
    """The text in one line, not too long."""
    line = " ".join(text.split())
    return line if len(line) <= _MESSAGE_CHARACTERS else f"{line[:_MESSAGE_CHARACTERS]} …"


@contextlib.contextmanager
def _closed(opened: Any) -> Iterator[Any]:
    """A connection or cursor, closed at the end; what that raises is of no interest any more."""
    try:
        yield opened
    finally:
        with contextlib.suppress(*_LOST, HiveError):
            opened.close()


@contextlib.contextmanager
def _statement_errors() -> Iterator[None]:
    """PyHive's errors as ours."""
    try:
        yield
    except HiveError as error:
        given = error.args[0] if error.args else None
        message = getattr(getattr(given, "status", None), "errorMessage", None) or getattr(given, "errorMessage", None)
        text = one_line(str(message or given or error))
        if "SessionHandle" in text or "Session does not exist" in text:
            raise SessionLostError(text) from error
        raise StatementError(text.removeprefix("Error while compiling statement: ")) from error


def _wait(cursor: Any, deadline: float, seconds: float) -> None:
    """Until the query is done."""
    pause, longest = _POLL_SECONDS
    while (state := cursor.poll(get_progress_update=False)).operationState in _WAITING:
        _check(cursor, deadline, seconds)
        time.sleep(pause)
        pause = min(2 * pause, longest)
    if state.operationState != TOperationState.FINISHED_STATE:
        raise StatementError(one_line(state.errorMessage or "it was cancelled"))


def _check(cursor: Any, deadline: float, seconds: float) -> None:
    if time.monotonic() > deadline:
        with contextlib.suppress(*_LOST, HiveError):
            cursor.cancel()
        raise UsageError(f"query: stopped after {seconds:g} s; narrow it down by dt and hr")


def _timed_out(error: BaseException | None) -> bool:
    """Whether the connection waited for its time-out: the error, or what caused it, says so."""
    for _ in range(5):
        if error is None:
            return False
        if isinstance(error, TimeoutError) or "timed out" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False
