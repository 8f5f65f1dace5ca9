"""Replaying, mending and discarding dead letters (SEMANTICS.md §6).

A replay is three writes: the act, put where the letter has no act of that number; the record; the act that names its
offset. Whoever dies in between leaves the letter `replaying`. The next replay of it finishes: it names the offset that
the spout has seen, or else appends the same bytes again. Of two replays of a letter the lower offset counts and the
other is dead-lettered, so nothing can come of that but one letter more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from paystorm.clock import SECOND
from paystorm.desk.base import Desk, Who, utc
from paystorm.desk.letters import Found, LetterName, Selection, load, select
from paystorm.desk.mending import changed, difference, with_replay_of
from paystorm.errors import LogError, RecordTooLargeError, UsageError
from paystorm.log.base import OutRecord
from paystorm.source import Source
from paystorm.stores.letters import LetterAct, claims_on, put_acts
from paystorm.stores.versions import load_versions
from paystorm.validity import Code, ExactValidator, Invalid, ReplayOf, ValiditySettings

MOST = 1_000
"""Letters that one call acts on, unless more are asked for."""
MOST_EVER = 100_000
AT_ONCE = 100
"""Letters whose bytes are in memory together."""
RESUME_AFTER = 60 * SECOND
"""A replay that was begun so long ago and not finished is another's to finish, µs."""


_TOO_LONG = "it is longer than the log takes: mend it, or discard it, with --force"


@dataclass(frozen=True, slots=True)
class Mend:
    """What is changed in records before they are replayed: a whole value, or what stands at paths."""

    sets: Mapping[str, str]
    unsets: tuple[str, ...] = ()
    value: bytes | None = None

    def of(self, value: bytes, source: Source) -> bytes:
        """The mended record. Raises UsageError."""
        return changed(value if self.value is None else self.value, self.sets, self.unsets, source)


@dataclass(frozen=True, slots=True)
class Done:
    """A letter that was acted on."""

    name: LetterName
    sent_as: int | None = None
    """The offset of its replay; None: discarded, or only tried."""
    difference: tuple[str, ...] = ()
    """Of a mended one: the lines that differ."""
    warning: str | None = None
    """What is wrong with the replay, where it was sent anyway."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A letter that was left as it is, and why."""

    name: LetterName
    why: str


@dataclass(frozen=True, slots=True)
class Acted:
    """What came of an act on letters."""

    done: tuple[Done, ...]
    refused: tuple[Refused, ...]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A letter whose replay may be sent."""

    found: Found
    value: bytes
    """With `replay_of`."""
    mended: bytes | None
    """Of a mended one: the record without `replay_of`."""
    invalid: Invalid | None
    resumed: bool = False
    """Its act is there already."""


def replay(
    desk: Desk,
    selection: Selection,
    who: Who,
    *,
    mend: Mend | None = None,
    most: int = MOST,
    force: bool = False,
    anyway: bool = False,
    dry: bool = False,
) -> Acted:
    """Send letters again, mended or as they are, each to its own partition.

    force: also those that were replayed or discarded before; anyway: also what would not be valid; dry: only say what
    would be done. Raises UsageError where more than `most` are selected, LogError where the log does not take them:
    those under way are then `replaying`, and the same call again finishes them.
    """
    who.with_reason()
    done: list[Done] = []
    refused: list[Refused] = []
    checks = {source.name: _Check(desk, source) for source in desk.sources.values()}
    names = _names(desk, selection, most)
    for start in range(0, len(names), AT_ONCE):
        ready: list[_Ready] = []
        for name in names[start : start + AT_ONCE]:
            found = load(desk, name)
            try:
                one = _ready(desk, checks[name.source], found, mend, force=force, anyway=anyway)
            except _NotReadyError as error:
                refused.append(Refused(name, str(error)))
                continue
            if isinstance(one, _Ready):
                ready.append(one)
                continue
            if not dry:
                put_acts(desk.tables, name.source, [one])
            done.append(Done(name, one.sent_as))
        if dry:
            done += [_done(one, None) for one in ready]
            continue
        try:
            for one, came in _send(desk, ready, who):
                if isinstance(came, str):
                    refused.append(Refused(one.found.name, came))
                else:
                    done.append(_done(one, came))
        except LogError as error:
            raise LogError(
                f"{error}; {len(done):,} letters were replayed before, and up to {len(ready):,} are under way: the "
                f"same command finishes them, {RESUME_AFTER // SECOND} s from now on"
            ) from error
    return Acted(tuple(done), tuple(refused))


def discard(
    desk: Desk, selection: Selection, who: Who, *, most: int = MOST, force: bool = False, dry: bool = False
) -> Acted:
    """Note that letters need nothing more. They stay where they are: their outcome is dead-lettered.

    force: also those that were replayed. Raises UsageError where more than `most` are selected.
    """
    who.with_reason()
    done: list[Done] = []
    refused: list[Refused] = []
    now = desk.clock.now()
    for name in _names(desk, selection, most):
        found = load(desk, name)
        if found.state == "discarded" or (found.state != "open" and not force):
            refused.append(Refused(name, _said(found)))
            continue
        act = LetterAct(
            partition=name.partition,
            offset=name.offset,
            n=len(found.acts),
            act="discard",
            at=now,
            by=who.by,
            reason=who.reason,
        )
        if dry or put_acts(desk.tables, name.source, [act])[0]:
            done.append(Done(name))
        else:
            refused.append(Refused(name, "somebody else has just done something with it"))
    return Acted(tuple(done), tuple(refused))


class _NotReadyError(Exception):
    """Why a letter is not replayed."""


class _Check:
    """Whether a record of a source would be valid, as the newest version of the source that has started has it."""

    def __init__(self, desk: Desk, source: Source) -> None:
        self.source = source
        self._desk = desk
        self._validator: ExactValidator | None = None

    def __call__(self, partition: int, value: bytes) -> Invalid | None:
        """What would be wrong with a record appended now, or None."""
        log, topic = self._desk.log, self.source.topic
        if self._validator is None:
            self._validator = ExactValidator(self.source, topic, _validity(self._desk, self.source.name))
        end = log.end_offset(topic, partition)
        found = self._validator.check(partition, end, self._desk.clock.now() // 1000, value)
        return found if isinstance(found, Invalid) else None


def _validity(desk: Desk, source: str) -> ValiditySettings:
    versions = load_versions(desk.tables, source)
    held = versions[-1].validity if versions else desk.settings().validity()
    return ValiditySettings(
        max_record_bytes=held["maxRecordBytes"],
        earliest=held["earliest"],
        max_ahead=held["maxAhead"],
        counts_retention=held["countsRetention"],
    )


def _names(desk: Desk, selection: Selection, most: int) -> list[LetterName]:
    """The names of a selection, settled before anything is done: what is done may bring new letters."""
    if not 1 <= most <= MOST_EVER:
        raise UsageError(f"--max must be 1 to {MOST_EVER:,}, got {most:,}")
    names = [found.name for found in islice(select(desk, selection), most + 1)]
    if len(names) > most:
        raise UsageError(
            f"more than {most:,} dead letters are selected: narrow it down, or allow more with --max (at most "
            f"{MOST_EVER:,}); nothing was done"
        )
    return names


def _ready(
    desk: Desk, check: _Check, found: Found, mend: Mend | None, *, force: bool, anyway: bool
) -> _Ready | LetterAct:
    """The replay of a letter; where it had been sent already the act that says so. Raises _NotReadyError."""
    source, name, letter = check.source, found.name, found.letter
    (claim,) = claims_on(desk.tables, source.name, source.topic, [(name.partition, name.offset)])
    if letter.pruned:
        raise _NotReadyError(f"{_said(found)}, and its bytes were removed after their retention")
    resumed = found.state == "replaying" and mend is None
    if resumed:
        begun = found.acts[-1]
        if claim is not None:
            return _sent(begun, claim, desk.clock.now())
        if desk.clock.now() - begun.at < RESUME_AFTER:
            raise _NotReadyError(f"{_said(found)}, and may be on its way")
    elif found.state != "open" and not force:
        raise _NotReadyError(f"{_said(found)}; --force does it all the same")
    if letter.code == Code.DUPLICATE_REPLAY and not force:
        raise _NotReadyError("it repeats a replay that counts already: discard it (--force would count it twice)")
    try:
        mended = None if mend is None else mend.of(letter.value, source)
    except UsageError as error:
        raise _NotReadyError(str(error)) from None
    if resumed and found.acts[-1].value is not None:
        value: bytes | None = found.acts[-1].value
    else:
        value = with_replay_of(
            letter.value if mended is None else mended, ReplayOf(source.topic, name.partition, name.offset)
        )
    if value is None:
        raise _NotReadyError(
            f"{found.reason}: it is no JSON object, so it cannot be replayed as it is: mend it with --value FILE"
        )
    invalid = check(name.partition, value)
    if invalid is None and claim is not None:
        invalid = Invalid(0, value, "replay_of", Code.DUPLICATE_REPLAY, f"offset {claim} counts", None)
    if invalid is not None and not anyway:
        raise _NotReadyError(f"it would be dead-lettered again: {_wrong(invalid)}; --anyway sends it all the same")
    return _Ready(found, value, mended, invalid, resumed)


def _send(desk: Desk, ready: Sequence[_Ready], who: Who) -> Iterator[tuple[_Ready, int | str]]:
    """Send what is ready: each with its offset, or why it was not sent."""
    for source in desk.sources.values():
        mine = [one for one in ready if one.found.source == source.name]
        now = desk.clock.now()
        begun = [one.found.acts[-1] if one.resumed else _begin(one, who, now) for one in mine]
        new = [act for one, act in zip(mine, begun, strict=True) if not one.resumed]
        put = iter(put_acts(desk.tables, source.name, new))
        going: list[tuple[_Ready, LetterAct]] = []
        for one, act in zip(mine, begun, strict=True):
            if one.resumed or next(put):
                going.append((one, act))
            else:
                yield one, "somebody else has just done something with it"
        while going:
            records = [OutRecord(one.value, partition=one.found.letter.partition) for one, _ in going]
            try:
                sent = desk.log.append(source.topic, records)
            except RecordTooLargeError as error:
                long = set(error.records)
                yield from ((one, _TOO_LONG) for at, (one, _) in enumerate(going) if at in long)
                going = [pair for at, pair in enumerate(going) if at not in long]
                continue
            at = desk.clock.now()
            acts = [_sent(act, offset, at) for (_, act), (_, offset) in zip(going, sent, strict=True)]
            put_acts(desk.tables, source.name, acts)
            yield from ((one, offset) for (one, _), (_, offset) in zip(going, sent, strict=True))
            break


def _begin(one: _Ready, who: Who, now: int) -> LetterAct:
    letter = one.found.letter
    return LetterAct(
        partition=letter.partition,
        offset=letter.offset,
        n=len(one.found.acts),
        act="replay" if one.mended is None else "mend",
        at=now,
        by=who.by,
        reason=who.reason,
        value=None if one.mended is None else one.value,
    )


def _sent(begun: LetterAct, offset: int, now: int) -> LetterAct:
    return LetterAct(
        partition=begun.partition,
        offset=begun.offset,
        n=begun.n + 1,
        act="sent",
        at=now,
        by=begun.by,
        reason=begun.reason,
        sent_as=offset,
    )


def _done(one: _Ready, sent_as: int | None) -> Done:
    changes = [] if one.mended is None else difference(one.found.letter.value, one.mended)
    return Done(one.found.name, sent_as, tuple(changes), None if one.invalid is None else _wrong(one.invalid))


def _wrong(invalid: Invalid) -> str:
    return f"{invalid.field}: {invalid.code.value} ({invalid.detail})"


def _said(found: Found) -> str:
    """What was done with a letter last, in words."""
    last = found.acts[-1]
    when = f"by {last.by} at {utc(last.at):%Y-%m-%dT%H:%M:%SZ}"
    if last.act == "sent":
        return f"it was replayed {when} as offset {last.sent_as}"
    if last.act == "discard":
        return f"it was discarded {when}: {last.reason}"
    return f"a replay of it was begun {when} and not finished"
