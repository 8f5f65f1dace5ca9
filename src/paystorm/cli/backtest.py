"""`paystorm backtest`: what a changed limit would have done over the warehouse's history."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import polars as pl
import typer

from paystorm.backtest import Comparison, Effect, History, backtest, files_of
from paystorm.cli.common import (
    DataOption,
    EnvOption,
    Here,
    JsonOption,
    complain,
    iso,
    open_here,
    out,
    say_pruned,
    show_json,
    table,
)
from paystorm.errors import ConfigError, UsageError
from paystorm.rules import Rule
from paystorm.settings import RULE_PROPERTIES, with_options
from paystorm.source import Source

COLUMNS = ("rule", "which", "figure", "hits", "parties", "events denied")
SHOWN = 10


def named(sources: dict[str, Source], text: str) -> tuple[Source, Rule]:
    """The rule of a name, `<rule>` or `<source>.<rule>`. Raises UsageError where there is none, or several."""
    found = [(s, r) for s in sources.values() for r in s.rules if text in (r.name, f"{s.name}.{r.name}")]
    if not found:
        there = ", ".join(f"{s.name}.{r.name}" for s in sources.values() for r in s.rules)
        raise UsageError(f"no rule {text!r}; there are {there}")
    if len(found) > 1:
        several = " or ".join(f"{s.name}.{r.name}" for s, r in found)
        raise UsageError(f"rule {text!r} is of several sources: name {several}")
    return found[0]


def changes(source: Source, rules: Sequence[Rule], texts: Sequence[str]) -> Source:
    """The source with what `--set` changes: `limit=20`, `limit.EUR=5000`, `<rule>.limit=20`. Raises UsageError."""
    names = [rule.name for rule in rules]
    options = {}
    for text in texts:
        name, equals, given = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set must be name=value, got {text!r}")
        try:
            value = json.loads(given)
        except ValueError:
            value = given
        first = name.partition(".")[0]
        if first in RULE_PROPERTIES and len(names) > 1:
            raise UsageError(f"--set {name}: of which rule? name it, such as {names[0]}.{name}")
        if first not in RULE_PROPERTIES and first not in names:
            raise UsageError(
                f"--set {name}: neither {', '.join(RULE_PROPERTIES)}, nor one of the rules named ({', '.join(names)})"
            )
        whole = f"rules.{source.name}.{name if first in names else f'{names[0]}.{name}'}"
        if whole in options:
            raise UsageError(f"--set {name}: given twice: choose one")
        options[whole] = value
    try:
        return with_options(source, options, "--set")
    except ConfigError as error:
        raise UsageError(str(error).replace(f"--set.rules.{source.name}.", "--set ", 1)) from None


def point(text: str | None, option: str) -> int | None:
    """A date or ISO time, UTC where it has no zone, in µs since 1970-01-01 UTC. Raises UsageError."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} must be a date such as 2025-01-31, or an ISO time, got {text!r}") from None
    at = at.replace(tzinfo=at.tzinfo or UTC)
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def figure_of(rule: Rule) -> str:
    """What a rule's hit takes, in a few words."""
    given = rule.baseline if rule.is_growth else rule.limit
    figures = ", ".join(f"{text} {c}" for c, text in given.items()) if isinstance(given, dict) else str(given)
    text = f"×{rule.factor} of ≥ {figures}" if rule.is_growth else f"> {figures}"
    if rule.expires_after is not None:
        text += f", for {rule.expires_after:,} s"
    return text if rule.acts == "deny" else f"{text} (review)"


def _row(name: str, which: str, figure: str, effect: Effect) -> tuple[Any, ...]:
    return name, which, figure, effect.hits, effect.parties, effect.denied


def _plain(found: Comparison, today: Rule, changed: Rule, shown: int) -> dict[str, Any]:
    effects = {name: asdict(getattr(found, name)) for name in ("today", "changed", "newly", "no_longer")}
    return {
        "source": found.source,
        "rule": found.rule,
        "figure": {"today": figure_of(today), "changed": figure_of(changed)},
        **effects,
        "newly_hit": _hits(found.newly_hit, shown),
        "no_longer_hit": _hits(found.no_longer_hit, shown),
        "events": found.events,
        "seconds": found.seconds,
    }


def _hits(hits: pl.DataFrame, shown: int) -> list[dict[str, Any]]:
    return [
        {"party": party, "interval_start": iso(start * 1_000_000), "currency": currency or None, "value": value}
        for party, start, currency, value in hits.head(shown).iter_rows()
    ]


def _report(found: Sequence[tuple[Comparison, Rule, Rule]], shown: int) -> None:
    """For people."""
    rows = []
    for each, today, changed in found:
        rows.append(_row(each.rule, "today", figure_of(today), each.today))
        if today != changed:
            rows.append(_row("", "changed", figure_of(changed), each.changed))
            rows.append(_row("", "newly", "", each.newly))
            rows.append(_row("", "no longer", "", each.no_longer))
    out().print(table(None, COLUMNS, rows, right=COLUMNS[3:]))
    for each, _, _ in found:
        for which, hits in (("newly", each.newly_hit), ("no longer", each.no_longer_hit)):
            if shown and len(hits):
                title = f"{each.rule}: {which} hit, the largest {min(shown, len(hits)):,} of {len(hits):,}"
                some = [tuple(hit.values()) for hit in _hits(hits, shown)]
                out().print(table(title, ("party", "interval", "currency", "figure"), some, right=["figure"]))
    events, seconds = max(each.events for each, _, _ in found), sum(each.seconds for each, _, _ in found)
    if all(today == changed for _, today, changed in found):
        complain("nothing is changed: say what with --set, such as --set limit=20")
    print(f"{events:,} events read for {len(found)} rule{'' if len(found) == 1 else 's'} in {seconds:.1f} s")


def backtest_command(
    rules: Annotated[list[str], typer.Argument(metavar="RULE...", help="Rules of one source, or <source>.<rule>.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A change: limit=20, limit.EUR=500, or <rule>.limit=20."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="DATE", help="Events from this date on (UTC); default: all.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="DATE", help="Events before this date (UTC); default: all.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, max=100_000, help="Hits to show of those that change.")] = SHOWN,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what rules with changed figures would have done over the stored events: hits, parties, events denied.

    Intervals that --from and --to cut are judged whole. Nothing is written.
    """
    with open_here(env, data) as here:
        found = _compare(here, rules, sets or (), since, until)
    if as_json:
        show_json([_plain(each, today, changed, show) for each, today, changed in found])
    else:
        _report(found, show)


def _compare(
    here: Here, texts: Sequence[str], sets: Sequence[str], since: str | None, until: str | None
) -> list[tuple[Comparison, Rule, Rule]]:
    chosen = [named(here.sources(), text) for text in dict.fromkeys(texts)]
    source = chosen[0][0]
    for other, rule in chosen:
        if other.name != source.name:
            raise UsageError(f"rules of one source at a time: {rule.name} is of {other.name}, not of {source.name}")
    todays = [rule for _, rule in chosen]
    after = {rule.name: rule for rule in changes(source, todays, sets).rules}
    begin, end = point(since, "--from"), point(until, "--to")
    if begin is not None and end is not None and begin >= end:
        raise UsageError(f"--to {until} must be after --from {since}")
    files = files_of(here.resources.warehouse.folders(source.name))
    if not files:
        raise UsageError(f"nothing of {source.name} is stored: run it first, or see that paystorm.warehouse is mounted")
    say_pruned(here, [source.name])
    if not source.enforces:
        complain(f"{source.name} only watches: what its entries cover joins their cases, and nothing is denied")
    history = History(source, files, begin, end)
    return [(backtest(history, rule, after[rule.name]), rule, after[rule.name]) for rule in todays]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("backtest")(backtest_command)
