"""The ingest service under load: batches, single posts, and what a kill -9 costs.

    .venv/bin/python bench/ingest.py [--seconds 10] [--json]

The load generator runs beside the service on the same machine. Batches of 500 are sent over four connections as fast
as they are answered. Single posts are first sent over 256 connections as fast as they are answered, which gives the
rate that saturates the service; then at half of that rate, at fixed times, and the latency is counted from the time
at which a post was due. Last, the service is killed while it takes batches; every event that was acknowledged must
stand in the log once.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

BATCH = 500
BATCH_CONNECTIONS = 4
SINGLE_CONNECTIONS = 256
EVENT = (
    '{"ApplicationRef":"shop","id":"%s","data":{"event_time":"2026-01-01T00:00:00Z","from_party":"u%d","to_party":"m%d",'
    '"to_kind":"merchant","amount":"12.50","currency":"EUR","message":"two coffees"}}'
)
HEAD = "POST %s HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"


@dataclass
class Served:
    """A running service."""

    process: subprocess.Popen[bytes]
    port: int
    key: str

    def cpu(self) -> float:
        """CPU seconds that the service has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, and wait."""
        self.process.send_signal(number)
        self.process.wait(60)


def start(folder: Path, key: str | None = None) -> Served:
    """A service with a data folder of its own, ready."""
    command = [sys.executable, "-c", "import sys; from paystorm.cli.main import main; sys.exit(main())"]
    if key is None:
        made = subprocess.run(
            [*command, "keys", "add", "bench", "--application", "shop", "--data", str(folder)],
            check=True,
            capture_output=True,
            timeout=60,
        )
        key = made.stdout.decode().strip()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([*command, "serve", "--port", str(port), "--data", str(folder)], stderr=subprocess.PIPE)
    assert process.stderr is not None
    while b"ready:" not in (line := process.stderr.readline()):
        if not line:
            raise SystemExit("bench: the service did not start")
    return Served(process, port, key)


class Connection(asyncio.Protocol):
    """Sends requests one after the other, as `following` gives them, and tells of each answer."""

    def __init__(self, following: Callable[[], bytes | None], answered: Callable[[int, bytes], None]) -> None:
        self._following, self._answered = following, answered
        self._buffer = b""
        self._transport: Any = None
        self.idle = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.go_on()

    def go_on(self) -> None:
        """Send what is to be sent next."""
        request = self._following()
        self.idle = request is None
        if request is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._buffer = b""
        self._answered(int(head[9:12]), body)
        self.go_on()


@dataclass
class Load:
    """What was sent and answered."""

    answered: int = 0
    wrong: int = 0
    latencies: list[float] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


def batch_requests(key: str, count: int, mark: str) -> list[bytes]:
    """Requests of 500 events each, every id new."""
    out = []
    for b in range(count):
        lines = [EVENT % (f"{mark}-{b}-{i}", (b * 7 + i) % 5000, i % 300) for i in range(BATCH)]
        body = "\n".join(lines).encode()
        out.append((HEAD % ("/v1/events:batch", key, "application/x-ndjson", len(body))).encode() + body)
    return out


def single_requests(key: str, count: int, mark: str) -> list[bytes]:
    """Requests of one event each, every id new."""
    out = []
    for i in range(count):
        body = (EVENT % (f"{mark}-{i}", i % 5000, i % 300)).encode()
        out.append((HEAD % ("/v1/events", key, "application/json", len(body))).encode() + body)
    return out


async def closed(port: int, requests: list[bytes], connections: int, seconds: float, keep: bool = False) -> Load:
    """Send as fast as answers come, for `seconds` at most."""
    loop = asyncio.get_running_loop()
    load = Load()
    left = iter(requests)
    until = loop.time() + seconds
    done = asyncio.Event()
    open_now = connections

    def following() -> bytes | None:
        nonlocal open_now
        request = next(left, None) if loop.time() < until else None
        if request is None:
            open_now -= 1
            if not open_now:
                done.set()
        return request

    def answered(status: int, body: bytes) -> None:
        load.answered += 1
        load.wrong += status != 202
        if keep:
            load.bodies.append(body)

    for _ in range(connections):
        await loop.create_connection(lambda: Connection(following, answered), "127.0.0.1", port)
    await done.wait()
    return load


async def paced(port: int, requests: list[bytes], connections: int, rate: float) -> Load:
    """Send at fixed times, `rate` a second; latencies are from the time at which each was due."""
    loop = asyncio.get_running_loop()
    load = Load()
    waiting: list[tuple[float, bytes]] = []
    due_of: dict[int, float] = {}
    pool: list[Connection] = []

    def make(number: int) -> Connection:
        def following() -> bytes | None:
            if not waiting:
                return None
            due_of[number], request = waiting.pop(0)
            return request

        def answered(status: int, _: bytes) -> None:
            load.answered += 1
            load.wrong += status != 202
            load.latencies.append(loop.time() - due_of[number])

        return Connection(following, answered)

    for number in range(connections):
        _, connection = await loop.create_connection(lambda n=number: make(n), "127.0.0.1", port)
        pool.append(connection)
    began = loop.time()
    sent = 0
    while sent < len(requests):
        due = began + sent / rate
        if due > loop.time():
            await asyncio.sleep(min(due - loop.time(), 0.001))
            continue
        waiting.append((due, requests[sent]))
        sent += 1
        free = next((c for c in pool if c.idle), None)
        if free is not None:
            free.go_on()
    while load.answered < len(requests):
        await asyncio.sleep(0.01)
    return load


def measure_batches(seconds: float) -> dict[str, Any]:
    """Batches of 500 as fast as they are answered."""
    with tempfile.TemporaryDirectory() as folder:
        served = start(Path(folder) / "data")
        try:
            requests = batch_requests(served.key, round(seconds * 240), "b")
            asyncio.run(closed(served.port, batch_requests(served.key, 40, "warm"), BATCH_CONNECTIONS, 60))
            cpu, own, began = served.cpu(), time.process_time(), time.monotonic()
            load = uvloop.run(closed(served.port, requests, BATCH_CONNECTIONS, seconds))
            took = time.monotonic() - began
            return {
                "events_per_second": round(load.answered * BATCH / took),
                "wrong": load.wrong,
                "service_cores": round((served.cpu() - cpu) / took, 2),
                "generator_cores": round((time.process_time() - own) / took, 2),
                "service_us_per_event": round((served.cpu() - cpu) / max(1, load.answered * BATCH) * 1e6, 1),
            }
        finally:
            served.end()


def measure_singles(seconds: float) -> dict[str, Any]:
    """Single posts: the rate that saturates, and the latency at half of it."""
    with tempfile.TemporaryDirectory() as folder:
        served = start(Path(folder) / "data")
        try:
            requests = single_requests(served.key, round(seconds * 12_000), "s")
            asyncio.run(closed(served.port, single_requests(served.key, 2000, "warm"), SINGLE_CONNECTIONS, 60))
            cpu, began = served.cpu(), time.monotonic()
            load = uvloop.run(closed(served.port, requests, SINGLE_CONNECTIONS, seconds))
            rate = load.answered / (time.monotonic() - began)
            cpu = served.cpu() - cpu
            half = rate / 2
            paced_requests = single_requests(served.key, round(half * seconds), "p")
            steady = uvloop.run(paced(served.port, paced_requests, SINGLE_CONNECTIONS, half))
            ordered = sorted(steady.latencies)
            return {
                "saturating_per_second": round(rate),
                "service_us_per_post": round(cpu / max(1, load.answered) * 1e6, 1),
                "half_per_second": round(half),
                "p50_ms": round(ordered[len(ordered) // 2] * 1000, 2),
                "p99_ms": round(ordered[len(ordered) * 99 // 100] * 1000, 2),
                "max_ms": round(ordered[-1] * 1000, 2),
                "wrong": load.wrong + steady.wrong,
            }
        finally:
            served.end()


def measure_kill(seconds: float) -> dict[str, Any]:
    """Kill the service while it takes batches; what was acknowledged must be in the log, once, and be known after."""
    from paystorm.clock import SystemClock  # noqa: PLC0415  the package is not needed for the load
    from paystorm.log.embedded import EmbeddedLog  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        served = start(folder)
        requests = batch_requests(served.key, round(seconds * 240), "k")

        async def until_killed() -> Load:
            load = Load()
            left = iter(requests)
            loop = asyncio.get_running_loop()
            loop.call_later(seconds, served.process.kill)

            def answered(_: int, body: bytes) -> None:
                load.bodies.append(body)

            for _ in range(BATCH_CONNECTIONS):
                await loop.create_connection(
                    lambda: Connection(lambda: next(left, None), answered), "127.0.0.1", served.port
                )
            while served.process.poll() is None:
                await asyncio.sleep(0.05)
            return load

        load = uvloop.run(until_killed())
        answers = [result for body in load.bodies for result in json.loads(body)["results"]]
        log = EmbeddedLog(folder / "log", SystemClock())
        found: dict[str, tuple[int, int]] = {}
        twice = records = 0
        for partition in range(log.partitions("purchase")):
            offset = 0
            while (batch := log.read("purchase", partition, offset, max_records=20_000, max_bytes=1 << 24)) is not None:
                for at, value in zip(batch.offsets.tolist(), batch.all_values(), strict=True):
                    event_id = json.loads(value)["id"]
                    twice += event_id in found
                    found[event_id] = (partition, at)
                    records += 1
                offset = batch.next
        missing = sum(found.get(a["id"]) != (a["partition"], a["offset"]) for a in answers)
        began = time.monotonic()
        again = start(folder, served.key)
        took = time.monotonic() - began
        try:
            repeat = uvloop.run(closed(again.port, requests[: len(load.bodies)], BATCH_CONNECTIONS, 60, keep=True))
            repeated = [result for body in repeat.bodies for result in json.loads(body)["results"]]
            other = sum(found.get(a["id"], (-1, -1)) != (a["partition"], a["offset"]) for a in repeated)
        finally:
            again.end()
        return {
            "acknowledged": len(answers),
            "records": records,
            "acknowledged_and_missing": missing,
            "twice_in_the_log": twice,
            "repeats_answered_otherwise": other,
            "restart_seconds": round(took, 2),
        }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only", choices=("batches", "singles", "kill"))
    args = parser.parse_args()
    parts = {"batches": measure_batches, "singles": measure_singles, "kill": measure_kill}
    found = {name: run(args.seconds) for name, run in parts.items() if args.only in (None, name)}
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        for name, figures in found.items():
            print(name)
            for what, figure in figures.items():
                print(f"  {what.replace('_', ' ')}: {figure:,}")
    kill = found.get("kill", {})
    return int(any(kill.get(k) for k in ("acknowledged_and_missing", "twice_in_the_log", "repeats_answered_otherwise")))


if __name__ == "__main__":
    sys.exit(main())
