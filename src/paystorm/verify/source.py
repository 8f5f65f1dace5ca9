"""`paystorm verify`: everything computed again from the raw records, held against what the system holds (§7).

What the oracle computes is in `paystorm.oracle`; here it is given its input, and its findings are gathered.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from paystorm.errors import UsageError
from paystorm.oracle import (
    Computed,
    Count,
    Difference,
    Given,
    Outcome,
    compare_counts,
    compare_events,
    compare_hits,
    compare_outcomes,
    compute,
)
from paystorm.oracle.model import CellKey, Key, Words
from paystorm.resources import Resources
from paystorm.rules import Rule
from paystorm.settings import Settings
from paystorm.source import Source
from paystorm.stores.letters import letter_at
from paystorm.verify.counts import cell_key, held_counts, held_hits
from paystorm.verify.hold import Holding
from paystorm.verify.lists import Lists, caught_keys, check_caught, listed_parties
from paystorm.verify.pruned import Horizon, notes
from paystorm.verify.reading import (
    Records,
    Snapshot,
    checkpoints_of,
    half_done,
    letter_outcomes,
    read_snapshot,
    versions_given,
)
from paystorm.verify.stored import StoredEvents
from paystorm.verify.verdicts import Verdicts

KEPT = 10_000
"""Differences that are kept; beyond it they are only counted."""


@dataclass(slots=True)
class Report:
    """What was verified, and what differs."""

    source: str
    records: int = 0
    """Raw records below the committed offsets, stand-ins included."""
    stood_in: int = 0
    """Records that the log no longer holds: stored events, dead letters and parked records stood in for them."""
    events: int = 0
    letters: int = 0
    parked: int = 0
    counts: int = 0
    hits: int = 0
    """Standing and withdrawn."""
    entries: int = 0
    """Parties whose state on the lists was compared."""
    verdicts: int = 0
    """Records of the verdict topic."""
    notes: list[str] = field(default_factory=list)
    """What could not be compared, or should be known."""
    differences: list[Difference] = field(default_factory=list)
    """The first ones."""
    differing: Counter[str] = field(default_factory=Counter)
    """How many differ in all, by table."""
    keep: int = KEPT

    @property
    def ok(self) -> bool:
        """Nothing differs."""
        return not self.differing

    def add(self, found: Iterable[Difference]) -> None:
        """Take in differences."""
        for difference in found:
            self.differing[difference.table] += 1
            if len(self.differences) < self.keep:
                self.differences.append(difference)


def verify_source(
    resources: Resources,
    source: Source,
    *,
    hold: bool,
    timeout: float,
    settings: Settings | None = None,
    keep: int = KEPT,
    figures_only: bool = False,
) -> Report:
    """Verify a source up to its committed offsets; with `figures_only`, its counts and standing hits and no more.

    hold: the source is running; its spouts are asked to hold until nothing is in flight, for at most `timeout` seconds,
    and go on as soon as the tables have been read. settings: those in force (`refreshBoundMs`, `publishAccepted`).
    Raises UsageError where the source does not come to rest, or was stopped in the midst of something; LogError and
    TablesError where log or tables cannot be read.
    """
    settings = settings or Settings({})
    report = Report(source.name, keep=keep)
    if not checkpoints_of(resources, source):
        report.notes.append("it has never read a record")
        return report
    with Holding(resources, source, timeout) if hold else nullcontext() as holding:
        before = checkpoints_of(resources, source)
        snapshot = read_snapshot(resources, source, between=holding.renew if holding is not None else lambda: None)
        if before != checkpoints_of(resources, source):
            raise UsageError(f"source {source.name}: it went on while its tables were being read; verify again")
        if holding is not None:
            holding.renew()
    run = _Run(resources, source, snapshot, settings, report)
    if figures_only:
        run.check_figures()
    else:
        run.check()
    return report


class _Run:
    """The checks of one source, after its tables have been read."""

    def __init__(
        self, resources: Resources, source: Source, snapshot: Snapshot, settings: Settings, report: Report
    ) -> None:
        self._resources, self._source, self._snapshot = resources, source, snapshot
        self._settings, self._report = settings, report
        listed = listed_parties(snapshot)
        self._events = StoredEvents(source, resources.warehouse, snapshot.files, snapshot.index, snapshot.hours, listed)
        self._records = Records(resources, source, snapshot, self._events)
        self._rules = {rule.name: rule for version in snapshot.versions for rule in version.rules}
        self._by_version = {(v.number, rule.name): rule for v in snapshot.versions for rule in v.rules}
        self._horizon = Horizon(snapshot.counts_floor, self._newest_gone())

    def check(self) -> None:
        """Everything, the cheapest first."""
        report, snapshot, events = self._report, self._snapshot, self._events
        report.add(events.differences)
        report.add(events.check_topic())
        with compute(self._given()) as computed:
            self._balance()
            outcomes = letter_outcomes(snapshot, self._source, computed.outcomes, self._value_of)
            report.add(compare_outcomes(computed, chain(events.outcomes(), self._pruned(computed), outcomes)))
            report.add(d for d in compare_events(computed, events.rows()) if not self._was_pruned(d))
            self._figures(computed)
            self._lists(computed)
        verdicts = Verdicts(self._resources.log, self._source, snapshot)
        report.add(verdicts.compare(events, self._settings["publishAccepted"]))
        self._tell(verdicts)

    def check_figures(self) -> None:
        """Counts and standing hits, computed anew beside those that the tables hold."""
        with compute(self._given()) as computed:
            self._figures(computed)
        report, snapshot = self._report, self._snapshot
        report.records, report.stood_in = self._records.read(), sum(self._records.stood_in.values())
        report.events, report.letters, report.parked = len(self._events), len(snapshot.letters), len(snapshot.parked)
        self._tell_pruned()

    def _given(self) -> Given:
        snapshot = self._snapshot
        return Given(
            source=self._source.to_dict(),
            topic=self._source.topic,
            records=self._records,
            versions=versions_given(snapshot),
            parked=self._records.left_out,
            gave_up={(x.partition, x.offset) for x in snapshot.letters if (x.field, x.code) == ("record", "gave_up")},
        )

    def _newest_gone(self) -> int | None:
        """The newest event time of pruned events that the log does not hold either, µs."""
        snapshot, pruned = self._snapshot, self._events.pruned
        if snapshot.pruned is None or not any(len(pruned.below(p, start)) for p, start in snapshot.starts.items()):
            return None
        return snapshot.pruned.newest

    def _pruned(self, computed: Computed) -> Iterator[Outcome]:
        """The outcomes of pruned events whose records the log still holds; their ids are gone."""
        if len(self._events.pruned):
            for (partition, offset), outcome in computed.outcomes.items():
                if (partition, offset) in self._events.pruned:
                    yield Outcome(partition, offset, outcome.id, True)

    def _was_pruned(self, difference: Difference) -> bool:
        """Whether an event row is missing because it was pruned."""
        partition, offset = difference.key[:2]
        if difference.held is not None or not isinstance(partition, int) or not isinstance(offset, int):
            return False
        return (partition, offset) in self._events.pruned

    def _sees(self, cell: CellKey) -> bool:
        """Whether a count or hit can be computed anew: nothing that makes it was pruned."""
        rule: Rule | None = self._rules.get(cell[0])
        return rule is None or self._horizon.sees(rule, cell[3])

    def _seen(self, differences: Iterable[Difference]) -> Iterator[Difference]:
        return (d for d in differences if self._sees(d.key[:5]))  # type: ignore[arg-type]  # keys of cells

    def _value_of(self, key: Key) -> bytes | None:
        letter = letter_at(self._resources.tables, self._source.name, *key)
        return None if letter is None else letter.value

    def _figures(self, computed: Computed) -> None:
        """Counts and hits."""
        snapshot, report = self._snapshot, self._report
        last = {rule.name: rule for rule in snapshot.versions[-1].rules}
        counted = Counter[str]()
        held = held_counts(snapshot.figures, computed, self._source, last)
        known = (count for count in held if self._sees(count.key))
        report.add(self._seen(compare_counts(computed, _counted(known, counted))))
        report.counts = counted["rows"]
        standing = [hit for hit in snapshot.hits if hit.status == "standing" and self._sees(cell_key(hit))]
        withdrawn = [cell_key(hit) for hit in snapshot.hits if hit.status == "withdrawn"]
        now = held_hits(snapshot.figures, computed, self._source, self._by_version, standing)
        report.add(self._seen(compare_hits(computed, now, withdrawn)))
        report.hits = len(snapshot.hits)

    def _lists(self, computed: Computed) -> None:
        """Entries, denials, crossings, cases."""
        report, events = self._report, self._events
        lists = Lists(self._source, self._snapshot, int(self._settings["refreshBoundMs"]) * 1000, self._sees)
        caught = caught_keys(self._snapshot)
        report.entries, found = lists.in_force(computed)
        report.add(found)
        report.add(lists.hit_rows(computed))
        report.add(lists.denied(events))
        report.add(lists.let_through(events, caught))
        report.add(lists.crossings(computed, events, caught))
        report.add(check_caught(self._snapshot, events))
        report.add(lists.cases(events))

    def _balance(self) -> None:
        """read = accepted + denied + dead-lettered + parked, by partition, from the rows themselves."""
        snapshot, report = self._snapshot, self._report
        letters = Counter(x.partition for x in snapshot.letters)
        parked = Counter(partition for partition, _ in snapshot.parked)
        decided = self._events.light.group_by("log_partition", "verdict").len().iter_rows()
        stored = {(partition, verdict): rows for partition, verdict, rows in decided}
        for p, held in snapshot.checkpoints.items():
            gone_accepted, gone_denied = self._events.pruned.totals(p)
            accepted = stored.get((p, "accepted"), 0) + gone_accepted
            denied = stored.get((p, "denied"), 0) + gone_denied
            there = self._records.in_log[p] + self._records.stood_in[p] + self._records.gone[p]
            if held.read != there:
                what = Words(f"{there} records below offset {held.committed}")
                report.add([Difference("read", (p,), what, held.read)])
            if held.read != accepted + denied + letters[p] + parked[p]:
                parts = f"{accepted} accepted + {denied} denied + {letters[p]} dead-lettered + {parked[p]} parked"
                report.add([Difference("balance", (p,), Words(f"{held.read} read"), Words(parts))])
            if snapshot.totals[p] != (accepted, denied):
                wanted = Words(f"{accepted} accepted, {denied} denied in the files")
                said = Words("{} accepted, {} denied".format(*snapshot.totals[p]))
                report.add([Difference("index", (p, "totals"), wanted, said)])
            offsets = self._events.offsets(p)
            for offset in offsets[1:][np.diff(offsets) == 0].tolist():
                report.add([Difference("stored_once", (p, offset), Words("one row"), Words("another row"))])

    def _tell_pruned(self) -> None:
        horizon, pruned = self._horizon, self._snapshot.pruned
        until = None if pruned is None else pruned.until
        gone = sum(self._records.gone.values())
        said = notes(horizon.floor, until, horizon.newest_gone, len(self._events.pruned), gone)
        self._report.notes.extend(said)

    def _tell(self, verdicts: Verdicts) -> None:
        report, snapshot = self._report, self._snapshot
        report.records = self._records.read()
        report.stood_in = sum(self._records.stood_in.values())
        report.events, report.letters, report.parked = len(self._events), len(snapshot.letters), len(snapshot.parked)
        report.verdicts = verdicts.records
        if report.stood_in:
            report.notes.append(
                f"the log no longer holds {report.stood_in:,} of the records: stored events and dead letters stood in"
            )
        self._tell_pruned()
        if verdicts.gone:
            report.notes.append(
                f"the verdict topic no longer holds {verdicts.gone:,} records: missing verdicts were not looked for"
            )
        unsure = half_done(snapshot, self._events)
        if unsure:
            report.notes.append(
                f"{unsure:,} parked records have reached a sink and are retried until they are done: what they changed "
                "shows as differences until then"
            )


def _counted(items: Iterable[Count], counter: Counter[str]) -> Iterator[Count]:
    for item in items:
        counter["rows"] += 1
        yield item
