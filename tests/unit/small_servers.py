"""Small servers that are no Java, to try the launcher with: real processes that start in a moment."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from paystorm.stack import Server, Stack
from paystorm.stack.server import Site

LISTEN = """
import os, signal, socket, subprocess, sys, time
host, port, log, how = sys.argv[1:]
if how == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if how == "fails":
    sys.exit("the disk is upside down")
if how == "parent":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind((host, int(port)))
if how != "deaf":
    listening.listen()
with open("pid", "w") as file:
    file.write(str(os.getpid()))
with open(log, "a") as file:
    file.write("is here\\n")
time.sleep(300)
"""


@dataclass(frozen=True, kw_only=True)
class Small(Server):
    """Listens on its port."""

    kind: ClassVar[str] = "small"
    port_names: ClassVar[tuple[str, ...]] = ("main",)

    how: str = ""
    """stubborn: SIGTERM does not end it; fails; parent: starts a child; deaf: is never ready."""
    needs_memory: int = 1

    @property
    def pom(self) -> str:
        return ""

    @property
    def memory(self) -> int:
        return self.needs_memory

    def files(self, site: Site) -> Mapping[str, str]:
        return {"settings": f"port={site.ports['main']}\n"}

    def command(self, site: Site) -> Sequence[str]:
        return [sys.executable, "-c", LISTEN, self.host, str(site.ports["main"]), str(site.log), self.how]

    def is_ready(self, site: Site, said: str) -> bool:
        return "is here" in said and self.listens(site)


@dataclass(frozen=True, kw_only=True)
class Upper(Small):
    """Needs the other."""

    kind: ClassVar[str] = "upper"
    requires: ClassVar[tuple[str, ...]] = ("small",)


@dataclass(frozen=True, kw_only=True)
class Asked(Small):
    """Has a command that ends it."""

    stop: Sequence[str] | None = None

    def stop_command(self, site: Site) -> Sequence[str]:
        kill = "import os, signal, sys; os.kill(int(open(sys.argv[1]).read()), signal.SIGKILL)"
        return self.stop or [sys.executable, "-c", kill, str(site.folder / "pid")]


def stack_of(folder: Path, *servers: Server, told: list[str] | None = None, limit: float = 20.0) -> Stack:
    """A stack of such servers; `told` gets what it tells."""
    say = told.append if told is not None else lambda text: None
    return Stack(folder, servers, tell=say, limit=limit, stop_limit=1.0)
