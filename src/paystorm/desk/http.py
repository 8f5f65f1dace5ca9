"""The desk over HTTP: `/v1/dead-letters`, `/v1/lists` and `/v1/cases`, as routes of the ingest service.

Who acts is the API key that asks, which must be for all applications; nobody can name another. Analysts look, and
decide on cases and letters; a second person's approval, and closing a breaker, takes an approver. Work is done in
threads, a few at a time.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast, get_args
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from paystorm.desk import changes, lists, openapi
from paystorm.desk.base import MAX_NAME, Desk, Who, ago, ahead, utc
from paystorm.desk.bodies import DecisionBody, EnterBody, LettersBody, MendBody, ReasonBody, RemoveBody, SpeakBody
from paystorm.desk.cases import SORTS, STATUSES, cases, decide
from paystorm.desk.cases import show as show_case
from paystorm.desk.letters import STATES, LetterName, Selection, causes, page
from paystorm.desk.letters import show as show_letter
from paystorm.desk.plain import (
    jsonable,
    plain_acted,
    plain_breaker,
    plain_case,
    plain_cause,
    plain_entry,
    plain_history,
    plain_letter,
    plain_proposal,
    plain_row,
    plain_view,
)
from paystorm.desk.replays import Mend, discard, replay
from paystorm.errors import ConflictError, LogError, NotThereError, PaystormError, TablesError
from paystorm.ingest.describing import Part
from paystorm.ingest.http import JSON, media_type, whole_body
from paystorm.ingest.keys import Role
from paystorm.ingest.problems import Problem
from paystorm.ingest.service import Service
from paystorm.lists import ListName
from paystorm.stores.letters import LetterState
from paystorm.stores.lists import MAX_ID
from paystorm.stores.proposals import ProposalState

AT_ONCE = 4
"""Requests that are worked on at once; the others wait for them."""
WAITING = 50
"""Requests that may wait; more are turned away."""
MAX_BODY = 2 << 20
ANALYST: tuple[Role, ...] = ("analyst", "approver")
APPROVER: tuple[Role, ...] = ("approver",)
_T = TypeVar("_T")
_TEXT_MEDIA = {JSON[1].decode(): "json"}


def part(service: Service, desk: Desk) -> Part:
    """The desk's part of the service, for `build_app`."""
    return Part(routes(service, desk), openapi.paths(), openapi.schemas(desk.sources, desk.kinds()))


def routes(service: Service, desk: Desk) -> list[BaseRoute]:
    """The routes."""
    api = DeskApi(service, desk)
    named: dict[str, tuple[str, Any]] = {
        "/v1/dead-letters": ("GET", api.letters),
        "/v1/dead-letters/{source}/{partition:int}/{offset:int}": ("GET", api.letter),
        "/v1/dead-letters:replay": ("POST", api.replay),
        "/v1/dead-letters:mend": ("POST", api.mend),
        "/v1/dead-letters:discard": ("POST", api.discard),
        "/v1/lists": ("GET", api.entries),
        "/v1/lists/history": ("GET", api.history),
        "/v1/lists/breakers": ("GET", api.breakers),
        "/v1/lists/proposals": ("GET", api.proposals),
        "/v1/lists/proposals/{id}:approve": ("POST", api.approve),
        "/v1/lists/proposals/{id}:reject": ("POST", api.reject),
        "/v1/lists/breakers/{source}/{rule}:close": ("POST", api.close_breaker),
        "/v1/lists:add": ("POST", api.enter("blacklist")),
        "/v1/lists:allow": ("POST", api.enter("allowlist")),
        "/v1/lists:remove": ("POST", api.remove),
        "/v1/lists:lift": ("POST", api.speak(lists.lift)),
        "/v1/lists:confirm": ("POST", api.speak(lists.confirm)),
        "/v1/cases": ("GET", api.cases),
        "/v1/cases:decide": ("POST", api.decide),
        "/v1/cases/{rest:path}": ("GET", api.case),
    }
    return [Route(path, end, methods=[method]) for path, (method, end) in named.items()]


class DeskApi:
    """The end points. Each raises Problem."""

    def __init__(self, service: Service, desk: Desk) -> None:
        self._service = service
        self._desk = desk
        self._places = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    # Dead letters

    async def letters(self, request: Request) -> Response:
        """Letters, newest first; with `causes=true` how many there are of each cause."""
        self._who(request, ANALYST)
        asked = _Query(request, "source code since until state where causes limit skip")
        now = self._desk.clock.now()

        def work() -> Any:
            chosen = Selection(
                sources=tuple(asked.all("source")),
                reason=asked.one("code"),
                since=ago(asked.one("since"), now, "since"),
                until=ago(asked.one("until"), now, "until"),
                states=frozenset(asked.choices("state", STATES)),
                where=asked.one("where"),
            )
            if asked.flag("causes"):
                return {"causes": [plain_cause(c) for c in causes(self._desk, chosen)]}
            found = page(self._desk, chosen, limit=asked.number("limit", 100), skip=asked.number("skip", 0))
            rows = [plain_letter(x) for x in found.letters]
            return {"total": found.total, "skipped": found.skipped, "letters": rows}

        return await self._do(work)

    async def letter(self, request: Request) -> Response:
        """One letter with its bytes, its acts and its replays."""
        self._who(request, ANALYST)
        at = request.path_params
        if max(at["partition"], at["offset"]) >= 2**62:
            raise Problem("not_found", "no such dead letter")
        name = LetterName(at["source"], at["partition"], at["offset"])
        return await self._do(lambda: plain_view(show_letter(self._desk, name)))

    async def replay(self, request: Request) -> Response:
        """Send letters again as they are."""
        who, body = await self._act(request, LettersBody)
        states = _of_state(body, "open", "replaying")

        def work() -> Any:
            return plain_acted(
                replay(
                    self._desk,
                    body.selection(self._desk, states),
                    who,
                    most=body.max,
                    force=body.force,
                    anyway=body.anyway,
                    dry=body.dry_run,
                )
            )

        return await self._do(work)

    async def mend(self, request: Request) -> Response:
        """Change letters and send them again."""
        who, body = await self._act(request, MendBody)
        states = _of_state(body, "open")

        def work() -> Any:
            value = None if body.value is None else body.value.encode()
            return plain_acted(
                replay(
                    self._desk,
                    body.selection(self._desk, states),
                    who,
                    mend=Mend(body.texts(), tuple(body.unset), value),
                    most=body.max,
                    force=body.force,
                    anyway=body.anyway,
                    dry=body.dry_run,
                )
            )

        return await self._do(work)

    async def discard(self, request: Request) -> Response:
        """Note that letters need nothing more."""
        who, body = await self._act(request, LettersBody)
        states = _of_state(body, "open")

        def work() -> Any:
            chosen = body.selection(self._desk, states)
            return plain_acted(discard(self._desk, chosen, who, most=body.max, force=body.force, dry=body.dry_run))

        return await self._do(work)

    # Lists

    async def entries(self, request: Request) -> Response:
        """What stands on the lists; of one party, or with `all=true`, also what is over."""
        self._who(request, ANALYST)
        asked = _Query(request, "kind party all")

        def work() -> Any:
            found = lists.entries(self._desk, asked.one("kind"), asked.party("party"), everything=asked.flag("all"))
            return {"entries": [plain_entry(entry) for entry in found]}

        return await self._do(work)

    async def history(self, request: Request) -> Response:
        """Every change to a party's entries and case."""
        self._who(request, ANALYST)
        asked = _Query(request, "kind party")
        kind, party = asked.needed("kind"), asked.party("party") or asked.needed("party")
        return await self._do(
            lambda: {"history": [plain_history(row) for row in lists.history(self._desk, kind, party)]}
        )

    async def breakers(self, request: Request) -> Response:
        """The breakers that are open; with `all=true` those that were."""
        self._who(request, ANALYST)
        asked = _Query(request, "all")
        return await self._do(
            lambda: {"breakers": [plain_breaker(b) for b in lists.breakers(self._desk, everything=asked.flag("all"))]}
        )

    async def close_breaker(self, request: Request) -> Response:
        """Close a rule's breaker."""
        who, _ = await self._act(request, ReasonBody, APPROVER)
        source, rule = request.path_params["source"], request.path_params["rule"]

        def work() -> Any:
            lists.close_breaker(self._desk, who, source, rule)
            return {"source": source, "rule": rule, "state": "closed"}

        return await self._do(work)

    def enter(self, on: ListName) -> Callable[[Request], Any]:
        """The end point that puts a party on a list."""

        async def endpoint(request: Request) -> Response:
            who, body = await self._act(request, EnterBody)

            def work() -> Any:
                ends = ahead(body.expires, self._desk.clock.now(), "expires")
                return plain_proposal(lists.enter(self._desk, who, lists.Enter(on, body.kind, body.party, ends)))

            return await self._do(work)

        return endpoint

    async def remove(self, request: Request) -> Response:
        """Take back an entry that a person made."""
        who, body = await self._act(request, RemoveBody)
        return await self._do(lambda: plain_proposal(lists.remove(self._desk, who, body.kind, body.party, body.entry)))

    def speak(self, act: Callable[..., Any]) -> Callable[[Request], Any]:
        """The end point of `lift` or `confirm`."""

        async def endpoint(request: Request) -> Response:
            who, body = await self._act(request, SpeakBody)
            return await self._do(lambda: plain_proposal(act(self._desk, who, body.kind, body.party, body.rule)))

        return endpoint

    async def proposals(self, request: Request) -> Response:
        """The proposals that wait, or those of other states."""
        self._who(request, ANALYST)
        states = cast(tuple[ProposalState, ...], get_args(ProposalState))
        wanted = frozenset(_Query(request, "state").choices("state", states)) or frozenset({states[0]})
        return await self._do(lambda: {"proposals": [plain_proposal(p) for p in changes.proposals(self._desk, wanted)]})

    async def approve(self, request: Request) -> Response:
        """Approve another's proposal."""
        who, _ = await self._act(request, ReasonBody, APPROVER)
        return await self._do(lambda: plain_proposal(changes.approve(self._desk, request.path_params["id"], who)))

    async def reject(self, request: Request) -> Response:
        """Reject another's proposal (approvers), or recall one's own (anybody who could make it)."""
        who, _ = await self._act(request, ReasonBody)
        proposal_id = request.path_params["id"]

        def work() -> Any:
            own = any(p.by == who.by for p in changes.proposals(self._desk) if p.id == proposal_id)
            if not own:
                self._service.caller(request.scope).require(*APPROVER)
            return plain_proposal(changes.reject(self._desk, proposal_id, who))

        return await self._do(work)

    # Cases

    async def cases(self, request: Request) -> Response:
        """One page of the cases."""
        self._who(request, ANALYST)
        asked = _Query(request, "status kind source sort currency limit skip")

        def work() -> Any:
            found = cases(
                self._desk,
                statuses=frozenset(asked.choices("status", STATUSES)),
                kind=asked.one("kind"),
                source=asked.one("source"),
                sort=next(iter(asked.choices("sort", SORTS)), SORTS[0]),
                currency=asked.one("currency"),
                limit=asked.number("limit", 50),
                skip=asked.number("skip", 0),
            )
            return {"total": found.total, "skipped": found.skipped, "cases": [plain_row(row) for row in found.cases]}

        return await self._do(work)

    async def case(self, request: Request) -> Response:
        """One case: `/v1/cases/{kind}/{party}`, by the parts as they were sent: a party may hold a slash (%2F)."""
        self._who(request, ANALYST)
        request.scope["paystorm.route"] = "/v1/cases/{kind}/{party}"
        parts = request.scope["raw_path"].partition(b"?")[0].split(b"/")[3:]
        try:
            names = [unquote_to_bytes(part).decode() for part in parts]
        except UnicodeDecodeError:
            raise Problem("invalid_parameter", "the path must be UTF-8") from None
        if len(names) != 2 or not all(names):
            raise Problem("not_found", "no such resource: a case is /v1/cases/{kind}/{party}")
        asked = _Query(request, "events others since")

        def work() -> Any:
            since = utc(ago(asked.one("since"), self._desk.clock.now(), "since"))
            events, others = asked.number("events", 20), asked.number("others", 20)
            return plain_case(show_case(self._desk, names[0], names[1], events=events, others=others, since=since))

        return await self._do(work)

    async def decide(self, request: Request) -> Response:
        """Decide on a case."""
        who, body = await self._act(request, DecisionBody)

        def work() -> Any:
            until = ahead(body.allow_for, self._desk.clock.now(), "allow_for")
            return plain_proposal(
                decide(
                    self._desk,
                    who,
                    body.kind,
                    body.party,
                    body.decision,
                    lift=body.lift,
                    keep=body.keep,
                    allow_until=until,
                )
            )

        return await self._do(work)

    # What they share

    def _who(self, request: Request, roles: tuple[Role, ...]) -> str:
        caller = self._service.caller(request.scope)
        caller.require(*roles)
        if caller.applications is not None:
            raise Problem("forbidden", "lists, cases and dead letters are of all applications; this API key is of some")
        return caller.id

    async def _act(self, request: Request, body: type[_T], roles: tuple[Role, ...] = ANALYST) -> tuple[Who, _T]:
        """Who acts, and the body. The roles are asked for before anything is read."""
        by = self._who(request, roles)
        media_type(request.scope, _TEXT_MEDIA)
        raw = await whole_body(request.scope, request.receive, MAX_BODY, self._service.settings.body_seconds)
        try:
            found = msgspec.json.decode(raw, type=body)
        except msgspec.ValidationError as error:
            raise Problem("invalid_parameter", str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem("not_json", str(error)) from None
        try:
            return Who(by[:MAX_NAME], getattr(found, "reason", "")).with_reason(), found
        except PaystormError as error:
            raise Problem("invalid_parameter", str(error)) from None

    async def _do(self, work: Callable[[], Any]) -> Response:
        """Do work in a thread, and answer with what it gives."""
        if self._waiting >= WAITING:
            raise Problem("unavailable", f"{self._waiting} others wait already", 2)
        self._waiting += 1
        try:
            async with self._places:
                answer = await asyncio.to_thread(work)
        except ConflictError as error:
            raise Problem("conflict", str(error)) from None
        except NotThereError as error:
            raise Problem("not_found", str(error)) from None
        except (TablesError, LogError, OSError) as error:
            raise Problem("unavailable", str(error), 2) from None
        except PaystormError as error:
            raise Problem("invalid_parameter", str(error)) from None
        finally:
            self._waiting -= 1
        headers = {"Cache-Control": "no-store"}
        return Response(msgspec.json.encode(jsonable(answer)), media_type="application/json", headers=headers)


def _of_state(body: LettersBody, *states: LetterState) -> tuple[LetterState, ...]:
    """What a selection is narrowed to: nothing where letters are named, or forced."""
    return () if body.letters or body.force else states


class _Query:
    """The parameters of a request's query. Raises Problem for those that are not known."""

    def __init__(self, request: Request, known: str) -> None:
        self._given = request.query_params
        unknown = set(self._given) - set(known.split())
        if unknown:
            raise Problem("invalid_parameter", f"no parameter {sorted(unknown)[0][:40]!r}; there are {known}")

    def all(self, name: str) -> list[str]:
        return list(self._given.getlist(name))

    def one(self, name: str) -> str | None:
        found = self.all(name)
        if len(found) > 1:
            raise Problem("invalid_parameter", f"{name} stands more than once")
        return found[0] if found else None

    def needed(self, name: str) -> str:
        found = self.one(name)
        if not found:
            raise Problem("invalid_parameter", f"{name} is needed")
        return found

    def party(self, name: str) -> str | None:
        """A party's id."""
        found = self.one(name)
        if found is not None and not 1 <= len(found) <= MAX_ID:
            raise Problem("invalid_parameter", f"{name} must have 1 to {MAX_ID} characters, got {len(found):,}")
        return found

    def flag(self, name: str) -> bool:
        return bool(self.choices(name, ("true", "false")) == ["true"])

    def number(self, name: str, default: int) -> int:
        found = self.one(name)
        if found is None:
            return default
        if not found.isascii() or not found.isdigit() or len(found) > 9:
            raise Problem("invalid_parameter", f"{name} must be a whole number, got {found[:40]!r}")
        return int(found)

    def choices(self, name: str, known: Sequence[_T]) -> list[_T]:
        """The values of a parameter that may only be one of these."""
        by_text: Mapping[str, _T] = {str(value): value for value in known}
        found = self.all(name)
        for text in found:
            if text not in by_text:
                raise Problem("invalid_parameter", f"{name} must be {', '.join(by_text)}, got {text[:40]!r}")
        return [by_text[text] for text in found]
