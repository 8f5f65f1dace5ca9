"""Writes a new source's files: all of them or none, and never over one that is there."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from paystorm.errors import UsageError
from paystorm.project import Project, load_topology
from paystorm.scaffold.draft import Draft
from paystorm.scaffold.render import requirements_text, sample_text, test_records, test_text, topology_text


def files_of(draft: Draft, project: Project) -> dict[Path, str]:
    """The files of a source and their text, the topology last: with it the source is there.

    Raises UsageError where the sample cannot be used, ConfigError where the declaration cannot.
    """
    name = draft.source.name
    specs = Path(str(project.config.get("topology_specs", "topologies/")))
    virtualenvs = Path(str(project.config.get("virtualenv_specs", "virtualenvs/")))
    records = test_records(draft)
    tests = Path("tests") / "sources"
    text = topology_text(draft)
    _check(text, specs / f"{name}.py")
    return {
        virtualenvs / f"{name}.txt": requirements_text(project.root / virtualenvs),
        tests / f"{name}.ndjson": sample_text(records),
        tests / f"test_source_{name}.py": test_text(draft, records),
        specs / f"{name}.py": text,
    }


def _check(text: str, path: Path) -> None:
    """Load the topology from elsewhere, as the project will. Raises ConfigError for what it cannot be."""
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder) / path.name
        aside.write_text(text, encoding="utf-8")
        load_topology(aside, str(path))


def write_files(root: Path, files: Mapping[Path, str]) -> None:
    """Write the files below `root`. Raises UsageError where one is there or cannot be written: then none is."""
    there = [str(path) for path in files if (root / path).exists() or (root / path).is_symlink()]
    if there:
        raise UsageError(f"{there[0]} is there already: nothing was written; move it away or choose another name")
    made: list[Path] = []
    folders: list[Path] = []
    asides: dict[Path, Path] = {}
    try:
        for path, text in files.items():
            folders += _make_folder((root / path).parent)
            # Hidden, and of no suffix that the project looks for.
            asides[path] = aside = (root / path).parent / f".{path.name}.{os.getpid()}"
            with aside.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for path, aside in asides.items():
            os.link(aside, root / path)  # a link is never put over a file
            made.append(root / path)
    except BaseException as error:
        for path in made:
            path.unlink(missing_ok=True)
        _remove(asides, folders)
        if isinstance(error, FileExistsError):
            raise UsageError(f"{error.filename2 or error.filename} is there already: nothing was written") from None
        if isinstance(error, OSError):
            raise UsageError(f"{error.filename}: {error.strerror}: nothing was written") from None
        raise
    _remove(asides, [])


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; gives those that were made, the deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove(asides: Mapping[Path, Path], folders: list[Path]) -> None:
    for aside in asides.values():
        aside.unlink(missing_ok=True)
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        with suppress(OSError):  # somebody has put something into it meanwhile
            folder.rmdir()
