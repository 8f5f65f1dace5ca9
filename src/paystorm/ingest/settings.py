"""The settings of the ingest service: `ingest` in config.json, at the top or in an environment (which wins by name)."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from paystorm.errors import ConfigError
from paystorm.project import CONFIG, Env, Project

Positive = Annotated[int, Meta(ge=1)]


class IngestSettings(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What the service is held to. Everything has a limit; docs/ingest.md has a sentence for each."""

    max_ids: Annotated[int, Meta(ge=1, le=2_000_000_000)] = 100_000_000
    """Ids that are remembered, at most; where that many came within `idHours`, new ones are refused with 503."""
    id_hours: Annotated[int, Meta(ge=1, le=24 * 31)] = 24
    """Hours for which the same id gives the first answer again."""
    max_batch_bytes: Positive = 256 << 20
    max_batch_records: Positive = 1_000_000
    max_queue_records: Positive = 100_000
    """Records that wait for the log, at most; beyond that new ones are refused with 503."""
    max_queue_bytes: Positive = 128 << 20
    events_per_second: Annotated[float, Meta(gt=0)] | None = None
    """Events a second for each API key, in the mean; None: no limit. A batch may go beyond it once and is paid off."""
    event_burst: Positive = 1000
    """Events that a key may send at once before the limit is felt."""
    max_requests: Positive = 2000
    """Requests at work at the same time, streams among them."""
    max_streams: Positive = 100
    """Verdict streams and long-polls at the same time."""
    stream_seconds: Annotated[float, Meta(gt=0, le=86_400)] = 3600.0
    """Seconds after which a verdict stream is ended; its reader comes again with its last id."""
    wait_seconds: Annotated[float, Meta(ge=0, le=600)] = 60.0
    """Seconds that a long-poll for a verdict may ask for, at most."""
    body_seconds: Annotated[float, Meta(gt=0)] = 30.0
    """Seconds without a byte of an announced body after which the request is ended with 408."""
    stop_seconds: Annotated[float, Meta(gt=0)] = 30.0
    """Seconds that requests at work have to finish after SIGTERM."""


def ingest_settings(project: Project, env: Env) -> IngestSettings:
    """The settings in force. Raises ConfigError naming the setting."""
    merged: dict[str, Any] = {}
    for where, section in (
        ("ingest", project.config.get("ingest")),
        (f"envs.{env.name}.ingest", env.plain.get("ingest")),
    ):
        if section is None:
            continue
        if not isinstance(section, dict):
            raise ConfigError(f"{CONFIG}: {where} must be an object")
        merged |= section
        _check(section, where)
    return msgspec.convert(merged, IngestSettings)


def _check(section: dict[str, Any], where: str) -> None:
    """Raise ConfigError naming the first setting that cannot be meant."""
    known = {field.encode_name for field in msgspec.structs.fields(IngestSettings)}
    for name, value in section.items():
        if name not in known:
            raise ConfigError(f"{CONFIG}: {where}.{name}: no such setting; there are {', '.join(sorted(known))}")
        try:
            msgspec.convert({name: value}, IngestSettings)
        except msgspec.ValidationError as error:
            wanted = str(error).partition(" - at")[0].partition(", got")[0].removeprefix("Expected ")
            wanted = wanted.replace("`", "").replace("int", "a whole number").replace("float", "a number")
            wanted = wanted.replace(" | null", " or null")
            raise ConfigError(f"{CONFIG}: {where}.{name} must be {wanted}, got {value!r}") from None
