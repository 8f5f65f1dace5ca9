"""A project on disk: `config.json`, its environments, and the topologies that it names. The form is streamparse's.

Beside what sparse reads, an environment may have `embedded` (`data`: the folder, `partitions`: of topics that are
made), and the file or an environment `applications`: which source an ApplicationRef sends to, over what the sources
themselves declare.
"""

import importlib.util
import json
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from streamparse import Topology
from streamparse.dsl.topology import TopologyType

from paystorm.errors import ConfigError, PaystormError
from paystorm.settings import check_options
from paystorm.source import Source

CONFIG = "config.json"
SOURCE = "paystorm.source"
"""The key of a topology's configuration that holds its source (`paystorm.storm.topology_config`)."""
MAX_PARTITIONS = 1024
MAX_CONFIG_BYTES = 1024 * 1024

_MISSING = object()
_IS_A = {dict: "an object", list: "a list", str: "text", int: "a whole number"}


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embedded parts of an environment."""

    data: Path
    """The data folder; relative paths are from the project's root."""
    partitions: int
    """Partitions of a topic that is made."""


@dataclass(frozen=True, slots=True)
class Env:
    """An environment of `config.json`, checked."""

    name: str
    embedded: Embedded | None
    """None: a cluster."""
    nimbus: str | None
    """Where the cluster's Nimbus is, as sparse has it; None: embedded."""
    options: Mapping[str, Any]
    """Storm's options and paystorm's settings."""
    applications: Mapping[str, str]
    """The source that each ApplicationRef sends to."""
    plain: Mapping[str, Any] = field(repr=False)
    """The environment as it stands in the file, with what sparse reads (nimbus, workers, …)."""

    @property
    def nimbus_seeds(self) -> list[str]:
        """Every Nimbus of the cluster: `nimbus`, then those of the list `nimbuses`, which sparse does not read."""
        more = self.plain.get("nimbuses", [])
        return [name for name in dict.fromkeys([self.nimbus, *more]) if name]


class Project:
    """A folder with a `config.json`."""

    def __init__(self, root: Path, config: dict[str, Any]) -> None:
        self.root = root
        self.config = config

    @classmethod
    def load(cls, start: Path | None = None) -> "Project":
        """The project whose root is `start` or above it (default: the working folder, then the installed location).

        Raises ConfigError where there is none or its `config.json` cannot be read.
        """
        root = find_root(start)
        return cls(root, read_config(root / CONFIG))

    def env(self, name: str = "local") -> Env:
        """The environment of that name, its options checked. Raises ConfigError."""
        envs = _get(self.config, "envs", dict, "")
        if name not in envs:
            there = ", ".join(sorted(envs)) or "none"
            raise ConfigError(f"{CONFIG}: envs has no {name!r}; there are {there}")
        plain = _get(envs, name, dict, "envs")
        where = f"envs.{name}"
        options = _get(plain, "options", dict, where, {})
        check_options(options, self.sources(), f"{CONFIG}: {where}.options")
        options = absolute_paths(options, self.root)
        embedded = self._embedded(plain, where) if "embedded" in plain else None
        nimbus = _get(plain, "nimbus", str, where, "")
        if embedded is None and not nimbus:
            raise ConfigError(f"{CONFIG}: {where} must have embedded (a data folder) or nimbus (a host)")
        return Env(name, embedded, None if embedded else nimbus, options, self._applications(plain, where), plain)

    def _embedded(self, plain: dict[str, Any], where: str) -> Embedded:
        section = _get(plain, "embedded", dict, where)
        where = f"{where}.embedded"
        data = _get(section, "data", str, where)
        partitions: int = _get(section, "partitions", int, where, 1)
        if not data:
            raise ConfigError(f"{CONFIG}: {where}.data must be a folder, got ''")
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise ConfigError(f"{CONFIG}: {where}.partitions must be 1 to {MAX_PARTITIONS}, got {partitions}")
        return Embedded(self.root / data, partitions)

    def _applications(self, plain: dict[str, Any], where: str) -> dict[str, str]:
        if "applications" in plain:
            applications = _get(plain, "applications", dict, where)
            where = f"{where}.applications"
        else:
            applications = _get(self.config, "applications", dict, "", {})
            where = "applications"
        declared: dict[str, str] = {}
        for name, declares in self.sources().items():
            for application in declares.applications:
                if declared.setdefault(application, name) != name and application not in applications:
                    raise ConfigError(
                        f"application {application!r} is named by the sources {declared[application]} and {name}: "
                        f"take it out of one, or say in {CONFIG}: {where} which it sends to"
                    )
        for application in applications:
            source = _get(applications, application, str, where)
            if source not in self.sources():
                there = ", ".join(sorted(self.sources()))
                raise ConfigError(f"{CONFIG}: {where}.{application}: no source {source!r}; there are {there}")
        return {**declared, **applications}

    def sources(self) -> dict[str, Source]:
        """The sources by name, sorted."""
        return {name: source for name, (source, _, _) in self._loaded.items()}

    def topologies(self) -> dict[str, type[Any]]:
        """The topology classes by the name of their source, sorted."""
        return {name: topology for name, (_, topology, _) in self._loaded.items()}

    def topology_names(self) -> dict[str, str]:
        """The name that sparse submits each source's topology under, its file's, by the name of the source."""
        return {name: file for name, (_, _, file) in self._loaded.items()}

    @cached_property
    def _loaded(self) -> dict[str, tuple[Source, type[Any], str]]:
        specs = _get(self.config, "topology_specs", str, "")
        folder = self.root / specs
        if not folder.is_dir():
            raise ConfigError(f"{CONFIG}: topology_specs: no folder {folder}")
        files = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))
        if not files:
            raise ConfigError(f"{CONFIG}: topology_specs: no topology (*.py) in {folder}")
        code = str(self.root / "src")
        if code not in sys.path:
            sys.path.append(code)  # as sparse does: the project's own spouts and bolts
        found: dict[str, tuple[Source, type[Any], str]] = {}
        for path in files:
            name = f"{specs.rstrip('/')}/{path.name}"
            source, topology = load_topology(path, name)
            for other, _, _ in found.values():
                for what in ("name", "topic"):
                    if getattr(other, what) == getattr(source, what):
                        raise ConfigError(f"{name}: {what} {getattr(source, what)!r} is taken by source {other.name}")
            found[source.name] = (source, topology, path.stem)
        return dict(sorted(found.items()))


PATHS = ("paystorm.warehouse", "paystorm.data")
"""Options that are folders: relative ones are from the project's root."""


def absolute_paths(options: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The options with their folders absolute."""
    found = {name: str((root / options[name]).resolve()) for name in PATHS if options.get(name)}
    return {**options, **found}


def find_root(start: Path | None = None) -> Path:
    """The nearest folder with a `config.json`, upward. Raises ConfigError where there is none."""
    starts = [start] if start is not None else [Path.cwd(), Path(__file__).parent]
    for given in starts:
        at = given.resolve()
        for folder in (at, *at.parents):
            if (folder / CONFIG).is_file():
                return folder
    raise ConfigError(f"no {CONFIG} in {starts[0]} or above it: go to the project's folder")


def read_config(path: Path) -> dict[str, Any]:
    """The object in a `config.json`. Raises ConfigError, with the line where it is not JSON."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} must be at most {MAX_CONFIG_BYTES} bytes")
    try:
        config = json.loads(raw.decode(), object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} line {error.lineno}: not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path} line {line}: not UTF-8") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path} must hold an object, got {_shown(config)}")
    return config


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ConfigError(f"{CONFIG}: key {key!r} stands twice in one object")
        out[key] = value
    return out


def _get(section: Mapping[str, Any], key: str, kind: type[Any], where: str, default: Any = _MISSING) -> Any:
    """The value of a key, of the kind. Raises ConfigError where it is missing without a default, or of another."""
    path = f"{where}.{key}" if where else key
    value = section.get(key, default)
    if value is _MISSING:
        raise ConfigError(f"{CONFIG}: {path} is missing: it must be {_IS_A[kind]}")
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{CONFIG}: {path} must be {_IS_A[kind]}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def load_topology(path: Path, name: str) -> tuple[Source, type[Any]]:
    """The source and the topology class of a file. Raises ConfigError naming file and line."""
    module = _execute(path, name)
    topology = next((v for v in vars(module).values() if isinstance(v, TopologyType) and v is not Topology), None)
    if topology is None:
        raise ConfigError(f"{name}: no Topology class in it")
    declared = topology.config.get(SOURCE)
    if declared is None:
        raise ConfigError(f"{name}: {topology.__name__} has no source; write config = topology_config(SOURCE)")
    try:
        return Source.from_dict(declared), topology
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _execute(path: Path, name: str) -> ModuleType:
    """The file as a module of its own name, so that no file of another project is taken for it."""
    spec = importlib.util.spec_from_file_location(f"_paystorm_topology_{path.stem}", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        line = error.lineno if error.filename == str(path) else None
        raise ConfigError(f"{name}{_line(line)}: {error.msg}") from error
    except PaystormError as error:
        raise ConfigError(f"{name}{_line(_line_in(path, error))}: {error}") from error
    except Exception as error:  # whatever the file does, it is named
        text = " ".join(str(error).split())
        raise ConfigError(f"{name}{_line(_line_in(path, error))}: {type(error).__name__}: {text}") from error
    return module


def _line_in(path: Path, error: Exception) -> int | None:
    """The line of the file that the error came through last."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return lines[-1] if lines else None


def _line(number: int | None) -> str:
    return f" line {number}" if number else ""
