"""A service in a process of its own, and a client for it."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paystorm.clock import SystemClock
from paystorm.log.embedded import EmbeddedLog

ROOT = Path(__file__).resolve().parents[2]
MAIN = [sys.executable, "-c", "import sys; from paystorm.cli.main import main; sys.exit(main())"]
JSON, NDJSON = "application/json", "application/x-ndjson"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        return int(made.getsockname()[1])


def make_project(root: Path, ingest: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None) -> Path:
    """A project like the shipped one, with settings of its own."""
    root.mkdir(parents=True, exist_ok=True)
    config = json.loads((ROOT / "config.json").read_text())
    config["ingest"] = dict(ingest or {})
    config["envs"]["local"]["options"] |= dict(options or {})
    (root / "config.json").write_text(json.dumps(config))
    shutil.copytree(ROOT / "topologies", root / "topologies", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def paystorm(project: Path, *arguments: str, code: int = 0) -> str:
    """What a command prints."""
    done = subprocess.run([*MAIN, *arguments], cwd=project, capture_output=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode() if code == 0 else done.stderr.decode()


def make_key(project: Path, *arguments: str) -> str:
    """A key for all applications, or as the arguments of `keys add` say."""
    return paystorm(project, "keys", "add", "test", *(arguments or ("--all-applications",))).strip()


@dataclass
class Answer:
    """An answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Served:
    """A running service."""

    project: Path
    process: subprocess.Popen[bytes]
    port: int
    key: str
    lines: list[str] = field(default_factory=list)

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.project / "data"

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        *,
        media: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Answer:
        """One request over a connection of its own. `key`: "" for none."""
        given = dict(headers or {})
        text = self.key if key is None else key
        if text:
            given["Authorization"] = f"Bearer {text}"
        if media is not None:
            given["Content-Type"] = media
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=given)
            found = connection.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            connection.close()

    def post(self, event: Any, *, media: str = JSON, **more: Any) -> Answer:
        """Send one event."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        return self.request("POST", "/v1/events", body, media=media, **more)

    def batch(self, events: Any, *, media: str = JSON, **more: Any) -> Answer:
        """Send many."""
        if isinstance(events, bytes):
            body = events
        elif media == NDJSON:
            body = "\n".join(map(json.dumps, events)).encode()
        else:
            body = json.dumps(events).encode()
        return self.request("POST", "/v1/events:batch", body, media=media, **more)

    def verdict(self, event_id: str, application: str = "shop", query: str = "", **more: Any) -> Answer:
        """Ask for a verdict."""
        return self.request("GET", f"/v1/verdicts/{application}/{event_id}{query}", **more)

    def records(self, topic: str = "purchase") -> list[dict[str, Any]]:
        """The records of a topic, with their places."""
        log = EmbeddedLog(self.data / "log", SystemClock())
        out = []
        for partition in range(log.partitions(topic)):
            offset = log.start_offset(topic, partition)
            while (batch := log.read(topic, partition, offset, max_records=10_000, max_bytes=1 << 24)) is not None:
                for at, value in zip(batch.offsets.tolist(), batch.all_values(), strict=True):
                    out.append({**json.loads(value), "partition": partition, "offset": at})
                offset = batch.next
        return out

    def wait_until_ready(self, seconds: float = 60) -> None:
        """Wait until events are taken."""
        until = time.monotonic() + seconds
        while self.request("GET", "/readyz").status != 200:
            assert time.monotonic() < until, self.lines
            time.sleep(0.05)

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.wait(30)

    def end(self) -> int:
        """As an operator would; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def start(project: Path, key: str, *arguments: str, ready: bool = True) -> Served:
    """Start the service of a project."""
    port = free_port()
    command = [*MAIN, "serve", "--port", str(port), *arguments]
    process = subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, env=dict(os.environ))
    served = Served(project, process, port, key)
    listening = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            served.lines.append(line.decode().rstrip())
            if b"listening" in line:
                listening.set()
        listening.set()

    threading.Thread(target=read, daemon=True).start()
    assert listening.wait(60)
    assert process.poll() is None, served.lines
    if ready and not {"--tls-cert"} & set(arguments):
        served.wait_until_ready()
    return served


def event(event_id: str | None, application: str = "shop", **data: Any) -> dict[str, Any]:
    """A valid purchase."""
    out: dict[str, Any] = {"ApplicationRef": application}
    if event_id is not None:
        out["id"] = event_id
    out["data"] = {"event_time": "2026-01-01T00:00:00Z", "from_party": "u1", "to_party": "m1", **data}
    return out
