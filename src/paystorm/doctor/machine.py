"""What this machine has: Python and its packages, Java, lein, the clock, disks, open files."""

import ctypes
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from paystorm.doctor.checks import Finding, failed, ok, warning
from paystorm.stack.machine import find_java

PYTHON = (3, 11)
SETUPTOOLS = 81
"""From this release on setuptools has no pkg_resources, which streamparse imports."""
GIB, MIB = 1024**3, 1024**2
LITTLE_DISK, NO_DISK = GIB, 100 * MIB
FEW_FILES = 1024
STEP_SECONDS = 0.2
SLACK = 0.05
"""Seconds that the two clocks may differ over STEP_SECONDS."""
EARLIEST = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
_UNSYNCHRONISED = 0x0040
_TIMEX_BYTES, _STATUS_AT = 256, 40


def python() -> Iterator[Finding]:
    """The interpreter."""
    said = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON:
        yield failed(f"Python {said}, 3.11 or later is needed", "make setup PYTHON=python3.12")
    else:
        yield ok(f"Python {said} at {sys.executable}")


def setuptools() -> Iterator[Finding]:
    """What streamparse needs beside it."""
    mend = f"{sys.executable} -m pip install 'setuptools<81'"
    try:
        streamparse = version("streamparse")
    except PackageNotFoundError:
        yield failed("streamparse is not installed", "make setup")
        return
    try:
        found = version("setuptools")
    except PackageNotFoundError:
        yield failed("setuptools is not installed, and streamparse imports its pkg_resources", mend)
        return
    if int(found.split(".")[0]) >= SETUPTOOLS:
        yield failed(f"setuptools {found} has no pkg_resources, which streamparse {streamparse} imports", mend)
    else:
        yield ok(f"setuptools {found} beside streamparse {streamparse}")


def packages(needed: dict[str, str]) -> Iterator[Finding]:
    """Packages by name, and what each is for."""
    missing = []
    there = []
    for name in needed:
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    for name in missing:
        yield failed(f"{name} is not installed: {needed[name]}", f"{sys.executable} -m pip install {name}")
    if not missing:
        yield ok(", ".join(there))


def java() -> Iterator[Finding]:
    """The release that lein and the stack need. Raises StackError."""
    yield ok(str(find_java()))


def lein() -> Iterator[Finding]:
    """What `sparse submit` builds the jar with."""
    found = shutil.which("lein")
    if found is None:
        yield failed(
            "lein is missing, which sparse submit builds the jar with",
            "apt-get install leiningen, or submit with -j JAR",
        )
    elif os.geteuid() == 0 and os.environ.get("LEIN_ROOT") is None:
        yield warning(f"{found} refuses to run as root", "export LEIN_ROOT=1")
    else:
        yield ok(found)


def sparse_run() -> Iterator[Finding]:
    """A trap of Storm 2."""
    yield warning(
        "sparse run is no local mode on Storm 2: Flux ignores --local and submits to the cluster of storm.yaml",
        "paystorm run",
    )


def clock() -> Iterator[Finding]:
    """Whether the machine's time goes on evenly and is kept in step."""
    wall, mono = time.time(), time.monotonic()
    time.sleep(STEP_SECONDS)
    stepped = (time.time() - wall) - (time.monotonic() - mono)
    in_step = "chronyc makestep, and keep chronyd or systemd-timesyncd running"
    if wall < EARLIEST:
        yield failed(f"the clock says {datetime.fromtimestamp(wall, UTC):%Y-%m-%d}", in_step)
    elif abs(stepped) > SLACK:
        yield warning(f"the clock was set by {stepped:+.2f} s while it was looked at", in_step)
    elif _unsynchronised():
        yield warning("the kernel says that nothing keeps its clock in step", in_step)
    else:
        yield ok(f"{datetime.fromtimestamp(time.time(), UTC):%Y-%m-%dT%H:%M:%SZ}")


def _unsynchronised() -> bool:
    """What Linux says (adjtimex); False where it cannot be asked."""
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        timex = ctypes.create_string_buffer(_TIMEX_BYTES)
        if libc.adjtimex(timex) < 0:
            return False
    except (OSError, AttributeError):
        return False
    status = int.from_bytes(timex.raw[_STATUS_AT : _STATUS_AT + 4], sys.byteorder)
    return bool(status & _UNSYNCHRONISED)


def files() -> Iterator[Finding]:
    """How many files a process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        yield warning(f"a process may have {soft:,} files open", "ulimit -n 4096")
    else:
        yield ok("as many as wanted" if soft == resource.RLIM_INFINITY else f"{soft:,} open files")


def disk(folder: Path, what: str) -> Iterator[Finding]:
    """The space where a folder is, or will be."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    usage = shutil.disk_usage(there)
    text = f"{usage.free / GIB:,.1f} GiB free of {usage.total / GIB:,.1f} at {there} ({what})"
    mend = f"free some space, or name another folder for the {what}"
    if usage.free < NO_DISK:
        yield failed(text, mend)
    elif usage.free < LITTLE_DISK:
        yield warning(text, mend)
    else:
        yield ok(text)


def writable(folder: Path, what: str, mend: str) -> Iterator[Finding]:
    """Whether files can be made in a folder; nothing is left there."""
    if not folder.is_dir():
        yield failed(f"there is no folder {folder} ({what})", mend)
        return
    probe = folder / f".doctor-{os.getpid()}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        yield failed(f"{folder} cannot be written to: {error.strerror}", f"make it writable for {_user()}")
    else:
        yield ok(f"{folder} is writable")


def _user() -> str:
    return f"user {os.geteuid()}"
