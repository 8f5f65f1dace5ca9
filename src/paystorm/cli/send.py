"""`paystorm send`: records from files into a source's topic."""

import gc
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from paystorm.cli.common import DataOption, EnvOption, Here, JsonOption, complain, err, open_here, show_json
from paystorm.cli.records import (
    STDIN,
    Envelopes,
    Item,
    Reading,
    csv_lines,
    is_csv,
    items_of,
    lines_of,
    merged,
    open_input,
    parse_maps,
)
from paystorm.errors import LogError, RecordTooLargeError, UsageError
from paystorm.log.base import OutRecord
from paystorm.project import CONFIG
from paystorm.settings import Settings
from paystorm.source import Source

AT_ONCE = 20_000
"""Records of one append: some thousands for each partition."""
AT_ONCE_BYTES = 16 << 20
NAMED = 20
"""Refused lines that are named one by one; of the others only the number is told."""
EARLY = 0.005
"""Seconds that a record may be sent before its time, where a speed is given: sleeping costs about as much."""


@dataclass(slots=True)
class Sent:
    """What became of the records."""

    source: str
    topic: str
    sent: int = 0
    bytes: int = 0
    refused: int = 0
    """Records over maxRecordBytes, or longer than the log takes: not sent."""
    too_long: int = 0
    """Of them: longer than the log takes."""
    wrapped_for: str = ""
    """The ApplicationRef that bare objects were given; empty where there were none."""
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)


class Sender:
    """Appends records in blocks, at the speed wanted."""

    def __init__(self, here: Here, source: Source, speed: float | None) -> None:
        """`speed`: times the speed of the event times; None: as fast as possible."""
        self.result = Sent(source.name, source.topic)
        self._log = here.resources.log
        self._clock = here.resources.clock
        self._limit: int = Settings(here.env.options)["maxRecordBytes"]
        self._speed = speed
        self._gathered: list[Item] = []
        self._size = 0
        self._begun: tuple[float, float] | None = None
        self._log.create_topic(source.topic, here.partitions)

    def send(self, items: Iterable[Item | None]) -> Iterator[int]:
        """Send all; gives the number sent after each block. Records over the limit are refused and named."""
        limit = self._limit
        try:
            for item in items:
                if item is None:
                    yield self.flush()
                    continue
                value = item.value
                if value is None or item.size > limit:
                    self._refuse(item, f"more than maxRecordBytes {limit:,}")
                    continue
                if self._speed is not None:
                    self._wait(item.at)
                self._gathered.append(item)
                self._size += item.size
                if len(self._gathered) >= AT_ONCE or self._size >= AT_ONCE_BYTES:
                    yield self.flush()
        except UsageError:  # of the input: what came before is sent, as the error says
            self.flush()
            raise
        yield self.flush()

    def flush(self) -> int:
        """Append what has gathered; how many have been sent by now."""
        while self._gathered:
            try:
                self._log.append(self.result.topic, [OutRecord(i.value or b"", i.key) for i in self._gathered])
            except RecordTooLargeError as error:
                long = {*error.records}
                self.result.too_long += len(long)
                for at in sorted(long):
                    self._refuse(self._gathered[at], "more than the log takes")
                self._gathered = [item for at, item in enumerate(self._gathered) if at not in long]
                continue
            except LogError as error:
                # Of one append some partitions may have theirs, and others not.
                some = f", and of the {len(self._gathered):,} after those perhaps some" if self.result.sent else ""
                raise LogError(f"{error}; {self.result.sent:,} records had been sent{some}") from error
            self.result.sent += len(self._gathered)
            self.result.bytes += sum(item.size for item in self._gathered)
            self._gathered.clear()
        self._size = 0
        return self.result.sent

    def _refuse(self, item: Item, why: str) -> None:
        self.result.refused += 1
        if self.result.refused <= NAMED:
            where = f"{item.file} line {item.number}"
            text = f"{where}: {item.size:,} bytes, {why}: not sent"
            self.result.errors.append(text)
            complain(text)

    def _wait(self, at: float | None) -> None:
        """Sleep until a record's time has come. One without a time, or older than those before, goes at once."""
        assert self._speed is not None
        if at is None:
            return
        now = self._clock.monotonic()
        if self._begun is None:
            self._begun = now, at
        due = self._begun[0] + (at - self._begun[1]) / self._speed
        if due - now > EARLY:
            self.flush()
            self._clock.sleep(due - now)


def application_of(here: Here, source: str, wanted: str | None) -> str:
    """The ApplicationRef for bare objects: the one wanted, else the first that sends to the source."""
    mapped = [name for name, to in here.env.applications.items() if to == source]
    file = f"topologies/{source.replace('-', '_')}.py"
    add = f'add it to applications in {file}, or "{wanted or "app"}": "{source}" to those of {CONFIG}'
    if wanted is not None:
        to = here.env.applications.get(wanted)
        there = f"name one of {', '.join(mapped)}, or " if mapped else ""
        if to is None:
            raise UsageError(f"--application {wanted}: no source knows it: {there}{add}")
        if to != source:
            raise UsageError(f"--application {wanted}: it sends to {to}, not to {source}: {there}send to {to}")
        return wanted
    if not mapped:
        raise UsageError(f"a bare object has no ApplicationRef, and no application sends to source {source}: {add}")
    return mapped[0]


def send_files(
    here: Here,
    name: str,
    files: Sequence[str],
    *,
    speed: float | None = None,
    merge: bool = False,
    maps: Sequence[str] = (),
    as_csv: bool | None = None,
    application: str | None = None,
    progress: bool = False,
) -> Sent:
    """Send files to a source. Raises UsageError; what was sent before stays in the log."""
    source = here.source(name)
    columns = parse_maps(maps, source)
    limit: int = Settings(here.env.options)["maxRecordBytes"]
    if application is not None:
        application_of(here, name, application)
    envelopes = Envelopes(source, lambda: application_of(here, name, application), timed=merge or speed is not None)
    began = time.monotonic()
    with ExitStack() as stack:
        readings: list[Reading] = []
        inputs: list[Iterator[Item | None]] = []
        for file in files:
            reading = open_input(file)
            stack.callback(reading.close)
            tabular = as_csv if as_csv is not None else is_csv(file) or (file == STDIN and bool(columns))
            if columns and not tabular:
                raise UsageError(f"--map goes with CSV, and {file} is read as NDJSON: add --format csv where it is CSV")
            lines = csv_lines(reading, source, columns, limit) if tabular else lines_of(reading, limit)
            readings.append(reading)
            inputs.append(items_of(reading, lines, envelopes.record))
        sender = Sender(here, source, speed)
        items: Iterable[Item | None] = merged(inputs) if merge else (item for each in inputs for item in each)
        stack.enter_context(_no_collection())
        bar = stack.enter_context(_progress(name, readings)) if progress else None
        try:
            for sent in sender.send(items):
                if bar is not None:
                    bar(sent)
        except KeyboardInterrupt:
            complain(f"{sender.result.sent:,} records had been sent to {name}")
            raise
    sender.result.seconds = round(time.monotonic() - began, 3)
    sender.result.wrapped_for = envelopes.wrapped_for
    return sender.result


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's cycle collector: it would look at what has gathered again and again, and that has no cycles."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def _progress(name: str, readings: Sequence[Reading]) -> Iterator[Any]:
    sizes = [reading.size for reading in readings]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[sent]:,} records"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err()) as progress:
        task = progress.add_task(f"send {name}", total=total, sent=0)

        def update(sent: int) -> None:
            done = sum(r.size or 0 if r.ended else r.position() for r in readings)
            progress.update(task, completed=done, sent=sent)

        yield update


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1e9:
        raise UsageError(f"--speed must be max or a number above 0 (1: as the event times go), got {text!r}")
    return speed


def send(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The source to send to.")],
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="NDJSON or CSV, .gz too; - is standard input.")],
    speed: Annotated[str, typer.Option(metavar="N|max", help="N times the speed of the event times.")] = "max",
    merge: Annotated[bool, typer.Option("--merge", help="Send several files in order of event time.")] = False,
    maps: Annotated[
        list[str] | None, typer.Option("--map", metavar="FIELD=COLUMN", help="CSV: which column a field is in.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="ndjson|csv", help="What the files are; default: by their names.")
    ] = None,
    application: Annotated[
        str | None,
        typer.Option(metavar="REF", help="The ApplicationRef of bare objects; default: the source's first."),
    ] = None,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send records to a source's topic: NDJSON (envelopes or bare data objects) or CSV with a header.

    Each line is a record, keyed by its first party. Broken lines are sent as they are and become dead letters; records
    over maxRecordBytes, or longer than the log takes, are refused and named, and make the exit code 2.
    """
    if form not in (None, "ndjson", "csv"):
        raise UsageError(f"--format must be ndjson or csv, got {form!r}")
    if files.count(STDIN) > 1:
        raise UsageError("- (standard input) can be read once only")
    with open_here(env, data) as here:
        result = send_files(
            here,
            source,
            files,
            speed=_speed(speed),
            merge=merge,
            maps=maps or (),
            as_csv=None if form is None else form == "csv",
            application=application,
            progress=sys.stderr.isatty(),
        )
    if as_json:
        show_json(asdict(result))
    else:
        rate = f", {result.sent / result.seconds:,.0f} a second" if result.seconds > 0.05 else ""
        wrapped = f"; bare objects as application {result.wrapped_for}" if result.wrapped_for else ""
        print(f"{result.sent:,} records sent to {result.source} in {result.seconds:.1f} s{rate}{wrapped}")
    if result.refused:
        why = "over maxRecordBytes" if not result.too_long else "over maxRecordBytes, or longer than the log takes"
        raise UsageError(f"{result.refused:,} records were not sent: {why}; all others were")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(send)
