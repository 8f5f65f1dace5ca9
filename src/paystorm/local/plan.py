"""What a streamparse Topology class says, as plain data: components, task ids, streams, subscriptions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pystorm.bolt import Bolt, TicklessBatchingBolt
from pystorm.spout import Spout

from paystorm.errors import ConfigError
from paystorm.local.settings import MAX_TASKS, TASKS, ComponentSettings, TopologySettings, number

GROUPINGS = ("shuffle", "local_or_shuffle", "none", "fields", "all", "direct")
"""What can be run here; `fields` without fields is Storm's global grouping. Custom groupings are Java classes."""


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """An output stream of a component."""

    fields: tuple[str, ...]
    direct: bool


@dataclass(frozen=True, slots=True)
class Subscription:
    """An input of a bolt: a stream of another component, and how its tuples are spread over the bolt's tasks."""

    source: str
    stream: str
    grouping: str
    fields: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """As Storm writes a grouping into the multilang context."""
        kind: dict[str, Any] = {"type": self.grouping.upper()}
        if self.grouping == "fields":
            kind["fields"] = list(self.fields)
        return kind


@dataclass(frozen=True, slots=True)
class ComponentPlan:
    """A spout or bolt of the topology."""

    name: str
    cls: type
    is_spout: bool
    conf: dict[str, Any]
    """The topology's options overlaid with the component's."""
    settings: ComponentSettings
    outputs: dict[str, StreamPlan]
    inputs: tuple[Subscription, ...]
    tasks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TopologyPlan:
    """A whole topology."""

    name: str
    conf: dict[str, Any]
    settings: TopologySettings
    components: dict[str, ComponentPlan]

    def context(self, component: str, task: int) -> dict[str, Any]:
        """The context of Storm's multilang handshake for a task (Storm's `TopologyContext.toJSONString`)."""
        plan = self.components[component]
        groupings: dict[str, dict[str, Any]] = {}
        fields: dict[str, dict[str, list[str]]] = {}
        for sub in plan.inputs:
            groupings.setdefault(sub.source, {})[sub.stream] = sub.describe()
            names = self.components[sub.source].outputs[sub.stream].fields
            fields.setdefault(sub.source, {})[sub.stream] = list(names)
        targets: dict[str, dict[str, Any]] = {stream: {} for stream in plan.outputs}
        for other in self.components.values():
            for sub in other.inputs:
                if sub.source == component:
                    targets[sub.stream][other.name] = sub.describe()
        return {
            "taskid": task,
            "componentid": component,
            "task->component": {str(t): c.name for c in self.components.values() for t in c.tasks},
            "streams": list(plan.outputs),
            "stream->outputfields": {stream: list(out.fields) for stream, out in plan.outputs.items()},
            "stream->target->grouping": {stream: to for stream, to in targets.items() if to},
            "source->stream->grouping": groupings,
            "source->stream->fields": fields,
        }


def plan_topology(topology: Any, config: Mapping[str, Any], *, name: str, env: str | None) -> TopologyPlan:
    """Read a streamparse Topology class.

    `config` holds Storm options and wins over the class's own `config`; a component's options win over both.
    `env` chooses from a parallelism given by environment; an environment that is not named there gets 1 task,
    as with `sparse submit`; the option `parallelism.<component>` wins over both.
    Task ids are 1 to n, consecutive by component, components in order of name: Storm's way.

    Raises ConfigError for what cannot be run in this process.
    """
    conf = {**getattr(topology, "config", {}), **config}
    conf.setdefault("topology.name", name)
    components: dict[str, ComponentPlan] = {}
    first = 1
    for spec in sorted(topology.specs, key=lambda s: s.name):
        own = json.loads(spec.config or "{}")
        hint = conf.get(f"parallelism.{spec.name}", _parallelism(spec.par, env))
        count = int(number(own, TASKS, hint, 1))
        components[spec.name] = _plan_component(spec, {**conf, **own}, tuple(range(first, first + count)))
        first += count
    if first - 1 > MAX_TASKS:
        raise ConfigError(f"topology {name}: at most {MAX_TASKS} tasks can run in one process, got {first - 1}")
    for plan in components.values():
        for sub in plan.inputs:
            _check_subscription(components, plan.name, sub)
    return TopologyPlan(name, conf, TopologySettings.of(conf), components)


def _parallelism(par: Any, env: str | None) -> int:
    return int(par.get(env, 1)) if isinstance(par, dict) else int(par)


def _plan_component(spec: Any, conf: dict[str, Any], tasks: tuple[int, ...]) -> ComponentPlan:
    cls = spec.component_cls
    if not issubclass(cls, Bolt | Spout):
        raise ConfigError(f"component {spec.name}: only Python spouts and bolts run embedded, got {cls.__name__}")
    if issubclass(cls, TicklessBatchingBolt):
        # It needs SIGUSR1 of a process of its own.
        raise ConfigError(f"component {spec.name}: a TicklessBatchingBolt cannot run embedded; use BatchingBolt")
    outputs = {stream: StreamPlan(tuple(out.output_fields), bool(out.direct)) for stream, out in spec.outputs.items()}
    inputs = [_subscription(spec.name, stream, grouping) for stream, grouping in spec.inputs.items()]
    # The thrift objects hash by identity of their values; sorted, so that a run depends on nothing but its seed.
    inputs.sort(key=lambda sub: (sub.source, sub.stream))
    settings = ComponentSettings.of(conf)
    return ComponentPlan(spec.name, cls, issubclass(cls, Spout), conf, settings, outputs, tuple(inputs), tasks)


def _subscription(component: str, stream: Any, grouping: Any) -> Subscription:
    for kind in GROUPINGS:
        if getattr(grouping, kind, None) is not None:
            fields = tuple(grouping.fields) if kind == "fields" else ()
            return Subscription(stream.componentId, stream.streamId, kind, fields)
    raise ConfigError(f"component {component}: its grouping on {stream.componentId} is a Java class: {grouping!r}")


def _check_subscription(components: Mapping[str, ComponentPlan], name: str, sub: Subscription) -> None:
    source = components.get(sub.source)
    if source is None or sub.stream not in source.outputs:
        raise ConfigError(f"component {name}: there is no stream {sub.stream!r} of a component {sub.source!r}")
    if source.outputs[sub.stream].direct != (sub.grouping == "direct"):
        raise ConfigError(f"component {name}: {sub.source}.{sub.stream} needs direct grouping on both sides")
