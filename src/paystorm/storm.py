"""What paystorm's spout and bolts share under Storm (or the embedded runner): set-up, chunks in and out, failures.

No exception of ours reaches pystorm: it would end the process. A tuple that cannot be processed is failed, and
comes again.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from streamparse import Bolt

from paystorm.chunk import Chunk, EventChunk, LetterChunk, RecordChunk, Refusal, dump, load
from paystorm.errors import ConfigError
from paystorm.meter import Meter, Place
from paystorm.packing import prepare_types
from paystorm.resources import HANDED_OVER, Resources, of_configuration
from paystorm.settings import Settings, with_options
from paystorm.source import Source
from paystorm.storm_wire import Wire, in_own_process

AnyChunk = RecordChunk | EventChunk | LetterChunk | Refusal
SOURCE = "paystorm.source"
"""The key of the topology's configuration that holds the source's declaration."""


def topology_config(source: Source, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `config` of a topology class: the declaration of its source, and the ticks that its sinks flush by.

    options: settings and Storm's options of this topology alone; those of config.json are over them.
    """
    return {SOURCE: source.to_dict(), "topology.tick.tuple.freq.secs": 1, **(options or {})}


class Prepared:
    """A component's surroundings, read once from the topology's configuration."""

    def __init__(self, conf: Mapping[str, Any]) -> None:
        prepare_types()
        declared = Source.from_dict(conf[SOURCE])
        self.source = with_options(declared, conf, "options")
        self.settings = Settings(conf)
        self.resources: Resources = of_configuration(conf)
        self.in_process = HANDED_OVER in conf

    def meter(self, component: str, task: int) -> Meter:
        """What sums up how busy a task is."""
        place = Place(self.source.name, component, task, own_process=not self.in_process)
        every = self.settings["gaugeSeconds"]
        return Meter(place, self.resources.tables, self.resources.clock, every)

    def wire(self, chunk: AnyChunk) -> AnyChunk | str:
        """What to emit for a chunk: itself in process, its text under Storm."""
        return chunk if self.in_process else dump(chunk)


class ChunkBolt(Bolt):  # type: ignore[misc]  # streamparse is not typed
    """A bolt that works on chunks. Subclasses fill in `prepare`, `handle` and, where they gather, `flush`.

    Tuples are acknowledged by `done` and failed by `undone`, never by pystorm.
    """

    auto_ack = False
    auto_fail = False
    outputs: ClassVar[list[Any]] = []

    def run(self) -> None:
        """Called where the task has a process of its own, as under Storm: handle messages until Storm goes away."""
        self.serializer: Any = in_own_process(self.serializer)
        super().run()

    def _run(self) -> None:
        """Called by pystorm's loop: wait for the next message, but no longer than for what is due without one.

        Storm's ticks come once a second at most: too late for what is gathered for a tenth of one.
        """
        due = self.due_in()
        if due is None or self._pending_commands or not isinstance(self.serializer, Wire) or self.serializer.waits(due):
            super()._run()
        else:
            self._due()

    def initialize(self, storm_conf: Mapping[str, Any], context: Mapping[str, Any]) -> None:
        """Called by pystorm before the first tuple."""
        self.here = Prepared(storm_conf)
        self.source = self.here.source
        self.settings = self.here.settings
        self.clock = self.here.resources.clock
        self.tables = self.here.resources.tables
        self.tasks: dict[str, list[int]] = {}
        for task, component in context.get("task->component", {}).items():
            self.tasks.setdefault(component, []).append(int(task))
        for ids in self.tasks.values():
            ids.sort()
        self.meter = self.here.meter(self.component_name, self.task_id)
        self.prepare()

    def option(self, name: str, kind: type[Any] = str) -> Any:
        """An option of the bolt's own, by `spec(config=…)`, the topology or config.json; its name has a dot.

        Raises ConfigError where it is missing or not of the kind.
        """
        value = self.storm_conf.get(name)
        if not isinstance(value, kind):
            raise ConfigError(f"{self.component_name}: option {name} must be {kind.__name__}, got {value!r}")
        return value

    def prepare(self) -> None:
        """Set up what the bolt needs; no I/O that can fail for long."""

    def handle(self, tup: Any) -> None:
        """Process one tuple: emit, then `done`; or keep it and flush later."""
        raise NotImplementedError

    def flush_if_due(self) -> None:
        """Called after each tuple and at each tick."""

    def due_in(self) -> float | None:
        """Seconds after which `flush_if_due` is to be called although no tuple came; None: not before a tick."""
        return None

    def drop(self, error: Exception) -> None:
        """Called when `handle` or `flush_if_due` raised: forget what may be half done, fail the tuples held."""

    def process(self, tup: Any) -> None:
        """Called by pystorm for each tuple."""
        since = self.clock.monotonic()
        try:
            self.handle(tup)
            self.flush_if_due()
        except Exception as error:  # whatever it was, the tuple comes again and the process lives
            self.failed_here(error)
            self.undone(tup)
        self.meter.worked(since)
        self.meter.tell_if_due()

    def process_tick(self, tup: Any) -> None:
        """Called by pystorm at each tick."""
        self._due()
        self.ack(tup)

    def _due(self) -> None:
        """Do what is due although no tuple came."""
        since = self.clock.monotonic()
        try:
            self.flush_if_due()
        except Exception as error:  # as above
            self.failed_here(error)
        self.meter.worked(since, tuples=0)
        self.meter.tell_if_due()

    def failed_here(self, error: Exception) -> None:
        """Say what went wrong, once, and let the bolt forget what may be half done."""
        self.logger.exception("%s failed: %s", self.component_name, error)
        try:
            self.drop(error)
        except Exception:
            self.logger.exception("%s failed while dropping its state", self.component_name)

    def chunk(self, kind: type[Chunk], tup: Any) -> Chunk:
        """The chunk of a tuple."""
        chunk = load(kind, tup.values[-1])
        self.meter.saw(chunk.head.after - chunk.head.first)
        return chunk

    def send(self, chunk: AnyChunk, route: int, *, anchor: Any, stream: str | None = None) -> None:
        """Emit a chunk, anchored to the tuple it came from. `route`: its partition, or what else it is grouped by."""
        self.emit([route, self.here.wire(chunk)], stream=stream, anchors=[anchor])

    def done(self, tup: Any) -> None:
        """Acknowledge a tuple, given itself or by its id."""
        self.ack(tup)

    def undone(self, tup: Any) -> None:
        """Fail a tuple, given itself or by its id: the spout sends its range again."""
        self.fail(tup)
