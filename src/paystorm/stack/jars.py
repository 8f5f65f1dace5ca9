"""The servers' jars: fetched once with Maven into a cache that all projects of a user share."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from paystorm.errors import StackError
from paystorm.stack.machine import find_maven

FETCH_SECONDS = 1800.0
TELL_SECONDS = 5.0

Tell = Callable[[str], None]


def cache_folder() -> Path:
    """Where jars are kept: PAYSTORM_JARS, else `paystorm/jars` in the user's cache folder."""
    given = os.environ.get("PAYSTORM_JARS")
    if given:
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paystorm" / "jars"


def pom_of(name: str) -> Path:
    """The pom of that name, in the project's folder `stack`. Raises StackError."""
    path = Path(__file__).resolve().parents[3] / "stack" / f"{name}.xml"
    if not path.is_file():
        raise StackError(f"no {path}: install paystorm from its project folder with pip install -e")
    return path


def folder_of(pom: Path, cache: Path) -> Path:
    """Where the jars of a pom are, or will be: another pom, another folder."""
    return cache / f"{pom.stem}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"


def have_jars(pom: Path, cache: Path, tell: Tell) -> Path:
    """The folder with the jars of a pom, fetched where they are not there yet. Raises StackError."""
    folder = folder_of(pom, cache)
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"{folder.name}.lock", tell):
            if not folder.is_dir():  # else another process has fetched them meanwhile
                _fetch(pom, folder, tell)
    except OSError as error:
        raise StackError(f"{cache}: {error.strerror}: name another folder with PAYSTORM_JARS") from error
    return folder


def _fetch(pom: Path, folder: Path, tell: Tell) -> None:
    maven = find_maven()
    for left_over in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left_over)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    log = folder.parent / f"{folder.name}.log"
    command = [maven, "-B", "-f", str(pom), "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={aside}"]
    tell(f"{pom.stem}: fetching its jars with Maven, once")
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        _watch(process, pom, log, tell)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    jars = list(aside.glob("*.jar"))
    if process.returncode != 0 or not jars:
        shutil.rmtree(aside)
        raise StackError(f"{pom.stem}: its jars were not fetched: {_reason(log)} (all of it in {log})")
    aside.chmod(0o755)
    aside.rename(folder)
    size = sum(jar.stat().st_size for jar in folder.glob("*.jar")) // 1_000_000
    tell(f"{pom.stem}: {len(jars)} jars, {size:,} MB, fetched in {time.monotonic() - began:.0f} s")


def _watch(process: subprocess.Popen[bytes], pom: Path, log: Path, tell: Tell) -> None:
    """Wait for Maven, and tell now and then how far it is. Raises StackError after FETCH_SECONDS."""
    began = told = time.monotonic()
    while True:
        try:
            process.wait(timeout=0.2)
            return
        except subprocess.TimeoutExpired:
            now = time.monotonic()
        if now - began > FETCH_SECONDS:
            raise StackError(f"{pom.stem}: its jars were not fetched within {FETCH_SECONDS:.0f} s: try again later")
        if now - told >= TELL_SECONDS:
            told = now
            said = log.read_text(errors="replace")
            done = said.count("Downloaded from") + said.count("Copying ")
            tell(f"{pom.stem}: fetching, {now - began:.0f} s, {done:,} files so far")


def _reason(log: Path) -> str:
    """The first error that Maven names."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if "[ERROR]" in line]
    return (errors or lines or ["Maven said nothing"])[0].replace("[ERROR]", "").strip()[:500]


@contextmanager
def _locked(path: Path, tell: Tell) -> Iterator[None]:
    """While this process alone fetches these jars. The lock goes with the process, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"{path.stem}: another process fetches these jars, waiting for it")
            _wait_for(file.fileno(), path)
        yield


def _wait_for(fd: int, path: Path) -> None:
    until = time.monotonic() + FETCH_SECONDS
    while time.monotonic() < until:
        time.sleep(0.2)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            continue
    raise StackError(f"{path.stem}: another process has been fetching these jars for {FETCH_SECONDS:.0f} s: end it")
