"""`paystorm cases`: who is under investigation, what there is to see, and what people decide."""

from typing import Annotated, Any

import typer

from paystorm.cli.common import (
    DataOption,
    EnvOption,
    JsonOption,
    iso,
    open_here,
    out,
    say_pruned,
    show_json,
    table,
    user,
)
from paystorm.cli.desk import desk_of
from paystorm.cli.lists import ByOption, KindArgument, PartyArgument, said
from paystorm.clock import SECOND
from paystorm.desk import Who
from paystorm.desk.base import ago, ahead, utc
from paystorm.desk.cases import SORTS, STATUSES, VERDICTS, CaseView, cases, decide, show
from paystorm.desk.plain import plain_case, plain_row
from paystorm.errors import UsageError
from paystorm.stores.cases import Decision

SHOWN_FIELDS = 5
"""Declared fields of an event that a table shows; --json gives all."""

app = typer.Typer(no_args_is_help=True, help="Look at cases for investigation, and decide on them.")


@app.command(name="list")
def list_cases(
    status: Annotated[
        list[str] | None, typer.Option(metavar="STATUS", help=f"Of a status: {', '.join(STATUSES)}; may be repeated.")
    ] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Of one kind of party.")] = None,
    source: Annotated[str | None, typer.Option(metavar="SOURCE", help="Opened by this source.")] = None,
    sort: Annotated[str, typer.Option(metavar="|".join(SORTS), help="The weightiest or newest first.")] = "events",
    currency: Annotated[
        str | None, typer.Option(metavar="CODE", help="With --sort amount: of this currency; default: the largest.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="Cases of a page.")] = 50,
    skip: Annotated[int, typer.Option(metavar="N", help="Cases before the page.")] = 0,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the cases, the weightiest first."""
    unknown = [text for text in status or () if text not in STATUSES]
    if unknown:
        raise UsageError(f"--status must be {', '.join(STATUSES)}, got {unknown[0]!r}")
    order = next((s for s in SORTS if s == sort), None)
    if order is None:
        raise UsageError(f"--sort must be {', '.join(SORTS)}, got {sort!r}")
    with open_here(env, data) as here:
        found = cases(
            desk_of(here),
            statuses=frozenset(s for s in STATUSES if s in (status or ())),
            kind=kind,
            source=source,
            sort=order,
            currency=currency,
            limit=limit,
            skip=skip,
        )
        say_pruned(here, here.sources())
    if as_json:
        rows = [plain_row(row) for row in found.cases]
        show_json({"total": found.total, "skipped": found.skipped, "cases": rows})
        return
    columns = ("kind", "party", "status", "opened", "by", "denied", "caught late", "joined", "amounts", "last event")
    shown = [
        (
            *(c.kind, c.party, c.status, utc(c.opened_at), f"{c.source}.{c.cause}"),
            *(c.denied, c.caught_late, c.joined, _amounts(c.amounts), utc(c.last_at)),
        )
        for c in found.cases
    ]
    out().print(table(None, columns, shown, right=columns[5:8]))
    last = found.skipped + len(found.cases)
    rest = f"; --skip {last} goes on" if last < found.total else ""
    print(f"{len(found.cases):,} of {found.total:,} cases{rest}")


@app.command(name="show")
def show_case(
    kind: KindArgument,
    party: PartyArgument,
    events: Annotated[int, typer.Option(metavar="N", help="So many of its newest events.")] = 20,
    others: Annotated[int, typer.Option(metavar="N", help="So many of the parties it dealt with.")] = 20,
    since: Annotated[
        str | None, typer.Option(metavar="7d|TIME", help="Parties of events stored since then; default: of all.")
    ] = None,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a case: its entries and hits, its events, the counts by interval, and the parties that it dealt with."""
    with open_here(env, data) as here:
        desk = desk_of(here)
        from_day = utc(ago(since, desk.clock.now(), "--since"))
        view = show(desk, kind, party, events=events, others=others, since=from_day)
        say_pruned(here, here.sources())
    if as_json:
        show_json(plain_case(view))
    else:
        _show(view)


def _show(view: CaseView) -> None:
    row, console = view.row, out()
    facts = [
        ("party", f"{row.kind} {row.party}"),
        ("status", row.status),
        ("opened", f"{iso(row.opened_at)} by {row.source}.{row.cause}"),
        ("events", f"{row.denied:,} denied, {row.caught_late:,} caught late, {row.joined:,} joined"),
        ("amounts", _amounts(row.amounts) or "–"),
    ]
    console.print(table(None, ("", ""), facts))
    entries = [(e.list, e.state, e.reason, utc(e.since), utc(e.expires_at), e.by, e.note) for e in view.entries]
    _part("entries", ("list", "state", "made by", "since", "expires", "by", "note"), entries)
    hits = [
        (f"{h.source}.{h.rule}", iso(h.interval_start * SECOND), h.figure, h.limit, h.currency, h.status, h.action)
        for h in view.hits
    ]
    _part("hits", ("rule", "interval", "at the crossing", "limit", "currency", "status", "action"), hits)
    counts = [(f"{c.source}.{c.rule}", c.start, c.value, c.limit, c.currency) for c in view.counts]
    _part("counts", ("rule", "interval", "figure", "limit", "currency"), counts)
    events = [
        (
            *(f"{e['source']}/{e['log_partition']}/{e['log_offset']}", e["event_time"], e["verdict"]),
            *(e["verdict_reason"], ", ".join(_fields(e))),
        )
        for e in view.events
    ]
    _part("newest events", ("record", "event time", "verdict", "because of", "fields"), events)
    met = [(o.source, o.kind, o.party, o.role, o.events, o.denied, o.first, o.last) for o in view.dealt_with]
    _part("dealt with", ("source", "kind", "party", "as", "events", "denied", "first", "last"), met)
    _part("decisions", ("at", "decision", "by", "reason", "did"), [_decided(d) for d in view.decisions])
    waiting = [(p.id, p.what, p.by, p.reason) for p in view.waiting]
    _part("waiting for approval", ("proposal", "what", "by", "reason"), waiting)


def _part(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    if rows:
        out().print(table(title, columns, rows))


def _fields(event: dict[str, Any]) -> list[str]:
    fixed = ("source", "log_", "event_", "application", "decided_at", "verdict", "would_deny")
    given = [f"{k}={v}" for k, v in event.items() if v is not None and not k.startswith(fixed)]
    return given[:SHOWN_FIELDS] + ["…"] * (len(given) > SHOWN_FIELDS)


def _decided(decision: Decision) -> tuple[Any, ...]:
    return utc(decision.at), decision.verdict, decision.by, decision.reason, ", ".join(decision.did)


@app.command(name="decide")
def decide_case(
    kind: KindArgument,
    party: PartyArgument,
    decision: Annotated[str, typer.Argument(metavar="DECISION", help=", ".join(VERDICTS))],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept with the decision.")] = "",
    lift: Annotated[bool, typer.Option("--lift", help="Take away what lists the party.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep its entries also if their hits are withdrawn.")] = False,
    allow_for: Annotated[
        str | None, typer.Option("--allow-for", metavar="30d|TIME", help="Put it on the allowlist for so long.")
    ] = None,
    by: ByOption = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Decide on a case. The decision is kept; what it does to the lists takes an approval where lists do."""
    verdict = next((v for v in VERDICTS if v == decision), None)
    if verdict is None:
        raise UsageError(f"a decision is {', '.join(VERDICTS)}, got {decision!r}")
    with open_here(env, data) as here:
        desk = desk_of(here)
        until = ahead(allow_for, desk.clock.now(), "--allow-for")
        done = decide(desk, Who(by or user(), reason), kind, party, verdict, lift=lift, keep=keep, allow_until=until)
    said(done)


def _amounts(amounts: dict[str, str]) -> str:
    return ", ".join(f"{figure} {currency}" for currency, figure in amounts.items())


def register(into: typer.Typer) -> None:
    """Add the commands."""
    into.add_typer(app, name="cases")
