"""`sparse submit` with `use_virtualenv: true`: virtualenvs/ built over ssh, and topologies that have nothing else."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.stack.deployed import Deployed, deploy
from tests.stack.servers import Servers
from tests.stack.sshd import SshWorker, ssh_worker

pytestmark = pytest.mark.long

FILES = {
    "purchase": ("purchase", "purchase-online-retail.ndjson.gz"),
    "refund": ("refund", "refund-online-retail.ndjson.gz"),
    "customer-service": ("customer_service", "customer-service-complaints.ndjson.gz"),
    "browser": ("browser", "browser-weblog.ndjson.gz"),
}
"""By source: the topology's file, and the records that it is to screen."""
COMPONENTS = 6
SECONDS = 600.0


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshWorker]:
    """The supervisor's host, as sparse sees it."""
    with ssh_worker(tmp_path_factory.mktemp("ssh")) as found:
        yield found


@pytest.fixture(scope="module")
def deployed(servers: Servers, worker: SshWorker, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """The project; nothing is submitted yet."""
    return deploy(
        tmp_path_factory.mktemp("virtualenvs"),
        servers.addresses,
        {"paystorm.hbase.prefix": "virtualenvs", "paystorm.hive.database": "virtualenvs"},
        more={
            "user": worker.user,
            "workers": [worker.name],
            "use_virtualenv": True,
            "virtualenv_root": str(worker.home / "virtualenvs"),
        },
        environment=worker.environment,
    )


def _python_processes(servers: Servers) -> dict[int, list[str]]:
    """The components that the supervisor's workers have started: their commands."""
    found = {}
    for pid in servers.stack.processes("supervisor"):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if any(part.endswith("/streamparse_run") for part in command):
            found[pid] = command
    return found


def test_a_bad_option_is_refused_before_anything_is_built_or_uploaded(deployed: Deployed, worker: SshWorker) -> None:
    with pytest.raises(AssertionError, match=r"code 2\n(.*\n)*paystorm: .*maxOffsetBehind must be") as refused:
        deployed.submit("purchase", "maxOffsetBehind=-1")
    assert "Uploading" not in str(refused.value)
    assert not (deployed.root / "_build").exists()
    assert "Accepted" not in worker.log.read_text()
    assert deployed.nimbus.topologies() == {}


@pytest.mark.parametrize("source", FILES)
def test_a_topology_runs_with_its_virtualenv_and_its_jar_alone(
    source: str, deployed: Deployed, servers: Servers, worker: SshWorker
) -> None:
    topology, file = FILES[source]
    deployed.submit(topology)
    try:
        deployed.paystorm("send", source, f"examples/data/{file}", "-e", "stack")
        totals = deployed.caught_up(source, SECONDS)["totals"]
        running = _python_processes(servers)
        built = worker.home / "virtualenvs" / topology
        assert len(running) == COMPONENTS, running
        for pid, command in running.items():
            assert command[:2] == [str(built / "bin" / "python"), str(built / "bin" / "streamparse_run")]
            assert sys.prefix not in Path(f"/proc/{pid}/maps").read_text()
            assert "PYTHONPATH=" not in Path(f"/proc/{pid}/environ").read_text()
        (report,) = json.loads(deployed.paystorm("verify", source, "-e", "stack", "--json", timeout=SECONDS))
        assert report["ok"], report["differences"][:5]
        assert report["records"] == totals["end"] > 0
    finally:
        deployed.kill(topology)
    assert "Accepted publickey" in worker.log.read_text()
