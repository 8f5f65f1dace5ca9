"""`paystorm lists`: what people do to the blacklist and the allowlist, and what stands on them."""

import re
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import typer

from paystorm.cli.common import DataOption, EnvOption, Here, JsonOption, iso, open_here, out, show_json, table, user
from paystorm.clock import SECOND
from paystorm.errors import UsageError
from paystorm.exports import utc
from paystorm.lists import Act, Entry, HitName, PartyFacts
from paystorm.stores import lists as store
from paystorm.tables.base import Tables

KindArgument = Annotated[str, typer.Argument(metavar="KIND", help="The kind of party, such as account.")]
PartyArgument = Annotated[str, typer.Argument(metavar="PARTY", help="The party's id.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the history.")]
ByOption = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who; default: the user of this system.")]
ExpiresOption = Annotated[
    str | None, typer.Option("--expires", metavar="7d|TIME", help="When it ends: 30m, 12h, 7d, or an ISO time.")
]
RuleOption = Annotated[
    str | None, typer.Option("--rule", metavar="SOURCE.RULE", help="Only the hits of one rule; default: all.")
]
IN_FORCE = ("in_force", "confirmed", "breaker_open", "overruled")
DONE = {"add": "is on the blacklist", "allow": "is on the allowlist", "remove": "is off the list again"}
YEAR_10000 = 253_402_300_800 * SECOND
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

app = typer.Typer(no_args_is_help=True, help="Put parties on the lists, take them off, and see what stands there.")


def expiry(text: str | None, now: int) -> int | None:
    """When an entry ends, µs: a length from `now` on (`7d`), or an ISO time (UTC where it has no zone)."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhdw])", text)
    if match:
        ends = now + int(match[1]) * _UNITS[match[2]] * SECOND
        if ends >= YEAR_10000:
            raise UsageError(f"--expires {text}: that is after the year 9999: leave it out for an entry without end")
        return ends
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--expires must be a length such as 30m, 12h, 7d, or an ISO time, got {text!r}") from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _check_kind(here: Here, kind: str) -> None:
    """Refuse a kind that no party can have: an entry of it would never cover anybody."""
    kinds = sorted({k for source in here.project.sources().values() for k in source.kinds()})
    if kind not in kinds:
        raise UsageError(f"no party is of kind {kind!r}; there are {', '.join(kinds)}")


def _facts(tables: Tables, kind: str, party: str) -> PartyFacts:
    return store.load_party_facts(tables).get((kind, party), PartyFacts())


def _said(act: Act) -> None:
    until = f" until {iso(act.expires_at)}" if act.expires_at is not None else ""
    done = DONE.get(act.act, f"{act.act}ed: {len(act.hits)} hits")
    print(f"{act.kind} {act.party} {done}{until} (entry {act.id}, by {act.by})")


@app.command()
def add(
    kind: KindArgument,
    party: PartyArgument,
    reason: ReasonOption = "",
    expires: ExpiresOption = None,
    by: ByOption = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Put a party on the blacklist: enforcing sources deny its events, within a second."""
    _enter(store.add_entry, kind, party, reason, expires, by, env, data)


@app.command()
def allow(
    kind: KindArgument,
    party: PartyArgument,
    reason: ReasonOption = "",
    expires: ExpiresOption = None,
    by: ByOption = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Put a party on the allowlist: while it stands there, no entry denies it."""
    _enter(store.allow, kind, party, reason, expires, by, env, data)


def _enter(
    put: Callable[..., Act],
    kind: str,
    party: str,
    reason: str,
    expires: str | None,
    by: str | None,
    env: str,
    data: Any,
) -> None:
    with open_here(env, data) as here:
        _check_kind(here, kind)
        now = here.resources.clock.now()
        ends = expiry(expires, now)
        act = put(
            here.resources.tables, now=now, by=by or user(), kind=kind, party=party, reason=reason, expires_at=ends
        )
    _said(act)


@app.command()
def remove(
    kind: KindArgument,
    party: PartyArgument,
    entry: Annotated[
        str | None, typer.Argument(metavar="[ENTRY]", help="The entry's id, where there are several.")
    ] = None,
    reason: ReasonOption = "",
    by: ByOption = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Take back an entry that a person made. What a rule made is lifted instead."""
    with open_here(env, data) as here:
        _check_kind(here, kind)
        tables, now = here.resources.tables, here.resources.clock.now()
        if entry is None:
            entry = _only_entry(_facts(tables, kind, party).entries(now, frozenset()), kind, party)
        act = store.remove_entry(tables, now=now, by=by or user(), kind=kind, party=party, target=entry, reason=reason)
    _said(act)


def _only_entry(entries: list[Entry], kind: str, party: str) -> str:
    mine = [e for e in entries if e.made_by == "person" and e.state in IN_FORCE and e.act is not None]
    if not mine:
        raise UsageError(
            f"{kind} {party!r} has no entry by a person that is in force; paystorm lists lift is for rules'"
        )
    if len(mine) > 1:
        ids = ", ".join(f"{e.act} ({e.list})" for e in mine)
        raise UsageError(f"{kind} {party!r} has several entries, name one: {ids}")
    assert mine[0].act is not None
    return mine[0].act


@app.command()
def lift(
    kind: KindArgument,
    party: PartyArgument,
    rule: RuleOption = None,
    reason: ReasonOption = "",
    by: ByOption = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Lift what rules listed a party for: the hits that stand now, also if they are withdrawn and made again."""
    _on_hits(store.lift, kind, party, rule, reason, by, env, data)


@app.command()
def confirm(
    kind: KindArgument,
    party: PartyArgument,
    rule: RuleOption = None,
    reason: ReasonOption = "",
    by: ByOption = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Keep what rules listed a party for, also if their hits are withdrawn."""
    _on_hits(store.confirm, kind, party, rule, reason, by, env, data)


def _on_hits(
    put: Callable[..., Act],
    kind: str,
    party: str,
    rule: str | None,
    reason: str,
    by: str | None,
    env: str,
    data: Any,
) -> None:
    with open_here(env, data) as here:
        _check_kind(here, kind)
        tables = here.resources.tables
        found: list[HitName] = [
            name
            for name, hit in sorted(_facts(tables, kind, party).hits.items())
            if hit.action == "deny" and hit.status == "standing" and rule in (None, f"{hit.source}.{hit.rule}")
        ]
        if not found:
            of = f" of rule {rule}" if rule is not None else ""
            raise UsageError(f"{kind} {party!r} has no standing hit{of}; paystorm lists show {kind} {party} shows all")
        now = here.resources.clock.now()
        act = put(tables, now=now, by=by or user(), kind=kind, party=party, hits=found, reason=reason)
    _said(act)


@app.command()
def show(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="Of one kind of party.")] = None,
    party: Annotated[str | None, typer.Argument(metavar="[PARTY]", help="Of one party.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is over: expired, lifted, withdrawn, removed.")
    ] = False,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what stands on the lists; of one party also what is over."""
    with open_here(env, data) as here:
        if kind is not None:
            _check_kind(here, kind)
        tables, now = here.resources.tables, here.resources.clock.now()
        store.finish_announcements(tables)
        breakers = store.open_breakers(tables)
        entries = [
            entry
            for (its_kind, its_id), facts in sorted(store.load_party_facts(tables).items())
            if kind in (None, its_kind) and party in (None, its_id)
            for entry in facts.entries(now, breakers)
            if everything or party is not None or entry.state in IN_FORCE
        ]
    if as_json:
        show_json([_plain(entry) for entry in entries])
        return
    columns = ("kind", "party", "list", "state", "made by", "since", "expires", "by", "note", "entry")
    rows = [
        (e.kind, e.party, e.list, e.state, e.reason, utc(e.since), utc(e.expires_at), e.by or "", e.note, _name(e))
        for e in entries
    ]
    out().print(table(None, columns, rows))
    print(f"{len(entries):,} entries")


def _name(entry: Entry) -> str:
    if entry.hit is None:
        return entry.act or ""
    return f"{iso(entry.hit[4] * SECOND)} {entry.hit[5]}".strip()


def _plain(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry), "since": utc(entry.since), "expires_at": utc(entry.expires_at)}


@app.command()
def history(
    kind: KindArgument,
    party: PartyArgument,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every change to a party's entries, oldest first."""
    with open_here(env, data) as here:
        _check_kind(here, kind)
        store.finish_announcements(here.resources.tables)
        rows = store.history_of(here.resources.tables, kind, party)
    if as_json:
        show_json([{**msgspec.to_builtins(row), "at": utc(row.at)} for row in rows])
        return
    out().print(table(None, ("at", "what", "detail", "by"), [(utc(r.at), r.what, r.detail, r.by) for r in rows]))


@app.command()
def breakers(
    everything: Annotated[bool, typer.Option("--all", help="Also those that were closed.")] = False,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the rules whose breakers are open: what they would deny is accepted and marked would_deny."""
    with open_here(env, data) as here:
        found = [b for b in store.load_breakers(here.resources.tables) if everything or b.state == "open"]
    if as_json:
        show_json([{**msgspec.to_builtins(b), "at": utc(b.at)} for b in found])
        return
    columns = ("source", "rule", "state", "since", "by", "share")
    rows = [(b.source, b.rule, b.state, utc(b.at), b.by, b.share) for b in found]
    out().print(table(None, columns, rows, right=columns[5:]))
    print(f"{len(found):,} breakers")


@app.command()
def close_breaker(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The source.")],
    rule: Annotated[str, typer.Argument(metavar="RULE", help="The rule whose breaker is open.")],
    by: ByOption = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Close a rule's breaker: from within a second on its entries deny again."""
    with open_here(env, data) as here:
        tables, now = here.resources.tables, here.resources.clock.now()
        if not store.close_breaker(tables, source=source, rule=rule, now=now, by=by or user()):
            raise UsageError(f"no open breaker of {source}.{rule}; paystorm lists breakers shows those that are")
    print(f"the breaker of {source}.{rule} is closed (by {by or user()})")


def register(into: typer.Typer) -> None:
    """Add the commands."""
    into.add_typer(app, name="lists")
