"""A worker as sparse reaches it over ssh: a real sshd on loopback, with keys and a home of its own."""

import getpass
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.stack.deployed import until

from paystorm.stack.machine import choose_port, is_open

START_SECONDS = 60.0
STOP_SECONDS = 20.0
SEPARATED = Path("/run/sshd")
"""The empty folder that a sshd of root locks its unprivileged half into; Debian's service makes it at each start."""
_OF_PIP = re.compile(r"PIP_|.*_CA_BUNDLE$|SSL_CERT_|https?_proxy$|no_proxy$", re.IGNORECASE)
"""What pip needs in its environment to find packages as it does here."""


@dataclass(frozen=True)
class SshWorker:
    """The worker."""

    name: str
    """As config.json's `workers` has it: host and port."""
    user: str
    home: Path
    environment: Mapping[str, str]
    """What a caller needs to be let in: the socket of an agent that has the key."""
    log: Path


@contextmanager
def ssh_worker(folder: Path) -> Iterator[SshWorker]:
    """Start sshd and an agent, both ended on leaving. Skips where they are not installed; on CI that is a failure."""
    programs = {name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in _PROGRAMS}
    missing = [name for name, found in programs.items() if found is None]
    if missing:
        text = f"{missing[0]} is missing (Debian: apt-get install openssh-server)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(text)
    if os.geteuid() == 0:
        SEPARATED.mkdir(mode=0o755, exist_ok=True)
    port, log, agent = choose_port([]), folder / "sshd.log", folder / "agent"
    for key in ("host_key", "key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
    (folder / "authorized_keys").write_text((folder / "key.pub").read_text())
    home = _home(folder / "home")
    (folder / "sshd_config").write_text(_config(folder, port, home))
    commands = [
        [str(programs["sshd"]), "-D", "-f", str(folder / "sshd_config"), "-E", str(log)],
        [str(programs["ssh-agent"]), "-D", "-a", str(agent)],
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        until(agent.exists, START_SECONDS, "ssh-agent does not start")
        environment = {"SSH_AUTH_SOCK": str(agent)}
        _run("ssh-add", "-q", str(folder / "key"), environment=environment)
        until(lambda: is_open("127.0.0.1", port), START_SECONDS, "sshd does not start")
        yield SshWorker(f"127.0.0.1:{port}", getpass.getuser(), home, environment, log)
    finally:
        for process in started:
            process.terminate()
            process.wait(STOP_SECONDS)


_PROGRAMS = ("sshd", "ssh-agent", "ssh-add", "ssh-keygen")


def _config(folder: Path, port: int, home: Path) -> str:
    lines = {
        "ListenAddress": "127.0.0.1",
        "Port": port,
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "yes" if os.geteuid() == 0 else "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "Subsystem": "sftp internal-sftp",
        "SetEnv": f"HOME={home}",
        "LogLevel": "VERBOSE",
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def _home(home: Path) -> Path:
    """The worker has the command `virtualenv`, pip's cache and index, and of the project nothing."""
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "virtualenv").symlink_to(Path(sys.executable).parent / "virtualenv")
    cache = _run(sys.executable, "-m", "pip", "cache", "dir").strip()
    given = {name: value for name, value in os.environ.items() if _OF_PIP.match(name)}
    settings = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config"))
    given |= {"PIP_CACHE_DIR": cache, "XDG_CONFIG_HOME": str(settings), "PATH": f"{home}/bin:/usr/bin:/bin"}
    # The login shell that Fabric runs commands with sets its own PATH first.
    (home / ".bash_profile").write_text("".join(f"export {name}='{value}'\n" for name, value in given.items()))
    return home


def _run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command[0]}: {done.stderr}"
    return done.stdout
