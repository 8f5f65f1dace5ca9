"""What the desk gives, as JSON has it: for `--json` and for HTTP alike."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgspec

from paystorm.clock import SECOND
from paystorm.desk.base import utc
from paystorm.desk.cases import CaseRow, CaseView
from paystorm.desk.letters import Cause, Found, LetterView, Replay
from paystorm.desk.mending import shown_value
from paystorm.desk.replays import Acted
from paystorm.lists import Entry
from paystorm.stores.cases import Decision
from paystorm.stores.lists import BreakerChange, HistoryRow
from paystorm.stores.proposals import Proposal


def jsonable(value: Any) -> Any:
    """The value with times as ISO text in UTC (those without a zone are UTC), whatever else JSON lacks as text."""
    if isinstance(value, datetime):
        at = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo is not None else value
        return at.isoformat() + "Z"
    if isinstance(value, Mapping):
        return {str(name): jsonable(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [jsonable(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def plain_letter(found: Found) -> dict[str, Any]:
    """A letter as JSON has it, without its bytes."""
    x = found.letter
    return {
        "letter": str(found.name),
        "source": found.source,
        "partition": x.partition,
        "offset": x.offset,
        "dead_at": utc(x.dead_at),
        "timestamp": found.appended,
        "state": found.state,
        "field": x.field,
        "code": x.code,
        "detail": x.detail,
        "cause": found.cause,
        "id": x.event_id,
        "application": x.application,
        "attempts": x.attempts,
        "last_error": x.last_error,
        "bytes": len(x.value),
    }


def plain_view(view: LetterView) -> dict[str, Any]:
    """A letter with everything as JSON has it; bytes that are not UTF-8 are in base64."""
    value = view.found.letter.value
    text = shown_value(value)
    acts = [
        {"at": utc(a.at), "act": a.act, "by": a.by, "reason": a.reason, "sent_as": a.sent_as}
        | ({} if a.value is None else {"value": shown_value(a.value)})
        for a in view.found.acts
    ]
    return {
        **plain_letter(view.found),
        "value": text,
        "value_base64": None if text is not None else base64.b64encode(value).decode(),
        "acts": acts,
        "replays": [plain_replay(r) for r in view.replays],
    }


def plain_replay(replay: Replay) -> dict[str, Any]:
    """A replay as JSON has it."""
    return {
        "partition": replay.partition,
        "offset": replay.offset,
        "counts": replay.counts,
        "outcome": replay.outcome,
        "reason": replay.reason,
    }


def plain_cause(cause: Cause) -> dict[str, Any]:
    """A cause as JSON has it."""
    return {
        "source": cause.source,
        "cause": cause.cause,
        "count": cause.count,
        "states": dict(cause.states),
        "first": utc(cause.first),
        "last": utc(cause.last),
        "example": str(cause.example),
    }


def plain_acted(acted: Acted) -> dict[str, Any]:
    """What came of an act as JSON has it."""
    return {
        "done": [
            {"letter": str(d.name), "sent_as": d.sent_as, "difference": list(d.difference), "warning": d.warning}
            for d in acted.done
        ],
        "refused": [{"letter": str(r.name), "why": r.why} for r in acted.refused],
    }


def plain_entry(entry: Entry) -> dict[str, Any]:
    """An entry as JSON has it."""
    return {**asdict(entry), "since": utc(entry.since), "expires_at": utc(entry.expires_at)}


def plain_proposal(proposal: Proposal) -> dict[str, Any]:
    """A proposal as JSON has it."""
    return {
        **msgspec.to_builtins(proposal),
        "at": utc(proposal.at),
        "decided_at": utc(proposal.decided_at),
        "acts": [{**msgspec.to_builtins(a), "expires_at": utc(a.expires_at)} for a in proposal.acts],
    }


def plain_row(row: CaseRow) -> dict[str, Any]:
    """A case in short as JSON has it."""
    return {
        "kind": row.kind,
        "party": row.party,
        "source": row.source,
        "cause": row.cause,
        "opened_at": utc(row.opened_at),
        "status": row.status,
        "events": row.events,
        "denied": row.denied,
        "caught_late": row.caught_late,
        "joined": row.joined,
        "amounts": row.amounts,
        "last_at": utc(row.last_at),
        "decision": None if row.decision is None else plain_decision(row.decision),
    }


def plain_decision(decision: Decision) -> dict[str, Any]:
    """A decision as JSON has it."""
    newest = decision.newest_hit
    return {**msgspec.to_builtins(decision), "at": utc(decision.at), "newest_hit": utc(newest) if newest else None}


def plain_case(view: CaseView) -> dict[str, Any]:
    """A case with everything as JSON has it."""
    hits = [
        {
            **{k: v for k, v in msgspec.to_builtins(h).items() if k not in ("before", "shard", "row", "changed_at")},
            "interval_start": utc(h.interval_start * SECOND),
            "since": utc(h.since),
            "currency": h.currency or None,
        }
        for h in view.hits
    ]
    return {
        **plain_row(view.row),
        "entries": [plain_entry(e) for e in view.entries],
        "hits": hits,
        "newest_events": list(view.events),
        "counts": [asdict(c) for c in view.counts],
        "dealt_with": [asdict(o) for o in view.dealt_with],
        "decisions": [plain_decision(d) for d in view.decisions],
        "waiting": [plain_proposal(p) for p in view.waiting],
    }


def plain_history(row: HistoryRow) -> dict[str, Any]:
    """A row of the history as JSON has it."""
    return {**msgspec.to_builtins(row), "at": utc(row.at)}


def plain_breaker(breaker: BreakerChange) -> dict[str, Any]:
    """A breaker as JSON has it."""
    return {**msgspec.to_builtins(breaker), "at": utc(breaker.at)}
