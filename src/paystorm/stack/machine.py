"""What the machine has: Java, Maven, memory, ports; and how what is missing is named, with the way out."""

import errno
import os
import random
import re
import shutil
import socket
import subprocess
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

from paystorm.errors import StackError
from paystorm.stack.process import command_of, holders

JAVA = 17
"""The release of Java that the servers need; newer ones up to NEWEST_JAVA do as well."""
NEWEST_JAVA = 23
"""Hadoop's code, in HBase and Hive, ends with an exception from Java 24 on."""
MIB = 1024 * 1024
TRIES = 200
LOWEST_PORT = 12_000
_LISTENING = "0A"


@cache
def find_java() -> Path:
    """The `java` of JAVA_HOME, or of the PATH. Raises StackError where it is missing or of another release."""
    way_out = f"install it (Debian: apt-get install openjdk-{JAVA}-jre-headless), or set JAVA_HOME"
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else None
    found = found or shutil.which("java")
    if found is None:
        raise StackError(f"Java {JAVA} is missing: {way_out}")
    try:
        said = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise StackError(f"{found} -version failed ({error}): Java {JAVA} is needed: {way_out}") from error
    version = re.search(r'version "(\d+)', said)
    if version is None or not JAVA <= int(version[1]) <= NEWEST_JAVA:
        text = said.splitlines()[0] if said else "nothing"
        raise StackError(f"{found} says {text}: Java {JAVA} to {NEWEST_JAVA} is needed: {way_out}")
    return Path(found).resolve()


def find_maven() -> str:
    """The command `mvn`. Raises StackError where it is missing."""
    found = shutil.which("mvn")
    if found is None:
        raise StackError("Maven is missing, which fetches the servers: install it (Debian: apt-get install maven)")
    return found


def check_memory(needed: Mapping[str, int]) -> None:
    """Raise StackError where less memory is available than these servers need (MiB, by name)."""
    text = Path("/proc/meminfo").read_text()
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    if match is None:
        return
    available, total = int(match[1]) // 1024, sum(needed.values())
    if available < total:
        each = ", ".join(f"{name} {size:,}" for name, size in needed.items())
        raise StackError(
            f"too little memory: {available:,} MiB are available, {total:,} MiB are needed ({each}): "
            "end something else, or start fewer servers"
        )


def is_free(host: str, port: int) -> bool:
    """Nobody listens on the port. Raises StackError where the host is no address of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise StackError(
                f"{host}:{port} cannot be listened on: {error.strerror}: name an address of this machine"
            ) from error
    return True


def listeners(port: int) -> list[int]:
    """The processes that listen on a port, as far as this user may look."""
    return sorted(set(holders(_listening(port))))


def holder(port: int) -> str:
    """Who listens on a port, as ` by java (pid 42)`; empty where that cannot be told."""
    found = listeners(port)
    return f" by {', '.join(f'{command_of(pid)} (pid {pid})' for pid in found)}" if found else ""


def choose_port(taken: Collection[int]) -> int:
    """A free port below those that the system hands out for outgoing connections: none of them may come to take it."""
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    below = max(int(limits[0]), LOWEST_PORT + TRIES)
    for _ in range(TRIES):
        port = random.randrange(LOWEST_PORT, below)
        if port not in taken and is_free("", port):
            return port
    raise StackError(f"no free port found between {LOWEST_PORT} and {below}")


def is_open(host: str, port: int) -> bool:
    """Somebody accepts connections on the port."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def _listening(port: int) -> set[int]:
    """The inodes of the sockets that listen on a port."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            rows = Path("/proc/net", name).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(int(fields[9]))
    return found
