"""`paystorm serve`: the ingest service."""

import ipaddress
import logging
from pathlib import Path
from typing import Annotated

import typer

from paystorm.cli.common import DataOption, EnvOption, Here, complain, open_here
from paystorm.cli.desk import desk_of
from paystorm.desk.http import part
from paystorm.errors import ConfigError, UsageError
from paystorm.garbage import collect_rarely
from paystorm.ingest.server import Tls, listen
from paystorm.ingest.server import serve as serve_service
from paystorm.ingest.service import Service, Setup
from paystorm.ingest.settings import ingest_settings
from paystorm.settings import Settings


def store_folder(here: Here) -> Path:
    """Where the id store is: in the data folder, or beside config.json for a cluster."""
    return here.folder / "ingest" if here.folder is not None else here.project.root / f"ingest-{here.env.name}"


def setup_of(
    here: Here, *, ask_for_keys: bool, take_over: bool, access_log: Path | None, store: Path | None = None
) -> Setup:
    """What the service is for. Raises ConfigError where no application is configured."""
    if not here.env.applications:
        raise ConfigError('config.json: applications names none: add one, such as "shop": "purchase"')
    return Setup(
        resources=here.resources,
        sources=here.sources(sorted(set(here.env.applications.values()))),
        applications=here.env.applications,
        partitions=here.partitions,
        folder=store if store is not None else store_folder(here),
        settings=ingest_settings(here.project, here.env),
        max_record_bytes=Settings(here.env.options)["maxRecordBytes"],
        ask_for_keys=ask_for_keys,
        take_over=take_over,
        access_log=access_log,
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise UsageError("--tls-cert and --tls-key go together: name both")
    tls = Tls(certificate, key, client_ca)
    tls.check()
    return tls


def serve(
    host: Annotated[str, typer.Option(metavar="HOST", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="The port; 0: any free one.")] = 8080,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="A certificate, PEM: serve HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Clients must show a certificate of this authority.")
    ] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Ask for no API keys; only on a loopback address.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take applications over from another id store, which is to be stopped.")
    ] = False,
    access_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The access log; default: logs/ingest.log in the data folder.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The id store; default: ingest in the data folder, or beside config.json."),
    ] = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Take events over HTTP into the log, and give their verdicts back.

    Runs until Ctrl-C or SIGTERM, which finish what was accepted. API keys are made by paystorm keys.
    """
    if without_keys and not _is_loopback(host):
        raise UsageError(f"--without-keys with --host {host}: everybody could send: leave one of the two out")
    tls = _tls(tls_cert, tls_key, tls_client_ca)
    logging.basicConfig(level=logging.WARNING, format="paystorm: %(message)s")
    with open_here(env, data) as here:
        if access_log is None and here.folder is not None:
            access_log = here.folder / "logs" / "ingest.log"
        desk = desk_of(here)
        service = Service(
            setup_of(here, ask_for_keys=not without_keys, take_over=take_over, access_log=access_log, store=store)
        )
        sock = listen(host, port)
        try:
            service.open()
            shown = f"[{host}]" if ":" in host else host
            complain(f"listening on {'https' if tls else 'http'}://{shown}:{sock.getsockname()[1]}")
            if not without_keys and not len(service.ring):
                complain("there is no API key yet: make one with paystorm keys add NAME --application APPLICATION")
            # Events are plain bytes and strings: the collector of cycles would only look at them again and again.
            collect_rarely()
            serve_service(service, sock, tls, lambda: complain("ready: the ids are known"), [part(service, desk)])
        finally:
            sock.close()


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)
