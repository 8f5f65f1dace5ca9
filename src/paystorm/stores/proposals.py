"""Changes that people asked for: what is to be done to the lists and to a case, and whether it has been.

Tables: `proposals`, key (id) → `Proposal`, changed only from the value that is known; `proposals.applying`, key (id),
those that may be approved and not applied. A change that nobody else has to
approve goes the same way, approved from the start: whatever it consists of is done once, also where the process dies.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from paystorm.errors import UsageError
from paystorm.lists import Act
from paystorm.stores.cases import Decision
from paystorm.tables.base import Tables
from paystorm.tables.keys import key, parts

TABLE = "proposals"
APPLYING = "proposals.applying"
ProposalState = Literal["open", "approved", "applied", "rejected", "recalled"]
"""open: waits for another person; approved: is being applied; applied, rejected: over; recalled: by its own maker."""


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A change that somebody asked for."""

    id: str
    kind: str
    party: str
    at: int
    """µs since 1970-01-01 UTC."""
    by: str
    reason: str
    what: str
    """What it does, in words."""
    acts: tuple[Act, ...]
    """Without ids: they get theirs, and their time, when they are applied."""
    decision: Decision | None = None
    """On the party's case; without its id and time likewise."""
    state: ProposalState = "open"
    decided_at: int | None = None
    decided_by: str | None = None
    decided_reason: str = ""

    def encode(self) -> bytes:
        """The row's value."""
        return msgspec.msgpack.encode(self)


def add_proposal(tables: Tables, proposal: Proposal) -> Proposal:
    """Put a proposal under the first id of its instant that is free."""
    for n in range(1_000_000):
        made = msgspec.structs.replace(proposal, id=f"{proposal.at}-{n:06d}")
        if made.state == "approved":
            begin_to_apply(tables, made)
        if tables.put_if_absent(TABLE, [(key(made.id), made.encode())])[0]:
            return made
    raise UsageError("a million proposals at one instant; is the clock standing still?")


def load_proposal(tables: Tables, proposal_id: str) -> Proposal | None:
    """A proposal, or None."""
    value = tables.get(TABLE, key(proposal_id))
    return None if value is None else msgspec.msgpack.decode(value, type=Proposal)


def all_proposals(tables: Tables) -> Iterator[Proposal]:
    """Every proposal, oldest first."""
    for _, value in tables.scan(TABLE):
        yield msgspec.msgpack.decode(value, type=Proposal)


def begin_to_apply(tables: Tables, proposal: Proposal) -> None:
    """Note that a proposal may be approved from now on; to be called before it is."""
    tables.put(APPLYING, [(key(proposal.id), b"1")])


def end_applying(tables: Tables, proposal: Proposal) -> None:
    """Note that a proposal is applied, or will never be."""
    tables.delete(APPLYING, [key(proposal.id)])


def being_applied(tables: Tables) -> list[Proposal]:
    """The proposals that are approved and not known to be applied. Notes about others are removed, but of open ones."""
    found = []
    for row_key, _ in list(tables.scan(APPLYING)):
        proposal = load_proposal(tables, str(parts(row_key)[0]))
        if proposal is not None and proposal.state == "approved":
            found.append(proposal)
        elif proposal is not None and proposal.state != "open":
            tables.delete(APPLYING, [row_key])
    return found


def replace_proposal(tables: Tables, held: Proposal, new: Proposal) -> bool:
    """Put `new` in the place of `held` unless it has changed meanwhile; says whether it was put."""
    return tables.replace(TABLE, key(held.id), held.encode(), new.encode())
