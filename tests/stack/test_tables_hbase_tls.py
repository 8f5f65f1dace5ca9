"""Tables in an HBase whose Thrift server speaks HTTPS."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.stack.hbase_tools import PATIENCE, drop, new_prefix
from tests.stack.servers import HBaseServers

from paystorm.errors import ConfigError, TablesError
from paystorm.stack.machine import choose_port, find_java, is_open
from paystorm.tables.hbase import HBaseTables

pytestmark = pytest.mark.long

READY_SECONDS = 180.0
PASSWORD = "secret"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory, hbase_server: HBaseServers) -> Path:
    """A folder with a key store and the certificate in it, good for the server's address."""
    folder = tmp_path_factory.mktemp("certificate")
    keytool = find_java().with_name("keytool")
    store = ["-keystore", str(folder / "keys.jks"), "-storepass", PASSWORD, "-alias", "thrift"]
    name = ["-dname", "CN=thrift", "-ext", f"san=ip:{hbase_server.host}", "-keyalg", "RSA", "-validity", "2"]
    subprocess.run([keytool, "-genkeypair", "-storetype", "JKS", *name, *store], check=True, timeout=60)
    subprocess.run([keytool, "-exportcert", "-rfc", "-file", str(folder / "ca.pem"), *store], check=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def tls_port(hbase_server: HBaseServers, certificate: Path) -> Iterator[int]:
    """The port of a second Thrift server over the same tables: the command of the first, over HTTPS."""
    command = Path(f"/proc/{hbase_server.pid}/cmdline").read_text().rstrip("\x00").split("\x00")
    classpath = command[command.index("-cp") + 1]
    before = Path(classpath.split(":")[0])
    conf = certificate / "conf"
    shutil.copytree(before, conf)
    site = conf / "hbase-site.xml"
    settings = {
        "hbase.regionserver.thrift.http": "true",
        "hbase.thrift.ssl.enabled": "true",
        "hbase.thrift.ssl.keystore.store": str(certificate / "keys.jks"),
        "hbase.thrift.ssl.keystore.password": PASSWORD,
    }
    lines = "".join(f"<property><name>{k}</name><value>{v}</value></property>" for k, v in settings.items())
    site.write_text(site.read_text().replace("</configuration>", f"{lines}</configuration>"))
    port = choose_port([])
    command = [part.replace(str(before), str(conf)) for part in command]
    command[command.index("-p") + 1] = str(port)
    with (certificate / "thrift.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=certificate)
    try:
        ends = time.monotonic() + READY_SECONDS
        while not is_open(hbase_server.host, port):
            assert server.poll() is None, (certificate / "thrift.log").read_text()[-2000:]
            assert time.monotonic() < ends
            time.sleep(0.2)
        yield port
    finally:
        server.kill()
        server.wait(30)


def test_rows_are_put_and_read_over_tls(hbase_server: HBaseServers, certificate: Path, tls_port: int) -> None:
    prefix = new_prefix()
    tables = HBaseTables(
        hbase_server.host, tls_port, prefix=prefix, timeout=PATIENCE, tls=True, cafile=str(certificate / "ca.pem")
    )
    try:
        rows = [(b"%d" % i, bytes(100_000)) for i in range(30)]
        tables.put("s.r", rows, version=2)
        assert list(tables.scan("s.r")) == sorted(rows)
        assert tables.put_if_absent("s.r", [*rows, (b"new", b"1")]) == [False] * 30 + [True]
        tables.close()
        assert tables.get("s.r", b"new") == b"1"
        plain = HBaseTables(hbase_server.host, hbase_server.port, prefix=prefix)
        assert plain.get("s.r", b"new") == b"1"
        plain.close()
    finally:
        tables.close()
        drop(hbase_server.host, hbase_server.port, prefix)


def test_a_certificate_that_nobody_vouches_for_is_refused(hbase_server: HBaseServers, tls_port: int) -> None:
    tables = HBaseTables(hbase_server.host, tls_port, tls=True)
    with pytest.raises(TablesError, match=rf":{tls_port}, table paystorm_s\.r: cannot connect, .*certificate"):
        tables.get("s.r", b"k")


def test_tls_to_a_server_without_it_is_named(hbase_server: HBaseServers, certificate: Path) -> None:
    tables = HBaseTables(
        hbase_server.host, hbase_server.port, timeout=3.0, tls=True, cafile=str(certificate / "ca.pem")
    )
    with pytest.raises(TablesError, match=rf":{hbase_server.port}, table paystorm_s\.r: "):
        tables.get("s.r", b"k")


def test_no_tls_to_a_server_with_it_is_named(hbase_server: HBaseServers, tls_port: int) -> None:
    tables = HBaseTables(hbase_server.host, tls_port, timeout=3.0)
    with pytest.raises(TablesError, match=rf":{tls_port}, table paystorm_s\.r: "):
        tables.get("s.r", b"k")


def test_a_file_without_certificates_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cafile"):
        HBaseTables("127.0.0.1", 9090, tls=True, cafile=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match="with tls only"):
        HBaseTables("127.0.0.1", 9090, cafile="ca.pem")
