"""`paystorm export`: what a source's records came to, for other programs."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import polars as pl
import typer

from paystorm import exports
from paystorm.cli.common import DataOption, EnvOption, Here, open_here, say_pruned
from paystorm.errors import DataFolderError, UsageError

FORMATS = ("ndjson", "csv", "parquet")
Reader = Callable[[Here, list[str], str | None], Iterator[pl.DataFrame]]


def _by_source(read: Any) -> Reader:
    """A reader of one source after another."""

    def reader(here: Here, names: list[str], wanted: str | None) -> Iterator[pl.DataFrame]:
        for name in names:
            yield from read(here.resources, here.source(name))

    return reader


WHAT: dict[str, tuple[exports.Schema, Reader]] = {
    "outcomes": (exports.OUTCOMES, _by_source(exports.outcomes)),
    "counts": (exports.COUNTS, _by_source(exports.counts)),
    "hits": (exports.HITS, _by_source(exports.hits)),
    "lists": (exports.LISTS, lambda here, names, wanted: exports.lists(here.resources, wanted)),
    "cases": (exports.CASES, lambda here, names, wanted: exports.cases(here.resources, names)),
    "dead-letters": (exports.DEAD_LETTERS, _by_source(exports.dead_letters)),
    "history": (exports.HISTORY_ROWS, lambda here, names, wanted: exports.history(here.resources, wanted)),
    "caught-late": (exports.CAUGHT_LATE, _by_source(exports.caught_late)),
}
"""What can be exported: its columns and its reader."""


def write(frames: Iterator[pl.DataFrame], schema: exports.Schema, form: str, target: BinaryIO) -> int:
    """Write frames in a format; how many rows. In ndjson and csv times are ISO text in UTC."""
    empty = pl.DataFrame(schema=dict(schema))
    if form == "parquet":
        whole = pl.concat([empty, *frames])
        whole.write_parquet(target, compression="zstd")
        return len(whole)
    if form == "csv":
        target.write(",".join(schema).encode() + b"\n")
    rows = 0
    for frame in frames:
        rows += len(frame)
        shown = _as_text(frame)
        # By way of Python: polars itself would take a closed pipe for an error of its own.
        text = shown.write_csv(include_header=False) if form == "csv" else shown.write_ndjson()
        target.write(text.encode())
    return rows


def _as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Times as ISO text, with a fraction only where there is one."""
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    return frame.with_columns(
        pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ").str.replace(r"\.0+Z$", "Z").alias(name) for name in times
    )


def _to_file(path: Path, frames: Iterator[pl.DataFrame], schema: exports.Schema, form: str) -> int:
    """Write beside the file and rename, so that nobody ever finds half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as target:
            rows = write(frames, schema, form, target)
        aside.replace(path)
    except OSError as error:
        raise DataFolderError(f"{path}: {error.strerror}: name another file with --out, or free space") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    return rows


def export(
    what: Annotated[str, typer.Argument(metavar="WHAT", help=", ".join(WHAT))],
    source: Annotated[str | None, typer.Option("--source", metavar="SOURCE", help="Of one source only.")] = None,
    form: Annotated[str, typer.Option("--format", metavar="|".join(FORMATS), help="How rows are written.")] = "ndjson",
    target: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A file in the place of standard output.")
    ] = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Write rows for other programs: outcomes, counts, hits, lists, cases, dead letters, history, caught late."""
    if what not in WHAT:
        raise UsageError(f"export: no {what!r}; there are {', '.join(WHAT)}")
    if form not in FORMATS:
        raise UsageError(f"--format must be {', '.join(FORMATS)}, got {form!r}")
    schema, read = WHAT[what]
    with open_here(env, data) as here:
        names = list(here.sources([source] if source is not None else None))
        frames = read(here, names, source)
        if what in ("outcomes", "cases"):
            say_pruned(here, names)
        if target is not None:
            rows = _to_file(target, frames, schema, form)
            print(f"{rows:,} rows written to {target}", file=sys.stderr)
        else:
            write(frames, schema, form, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)
