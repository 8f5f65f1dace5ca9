"""The description of the desk's end points (OpenAPI 3.1): paths, parameters, bodies, answers.

Bodies, and answers that are rows or dataclasses, are described by their types; the others by hand, as `plain` makes
them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, get_args

import msgspec

from paystorm.desk.bodies import DecisionBody, EnterBody, LettersBody, MendBody, ReasonBody, RemoveBody, SpeakBody
from paystorm.desk.cases import MAX_PAGE, MAX_SHOWN, SORTS, STATUSES, Count
from paystorm.desk.events import DealtWith
from paystorm.desk.letters import STATES
from paystorm.desk.where import MAX_TEXT
from paystorm.ingest.describing import Json, answers, body, content, members, parameter, ref
from paystorm.lists import Entry
from paystorm.stores.cases import Decision
from paystorm.stores.hits import Hit
from paystorm.stores.letters import LetterAct
from paystorm.stores.lists import MAX_ID, BreakerChange, HistoryRow
from paystorm.stores.proposals import Proposal, ProposalState

_READ = (401, 403, 404, 422, 500, 503)
_ACT = (400, *_READ, 408, 409, 413, 415)
_TEXT: Json = {"type": "string"}
_MAYBE: Json = {"type": ["string", "null"]}
_WHOLE: Json = {"type": "integer", "minimum": 0}
_TIME: Json = {"type": "string", "format": "date-time"}
_MAYBE_TIME: Json = {"anyOf": [_TIME, {"type": "null"}]}
_ID: Json = {"type": "string", "minLength": 1, "maxLength": MAX_ID}
_FLAG: Json = {"enum": ["true", "false"]}
_MOMENT: Json = {
    "description": "A length of time, or a moment.",
    "anyOf": [
        {"type": "string", "pattern": "^[1-9][0-9]{0,4}[smhdw]$"},
        {"type": "string", "format": "date-time"},
        {"type": "string", "format": "date"},
    ],
}

BODIES = (ReasonBody, LettersBody, MendBody, EnterBody, RemoveBody, SpeakBody, DecisionBody)
TIMES = {
    Entry: ("since", "expires_at"),
    Proposal: ("at", "decided_at"),
    Decision: ("at", "newest_hit"),
    HistoryRow: ("at",),
    BreakerChange: ("at",),
    Hit: ("interval_start", "since"),
    Count: (),
    DealtWith: (),
}
"""The answers that are described by their types, with their members that are µs (or seconds) there and times here."""


def paths() -> Json:
    """What there is, by path and method."""
    letter = [
        parameter("source", "path", ref("SourceName"), "The source."),
        parameter("partition", "path", {**_WHOLE, "maximum": 999_999_999}, "The partition of its topic."),
        parameter("offset", "path", {**_WHOLE, "maximum": 10**18 - 1}, "The record's offset."),
    ]
    party = [_kind(needed=True), _query("party", _ID, "Its id.", needed=True)]
    proposal = [parameter("id", "path", {"type": "string", "pattern": "^[0-9]{1,20}-[0-9]{6}$"}, "The proposal's id.")]
    breaker = [
        parameter("source", "path", ref("SourceName"), "The source."),
        parameter("rule", "path", {"type": "string", "pattern": "^[A-Za-z0-9_]{1,100}$"}, "The rule's name."),
    ]
    case = [
        parameter("kind", "path", ref("PartyKind"), "The kind of party."),
        parameter("party", "path", _ID, "Its id; a slash is %2F."),
        _query("events", _up_to(MAX_SHOWN), "How many of its newest events; default 20."),
        _query("others", _up_to(MAX_SHOWN), "How many other parties; default 20."),
        _query("since", _MOMENT, "Other parties of events that were stored from that day on only."),
    ]
    return {
        "/v1/dead-letters": _get("listLetters", "Dead letters, newest first, or their causes.", "Letters", _wanted()),
        "/v1/dead-letters/{source}/{partition}/{offset}": _get(
            "getLetter", "A dead letter with its bytes, its acts and its replays.", "Letter", letter
        ),
        "/v1/dead-letters:replay": _post("replayLetters", "Send letters again.", "LettersBody", "Acted"),
        "/v1/dead-letters:mend": _post("mendLetters", "Change letters and send them again.", "MendBody", "Acted"),
        "/v1/dead-letters:discard": _post(
            "discardLetters", "Note that letters need nothing more.", "LettersBody", "Acted"
        ),
        "/v1/lists": _get(
            "listEntries",
            "What stands on the lists; of one party also what is over.",
            "Entries",
            [_kind(), _query("party", _ID, "Its id."), _query("all", _FLAG, "Also what is over.")],
        ),
        "/v1/lists/history": _get("getHistory", "Every change to a party's entries and case.", "History", party),
        "/v1/lists/breakers": _get(
            "listBreakers", "The breakers that are open.", "Breakers", [_query("all", _FLAG, "Also those that were.")]
        ),
        "/v1/lists/breakers/{source}/{rule}:close": _post(
            "closeBreaker", "Close a rule's breaker (approvers).", "ReasonBody", "ClosedBreaker", breaker
        ),
        "/v1/lists/proposals": _get(
            "listProposals",
            "Changes that wait for another person.",
            "Proposals",
            [_many("state", {"enum": list(get_args(ProposalState))}, "Those of these states; default: open.")],
        ),
        "/v1/lists/proposals/{id}:approve": _post(
            "approveProposal", "Approve another's proposal (approvers).", "ReasonBody", "Proposal", proposal
        ),
        "/v1/lists/proposals/{id}:reject": _post(
            "rejectProposal", "Reject another's proposal (approvers), or recall one's own.", "ReasonBody", "Proposal",
            proposal,
        ),
        "/v1/lists:add": _post("addEntry", "Put a party on the blacklist.", "EnterBody", "Proposal"),
        "/v1/lists:allow": _post("allowParty", "Put a party on the allowlist.", "EnterBody", "Proposal"),
        "/v1/lists:remove": _post("removeEntry", "Take back an entry that a person made.", "RemoveBody", "Proposal"),
        "/v1/lists:lift": _post("liftEntries", "Lift what rules listed a party for.", "SpeakBody", "Proposal"),
        "/v1/lists:confirm": _post(
            "confirmEntries", "Keep what rules listed a party for, also once withdrawn.", "SpeakBody", "Proposal"
        ),
        "/v1/cases": _get("listCases", "One page of the cases.", "Cases", _sorted()),
        "/v1/cases/{kind}/{party}": _get("getCase", "A case with everything there is to see of it.", "Case", case),
        "/v1/cases:decide": _post("decideCase", "Decide on a case.", "DecisionBody", "Proposal"),
    }  # fmt: skip


def schemas(sources: Iterable[str], kinds: Sequence[str]) -> Json:
    """The schemas that the paths name. `sources`: their names; `kinds`: of parties."""
    _, made = msgspec.json.schema_components((*BODIES, *TIMES), ref_template="#/components/schemas/{name}")
    found: Json = dict(made)
    for kind, times in TIMES.items():
        said = found[kind.__name__]
        for name in times:
            maybe = {"type": "null"} in said["properties"][name].get("anyOf", ()) or name == "newest_hit"
            said["properties"][name] = _MAYBE_TIME if maybe else _TIME
        said["required"] = list(said["properties"])
    for name in ("before", "shard", "row", "changed_at"):
        del found["Hit"]["properties"][name]
        found["Hit"]["required"].remove(name)
    found["Hit"]["properties"]["currency"] = _MAYBE
    found["Act"]["properties"]["expires_at"] = _MAYBE_TIME
    for one in BODIES:
        properties = found[one.__name__]["properties"]
        if "kind" in properties:
            properties["kind"] = ref("PartyKind")
        if "source" in properties:
            properties["source"]["items"] = ref("SourceName")
        for name in {"since", "until", "expires", "allow_for"} & set(properties):
            properties[name] = {"anyOf": [_MOMENT, {"type": "null"}], "default": None}
    return found | _letters() | _lists() | _cases() | {
        "PartyKind": {"enum": list(kinds)},
        "SourceName": {"enum": sorted(sources)},
    }  # fmt: skip


# Parameters


def _query(name: str, schema: Json, text: str, *, needed: bool = False) -> Json:
    return parameter(name, "query", schema, text, needed=needed)


def _many(name: str, schema: Json, text: str) -> Json:
    return _query(name, {"type": "array", "items": schema}, text)


def _up_to(most: int, least: int = 0) -> Json:
    return {"type": "integer", "minimum": least, "maximum": most}


def _kind(*, needed: bool = False) -> Json:
    return _query("kind", ref("PartyKind"), "The kind of party.", needed=needed)


def _page() -> list[Json]:
    return [
        _query("limit", _up_to(MAX_PAGE, 1), "How many, at most."),
        _query("skip", _up_to(100 * MAX_PAGE), "How many come before them."),
    ]


def _wanted() -> list[Json]:
    return [
        _many("source", ref("SourceName"), "Of these sources."),
        _query("code", _TEXT, "A code, a field, or `field: code`."),
        _query("since", _MOMENT, "Dead-lettered at or after then: `7d`, or an ISO time."),
        _query("until", _MOMENT, "Dead-lettered before then."),
        _many("state", {"enum": list(STATES)}, "In these states."),
        _query("where", {"type": "string", "maxLength": MAX_TEXT}, "A condition in SQL over the letter's columns."),
        _query("causes", _FLAG, "How many there are of each cause, instead of letters."),
        *_page(),
    ]


def _sorted() -> list[Json]:
    return [
        _many("status", {"enum": list(STATUSES)}, "In these states."),
        _kind(),
        _query("source", ref("SourceName"), "Opened by this source."),
        _query("sort", {"enum": list(SORTS)}, "The weightiest first, by this; default: events."),
        _query("currency", _TEXT, "By amounts in this currency."),
        *_page(),
    ]


# End points


def _get(operation: str, summary: str, answer: str, parameters: Sequence[Json]) -> Json:
    found = {"200": {"description": summary, "content": content(ref(answer))}}
    said = {"operationId": operation, "summary": summary, "parameters": list(parameters)}
    return {"get": {**said, "responses": answers(found, _READ)}}


def _post(operation: str, summary: str, given: str, answer: str, parameters: Sequence[Json] = ()) -> Json:
    found = {"200": {"description": summary, "content": content(ref(answer))}}
    said = {"operationId": operation, "summary": summary, "requestBody": body(ref(given))}
    more = {"parameters": list(parameters)} if parameters else {}
    return {"post": {**said, **more, "responses": answers(found, _ACT)}}


# Answers


def _all(properties: Json, **more: Any) -> Json:
    """An object that has all of these."""
    return members(list(properties), properties, **more)


def _list(name: str) -> Json:
    return {"type": "array", "items": ref(name)}


def _letters() -> Json:
    row = {
        "letter": {**_TEXT, "description": "Its name: source/partition/offset."},
        "source": _TEXT,
        "partition": _WHOLE,
        "offset": _WHOLE,
        "dead_at": _TIME,
        "timestamp": _MAYBE_TIME,
        "state": {"enum": list(STATES)},
        "field": _TEXT,
        "code": _TEXT,
        "detail": _TEXT,
        "cause": _TEXT,
        "id": _MAYBE,
        "application": _MAYBE,
        "attempts": _WHOLE,
        "last_error": _MAYBE,
        "bytes": _WHOLE,
    }
    act = {
        "at": _TIME,
        "act": {"enum": list(get_args(LetterAct.__annotations__["act"]))},
        "by": _TEXT,
        "reason": _TEXT,
        "sent_as": {"type": ["integer", "null"]},
    }
    replay = {
        "partition": _WHOLE,
        "offset": _WHOLE,
        "counts": {"type": ["boolean", "null"]},
        "outcome": _TEXT,
        "reason": _MAYBE,
    }
    cause = {
        "source": _TEXT,
        "cause": _TEXT,
        "count": _WHOLE,
        "states": {"type": "object", "additionalProperties": _WHOLE},
        "first": _TIME,
        "last": _TIME,
        "example": _TEXT,
    }
    done = {
        "letter": _TEXT,
        "sent_as": {"type": ["integer", "null"], "description": "The offset of its replay."},
        "difference": {"type": "array", "items": _TEXT},
        "warning": _MAYBE,
    }
    view = {
        **row,
        "value": {**_MAYBE, "description": "The record's text."},
        "value_base64": {**_MAYBE, "description": "Its bytes, where they are not UTF-8."},
        "acts": {"type": "array", "items": members(list(act), act | {"value": _MAYBE})},
        "replays": {"type": "array", "items": _all(replay)},
    }
    rows = _all({"total": _WHOLE, "skipped": _WHOLE, "letters": _list("LetterRow")})
    return {
        "LetterRow": _all(row),
        "Letter": _all(view),
        "Cause": _all(cause),
        "Letters": {"anyOf": [rows, _all({"causes": _list("Cause")})]},
        "Acted": _all(
            {
                "done": {"type": "array", "items": _all(done)},
                "refused": {"type": "array", "items": _all({"letter": _TEXT, "why": _TEXT})},
            }
        ),
    }


def _lists() -> Json:
    closed = {"source": _TEXT, "rule": _TEXT, "state": {"const": "closed"}}
    return {
        "Entries": _all({"entries": _list("Entry")}),
        "History": _all({"history": _list("HistoryRow")}),
        "Breakers": _all({"breakers": _list("BreakerChange")}),
        "Proposals": _all({"proposals": _list("Proposal")}),
        "ClosedBreaker": _all(closed),
    }


def _cases() -> Json:
    row = {
        "kind": _TEXT,
        "party": _TEXT,
        "source": _TEXT,
        "cause": _TEXT,
        "opened_at": _TIME,
        "status": {"enum": list(STATUSES)},
        "events": _WHOLE,
        "denied": _WHOLE,
        "caught_late": _WHOLE,
        "joined": _WHOLE,
        "amounts": {"type": "object", "additionalProperties": _TEXT, "description": "By currency."},
        "last_at": _MAYBE_TIME,
        "decision": {"anyOf": [ref("Decision"), {"type": "null"}]},
    }
    view = {
        **row,
        "entries": _list("Entry"),
        "hits": _list("Hit"),
        "newest_events": {"type": "array", "items": {"type": "object"}},
        "counts": _list("Count"),
        "dealt_with": _list("DealtWith"),
        "decisions": _list("Decision"),
        "waiting": _list("Proposal"),
    }
    return {
        "CaseRow": _all(row),
        "Case": _all(view),
        "Cases": _all({"total": _WHOLE, "skipped": _WHOLE, "cases": _list("CaseRow")}),
    }
