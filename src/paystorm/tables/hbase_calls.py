"""Calls to HBase's Thrift server: a connection a thread, time-outs, retries, and errors as one line for people."""

import os
import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from typing import Any, TypeVar

import happybase  # type: ignore[import-untyped]
import Hbase_thrift  # type: ignore[import-not-found]
from thriftpy2.protocol import TBinaryProtocol
from thriftpy2.protocol.cybin.cybin import ProtocolError  # type: ignore[import-not-found]  # the protocol in C
from thriftpy2.thrift import TClient, TException
from thriftpy2.transport import TBufferedTransport, TSocket

from paystorm.errors import TablesError
from paystorm.tables.hbase_http import HttpsTransport

idl: Any = Hbase_thrift
"""The calls and structs of HBase's interface definition: a module that happybase makes when it is imported."""
PAUSES = (0.1, 0.4, 1.0)
"""Seconds before each further try of a call that may be repeated."""
IDLE_SECONDS = 20.0
"""A connection unused for longer is made anew: the server hangs up after 60 seconds, over HTTPS after 30."""
_MAX_REASON = 200

_T = TypeVar("_T")
_BROKEN = (TException, ProtocolError, HTTPException, OSError, EOFError)
_Refused = (idl.IOError, idl.IllegalArgument, idl.AlreadyExists)
_INHERITED: list[object] = []  # connections of the parent process: a child must neither use nor close them


class AbsentTableError(TablesError):
    """The table has not been made."""


class LostReplyError(TablesError):
    """The call may have been done or not."""


class _Connection(happybase.Connection):  # type: ignore[misc]
    """happybase's connection over a socket of our own, which may be of IPv6, or over HTTPS."""

    def __init__(self, host: str, port: int, timeout: float, context: ssl.SSLContext | None) -> None:
        """Connects. Raises OSError."""
        self._context = context
        self._pid = os.getpid()
        self._seconds = timeout
        self.used = time.monotonic()
        super().__init__(host, port, timeout=timeout * 1000, autoconnect=False)

    def _refresh_thrift_client(self) -> None:
        channel: HttpsTransport | TSocket
        if self._context is not None:
            channel = HttpsTransport(self.host, self.port, timeout=self._seconds, context=self._context)
        else:
            self._socket = socket.create_connection((self.host, self.port), self._seconds)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            channel = TSocket(sock=self._socket)  # type: ignore[no-untyped-call]
        self.transport = TBufferedTransport(channel)  # type: ignore[no-untyped-call]
        protocol = TBinaryProtocol(self.transport, decode_response=False)  # type: ignore[no-untyped-call]
        self.client = TClient(idl.Hbase, protocol)

    def is_stale(self) -> bool:
        """Whether the server has hung up, or soon will: nothing is lost by connecting anew before a call."""
        if time.monotonic() - self.used > IDLE_SECONDS:
            return True
        if self._context is not None:  # TLS has messages of its own
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Hang up; called by happybase's destructor too."""
        if self._pid == os.getpid():
            super().close()


class _Mine(threading.local):
    """The connection of a thread."""

    def __init__(self) -> None:
        self.connection: _Connection | None = None


class ThriftServer:
    """A Thrift server of HBase. Usable from several threads and after a fork."""

    def __init__(self, host: str, port: int, *, timeout: float, context: ssl.SSLContext | None) -> None:
        """`timeout`: seconds that a call waits for the server; then a call is not tried again either."""
        self.host, self.port, self.timeout = host, port, timeout
        self._context = context
        self._down = False
        """Whether the last call failed, all its tries included: the next one is tried once."""
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._mine = _Mine()
        self._all: weakref.WeakSet[_Connection] = weakref.WeakSet()

    def ask(self, table: str, api: str, *arguments: Any, repeat: bool) -> Any:
        """The answer to one call about a table; as `call`."""
        return self.call(table, lambda client: getattr(client, api)(table.encode(), *arguments), repeat=repeat)

    def call(self, table: str, do: Callable[[Any], _T], *, repeat: bool) -> _T:
        """What `do` gives when called with a client.

        With `repeat` it is tried again after a failure, but where the call before it has failed in spite of that.

        Raises AbsentTableError, LostReplyError where the server may have done it, and TablesError.
        """
        begin = time.monotonic()
        # While the server is down, whoever waits for it in every call has a long queue once it is back.
        pauses = iter(PAUSES if repeat and not self._down else ())
        while True:
            try:
                result = self._once(table, do)
            except AbsentTableError:
                raise
            except TablesError:
                pause = next(pauses, None)
                if pause is None or time.monotonic() - begin + pause > self.timeout:
                    self._down = True
                    raise
                time.sleep(pause)
            else:
                self._down = False
                return result

    def _once(self, table: str, do: Callable[[Any], _T]) -> _T:
        connection = self._connection(table)
        try:
            result = do(connection.client)
        except _Refused as e:  # an answer: the connection is as good as before
            connection.used = time.monotonic()
            raise self._refused(table, e) from e
        except BaseException as e:
            # Replies still to come would be taken for those of later calls.
            self._drop(connection)
            if not isinstance(e, _BROKEN):
                raise
            raise LostReplyError(self._line(table, self._why(e))) from e
        connection.used = time.monotonic()
        return result

    def _connection(self, table: str) -> _Connection:
        """This thread's connection; made where there is none that works."""
        if self._pid != os.getpid():
            _INHERITED.append((self._mine, list(self._all)))
            self._reset()
        held = self._mine.connection
        if held is not None and held.is_stale():
            self._drop(held)
            held = None
        if held is None:
            try:
                held = _Connection(self.host, self.port, self.timeout, self._context)
            except (TException, HTTPException, OSError) as e:
                way_out = "see that HBase's Thrift server runs there, and that host and port are right"
                raise TablesError(self._line(table, f"cannot connect, {_reason(e)}: {way_out}")) from e
            with self._lock:
                self._all.add(held)
            self._mine.connection = held
        return held

    def _drop(self, connection: _Connection) -> None:
        self._mine.connection = None
        connection.close()

    def _line(self, table: str, text: str) -> str:
        return f"HBase at {self.host}:{self.port}, table {table}: {text}"

    def _why(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer in {self.timeout:g} s: see that its master and region servers run, then try again"
        return f"the connection broke, {_reason(error)}: see that its Thrift server runs, then try again"

    def _refused(self, table: str, error: Any) -> TablesError:
        text = error.message.decode("utf-8", "replace") if isinstance(error.message, bytes) else str(error.message)
        if "TableNotFoundException" in text:
            return AbsentTableError(self._line(table, "it was deleted: try again, and it is made anew"))
        first = text.partition("\n")[0].removeprefix("org.apache.hadoop.hbase.")[:_MAX_REASON]
        if isinstance(error, idl.IllegalArgument):
            return TablesError(self._line(table, f"{first}: HBase will not take it; see its settings"))
        return LostReplyError(self._line(table, f"{first}: see the log of its Thrift server, then try again"))

    def close(self) -> None:
        """Close the connections of all threads. Later calls open new ones; no other thread may be in a call now."""
        if self._pid == os.getpid():
            with self._lock:
                for connection in list(self._all):
                    connection.close()
        self._mine = _Mine()


def one_after_another(client: Any, api: str, calls: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The answers to several calls, sent without waiting for each: a connection's are answered in order.

    Raises the first error of the server, after all have been answered.
    """
    for call in calls:
        client._send(api, **call)
    answers, error = [], None
    for _ in calls:
        try:
            answers.append(client._recv(api))
        except _Refused as e:
            error = error or e
    if error is not None:
        raise error
    return answers


def _reason(error: BaseException) -> str:
    text = str(getattr(error, "message", None) or getattr(error, "strerror", None) or error or type(error).__name__)
    return text.partition("\n")[0][:_MAX_REASON]
