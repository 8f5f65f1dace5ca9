"""A topology that is killed and submitted again with other parallelism and other limits, while records flow."""

from collections.abc import Iterator

import pytest
from tests.stack.deployed import Deployed, deploy, until
from tests.stack.servers import Servers

SOURCE = TOPOLOGY = "purchase"
RATE = 200
SECONDS = 300.0
TASKS = {"parallelism.validation": 2, "parallelism.lookup": 2, "parallelism.counts": 2, "parallelism.spout": 2}
LIMIT = 12
"""Of account_per_day, in the place of 30."""


@pytest.fixture
def deployed(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The purchases' topology, with nothing sent to it yet."""
    made = deploy(tmp_path_factory.mktemp("resubmit"), servers.addresses, {"paystorm.hbase.prefix": "resubmit"})
    made.fresh_topics(SOURCE)
    made.submit(TOPOLOGY)
    with made.killed_in_the_end(TOPOLOGY):
        yield made


def cells(listed: str) -> list[list[str]]:
    """The rows of the table that `sparse list` prints; it breaks long words over several lines."""
    _, _, below = listed.partition("+=")
    rows: list[list[str]] = []
    for block in below.split("\n+-")[:-1]:
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()[1:]]
        rows.append(["".join(column) for column in zip(*lines, strict=True)])
    return rows


def test_it_goes_on_where_it_was_with_other_parallelism_and_other_limits(deployed: Deployed) -> None:
    with deployed.fed(SOURCE, rate=RATE) as feeder:
        until(lambda: deployed.status(SOURCE)["totals"]["committed"] > 0, SECONDS, "nothing is committed", every=1.0)
        (row,) = cells(deployed.sparse("list", "-e", "stack"))
        assert {TOPOLOGY, "ACTIVE"} <= set(row)
        deployed.kill(TOPOLOGY)
        assert "No topologies found." in deployed.sparse("list", "-e", "stack")
        stopped_at = deployed.status(SOURCE)
        assert stopped_at["adds_up"]
        options = [f"{name}={tasks}" for name, tasks in TASKS.items()]
        deployed.submit(TOPOLOGY, *options, f"rules.purchase.account_per_day.limit={LIMIT}")
        before = stopped_at["totals"]["committed"]
        until(lambda: deployed.status(SOURCE)["totals"]["committed"] > before, SECONDS, "it does not resume", every=1.0)
    found = deployed.caught_up(SOURCE, SECONDS)
    assert found["adds_up"]
    assert found["totals"]["read"] == found["totals"]["end"] >= feeder.sent > before
    assert found["version"] == stopped_at["version"] + 1
    assert deployed.verify(SOURCE)["records"] == found["totals"]["end"]
    tasks = {component.name: component.tasks for component in deployed.nimbus.components(TOPOLOGY)}
    assert {name: tasks[name.removeprefix("parallelism.")] for name in TASKS} == TASKS
