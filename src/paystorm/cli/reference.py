"""Writes docs/commands.md from the commands themselves: `python -m paystorm.cli.reference > docs/commands.md`."""

from collections.abc import Iterator, Mapping
from typing import Any

import typer

from paystorm.cli.main import build

INTRO = """\
# Commands

The command is `.venv/bin/paystorm` after `make demo` or `make setup`. This page is made from the program by
`.venv/bin/python -m paystorm.cli.reference > docs/commands.md`; `tests/unit/test_docs.py` fails where the two differ.

`-e ENV` names an environment of `config.json`; `local`, the default, is embedded. `--data DIR` takes another data
folder than the environment's. Errors are one line on standard error that names the thing and the way out; progress and
warnings go there too, so that standard output is what was asked for.

## Exit codes

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | `verify` found rows that differ, a balance of `status` does not add up, a check of `doctor` failed |
| 2 | bad usage, input, configuration or data; `send` refused records; under `run --until-idle` a source is stuck |
| 130 | ended by Ctrl-C, in order |
| 141 | whoever read standard output went away |

SIGTERM ends `run` in order as Ctrl-C does; the code is 0.
"""

SOURCE = "The source."
TOPIC = "The topic of the record."
PARTITION = "The partition of the record."
OFFSET = "The offset of the record."
KIND = "The kind of party: `account`, `merchant`, `device`, `ip`, `agent`, `region`."
PARTY = "The party's id."
RULE = "The rule's name."
START = "When the interval begins, UTC."

COLUMNS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "outcomes": (
        "A row for every record that has an outcome.",
        {
            "source": SOURCE,
            "topic": TOPIC,
            "partition": PARTITION,
            "offset": OFFSET,
            "id": "The event's id: the envelope's, or `topic/partition/offset`; empty where the record is unreadable.",
            "outcome": "`accepted`, `denied` or `dead-lettered`.",
            "reason": "Of a denied event what denied it: `<source>.<rule>` or `person`; of an accepted one the same "
            "where a listed party was in it; of a dead letter `<field>: <code>`.",
        },
    ),
    "counts": (
        "What the rules of the newest version have counted: a row for each rule, party, interval and currency.",
        {
            "source": SOURCE,
            "rule": RULE,
            "kind": KIND,
            "party": PARTY,
            "interval_start": START,
            "currency": "Of a sum: the currency; else empty.",
            "value": "The figure as plain decimal text; of a distinct at most its cap.",
        },
    ),
    "hits": (
        "A row for every hit there is or was.",
        {
            "source": SOURCE,
            "rule": RULE,
            "kind": KIND,
            "party": PARTY,
            "interval_start": START,
            "currency": "Of a sum: the currency; else empty.",
            "limit": "What was gone over: the limit, or `×factor` for growth.",
            "status": "`standing`, or `withdrawn` where a late event has unmade it.",
            "figure": "The figure at the crossing, as decimal text.",
            "topic": "The topic of the crossing record.",
            "partition": "The partition of the crossing record.",
            "offset": "The offset of the crossing record.",
            "version": "The version of the rules that the hit is of, from 0 on.",
            "action": "`deny` (the party is listed) or `review` (a case only).",
            "since": "When the hit was made.",
        },
    ),
    "lists": (
        "Every entry that a party has or had.",
        {
            "kind": KIND,
            "party": PARTY,
            "list": "`blacklist` or `allowlist`.",
            "state": "`in_force`, `confirmed`, `breaker_open`, `overruled` (by an allowlist entry), `expired`, "
            "`withdrawn`, `lifted` or `removed`.",
            "made_by": "`rule` or `person`.",
            "reason": "`<source>.<rule>`, or `person`.",
            "since": "When it was made.",
            "expires_at": "When it ends by itself; empty: never.",
            "by": "Of a person's entry, or one that a person lifted or confirmed: who.",
            "note": "What that person wrote with `--reason`.",
            "act": "The entry's id, for `lists remove`.",
            "source": "Of a rule's entry: the rule's source.",
            "rule": "Of a rule's entry: the rule.",
            "interval_start": "Of a rule's entry: the interval of the hit.",
            "currency": "Of a rule's entry: the currency of the sum.",
        },
    ),
    "cases": (
        "Every case for investigation: a row for each party.",
        {
            "kind": KIND,
            "party": PARTY,
            "opened_at": "When the case was opened.",
            "source": "The source that opened it.",
            "cause": "The rule that opened it, or `person`.",
            "denied": "The party's events that were denied.",
            "caught_late": "Events that had passed the look-up before the party was listed, and stand in the case.",
            "joined": "Other events of the case: accepted by a source that only watches, or marked `would_deny`.",
        },
    ),
    "dead-letters": (
        "Every dead letter, with the record's bytes.",
        {
            "source": SOURCE,
            "topic": TOPIC,
            "partition": PARTITION,
            "offset": OFFSET,
            "timestamp": "The log's own time of the record.",
            "dead_at": "When it was dead-lettered.",
            "field": "What is wrong with the record: the field (docs/validity.md).",
            "code": "What is wrong with it: the code (docs/validity.md).",
            "detail": "More about it, for people.",
            "id": "The event's id; empty where the record is unreadable.",
            "application": "The ApplicationRef; empty where the record is unreadable.",
            "state": "What people have done with it: `open` (nothing), `replaying` (begun), `replayed`, `discarded`.",
            "attempts": "Of one given up: how often it was tried.",
            "last_error": "Of one given up: the last error.",
            "value": "The record's bytes, where they are UTF-8.",
            "value_base64": "The record's bytes in base64, where they are not UTF-8.",
        },
    ),
    "history": (
        "Every change to the lists, by party and time.",
        {
            "at": "When; of a withdrawal, when its hit had been made.",
            "kind": f"{KIND} Empty: a breaker.",
            "party": "The party's id; of a breaker `<source>.<rule>`.",
            "what": "`added`, `allowed`, `removed`, `lifted`, `confirmed`, `hit`, `withdrawn`, `breaker opened`, "
            "`breaker closed`; of proposals `proposed`, `approved`, `rejected`, `recalled`; of a case `decided`.",
            "detail": "What was said with it.",
            "by": "A person, or `<source>.<rule>`.",
            "id": "Tells changes of one moment apart.",
        },
    ),
    "caught-late": (
        "Events that were accepted though a listed party was in them: a row for each such party.",
        {
            "source": SOURCE,
            "topic": TOPIC,
            "partition": PARTITION,
            "offset": OFFSET,
            "kind": KIND,
            "party": PARTY,
        },
    ),
}
"""What each export and its columns are."""

EXPORTS = """\
## What is exported

In ndjson and csv times are ISO text in UTC, and figures are decimal text; in Parquet times are microseconds in UTC.
"""


def render() -> str:
    """The page."""
    root: Any = typer.main.get_command(build(None))
    parts = [INTRO, *_commands("paystorm", root), EXPORTS]
    for name, (text, columns) in COLUMNS.items():
        rows = [f"| `{column}` | {_cell(doc)} |" for column, doc in columns.items()]
        parts.append("\n".join([f"### {name}", "", text, "", "| column | meaning |", "| --- | --- |", *rows, ""]))
    return "\n".join(parts)


def _commands(path: str, command: Any) -> Iterator[str]:
    """A section for a command, or for each of a group."""
    inner = getattr(command, "commands", None)
    if inner is None or path == "paystorm":
        yield _section(path, command, group=inner is not None)
    for name, each in (inner or {}).items():
        yield from _commands(f"{path} {name}", each)


def _section(path: str, command: Any, *, group: bool) -> str:
    arguments = [p for p in command.params if _is_argument(p)]
    options = [p for p in command.params if not _is_argument(p)]
    places = ["COMMAND", "…"] if group else [_place(p) for p in arguments]
    usage = " ".join([path, *(["[OPTION]…"] if options else []), *places])
    lines = [f"## {path}", "", f"    {usage}", "", " ".join(str(command.help or "").split()), ""]
    rows = [(_place(p), p.help, "") for p in arguments]
    rows += [(_spelled(p), p.help, _default(p)) for p in options]
    if rows:
        lines += ["| argument or option | default | meaning |", "| --- | --- | --- |"]
        lines += [f"| `{_cell(name)}` | {_cell(default)} | {_cell(str(text or ''))} |" for name, text, default in rows]
        lines.append("")
    return "\n".join(lines)


def _is_argument(parameter: Any) -> bool:
    return not any(text.startswith("-") for text in parameter.opts)


def _place(parameter: Any) -> str:
    text: str = parameter.metavar or parameter.name.upper()
    return text if parameter.required or text.startswith("[") else f"[{text}]"


def _spelled(parameter: Any) -> str:
    names = ", ".join(parameter.opts)
    if parameter.is_flag:
        return names
    return f"{names} {parameter.metavar or 'N'}" + (" (may be repeated)" if parameter.multiple else "")


def _default(parameter: Any) -> str:
    value = parameter.default
    return "" if value is None or isinstance(value, bool) else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(render(), end="")
