"""`paystorm dead-letters`: what was not processed, why, and what people do with it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from paystorm.cli.common import DataOption, EnvOption, JsonOption, complain, open_here, out, show_json, table, user
from paystorm.cli.desk import desk_of
from paystorm.desk import Desk, Who
from paystorm.desk.base import ago, utc
from paystorm.desk.letters import (
    COLUMNS,
    STATES,
    Cause,
    LetterName,
    LetterView,
    Selection,
    causes,
    page,
    show,
)
from paystorm.desk.mending import parse_sets
from paystorm.desk.plain import plain_acted, plain_cause, plain_letter, plain_view
from paystorm.desk.replays import MOST, Acted, Mend, discard, replay
from paystorm.errors import UsageError

NAMED = 20
"""Letters that are told of one by one; of the others only the number."""
SHOWN_DETAIL = 120

LettersArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[LETTER]...", help="Letters by name, such as purchase/2/417.")
]
SourceOption = Annotated[
    list[str] | None, typer.Option("--source", metavar="SOURCE", help="Of this source; may be repeated.")
]
ReasonIsOption = Annotated[
    str | None, typer.Option("--code", metavar="CODE", help="Of this reason: a code, a field, or 'field: code'.")
]
SinceOption = Annotated[
    str | None, typer.Option("--since", metavar="7d|TIME", help="Dead-lettered in this time, or since an ISO time.")
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="7d|TIME", help="Dead-lettered before: so long ago, or an ISO time.")
]
WhereOption = Annotated[
    str | None,
    typer.Option("--where", metavar="SQL", help=f"For which this holds; columns: {', '.join(COLUMNS)}."),
]
AllOption = Annotated[bool, typer.Option("--all", help="All there are: needed where nothing else is said.")]
MaxOption = Annotated[int, typer.Option("--max", metavar="N", help="Refuse to act on more letters than this.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept with the act.")]
ByOption = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who; default: the user of this system.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Also letters that were replayed or discarded before.")]
AnywayOption = Annotated[bool, typer.Option("--anyway", help="Also what would be dead-lettered again.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]

app = typer.Typer(no_args_is_help=True, help="Look at dead letters, mend them, send them again, or discard them.")


@app.command(name="list")
def list_letters(
    letters: LettersArgument = None,
    source: SourceOption = None,
    code: ReasonIsOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help=f"Of a state: {', '.join(STATES)}; may be repeated.")
    ] = None,
    where: WhereOption = None,
    by_cause: Annotated[bool, typer.Option("--causes", help="How many there are of each cause.")] = False,
    limit: Annotated[int, typer.Option(metavar="N", help="Letters of a page.")] = 50,
    skip: Annotated[int, typer.Option(metavar="N", help="Letters before the page.")] = 0,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show dead letters, newest first, or how many there are of each cause."""
    with open_here(env, data) as here:
        desk = desk_of(here)
        chosen = _selection(desk, letters, source, code, since, until, state, where)
        if by_cause:
            _show_causes(causes(desk, chosen), as_json)
            return
        found = page(desk, chosen, limit=limit, skip=skip)
    if as_json:
        rows = [plain_letter(x) for x in found.letters]
        show_json({"total": found.total, "skipped": found.skipped, "letters": rows})
        return
    columns = ("letter", "dead since", "state", "reason", "detail", "application", "id")
    rows_shown = [
        (
            x.name,
            utc(x.letter.dead_at),
            x.state,
            x.reason,
            _cut(x.letter.detail),
            x.letter.application,
            x.letter.event_id,
        )
        for x in found.letters
    ]
    out().print(table(None, columns, rows_shown))
    last = found.skipped + len(found.letters)
    rest = f"; --skip {last} goes on" if last < found.total else ""
    print(f"{len(found.letters):,} of {found.total:,} dead letters{rest}")


def _show_causes(found: Sequence[Cause], as_json: bool) -> None:
    if as_json:
        show_json([plain_cause(c) for c in found])
        return
    columns = ("source", "cause", "letters", "open", "first", "last", "for example")
    rows = [(c.source, c.cause, c.count, c.states.get("open", 0), utc(c.first), utc(c.last), c.example) for c in found]
    out().print(table(None, columns, rows, right=columns[2:4]))
    print(f"{sum(c.count for c in found):,} dead letters of {len(found):,} causes")


@app.command(name="show")
def show_letter(
    letter: Annotated[str, typer.Argument(metavar="LETTER", help="Its name, such as purchase/2/417.")],
    raw: Annotated[bool, typer.Option("--raw", help="Print the record's bytes and nothing else.")] = False,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a dead letter: what is wrong with it, its bytes, what was done with it, and what became of its replays."""
    with open_here(env, data) as here:
        view = show(desk_of(here), LetterName.parse(letter))
    if raw:
        sys.stdout.buffer.write(view.found.letter.value)
        sys.stdout.buffer.flush()
    elif as_json:
        show_json(plain_view(view))
    else:
        _show(view)


def _show(view: LetterView) -> None:
    found, x = view.found, view.found.letter
    console = out()
    facts: list[tuple[str, Any]] = [
        ("letter", found.name),
        ("state", found.state),
        ("reason", found.reason),
        ("detail", x.detail),
        ("dead since", utc(x.dead_at)),
        ("in the log since", found.appended),
        ("id", x.event_id),
        ("application", x.application),
    ]
    if x.attempts:
        facts += [("attempts", x.attempts), ("last error", x.last_error)]
    console.print(table(None, ("", ""), facts))
    if found.acts:
        rows = [(utc(a.at), a.act, a.sent_as, a.by, a.reason) for a in found.acts]
        console.print(table("what was done", ("at", "act", "as offset", "by", "reason"), rows))
    if view.replays:
        replays = [(r.offset, r.outcome, r.reason, r.counts) for r in view.replays]
        console.print(table("replays", ("offset", "outcome", "reason", "counts"), replays))
    print(f"{len(x.value):,} bytes:")
    print(x.value.decode(errors="backslashreplace"))


@app.command(name="replay")
def replay_letters(
    letters: LettersArgument = None,
    source: SourceOption = None,
    code: ReasonIsOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    where: WhereOption = None,
    everything: AllOption = False,
    reason: ReasonOption = "",
    by: ByOption = None,
    most: MaxOption = MOST,
    force: ForceOption = False,
    anyway: AnywayOption = False,
    dry: DryOption = False,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send dead letters again as they are. Without LETTERs: all that are open (or unfinished) of the selection.

    Each goes to its own partition and says what it replays; of several replays of a letter the first counts.
    """
    states = None if letters or force else ["open", "replaying"]
    with open_here(env, data) as here:
        desk = desk_of(here)
        chosen = _chosen(desk, letters, source, code, since, until, states, where, everything)
        acted = replay(desk, chosen, _who(by, reason), most=most, force=force, anyway=anyway, dry=dry)
    _report(acted, "would be replayed" if dry else "replayed", as_json)


@app.command(name="mend")
def mend_letters(
    letters: LettersArgument = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Set a value, as in data.amount=12.50; may be repeated."),
    ] = None,
    unsets: Annotated[
        list[str] | None, typer.Option("--unset", metavar="PATH", help="Take a member out; may be repeated.")
    ] = None,
    value: Annotated[
        str | None, typer.Option("--value", metavar="FILE|-", help="The whole new record, in the place of the old.")
    ] = None,
    source: SourceOption = None,
    code: ReasonIsOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    where: WhereOption = None,
    everything: AllOption = False,
    reason: ReasonOption = "",
    by: ByOption = None,
    most: MaxOption = MOST,
    force: ForceOption = False,
    anyway: AnywayOption = False,
    dry: DryOption = False,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change dead letters and send them again. The difference is shown; what would still be invalid is refused."""
    if not (sets or unsets or value is not None):
        raise UsageError("nothing to mend: name changes with --set, --unset, or a whole record with --value")
    if value is not None and len(letters or ()) != 1:
        raise UsageError("--value is the record of one letter: name one")
    mended = Mend(parse_sets(sets or ()), tuple(unsets or ()), None if value is None else _read(value))
    states = None if letters or force else ["open"]
    with open_here(env, data) as here:
        desk = desk_of(here)
        chosen = _chosen(desk, letters, source, code, since, until, states, where, everything)
        acted = replay(desk, chosen, _who(by, reason), mend=mended, most=most, force=force, anyway=anyway, dry=dry)
    _report(acted, "would be mended and replayed" if dry else "mended and replayed", as_json)


@app.command(name="discard")
def discard_letters(
    letters: LettersArgument = None,
    source: SourceOption = None,
    code: ReasonIsOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    where: WhereOption = None,
    everything: AllOption = False,
    reason: ReasonOption = "",
    by: ByOption = None,
    most: MaxOption = MOST,
    force: Annotated[bool, typer.Option("--force", help="Also letters that were replayed before.")] = False,
    dry: DryOption = False,
    env: EnvOption = "local",
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Note that dead letters need nothing more. Without LETTERs: all that are open of the selection.

    They stay where they are, with their bytes, and can be replayed later with --force.
    """
    states = None if letters or force else ["open"]
    with open_here(env, data) as here:
        desk = desk_of(here)
        chosen = _chosen(desk, letters, source, code, since, until, states, where, everything)
        acted = discard(desk, chosen, _who(by, reason), most=most, force=force, dry=dry)
    _report(acted, "would be discarded" if dry else "discarded", as_json)


# What the options mean.


def _selection(
    desk: Desk,
    letters: Sequence[str] | None,
    sources: Sequence[str] | None,
    reason: str | None,
    since: str | None,
    until: str | None,
    states: Sequence[str] | None,
    where: str | None,
) -> Selection:
    now = desk.clock.now()
    unknown = [state for state in states or () if state not in STATES]
    if unknown:
        raise UsageError(f"--state must be {', '.join(STATES)}, got {unknown[0]!r}")
    for name in sources or ():
        desk.source(name)
    return Selection(
        sources=tuple(sources or ()),
        names=tuple(LetterName.parse(text) for text in letters or ()),
        reason=reason,
        since=ago(since, now, "--since"),
        until=ago(until, now, "--until"),
        states=frozenset(state for state in STATES if state in (states or ())),
        where=where,
    )


def _chosen(
    desk: Desk,
    letters: Sequence[str] | None,
    sources: Sequence[str] | None,
    reason: str | None,
    since: str | None,
    until: str | None,
    states: Sequence[str] | None,
    where: str | None,
    everything: bool,
) -> Selection:
    """The selection of an act: all there are only where that is said."""
    if not (everything or letters or sources or reason or since or until or where):
        raise UsageError("which dead letters? Name them, or say --source, --code, --since, --until, --where or --all")
    return _selection(desk, letters, sources, reason, since, until, states, where)


def _who(by: str | None, reason: str) -> Who:
    return Who(by or user(), reason).with_reason()


def _read(name: str) -> bytes:
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"--value {name}: {error.strerror}") from None
    return raw.removesuffix(b"\n").removesuffix(b"\r")


# What is printed.


def _report(acted: Acted, what: str, as_json: bool) -> None:
    if as_json:
        show_json(plain_acted(acted))
    else:
        for done in acted.done[:NAMED]:
            sent = "" if done.sent_as is None else f" as offset {done.sent_as}"
            print(f"{done.name}: {what}{sent}")
            for line in done.difference:
                print(f"    {line}")
        if len(acted.done) > NAMED:
            print(f"and {len(acted.done) - NAMED:,} more")
        print(f"{_letters(len(acted.done))} {what}")
    for done in [d for d in acted.done if d.warning][:NAMED]:
        complain(f"{done.name}: sent all the same: {done.warning}")
    for refused in acted.refused[:NAMED]:
        complain(f"{refused.name}: {refused.why}")
    if acted.refused:
        raise UsageError(f"{_letters(len(acted.refused))} left alone")


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_DETAIL else text[: SHOWN_DETAIL - 1] + "…"


def register(into: typer.Typer) -> None:
    """Add the commands."""
    into.add_typer(app, name="dead-letters")
