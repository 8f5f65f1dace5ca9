"""Thrift over HTTPS: the only way in which HBase's Thrift 1 server offers TLS."""

import http.client
import io
import ssl

from thriftpy2.transport import TTransportException

_OK = 200


class HttpsTransport:
    """A transport for thriftpy2: what was written since the last flush is one request.

    thriftpy2's own sends a request again by itself where a kept connection broke. That must not happen to conditional
    puts, and connecting for each request would be slow.
    """

    def __init__(self, host: str, port: int, *, timeout: float, context: ssl.SSLContext) -> None:
        """Connects. `timeout` in seconds. Raises OSError."""
        self._http: http.client.HTTPSConnection | None = http.client.HTTPSConnection(
            host, port, timeout=timeout, context=context
        )
        self._http.connect()
        self._written = bytearray()
        self._answers = io.BytesIO()

    def is_open(self) -> bool:
        """Whether `close` was not called."""
        return self._http is not None

    def write(self, data: bytes) -> None:
        """Add to the next request."""
        self._written += data

    def flush(self) -> None:
        """Send the request and take its answer in. Raises OSError, http.client.HTTPException, TTransportException."""
        assert self._http is not None
        body = bytes(self._written)
        self._written.clear()
        self._http.request(
            "POST", "/", body, {"Content-Type": "application/x-thrift", "Accept": "application/x-thrift"}
        )
        response = self._http.getresponse()
        answer = response.read()
        if response.status != _OK:
            raise TTransportException(message=f"HTTP status {response.status} {response.reason}")
        # Several requests may be sent before the first answer is read.
        self._answers = io.BytesIO(self._answers.read() + answer)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes of the answers that have come; b"" where there are none left."""
        return self._answers.read(size)

    def close(self) -> None:
        """Hang up."""
        if self._http is not None:
            self._http.close()
        self._http = None
