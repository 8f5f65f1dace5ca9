"""What the project says: config.json, each topology, the embedded data folder and its tables."""

from collections.abc import Iterator
from pathlib import Path

from paystorm.cli.folder import MARK, prepare_folder
from paystorm.doctor.checks import Finding, failed, ok, warning
from paystorm.doctor.machine import writable
from paystorm.errors import ConfigError
from paystorm.project import CONFIG, Env, Project, load_topology
from paystorm.resources import open_embedded
from paystorm.settings import with_options
from paystorm.stores.versions import load_versions
from paystorm.tables.base import Tables


def config(project: Project, env: str) -> Iterator[Finding]:
    """The environment. Raises ConfigError."""
    found = project.env(env)
    where = f"embedded in {found.embedded.data}" if found.embedded else f"cluster with Nimbus at {found.nimbus}"
    yield ok(f"{project.root / CONFIG}: envs.{env}, {where}")


def topologies(project: Project) -> Iterator[Finding]:
    """Each file by itself, so that one that is broken hides no other; then all together. Raises ConfigError."""
    specs = str(project.config.get("topology_specs", ""))
    broken = False
    for path in sorted((project.root / specs).glob("*.py")):
        if path.name.startswith("_"):
            continue
        name = f"{specs.rstrip('/')}/{path.name}"
        try:
            source, _ = load_topology(path, name)
            does = "denies" if source.enforces else "watches"
            yield ok(f"source {source.name}: {len(source.rules)} rules, {does}", name)
        except ConfigError as error:
            broken = True
            yield failed(str(error), f"mend {name}", name)
    if not broken:
        project.sources()


def virtualenvs(project: Project, env: Env) -> Iterator[Finding]:
    """What sparse installs on workers, where it does."""
    if not env.plain.get("use_virtualenv", True):
        yield ok("use_virtualenv is false: workers have the packages already")
        return
    folder = project.root / str(project.config.get("virtualenv_specs", "virtualenvs/"))
    fine = []
    for topology in project.topology_names().values():
        file = folder / f"{topology}.txt"
        if not file.is_file():
            yield failed(f"there is no {file}", f"cp {folder / 'purchase.txt'} {file}")
        elif "setuptools<81" not in file.read_text().replace(" ", ""):
            yield failed(
                f"{file} does not name setuptools<81, and streamparse needs it", f"echo 'setuptools<81' >> {file}"
            )
        else:
            fine.append(topology)
    if fine:
        yield ok(f"{', '.join(fine)}: named with setuptools<81")


def data_folder(folder: Path) -> Iterator[Finding]:
    """The embedded data folder, which is not made here. Raises DataFolderError."""
    if not folder.exists():
        parent = next(parent for parent in folder.parents if parent.exists())
        for finding in writable(parent, "above the data folder", f"mkdir -p {folder}"):
            yield ok(f"{folder} is made when it is first used") if finding.result == "ok" else finding
        return
    if not folder.is_dir() or ((folder / MARK).exists() or any(folder.iterdir())):
        prepare_folder(folder)  # says what is wrong with it
    yield from writable(folder, "data folder", f"mkdir -p {folder}")


def tables(project: Project, env: Env, folder: Path) -> Iterator[Finding]:
    """Whether the embedded tables can be read, and their rules are those of the project. Raises TablesError."""
    if not (folder / MARK).exists():
        yield ok("none yet")
        return
    resources = open_embedded(folder)
    try:
        yield from versions(project, env, resources.tables)
    finally:
        resources.close()


def versions(project: Project, env: Env, held: Tables) -> Iterator[Finding]:
    """Which rules are in force for each source, and whether the project has others by now. Raises TablesError."""
    told = []
    for name, declared in project.sources().items():
        there = load_versions(held, name)
        if not there:
            told.append(f"{name} never started")
        elif there[-1].rules != with_options(declared, env.options).rules:
            yield warning(
                f"{name}: its rules differ from version {there[-1].number}, which is in force until it is started anew",
                f"paystorm run {name}" if env.embedded else f"sparse submit -n {name} -e {env.name}",
            )
        else:
            told.append(f"{name} version {there[-1].number}")
    if told:
        yield ok(", ".join(told))
