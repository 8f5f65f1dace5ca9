"""How confluent-kafka reaches a cluster: settings of librdkafka, and what its errors mean to people."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from paystorm.errors import LogError
from paystorm.log.kafka_common import PASSWORD, USER, KafkaSecurity, broker_addresses

T = TypeVar("T")

FIRST_TRY = 2.0
"""Seconds after which a client of librdkafka that gives no answer is replaced; each further one has twice as long."""
PAUSE = 0.05
"""Of the time of a try, before the next one."""
MIN_SECONDS = 0.1
"""Of a try that begins when nearly all time is over."""

AWAY = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
    }
)
"""Brokers cannot be reached, or do not answer (or did not, and another thread has given the producer up)."""
_REFUSED = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)
_FORBIDDEN = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})
MISSING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
"""There is no such topic or partition."""


class Cluster:
    """A Kafka cluster by its addresses. Thread-safe."""

    def __init__(self, brokers: str, security: KafkaSecurity, timeout: float) -> None:
        """`timeout`: seconds, of everything that is asked of it. Raises ConfigError for addresses of another form."""
        broker_addresses(brokers)
        self.brokers = brokers
        self.timeout = timeout
        self._security = security
        self._refusal = ""
        """What a broker last said against our security; a call only says that its time is over."""
        self._lock = threading.Lock()
        self._admin: AdminClient | None = None

    @property
    def admin(self) -> AdminClient:
        """The client that asks for topics and makes them."""
        with self._lock:
            if self._admin is None:
                self._admin = AdminClient(self.config({}))
            return self._admin

    def close(self) -> None:
        """Leave the brokers."""
        with self._lock:
            self._admin = None

    def config(self, more: Mapping[str, Any]) -> dict[str, Any]:
        """Settings for a client of librdkafka."""
        security = self._security
        milliseconds = max(1000, round(self.timeout * 1000))
        settings: dict[str, Any] = {
            "bootstrap.servers": self.brokers,
            "security.protocol": security.protocol,
            "client.id": "paystorm",
            "socket.timeout.ms": milliseconds,
            "socket.connection.setup.timeout.ms": milliseconds,
            "socket.nagle.disable": True,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1000,  # 10 s by default: a broker that is back would stay unseen
            # Where brokers say that there is none, librdkafka leaves the last one: after so long it begins at
            # `brokers` again. 5 minutes by default.
            "metadata.recovery.rebootstrap.trigger.ms": 1000,
            "log_level": 0,  # what matters is raised; nothing is to be printed between the lines of a worker's protocol
            "error_cb": self._complained,
        }
        if security.tls:
            named = {
                "ssl.ca.location": security.cafile,
                "ssl.certificate.location": security.certfile,
                "ssl.key.location": security.keyfile,
            }
            settings |= {name: path for name, path in named.items() if path is not None}
        if security.sasl:
            settings |= {
                "sasl.mechanisms": security.mechanism,
                "sasl.username": security.user,
                "sasl.password": security.password,
            }
        return settings | dict(more)

    def _complained(self, error: KafkaError) -> None:
        if error.code() in _REFUSED:
            self._refusal = error.str()
        elif error.code() != KafkaError._ALL_BROKERS_DOWN:  # which is said behind a refusal, too
            self._refusal = ""

    def error(self, error: KafkaError, what: str) -> LogError:
        """What an error means. `what`: the topic or partition, such as `topic purchase`."""
        code, said = error.code(), error.str()
        admin = self._admin
        if code in AWAY and admin is not None:
            self._replace(admin)
        if code in _REFUSED or (code in AWAY and self._refusal):
            way_out = f"check paystorm.kafka.* and, on this worker, {USER} and {PASSWORD}"
            return LogError(f"Kafka at {self.brokers} refuses us ({_line(self._refusal or said)}): {way_out}")
        if code in AWAY:
            return LogError(f"{what}: Kafka does not answer ({_line(said)}): is Kafka running at {self.brokers}?")
        if code in MISSING:
            return LogError(f"{what}: there is none on Kafka at {self.brokers}: create it first")
        if code in _FORBIDDEN:
            return LogError(f"{what}: Kafka at {self.brokers} forbids it ({_line(said)}): grant the user access")
        return LogError(f"{what}: Kafka at {self.brokers}: {error.name()} ({_line(said)})")

    def late(self, what: str) -> LogError:
        """The error for a wait that is over."""
        return self.error(self.nothing_came(), what)

    def ask(self, call: "Callable[[AdminClient, float], Future[T]]") -> T:
        """What an administrative call gives, which may be made more than once. Raises KafkaException.

        `call` is given a client, and the seconds that it may take. A broker that was slow for a moment is shut out by
        its controller, and brokers then tell of no controller, or of no broker at all; a client of librdkafka that has
        heard so may wait for minutes where a new one finds them.
        """
        deadline, seconds = time.monotonic() + self.timeout, FIRST_TRY
        while True:
            admin, seconds = self.admin, min(seconds, max(MIN_SECONDS, deadline - time.monotonic()))
            try:
                return call(admin, seconds).result(seconds + 1)
            except KafkaException as e:
                if e.args[0].code() not in AWAY or time.monotonic() >= deadline:
                    raise
            except FutureTimeoutError as e:
                if time.monotonic() >= deadline:
                    raise KafkaException(self.nothing_came()) from e
            self._replace(admin)
            time.sleep(seconds * PAUSE)
            seconds *= 2

    def _replace(self, admin: AdminClient) -> None:
        """Leave the brokers with this client, for the next call to meet them with another."""
        admin.poll(0)  # calls `_complained`
        with self._lock:
            if self._admin is admin:
                self._admin = None

    def result(self, what: str, call: "Callable[[AdminClient, float], Future[T]]") -> T:
        """As `ask`. Raises LogError."""
        try:
            return self.ask(call)
        except KafkaException as e:
            raise self.error(e.args[0], what) from e

    def nothing_came(self) -> KafkaError:
        """librdkafka's error for a wait that is over."""
        return KafkaError(KafkaError._TIMED_OUT, f"nothing within {self.timeout:g} s")


def _line(text: str) -> str:
    """The text as one line of a sane length."""
    return " ".join(text.split())[:300]
