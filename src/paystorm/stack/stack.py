"""A stack: the servers of a folder, started, waited for, looked at and stopped."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from paystorm.errors import StackError, UsageError
from paystorm.stack import jars, launch, machine, state
from paystorm.stack.process import Process, marked, resident
from paystorm.stack.server import Server, Site
from paystorm.stack.standard import standard
from paystorm.stack.state import Started, State

READY_SECONDS = 180.0
"""A server that is not ready after this time counts as failed."""

StateName = Literal["running", "starting", "stopped", "died"]


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How a server is."""

    server: str
    state: StateName
    pid: int | None
    ports: Mapping[str, int]
    memory: int
    """Bytes that it and what it has started hold."""
    children: int
    """Processes that it has started, also those that outlived it."""
    since: int | None
    """When it was started, µs since 1970-01-01 UTC."""
    log: Path


class Stack:
    """The servers of a folder. Several processes may use one: all that they need to know is in the folder."""

    def __init__(
        self,
        folder: Path,
        servers: Sequence[Server] | None = None,
        *,
        tell: Callable[[str], None] = lambda text: None,
        limit: float = READY_SECONDS,
        stop_limit: float = launch.STOP_SECONDS,
    ) -> None:
        """`servers`: all that there can be, default `standard()`; `tell` hears of progress.

        `limit`: seconds that a server may take to be ready; `stop_limit`: to end, before it is killed.
        """
        self.folder = folder.absolute()
        self.servers = {server.name: server for server in (standard() if servers is None else servers)}
        self._tell = tell
        self._limit = limit
        self._stop_limit = stop_limit
        self._children: list[subprocess.Popen[bytes]] = []

    def names(self, wanted: Iterable[str] = ()) -> list[str]:
        """The servers of these names (none: all), in the order in which they start. Raises UsageError.

        The name of a kind is that of all its servers, where none of them has it for its own.
        """
        wanted = set(wanted)
        kinds = {server.kind for server in self.servers.values()} - set(self.servers)
        unknown = sorted(wanted - set(self.servers) - kinds)
        if unknown:
            raise UsageError(f"no server {unknown[0]!r}; there are {', '.join(self.servers)}")
        wanted |= {name for name, server in self.servers.items() if server.kind in wanted & kinds}
        return [name for name in self.servers if not wanted or name in wanted]

    def needed(self, wanted: Iterable[str] = ()) -> list[str]:
        """The same, with all the servers that they need."""
        kinds = {self.servers[name].kind for name in self.names(wanted)}
        found = set(self.names(wanted))
        while kinds:
            kinds = {need for s in self.servers.values() if s.kind in kinds for need in s.requires}
            found |= {name for name, server in self.servers.items() if server.kind in kinds}
        return [name for name in self.servers if name in found]

    def up(self, wanted: Iterable[str] = ()) -> list[str]:
        """Start these servers (none: all) and what they need, and wait until all of them are ready.

        The servers that were started; one that runs is left alone. Raises StackError for what cannot be, and for a
        server that fails; those that were started before it stay.
        """
        names = self.needed(wanted)
        state.prepare_folder(self.folder)
        with state.locked(self.folder):
            kept = state.load(self.folder)
            to_start = [name for name in names if self._process(name, kept) is None]
            for name in names:
                self._check_version(name, kept)
            java = Path("java")
            if to_start:
                poms = dict.fromkeys(self.servers[name].pom for name in to_start if self.servers[name].pom)
                java = machine.find_java() if poms else java
                machine.check_memory({name: self.servers[name].memory for name in to_start})
                self._choose_ports(to_start, kept)
                state.save(self.folder, kept)
                for pom in poms:
                    jars.have_jars(jars.pom_of(pom), jars.cache_folder(), self._tell)
            self._launch(names, to_start, kept, java)
        return to_start

    def down(self, wanted: Iterable[str] = ()) -> list[str]:
        """End these servers (none: all), the last ones first, and all that they have started; their data stays.

        The servers that ran. Raises StackError for one that cannot be ended.
        """
        names = self.names(wanted)
        if not (self.folder / state.FILE).exists():
            return []
        with state.locked(self.folder):
            kept = state.load(self.folder)
            living = set(marked(kept.token).values())
            ran = [name for name in names if name in living or self._process(name, kept) is not None]

            def done(name: str) -> None:
                self._tell(f"{name}: stopped")
                kept.servers.pop(name, None)
                state.save(self.folder, kept)

            launch.finish({name: self._ending(name, kept) for name in ran}, self._requires, done)
            for name in names:
                kept.servers.pop(name, None)
            state.save(self.folder, kept)
        self._reap()
        return ran

    def restart(self, name: str) -> None:
        """End a server in order, if it runs, and start it again."""
        self.down([name])
        self.up([name])

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a server's own process a signal; after SIGKILL it is gone, after SIGSTOP it is halted.

        What it has started is not touched.

        Raises StackError where it does not run.
        """
        kept = state.load(self.folder)
        process = self._running(name, kept)
        if not process.send(number, self._mark(name, kept)):
            raise StackError(f"{name}: process {process.pid} has ended meanwhile")
        until = time.monotonic() + launch.GONE_SECONDS
        while process.is_alive() and (
            number == signal.SIGKILL or (number == signal.SIGSTOP and not process.is_halted())
        ):
            if time.monotonic() > until:
                raise StackError(f"{name}: process {process.pid} does not heed {number.name}")
            time.sleep(0.005)
        self._reap()

    def status(self, wanted: Iterable[str] = ()) -> list[ServerStatus]:
        """How these servers (none: all) are."""
        kept = state.load(self.folder)
        living = marked(kept.token)
        return [self._status(name, kept, [p for p, n in living.items() if n == name]) for name in self.names(wanted)]

    def pid(self, name: str) -> int:
        """The process of a server. Raises StackError where it does not run."""
        return self._running(name, state.load(self.folder)).pid

    def processes(self, name: str) -> list[int]:
        """The process of a server and all that it has started, also those that outlived it."""
        return sorted(p.pid for p, owner in marked(state.load(self.folder).token).items() if owner == name)

    def ports(self, name: str) -> Mapping[str, int]:
        """The ports of a server by name. Raises StackError before its first start."""
        found = state.load(self.folder).ports.get(self._known(name))
        if found is None:
            raise StackError(f"{name}: its ports are chosen at its first start: paystorm stack up {name}")
        return found

    def address(self, name: str) -> str:
        """Where clients find a server, as host:port. Raises StackError before its first start."""
        server = self.servers[self._known(name)]
        return f"{server.host}:{self.ports(name)[server.port_names[0]]}"

    def log(self, name: str) -> Path:
        """The log of a server."""
        return self.folder / "logs" / f"{self._known(name)}.log"

    def logs(self, wanted: Iterable[str] = ()) -> dict[str, Path]:
        """The logs that there are of these servers (none: all) and of Storm's workers, by a name for people."""
        kept = state.load(self.folder)
        found: dict[str, Path] = {}
        for name in self.names(wanted):
            found[name] = self.log(name)
            found[f"{name} (printed)"] = launch.out_of(self.log(name))
            if name in kept.ports:
                found |= self.servers[name].more_logs(self._site(name, kept))
        return {name: path for name, path in found.items() if path.exists() and path.stat().st_size}

    # What these are made of

    def _known(self, name: str) -> str:
        if name not in self.servers:
            raise UsageError(f"no server {name!r}; there are {', '.join(self.servers)}")
        return name

    def _requires(self, name: str, other: str) -> bool:
        return self.servers[other].kind in self.servers[name].requires

    def _mark(self, name: str, kept: State) -> str:
        return f"{kept.token}/{name}"

    def _process(self, name: str, kept: State) -> Process | None:
        """The living process of a server."""
        started = kept.servers.get(name)
        if started is None:
            return None
        process = Process(started.pid, started.start)
        return process if process.has_mark(self._mark(name, kept)) else None

    def _running(self, name: str, kept: State) -> Process:
        process = self._process(self._known(name), kept)
        if process is None:
            raise StackError(f"{name} does not run: paystorm stack up {name}")
        return process

    def _reap(self) -> None:
        """Take note of our own children that have ended, so that nothing is left of them."""
        self._children = [child for child in self._children if child.poll() is None]

    def _site(self, name: str, kept: State, java: Path = Path("java")) -> Site:
        server = self.servers[name]
        peers: dict[str, list[tuple[str, Mapping[str, int]]]] = {}
        for other in self.servers.values():
            if other.name in kept.ports:
                peers.setdefault(other.kind, []).append((other.host, kept.ports[other.name]))
        return Site(
            folder=self.folder / name,
            log=self.log(name),
            java=java,
            jars=jars.folder_of(jars.pom_of(server.pom), jars.cache_folder()) if server.pom else self.folder,
            ports=kept.ports[name],
            peers=peers,
        )

    def _check_version(self, name: str, kept: State) -> None:
        """Refuse data of a newer version, and another version than the one that runs."""
        version, newest = self.servers[name].version, kept.versions.get(name, "")
        started = kept.servers.get(name)
        if started is not None and self._process(name, kept) and started.version != version:
            raise StackError(
                f"{name} runs in version {started.version}, not {version}: paystorm stack down {name} first"
            )
        if state.version_key(newest) > state.version_key(version):
            raise StackError(
                f"{name}: its data in {self.folder / name} was written by version {newest}, which {version} cannot "
                f"read: start it with version {newest}, or name another folder"
            )

    def _choose_ports(self, to_start: Sequence[str], kept: State) -> None:
        """Ports for these servers: the given ones, else the kept ones, else free ones.

        While nothing of the stack runs, a kept port that somebody else has taken is chosen anew. Raises StackError for
        a port in use.
        """
        fresh = not marked(kept.token)
        taken: dict[tuple[str, int], str] = {}
        for name, server in self.servers.items():
            old = kept.ports.get(name, {})
            chosen: dict[str, int] = {}
            if name not in to_start:
                taken |= {(server.host, number): f"{name}'s {port}" for port, number in old.items()}
                continue
            for port in server.ports:
                wanted = server.given.get(port)
                number = wanted or old.get(port)
                if number is None or (wanted is None and fresh and self._in_use(server, number, kept)):
                    number = machine.choose_port([n for _, n in taken] + list(old.values()))
                if (server.host, number) in taken:
                    other = taken[server.host, number]
                    raise StackError(f"port {number} is both {name}'s {port} and {other}: give one of them another")
                if self._in_use(server, number, kept):
                    way_out = "end that, or name another port in config.json" if wanted else "end that"
                    raise StackError(
                        f"{name}: port {number} ({port}) of {server.host} is in use{machine.holder(number)}: {way_out}"
                    )
                chosen[port] = number
                taken[server.host, number] = f"{name}'s {port}"
            kept.ports[name] = chosen

    def _in_use(self, server: Server, number: int, kept: State) -> bool:
        """Somebody listens there who was not started by this server. In a network of its own it cannot be told."""
        if server.prefix or machine.is_free(server.host, number):
            return False
        own = {p.pid for p, owner in marked(kept.token).items() if owner == server.name}
        return not own & set(machine.listeners(number))

    def _launch(self, names: Sequence[str], to_start: Sequence[str], kept: State, java: Path) -> None:
        sites = {name: self._site(name, kept, java) for name in names}

        def start(name: str) -> Started:
            server, site = self.servers[name], sites[name]
            size = site.log.stat().st_size if site.log.exists() else 0
            child = launch.start_process(server, site, self._mark(name, kept))
            self._children.append(child)
            kept.servers[name] = launch.started_now(child, site.log, size, server.version)
            kept.versions[name] = server.version
            state.save(self.folder, kept)
            self._tell(f"{name}: starting")
            return kept.servers[name]

        def ready(name: str) -> None:
            kept.servers[name].ready = True
            state.save(self.folder, kept)

        starting = {n: kept.servers[n] for n in names if n not in to_start and not kept.servers[n].ready}
        try:
            launch.Launch(self.servers, sites, self._tell, self._limit).run(
                {name: partial(start, name) for name in to_start}, starting, ready
            )
        finally:
            self._reap()

    def _ending(self, name: str, kept: State) -> Iterator[None]:
        """First the server itself, so that it starts nothing anew, then what it has started."""
        mark, main = self._mark(name, kept), self._process(name, kept)
        if main is not None:
            server = self.servers[name]
            site = self._site(name, kept, _java_if_any() if server.pom else Path("java"))
            command = server.stop_command(site)
            if command is not None:
                yield from launch.asked(command, mark, site.log, main, self._stop_limit)
            yield from launch.ending(name, mark, lambda: [main] if main.is_alive() else [], self._stop_limit)
        left = min(self._stop_limit, launch.GONE_SECONDS)
        yield from launch.ending(
            name, mark, lambda: [p for p, owner in marked(kept.token).items() if owner == name], left
        )

    def _status(self, name: str, kept: State, processes: Sequence[Process]) -> ServerStatus:
        started, main = kept.servers.get(name), self._process(name, kept)
        how: StateName = "running"
        if started is None:
            how = "stopped"
        elif main is None:
            how = "died"
        elif not started.ready:
            site = self._site(name, kept)
            ready = launch.Launch(self.servers, {name: site}, self._tell, self._limit).is_ready(name, started)
            how = "running" if ready else "starting"
        return ServerStatus(
            server=name,
            state=how,
            pid=main.pid if main is not None else None,
            ports=kept.ports.get(name, dict(self.servers[name].given)),
            memory=sum(resident(p.pid) for p in processes),
            children=len([p for p in processes if p != main]),
            since=started.since if started is not None else None,
            log=self.log(name),
        )


def _java_if_any() -> Path:
    try:
        return machine.find_java()
    except StackError:  # what runs can be ended without it
        return Path("java")
