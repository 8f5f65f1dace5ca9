"""Settings: the options of a topology, from `config.json` and `-o`, under the names that operators know.

Every setting has a default, bounds and a sentence; `docs/settings.md` is checked against this module.
Rules are changed by options of the form `rules.<source>.<rule>.<property>` (`limit`, `limit.EUR`, `factor`, `baseline`,
`baseline.EUR`, `action`, `expires_after`, `cap`), how long tables are kept by options `retention.<source>.<table>`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from paystorm.connections import Connections
from paystorm.errors import ConfigError
from paystorm.rules import Rule
from paystorm.source import Source


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its default, its bounds, what it means."""

    name: str
    default: int | float | bool | str | None
    doc: str
    low: float | None = None
    high: float | None = None


SETTINGS: tuple[Setting, ...] = (
    Setting("retryInitialDelayMs", 1000, "delay before the first retry of a parked record", 0, 86_400_000),
    Setting("retryDelayMultiplier", 60.0, "delay before retry n is initial × multiplier^(n−1)", 1, 1_000_000),
    Setting("retryDelayMaxMs", 86_400_000, "no delay is longer than this", 0, 31 * 86_400_000),
    Setting(
        "maxOffsetBehind",
        5,
        "a parked record whose retry failed is given up once at least this many later records of its partition have "
        "been completed since it first failed",
        0,
        10**12,
    ),
    Setting("maxRecordBytes", 1_048_576, "a larger record is dead-lettered", 1, 64 * 1024 * 1024),
    Setting("earliest", "2000-01-01T00:00:00Z", "an event time before this is invalid"),
    Setting("maxAhead", 3600, "seconds that an event time may lie after received_at", 0, 10**9),
    Setting("countsRetention", None, "seconds that counts are kept; an older event is dead-lettered", 86_400, 10**10),
    Setting("chunkRecords", 40_000, "records in a chunk, at most", 1, 100_000),
    Setting("chunkBytes", 8 * 1024 * 1024, "bytes of records in a chunk, at most", 1, 256 * 1024 * 1024),
    Setting("maxPendingRecords", 240_000, "records in flight for each spout task, at most", 1, 10**8),
    Setting("maxPendingBytes", 128 * 1024 * 1024, "bytes in flight for each spout task, at most", 1, 8 * 1024**3),
    Setting("lingerMs", 25, "milliseconds that the spout lets records come together after a small chunk", 0, 1_000),
    Setting("flushRecords", 100_000, "records that a sink gathers before it writes, at most", 1, 10**7),
    Setting("flushMs", 100, "milliseconds that a sink gathers before it writes, at most", 0, 60_000),
    Setting("refreshMs", 100, "milliseconds between two looks at the lists' changes", 1, 60_000),
    Setting("refreshBoundMs", 1000, "a look-up whose copy of the lists is older decides nothing", 10, 600_000),
    Setting("allowedLateness", 86_400, "seconds that the counts of an ended interval stay in memory", 0, 10**9),
    Setting("idleAfter", 60, "seconds without a record after which a partition frees the watermark", 1, 86_400),
    Setting("countsMemoryBytes", 256 * 1024 * 1024, "memory for counts in each counting task", 1024, 64 * 1024**3),
    Setting("snapshotBytes", 4 * 1024 * 1024, "journal bytes of a shard after which its counts are written whole", 1),
    Setting("snapshotRows", 512, "journal rows of a shard after which its counts are written whole", 1, 10**6),
    Setting("shards", 8, "shards that parties are spread over; fixed when a source first starts", 1, 1024),
    Setting("publishAccepted", True, "whether accepted verdicts are published too"),
    Setting("breakerShare", None, "share of a minute's events that one rule may deny before its breaker opens", 0, 1),
    Setting("breakerMinEvents", 1000, "events that a look-up task must have seen before it opens a breaker", 1, 10**9),
    Setting("gaugeSeconds", 10, "seconds between two looks of a task at how busy it is; 0: none", 0, 3600),
    Setting("failureBackoffMs", 1000, "first delay before a range that failed without a name is sent again", 0, 60_000),
    Setting("failureBackoffMaxMs", 10_000, "longest such delay; it doubles each time", 0, 600_000),
    Setting("splitAfterFailures", 3, "failures after which a range is split, while others succeed", 1, 1000),
    Setting("splitInto", 8, "parts that such a range is split into", 2, 64),
    Setting("parkAfterFailures", 5, "failures after which a single record counts as failing by itself", 1, 1000),
)
_BY_NAME = {s.name: s for s in SETTINGS}
PARALLELISM = "parallelism."
"""`parallelism.<component>` says how many tasks a component has, in place of what the topology's file says."""
MAX_PARALLELISM = 1024
RETENTION = "retention."
"""`retention.<source>.<table>`: the seconds for which a table is kept; `paystorm prune` removes what is older."""
RETAINED: Mapping[str, str] = {
    "events": "stored events, by the hour in which they were stored",
    "verdicts": "the verdict topic",
    "letters": "the bytes of dead letters that were replayed or discarded, from then on",
}
"""The tables that can have a retention."""
MIN_RETENTION, MAX_RETENTION = 86_400, 10**10
RULE_PROPERTIES = ("limit", "factor", "baseline", "action", "expires_after", "cap")
"""What an option may change of a rule."""


class Settings(Mapping[str, Any]):
    """The settings in force for a topology: checked values by name, defaults where nothing is said."""

    def __init__(self, given: Mapping[str, Any], where: str = "options") -> None:
        self._values: dict[str, Any] = {s.name: s.default for s in SETTINGS}
        for name, value in given.items():
            if name in _BY_NAME:
                self._values[name] = _checked(_BY_NAME[name], value, where)
        self.earliest_us: int = _earliest(self._values["earliest"], where)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def validity(self) -> dict[str, Any]:
        """The settings that decide validity, as a version of the source keeps them (`earliest` in µs)."""
        return {
            "earliest": self.earliest_us,
            "maxAhead": self["maxAhead"],
            "maxRecordBytes": self["maxRecordBytes"],
            "countsRetention": self["countsRetention"],
        }


def _checked(setting: Setting, value: Any, where: str) -> Any:
    """The value in the setting's type. Raises ConfigError naming place, bound and value."""
    name = f"{where}.{setting.name}"
    if value is None and setting.default is None:
        return None
    if isinstance(setting.default, bool):
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be true or false, got {value!r}")
        return value
    if isinstance(setting.default, str):
        if not isinstance(value, str):
            raise ConfigError(f"{name} must be text, got {value!r}")
        return value
    whole = isinstance(setting.default, int) or (setting.default is None and setting.name != "breakerShare")
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ConfigError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
    if setting.low is not None and value < setting.low:
        raise ConfigError(f"{name} must be ≥ {setting.low:,.15g}, got {value}")
    if setting.high is not None and not value <= setting.high:
        raise ConfigError(f"{name} must be ≤ {setting.high:,.15g}, got {value}")
    return value


def _earliest(text: str, where: str) -> int:
    try:
        at = datetime.fromisoformat(text)
        since = at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError):
        at = None
    if at is None or at.tzinfo is None:
        raise ConfigError(f"{where}.earliest must be a time such as 2000-01-01T00:00:00Z, got {text!r}")
    return since // timedelta(microseconds=1)


def check_options(options: Mapping[str, Any], sources: Mapping[str, Source], where: str) -> None:
    """Check every option that paystorm knows, and refuse rules, settings and connections that it does not.

    Other options with a dot, such as Storm's own, are passed over.
    """
    Settings(options, where)
    Connections(options, where)
    for name, value in options.items():
        if name.startswith(PARALLELISM):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_PARALLELISM:
                raise ConfigError(f"{where}.{name} must be a whole number from 1 to {MAX_PARALLELISM}, got {value!r}")
        elif name.startswith(RETENTION):
            _check_retention(name, value, sources, where)
        elif name.startswith("rules."):
            source, *path = name.split(".")[1:]
            if len(path) < 2:
                raise ConfigError(f"{where}.{name}: a rule's option is rules.<source>.<rule>.<property>")
            if source in sources:
                with_options(sources[source], options, where)
            elif sources:
                raise ConfigError(f"{where}.{name}: no source {source!r}; there are {', '.join(sorted(sources))}")
        elif "." not in name and name not in _BY_NAME:
            raise ConfigError(f"{where}.{name}: no such setting; see docs/settings.md")


def _check_retention(name: str, value: Any, sources: Mapping[str, Source], where: str) -> None:
    source, _, table = name.removeprefix(RETENTION).partition(".")
    if sources and source not in sources:
        raise ConfigError(f"{where}.{name}: no source {source!r}; there are {', '.join(sorted(sources))}")
    if table == "counts":
        raise ConfigError(f"{where}.{name}: counts have the setting countsRetention, which decides validity too")
    if table not in RETAINED:
        raise ConfigError(f"{where}.{name}: a retention is of {', '.join(RETAINED)}, not of {table!r}")
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not MIN_RETENTION <= value <= MAX_RETENTION:
        bounds = f"{MIN_RETENTION:,} to {MAX_RETENTION:,}"
        raise ConfigError(f"{where}.{name} must be whole seconds from {bounds}, got {value!r}")


def retention_of(source: str, options: Mapping[str, Any]) -> dict[str, int]:
    """The seconds for which the tables of a source are kept, by table; one that is kept for ever is not in it.

    Of options that `check_options` has seen.
    """
    found = {table: options.get(f"{RETENTION}{source}.{table}") for table in RETAINED}
    return {table: seconds for table, seconds in found.items() if seconds is not None}


def with_options(source: Source, options: Mapping[str, Any], where: str = "options") -> Source:
    """The source with the properties of its rules that options change. Raises ConfigError for one it has not."""
    prefix = f"rules.{source.name}."
    changes: dict[str, dict[str, Any]] = {}
    rules = {rule.name: rule for rule in source.rules}
    for option, value in options.items():
        if not option.startswith(prefix):
            continue
        place = f"{where}.{option}"
        name, _, rest = option[len(prefix) :].partition(".")
        field, dot, currency = rest.partition(".")
        if name not in rules:
            raise ConfigError(f"{place}: source {source.name} has no rule {name!r}; it has {', '.join(rules)}")
        if field not in RULE_PROPERTIES:
            raise ConfigError(f"{place}: a rule's {field or 'property'} cannot be set by an option")
        plain = changes.setdefault(name, msgspec.to_builtins(rules[name]))
        if dot:
            if field not in ("limit", "baseline") or rules[name].measure != "sum":
                raise ConfigError(f"{place}: only limit and baseline of a sum are given by currency")
            plain[field] = {**(plain.get(field) or {}), currency: _decimal_text(value, place)}
        else:
            plain[field] = _rule_value(field, value, place)
    changed = {name: msgspec.convert(plain, Rule) for name, plain in changes.items()}
    for rule in changed.values():
        try:
            rule.check(source.name)
        except ConfigError as error:
            raise ConfigError(f"{where}.{error}") from error
    return msgspec.structs.replace(source, rules=tuple(changed.get(r.name, r) for r in source.rules))


def _rule_value(field: str, value: Any, place: str) -> Any:
    """The value of a rule's property, in the property's type."""
    if field == "action":
        if value not in ("deny", "review"):
            raise ConfigError(f"{place} must be deny or review, got {value!r}")
        return value
    if field == "factor":
        return _decimal_text(value, place)
    if field in ("limit", "baseline") and isinstance(value, dict):
        return {currency: _decimal_text(text, f"{place}.{currency}") for currency, text in value.items()}
    if value is None and field in ("cap", "expires_after"):
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{place} must be a whole number, got {value!r}")
    if abs(value) >= 2**63:
        raise ConfigError(f"{place} must be below 2^63, got {value}")
    return value


def _decimal_text(value: Any, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ConfigError(f"{place} must be a number, got {value!r}")
    return str(value)
