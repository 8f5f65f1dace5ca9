"""The server around the application: uvicorn in this process, TLS, an orderly end."""

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from paystorm.errors import PaystormError, UsageError
from paystorm.ingest.app import build_app
from paystorm.ingest.describing import Part
from paystorm.ingest.service import Service

KEEP_ALIVE = 75
BACKLOG = 2048
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a certificate in PEM."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Where given, clients must show a certificate of this authority."""

    def check(self) -> None:
        """Raises UsageError where the files cannot be used."""
        for option, path in (("cert", self.certificate), ("key", self.key), ("client-ca", self.client_ca)):
            if path is not None and not path.is_file():
                raise UsageError(f"--tls-{option} {path}: no such file: name one in PEM")
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.key)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"TLS: {self.certificate}, {self.key}: {error}: name a certificate and its key, PEM"
            ) from None


class _Server(uvicorn.Server):
    """uvicorn, told to end by the first signal: streams are ended then, everything else is finished."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.drain()
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: {error.strerror or error}: name others") from None
    made.set_inheritable(True)
    return made


def serve(
    service: Service,
    sock: socket.socket,
    tls: Tls | None,
    ready: Callable[[], None],
    more: Sequence[Part] = (),
) -> None:
    """Serve until SIGTERM or Ctrl-C. `ready` is called once events are taken; `more`: as of `build_app`.

    Raises PaystormError.
    """
    config = uvicorn.Config(
        lambda: None,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(service.settings.stop_seconds)),
        backlog=BACKLOG,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
        ssl_ca_certs=str(tls.client_ca) if tls and tls.client_ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if tls and tls.client_ca else ssl.CERT_NONE,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(service, sock, config, ready, more))


async def _serve(
    service: Service,
    sock: socket.socket,
    config: uvicorn.Config,
    ready: Callable[[], None],
    more: Sequence[Part],
) -> None:
    service.build()
    config.app = build_app(service, more)
    server = _Server(config, service)
    problem: PaystormError | None = None

    async def start() -> None:
        nonlocal problem
        try:
            await service.start()
            ready()
        except PaystormError as error:
            problem = error
            server.should_exit = True

    starting = asyncio.create_task(start())
    try:
        await server.serve(sockets=[sock])
    finally:
        if not starting.done():
            starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await service.stop()
    if problem is not None:
        raise problem
