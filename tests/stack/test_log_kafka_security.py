"""A broker that wants TLS and a login: who is let in, and what the others are told."""

import datetime
import ipaddress
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.contract.log_contract import values_of
from tests.stack.servers import require

from paystorm.clock import SystemClock
from paystorm.connections import Connections
from paystorm.errors import LogError
from paystorm.log.base import OutRecord
from paystorm.log.kafka_common import PASSWORD, USER, kafka_security
from paystorm.log.kafka_confluent import KafkaLog
from paystorm.stack import Kafka, Stack
from paystorm.stack.server import Site

pytestmark = pytest.mark.long

NAME = "kafka-secure"
SECRET = "correct horse"
LISTENERS = {"broker": "PLAINTEXT", "login": "SASL_SSL", "open_login": "SASL_PLAINTEXT", "mutual": "SSL"}


@dataclass(frozen=True, kw_only=True)
class SecureKafka(Kafka):
    """A broker with a listener for each kind of security."""

    port_names: ClassVar[tuple[str, ...]] = ("broker", "controller", "login", "open_login", "mutual")
    certificates: Path

    def files(self, site: Site) -> Mapping[str, str]:
        """As the others', with more listeners."""
        found = dict(super().files(site))
        own = [f"{protocol}://{self.host}:{site.ports[port]}" for port, protocol in LISTENERS.items()]
        protocols = ",".join(f"{protocol}:{protocol}" for protocol in LISTENERS.values())
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        more = {
            "listeners": ",".join([*own, f"CONTROLLER://{self.host}:{site.ports['controller']}"]),
            "advertised.listeners": ",".join(own),
            "listener.security.protocol.map": f"{protocols},CONTROLLER:PLAINTEXT",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.certificates / "broker.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.certificates / "ca.pem",
            "listener.name.ssl.ssl.client.auth": "required",
        }
        for name in ("sasl_ssl", "sasl_plaintext"):
            more |= {
                f"listener.name.{name}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
                f"listener.name.{name}.plain.sasl.jaas.config": f'{plain} user_paystorm="{SECRET}";',
                f"listener.name.{name}.scram-sha-256.sasl.jaas.config": scram,
                f"listener.name.{name}.scram-sha-512.sasl.jaas.config": scram,
            }
        kept = [line for line in found["server.properties"].splitlines() if line.split("=")[0].strip() not in more]
        found["server.properties"] = "\n".join([*kept, *(f"{name}={value}" for name, value in more.items()), ""])
        return found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, the broker's certificate for 127.0.0.1, a client's, and another authority that nobody knows."""
    folder = tmp_path_factory.mktemp("certificates")
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("authority", ca_key, None, ca_key)
    stranger_key = ec.generate_private_key(ec.SECP256R1())
    stranger = _certificate("stranger", stranger_key, None, stranger_key)
    (folder / "ca.pem").write_bytes(_pem(ca))
    (folder / "stranger.pem").write_bytes(_pem(stranger))
    for name in ("broker", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(name, key, ca, ca_key)
        (folder / f"{name}.crt").write_bytes(_pem(certificate))
        (folder / f"{name}.key").write_bytes(_key_pem(key))
        (folder / f"{name}.pem").write_bytes(_key_pem(key) + _pem(certificate) + _pem(ca))
    return folder


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate | None,
    signed_by: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(signed_by, hashes.SHA256())
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form, locked = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, locked)


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Mapping[str, str]]:
    """The broker's addresses by listener, once it runs and knows a user for SCRAM."""
    folder = tmp_path_factory.mktemp("secure") / "servers"
    stack = Stack(folder, [SecureKafka(name=NAME, certificates=certificates)], tell=print)
    require([stack.servers[NAME].pom])
    try:
        stack.up([NAME])
        found = {name: f"127.0.0.1:{stack.ports(NAME)[name]}" for name in LISTENERS}
        admin = AdminClient({"bootstrap.servers": found["broker"], "log_level": 0})
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            wanted = UserScramCredentialUpsertion("paystorm", ScramCredentialInfo(mechanism, 4096), SECRET.encode())
            for future in admin.alter_user_scram_credentials([wanted]).values():
                future.result(30)
        yield found
    finally:
        stack.down()


def _log(address: str, password: str = SECRET, timeout: float = 15.0, **options: str) -> KafkaLog:
    """A log as an environment's options and a worker's secrets name it."""
    named = Connections({f"paystorm.kafka.{name.replace('_', '.', 1)}": value for name, value in options.items()})
    security = kafka_security(named, {USER: "paystorm", PASSWORD: password})
    return KafkaLog(address, SystemClock(), security=security, timeout=timeout)


def _works(log: KafkaLog) -> None:
    topic = f"s-{uuid.uuid4().hex[:12]}"
    log.create_topic(topic, 1)
    log.append(topic, [OutRecord(b"a"), OutRecord(b"b")])
    assert values_of(log, topic) == [b"a", b"b"]
    log.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_user_logs_in_over_tls(ports: Mapping[str, str], certificates: Path, mechanism: str) -> None:
    cafile = str(certificates / "ca.pem")
    _works(_log(ports["login"], security="sasl_ssl", sasl_mechanism=mechanism, cafile=cafile))


def test_a_user_logs_in_without_tls(ports: Mapping[str, str]) -> None:
    _works(_log(ports["open_login"], security="sasl_plaintext", sasl_mechanism="SCRAM-SHA-512"))


def test_a_client_shows_its_certificate(ports: Mapping[str, str], certificates: Path) -> None:
    files = {"cafile": "ca.pem", "certfile": "client.crt", "keyfile": "client.key"}
    _works(_log(ports["mutual"], security="ssl", **{name: str(certificates / file) for name, file in files.items()}))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_wrong_password_is_named_and_not_shown(ports: Mapping[str, str], certificates: Path, mechanism: str) -> None:
    cafile = str(certificates / "ca.pem")
    log = _log(ports["login"], "wrong horse", 5.0, security="sasl_ssl", sasl_mechanism=mechanism, cafile=cafile)
    for call in (
        lambda: log.partitions("t"),
        log.topics,
        lambda: log.end_offset("t", 0),
        lambda: log.append("t", [OutRecord(b"x")]),
        lambda: log.read("t", 0, 0, max_records=1, max_bytes=1),
    ):
        with pytest.raises(LogError, match=r"refuses us .*check paystorm.kafka.* PAYSTORM_KAFKA_PASSWORD") as raised:
            call()
        assert "horse" not in str(raised.value)
    log.close()


def test_a_broker_whose_certificate_nobody_known_has_signed_is_refused(
    ports: Mapping[str, str], certificates: Path
) -> None:
    cafile = str(certificates / "stranger.pem")
    log = _log(ports["login"], timeout=5.0, security="sasl_ssl", sasl_mechanism="PLAIN", cafile=cafile)
    with pytest.raises(LogError, match=r"refuses us .*certificate verify failed"):
        log.partitions("t")
    log.close()


def test_a_client_without_tls_is_told_that_it_gets_no_answer(ports: Mapping[str, str]) -> None:
    log = _log(ports["login"], timeout=3.0)
    with pytest.raises(LogError, match="is Kafka running at"):
        log.partitions("t")
    log.close()
