"""Changes by hand to lists and cases, and the second person who approves them where config.json asks for it.

A change is a row first, and done from the row: whoever finds an approved one that is not applied (its maker died)
applies it, and every part of it can be done again without being done twice.
"""

import msgspec

from paystorm.desk.base import Desk, Who
from paystorm.errors import ConflictError, NotThereError, UsageError
from paystorm.lists import Act
from paystorm.stores import lists as store
from paystorm.stores.cases import Decision, put_decision
from paystorm.stores.proposals import (
    Proposal,
    ProposalState,
    add_proposal,
    all_proposals,
    begin_to_apply,
    being_applied,
    end_applying,
    load_proposal,
    replace_proposal,
)

MAX_OPEN = 10_000
"""Proposals that may wait for somebody at once."""
MAX_ACTS = 100


def submit(
    desk: Desk, who: Who, *, kind: str, party: str, what: str, acts: tuple[Act, ...], decision: Decision | None = None
) -> Proposal:
    """Ask for a change, and apply it where it needs nobody's approval: its state says which. Raises UsageError."""
    if len(acts) > MAX_ACTS:
        raise UsageError(f"a change has at most {MAX_ACTS} parts, got {len(acts)}: name less at once")
    for act in acts:
        store.check_act(desk.tables, act)
    now = desk.clock.now()
    waits = bool(acts) and "lists" in desk.approvals
    if waits:
        who.with_reason()
        if sum(1 for p in all_proposals(desk.tables) if p.state == "open") >= MAX_OPEN:
            raise UsageError(f"{MAX_OPEN:,} proposals wait already: paystorm lists approve or reject some first")
    proposal = Proposal(
        id="",
        kind=kind,
        party=party,
        at=now,
        by=who.by,
        reason=who.reason,
        what=what,
        acts=acts,
        decision=decision,
        state="open" if waits else "approved",
        decided_at=None if waits else now,
        decided_by=None if waits else who.by,
    )
    proposal = add_proposal(desk.tables, proposal)
    if waits:
        _note_proposed(desk, proposal)
        return proposal
    return _apply(desk, proposal)


def proposals(desk: Desk, states: frozenset[ProposalState] = frozenset({"open"})) -> list[Proposal]:
    """The proposals of these states, oldest first; of no state: all."""
    finish(desk)
    return [p for p in all_proposals(desk.tables) if not states or p.state in states]


def approve(desk: Desk, proposal_id: str, who: Who) -> Proposal:
    """Approve another's proposal: it is applied, once. Raises UsageError for one's own, or where it is decided."""
    held = _open(desk, proposal_id)
    if held.by == who.by:
        raise ConflictError(f"proposal {held.id} is {who.by}'s own: another person approves it")
    now = desk.clock.now()
    for act in held.acts:
        store.check_act(desk.tables, msgspec.structs.replace(act, at=now))
    begin_to_apply(desk.tables, held)
    return _apply(desk, _decided(desk, held, "approved", who, now))


def reject(desk: Desk, proposal_id: str, who: Who) -> Proposal:
    """Reject another's proposal, or recall one's own. Raises UsageError where it is decided."""
    who.with_reason()
    held = _open(desk, proposal_id)
    state: ProposalState = "recalled" if held.by == who.by else "rejected"
    made = _decided(desk, held, state, who, desk.clock.now())
    what = "recalled" if state == "recalled" else "rejected"
    _note(desk, made, what, made.decided_at or 0, who.by, f"{made.what}: {who.reason}")
    return made


def finish(desk: Desk) -> int:
    """Apply what was approved and not applied, because whoever did it died; gives how many."""
    store.finish_announcements(desk.tables)
    left = being_applied(desk.tables)
    for proposal in left:
        _apply(desk, proposal)
    return len(left)


def _open(desk: Desk, proposal_id: str) -> Proposal:
    held = load_proposal(desk.tables, proposal_id)
    if held is None:
        raise NotThereError(f"no proposal {proposal_id!r}; paystorm lists proposals shows those that wait")
    if held.state != "open":
        raise ConflictError(f"proposal {held.id}: {held.decided_by} has decided on it: {held.state}")
    return held


def _decided(desk: Desk, held: Proposal, state: ProposalState, who: Who, now: int) -> Proposal:
    _note_proposed(desk, held)  # whoever proposed it may have died before
    new = msgspec.structs.replace(held, state=state, decided_at=now, decided_by=who.by, decided_reason=who.reason)
    if not replace_proposal(desk.tables, held, new):
        raise ConflictError(f"proposal {held.id}: somebody else has just decided on it")
    return new


def _apply(desk: Desk, proposal: Proposal) -> Proposal:
    """Do what an approved proposal says. Each part is put where it is absent, so it may be done again."""
    at, by = proposal.decided_at, proposal.decided_by
    assert at is not None
    assert by is not None
    if by != proposal.by:
        _note(desk, proposal, "approved", at, by, f"{proposal.what}: {proposal.decided_reason}")
    for number, act in enumerate(proposal.acts):
        store.put_act(desk.tables, msgspec.structs.replace(act, id=f"{proposal.id}.{number}", at=at))
    if proposal.decision is not None:
        decision = msgspec.structs.replace(proposal.decision, id=proposal.id, at=at)
        put_decision(desk.tables, decision)
        _note(desk, proposal, "decided", at, proposal.by, f"{decision.verdict}: {decision.reason}")
    applied = msgspec.structs.replace(proposal, state="applied")
    replace_proposal(desk.tables, proposal, applied)  # not put: somebody else has just applied it too
    end_applying(desk.tables, applied)
    return applied


def _note_proposed(desk: Desk, proposal: Proposal) -> None:
    _note(desk, proposal, "proposed", proposal.at, proposal.by, f"{proposal.what}: {proposal.reason}")


def _note(desk: Desk, proposal: Proposal, what: str, at: int, by: str, detail: str) -> None:
    row = store.HistoryRow(
        kind=proposal.kind,
        party=proposal.party,
        at=at,
        id=f"{proposal.id} {what}",
        what=msgspec.convert(what, store.What),
        detail=detail,
        by=by,
    )
    store.note(desk.tables, row)
