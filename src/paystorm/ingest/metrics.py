"""What the service counts, in the format of Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

PREFIX = "paystorm_ingest_"
GAUGES = {
    "ready": "Whether events are taken.",
    "ids": "Ids in the store.",
    "ids_limit": "Ids that the store may hold.",
    "queue_records": "Records that wait for the log.",
    "requests_at_work": "Requests at work.",
    "streams": "Verdict streams and long-polls at work.",
}
"""Figures that are read when they are asked for."""


class Metrics:
    """The service's figures, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "paystorm_ingest_requests", "Requests by route and status.", ["route", "status"], registry=r
        )
        self.seconds = Histogram(
            "paystorm_ingest_request_seconds",
            "Seconds from a request's head to the end of its answer, streams left out.",
            ["route"],
            registry=r,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
        )
        self.events = Counter(
            "paystorm_ingest_events", "Events by source and the status of the answer.", ["source", "status"], registry=r
        )
        self.repeats = Counter("paystorm_ingest_repeats", "Events that had been answered before.", registry=r)
        self.append_seconds = Histogram(
            "paystorm_ingest_append_seconds",
            "Seconds that the log took for a group of events.",
            registry=r,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
        )
        self.log_failures = Counter("paystorm_ingest_log_failures", "Groups that the log did not take.", registry=r)
        self.verdicts = Counter(
            "paystorm_ingest_verdicts", "Verdicts read from the verdict topics.", ["source"], registry=r
        )

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Say how one of `GAUGES` is read."""
        Gauge(f"{PREFIX}{name}", GAUGES[name], registry=self.registry).set_function(read)

    def render(self) -> bytes:
        """The text that a scraper is given."""
        return generate_latest(self.registry)
