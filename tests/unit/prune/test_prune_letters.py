"""`paystorm prune`: the bytes of letters, and verdicts; what a retention may be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from payments_world import PARTITIONS, SOURCE
from prune_world import DAY, now, prune, verify

from paystorm.clock import SECOND, ManualClock
from paystorm.desk import Who
from paystorm.desk.base import Desk
from paystorm.desk.letters import LetterName, Selection, show
from paystorm.desk.replays import Mend, replay
from paystorm.errors import ConfigError, LogError
from paystorm.ingest.verdict_index import Seen, VerdictIndex
from paystorm.log.base import OutRecord
from paystorm.log.embedded import EmbeddedLog
from paystorm.log.renumbered import RenumberedLog
from paystorm.resources import Resources
from paystorm.settings import check_options, retention_of
from paystorm.stores.letters import LetterAct, all_letters, put_acts
from paystorm.testing.log import MemoryLog
from paystorm.verdicts import VerdictLog, verdict_record, verdict_topic


def test_the_bytes_of_settled_letters_go_and_their_outcome_stays(resources: Resources) -> None:
    before = list(all_letters(resources.tables, "pay"))
    went = prune(resources)["letters"]
    after = list(all_letters(resources.tables, "pay"))
    emptied = [x for x in after if x.pruned]
    assert went.went == len(emptied) > 3
    assert all((x.value, x.detail) == (b"", "its bytes were removed after their retention") for x in emptied)
    same = ("partition", "offset", "timestamp", "dead_at", "field", "code", "event_id", "application")
    assert [[getattr(x, name) for name in same] for x in before] == [[getattr(x, n) for n in same] for x in after]
    assert prune(resources)["letters"].went == 0
    assert verify(resources).ok


def test_a_letter_that_nobody_has_settled_stays_and_is_told_of(resources: Resources) -> None:
    acts = [row for row, _ in resources.tables.scan("pay.letters.acts")]
    resources.tables.delete("pay.letters.acts", acts[:1])
    went = prune(resources)["letters"]
    assert went.went == len(acts) - 1
    assert went.notes == ["1 older letters stay: they are neither replayed nor discarded"]


def test_the_bytes_of_a_mend_go_with_the_letter(resources: Resources) -> None:
    letter = next(all_letters(resources.tables, "pay"))
    said = {"partition": letter.partition, "offset": letter.offset, "at": 0, "by": "eve", "reason": "x"}
    mend, sent = LetterAct(n=1, act="mend", value=b"secret", **said), LetterAct(n=2, act="sent", sent_as=1, **said)
    put_acts(resources.tables, "pay", [mend, sent])
    prune(resources)
    assert not any(b"secret" in value for _, value in resources.tables.scan("pay.letters.acts"))


def test_a_letter_whose_bytes_went_is_shown_and_not_replayed(resources: Resources) -> None:
    prune(resources)
    desk = Desk(resources, {"pay": SOURCE}, {}, frozenset())
    first = next(x for x in all_letters(resources.tables, "pay") if x.pruned)
    name = LetterName("pay", first.partition, first.offset)
    assert show(desk, name).found.letter == first
    for mend in (None, Mend({}, value=b"{}")):
        (refused,) = replay(desk, Selection(names=(name,)), Who("eve", "again"), mend=mend, force=True).refused
        assert "its bytes were removed after their retention" in refused.why


def test_verdicts_over_their_retention_go_by_segments_of_the_embedded_log(resources: Resources) -> None:
    topic = verdict_topic("pay")
    ends = [resources.log.end_offset(topic, p) for p in range(PARTITIONS)]
    went = prune(resources)["verdicts"]
    begin = [resources.log.start_offset(topic, p) for p in range(PARTITIONS)]
    assert went.went == sum(begin) > 0
    assert [resources.log.end_offset(topic, p) for p in range(PARTITIONS)] == ends
    cut = (resources.clock.now() - 5 * DAY * SECOND) // 1000
    for p, first in enumerate(begin):
        batch = resources.log.read(topic, p, first, max_records=10_000, max_bytes=10**8)
        assert batch is not None
        assert (batch.timestamps >= cut).any()
    assert all("stay until their segment of the log is full" in note for note in went.notes)
    assert verify(resources).ok


def test_the_index_of_verdicts_goes_on_where_what_it_had_not_read_is_gone(tmp_path: Path) -> None:
    clock = ManualClock()
    log = EmbeddedLog(tmp_path / "log", clock, segment_bytes=200)
    log.create_topic("pay", 1)

    def publish(offset: int) -> None:
        told = verdict_record(
            application="shop", event_id="i", topic="pay", partition=0, offset=offset, verdict="denied"
        )  # fmt: skip
        VerdictLog(log, "pay", "pay").append([told])

    publish(1)
    index = VerdictIndex(log, clock, tmp_path / "index", "pay", "pay", 24)
    assert index.tail() == 1
    index.close()
    for offset in range(2, 9):
        publish(offset)
    topic = verdict_topic("pay")
    start = log.drop_before(topic, 0, log.end_offset(topic, 0))
    assert start > 2
    again = VerdictIndex(log, clock, tmp_path / "index", "pay", "pay", 24)
    assert again.tail() == 8 - start
    assert again.find(0, 8) is not None
    assert again.find(0, 1) == Seen(None, accepted=False)


def test_a_log_that_cannot_remove_records_says_so_in_one_line_when_all_else_is_done(resources: Resources) -> None:
    log = MemoryLog(resources.clock)
    for topic, partitions in (("pay", PARTITIONS), (verdict_topic("pay"), 1)):
        log.create_topic(topic, partitions)
    log.append(verdict_topic("pay"), [OutRecord(b"{}", None, 0)])
    clock = now()
    clock.advance(10 * DAY)
    other = replace(resources, log=RenumberedLog(log, lambda topic: ()), clock=clock)
    with pytest.raises(LogError, match=r"cannot remove records: set the topic's retention\.ms"):
        prune(other)
    assert resources.warehouse.folders("pay") == []


# Settings.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retention.pay.events": 3600}, "must be whole seconds from 86,400 to 10,000,000,000, got 3600"),
        ({"retention.pay.events": "5d"}, "must be whole seconds"),
        ({"retention.pay.events": True}, "must be whole seconds"),
        ({"retention.pay.hits": DAY}, "a retention is of events, verdicts, letters, not of 'hits'"),
        ({"retention.pay.counts": DAY}, "counts have the setting countsRetention"),
        ({"retention.pays.events": DAY}, "no source 'pays'; there are pay"),
        ({"retention.events": DAY}, "no source 'events'"),
    ],
)
def test_a_retention_that_cannot_be_meant_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        check_options(options, {"pay": SOURCE}, "options")


def test_a_retention_is_of_one_table_of_one_source() -> None:
    options = {"retention.pay.events": DAY, "retention.pay.letters": None, "retention.other.verdicts": DAY}
    check_options({k: v for k, v in options.items() if ".other." not in k}, {"pay": SOURCE}, "options")
    assert retention_of("pay", options) == {"events": DAY}
