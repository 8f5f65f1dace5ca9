"""`paystorm lists`: what people do to the blacklist and the allowlist, who approves it, and what stands there."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from paystorm.cli.common import DataOption, EnvOption, JsonOption, iso, open_here, out, show_json, table, user
from paystorm.cli.desk import desk_of
from paystorm.clock import SECOND
from paystorm.desk import Who, changes, lists
from paystorm.desk.base import ahead, utc
from paystorm.desk.plain import plain_breaker, plain_entry, plain_history, plain_proposal
from paystorm.errors import UsageError
from paystorm.lists import Entry, ListName
from paystorm.stores.proposals import Proposal, ProposalState

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
DONE = {"add": "is on the blacklist", "allow": "is on the allowlist", "remove": "is off the list again"}
STATES: tuple[ProposalState, ...] = get_args(ProposalState)

app = typer.Typer(no_args_is_help=True, help="Put parties on the lists, take them off, and see what stands there.")


def expiry(text: str | None, now: int) -> int | None:
    """When an entry ends, µs: a length from `now` on (`7d`), or an ISO time (UTC where it has no zone)."""
    return ahead(text, now)


def said(proposal: Proposal) -> None:
    """What became of a change, for people."""
    name = f"{proposal.kind} {proposal.party}"
    if proposal.state != "applied":
        print(f"{name}: {proposal.what}: proposed as {proposal.id} by {proposal.by}; another person approves it with")
        print(f"  paystorm lists approve {proposal.id}")
        return
    for number, act in enumerate(proposal.acts):
        until = f" until {iso(act.expires_at)}" if act.expires_at is not None else ""
        done = DONE.get(act.act, f"{act.act}ed: {len(act.hits)} hits")
        print(f"{name} {done}{until} (entry {proposal.id}.{number}, by {act.by})")
    if proposal.decision is not None:
        print(f"the case of {name} is decided: {proposal.decision.verdict} (by {proposal.decision.by})")


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
    _enter("blacklist", kind, party, reason, expires, by, env, data)


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
    _enter("allowlist", kind, party, reason, expires, by, env, data)


def _enter(
    on: ListName,
    kind: str,
    party: str,
    reason: str,
    expires: str | None,
    by: str | None,
    env: str,
    data: Path | None,
) -> None:
    with open_here(env, data) as here:
        desk = desk_of(here)
        wanted = lists.Enter(on, kind, party, expiry(expires, desk.clock.now()))
        proposal = lists.enter(desk, Who(by or user(), reason), wanted)
    said(proposal)


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
        proposal = lists.remove(desk_of(here), Who(by or user(), reason), kind, party, entry)
    said(proposal)


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
    with open_here(env, data) as here:
        proposal = lists.lift(desk_of(here), Who(by or user(), reason), kind, party, rule)
    said(proposal)


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
    with open_here(env, data) as here:
        proposal = lists.confirm(desk_of(here), Who(by or user(), reason), kind, party, rule)
    said(proposal)


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
        entries = lists.entries(desk_of(here), kind, party, everything=everything)
    if as_json:
        show_json([plain_entry(entry) for entry in entries])
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
        rows = lists.history(desk_of(here), kind, party)
    if as_json:
        show_json([plain_history(row) for row in rows])
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
        found = lists.breakers(desk_of(here), everything=everything)
    if as_json:
        show_json([plain_breaker(b) for b in found])
        return
    columns = ("source", "rule", "state", "since", "by", "reason", "share")
    rows = [(b.source, b.rule, b.state, utc(b.at), b.by, b.reason, b.share) for b in found]
    out().print(table(None, columns, rows, right=columns[6:]))
    print(f"{len(found):,} breakers")


@app.command()
def close_breaker(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The source.")],
    rule: Annotated[str, typer.Argument(metavar="RULE", help="The rule whose breaker is open.")],
    reason: ReasonOption = "",
    by: ByOption = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Close a rule's breaker: from within a second on its entries deny again."""
    with open_here(env, data) as here:
        lists.close_breaker(desk_of(here), Who(by or user(), reason), source, rule)
    print(f"the breaker of {source}.{rule} is closed (by {by or user()})")


@app.command()
def proposals(
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help=f"Of a state: {', '.join(STATES)}; default: open.")
    ] = None,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the changes that wait for another person, or those that were decided on."""
    unknown = [text for text in state or () if text not in STATES]
    if unknown:
        raise UsageError(f"--state must be {', '.join(STATES)}, got {unknown[0]!r}")
    wanted = frozenset(s for s in STATES if s in (state or ("open",)))
    with open_here(env, data) as here:
        found = changes.proposals(desk_of(here), wanted)
    if as_json:
        show_json([plain_proposal(p) for p in found])
        return
    columns = ("proposal", "kind", "party", "what", "by", "reason", "at", "state", "decided by")
    rows = [(p.id, p.kind, p.party, p.what, p.by, p.reason, utc(p.at), p.state, p.decided_by) for p in found]
    out().print(table(None, columns, rows))
    print(f"{len(found):,} proposals")


ProposalArgument = Annotated[str, typer.Argument(metavar="PROPOSAL", help="Its id, as lists proposals shows it.")]


@app.command()
def approve(
    proposal: ProposalArgument,
    reason: ReasonOption = "",
    by: ByOption = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Approve what another person proposed: it is done at once, and once."""
    with open_here(env, data) as here:
        done = changes.approve(desk_of(here), proposal, Who(by or user(), reason))
    said(done)


@app.command()
def reject(
    proposal: ProposalArgument,
    reason: ReasonOption = "",
    by: ByOption = None,
    env: EnvOption = "local",
    data: DataOption = None,
) -> None:
    """Reject what another person proposed, or recall a proposal of one's own."""
    with open_here(env, data) as here:
        done = changes.reject(desk_of(here), proposal, Who(by or user(), reason))
    print(f"proposal {done.id} is {done.state} (by {done.decided_by})")


def register(into: typer.Typer) -> None:
    """Add the commands."""
    into.add_typer(app, name="lists")
