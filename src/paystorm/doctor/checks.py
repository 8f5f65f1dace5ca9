"""Checks that are run side by side, each with a time-out, whether or not others fail."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from paystorm.errors import PaystormError

Result = Literal["ok", "warning", "failed"]
SECONDS = 5
"""That a server may take to answer one call."""
BOUND = 25.0
"""Seconds that a check may take in all."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    result: Result
    found: str
    mend: str = ""
    """The command, or what else there is to be done; empty where all is well."""
    name: str = ""
    """Of the check; its own where it says more than that."""


def ok(found: str, name: str = "") -> Finding:
    """All is well."""
    return Finding("ok", found, "", name)


def warning(found: str, mend: str, name: str = "") -> Finding:
    """It works, but may not for long, or is a trap."""
    return Finding("warning", found, mend, name)


def failed(found: str, mend: str, name: str = "") -> Finding:
    """It does not work."""
    return Finding("failed", found, mend, name)


@dataclass(frozen=True, slots=True)
class Check:
    """A thing to look at."""

    name: str
    look: Callable[[], Iterable[Finding]]
    mend: str = "see the message"
    """What is to be done where it ends with an error, or with none in time."""


@dataclass(slots=True)
class _Running:
    check: Check
    findings: list[Finding] = field(default_factory=list)
    thread: threading.Thread | None = None

    def run(self) -> None:
        try:
            for finding in self.check.look():
                self.findings.append(replace(finding, name=finding.name or self.check.name))
        except PaystormError as error:
            self.findings.append(Finding("failed", str(error), self.check.mend, self.check.name))
        except Exception as error:  # whatever a check stumbles over is what it found
            text = " ".join(str(error).split())[:300]
            self.findings.append(Finding("failed", f"{type(error).__name__}: {text}", self.check.mend, self.check.name))


def run_checks(checks: Sequence[Check], bound: float = BOUND) -> list[Finding]:
    """Run all at the same time; their findings in the order of the checks. `bound`: seconds for each, and for all."""
    running = [_Running(check) for check in checks]
    deadline = time.monotonic() + bound
    for one in running:
        one.thread = threading.Thread(target=one.run, name=f"check {one.check.name}", daemon=True)
        one.thread.start()
    out: list[Finding] = []
    for one in running:
        assert one.thread is not None
        one.thread.join(max(0.0, deadline - time.monotonic()))
        out += list(one.findings)
        if one.thread.is_alive():
            out.append(Finding("failed", f"no answer within {bound:g} s", one.check.mend, one.check.name))
    return out
