"""A broker's snapshot as Prometheus metrics.

It is fetched for each scrape, so that the series of a worker end when it leaves. Names of workers
and models come from outside: only those that the protocol allows become labels, and only so many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeAlias

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from spyglass.client.session import ClientSession, RequestFailed
from spyglass.protocol import NAME
from spyglass.protocol.snapshot import MAX_MODELS

Snapshot: TypeAlias = dict[str, Any]

#: Seconds a scrape waits for the broker: a scraper must learn soon that it does not answer.
STATUS_WITHIN = 1.0
#: Workers with series of their own, the first ones by name, eight series each; the others are
#: in the sums alone.
MAX_WORKERS = 250

#: Name and help by the counter's name in the snapshot; a test checks that none is missing.
COUNTERS = {
    "accepted": ("spyglass_requests_accepted", "Requests the broker took responsibility for."),
    "answered": ("spyglass_requests_answered", "Requests answered with predictions."),
    "failed": ("spyglass_requests_failed", "Requests answered with a reason instead."),
    "refused": ("spyglass_requests_refused", "Requests not accepted: full, no such model, leaving"),
    "expired": ("spyglass_requests_expired", "Requests that failed because their time ran out."),
    "cancelled": ("spyglass_requests_cancelled", "Requests nobody waited for any more."),
    "quarantined": (
        "spyglass_requests_quarantined",
        "Requests failed or refused because their picture is in quarantine.",
    ),
    "requeued": ("spyglass_requeues", "Moves of a request to another worker after a failure."),
    "handed_back": (
        "spyglass_hand_backs",
        "Moves of a request to another worker because its worker was leaving.",
    ),
    "hedged": ("spyglass_hedges", "Slow requests given to a second worker as well."),
    "late": (
        "spyglass_late_answers",
        "Responses of workers to requests closed or moved before.",
    ),
    "duplicate": ("spyglass_unasked_answers", "Answers of workers that nobody had asked for."),
    "ejected": ("spyglass_ejections", "Times a worker was left out for failing repeatedly."),
    "bad_frames": ("spyglass_bad_messages", "Messages that were not valid."),
    "internal_errors": (
        "spyglass_internal_errors",
        "Messages lost to a fault of the broker's own.",
    ),
}


class FleetCollector(Collector):
    """Asks the broker at each scrape."""

    def __init__(self, client: ClientSession) -> None:
        self._client = client

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry must not ask the broker before anybody scrapes."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics of the fleet; without a broker only that it does not answer."""
        status = self._status()
        if status is None:
            yield _gauge("spyglass_broker_up", "Whether the broker answers.", 0)
            return
        yield from _queue(status)
        yield _gauge("spyglass_broker_up", "Whether the broker answers.", 1)
        yield from _totals(status)
        yield from _models(status)
        yield from _workers(status)

    def _status(self) -> Snapshot | None:
        if not self._client.connected:
            return None  # it may connect within the second, but a scrape need not wait for that
        with suppress(RequestFailed):
            return self._client.status(STATUS_WITHIN)
        return None


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value)


def _queue(status: Snapshot) -> Iterator[Metric]:
    """The metrics that a fleet is scaled on; they come first."""
    queue = status["queue"]
    waits = "Seconds the longest waiting request has been in the queue."
    yield _gauge("spyglass_queue_depth", "Requests waiting for a worker.", queue["waiting"])
    yield _gauge("spyglass_queue_oldest_wait_seconds", waits, queue["oldest_wait_s"])
    yield _gauge("spyglass_queue_limit", "Requests that may wait.", queue["max_waiting"])
    yield _gauge("spyglass_queue_bytes", "Bytes of waiting pictures.", queue["waiting_bytes"])
    yield _gauge("spyglass_requests_in_flight", "Requests workers have.", queue["in_flight"])


def _totals(status: Snapshot) -> Iterator[Metric]:
    up = status["broker"]["uptime_s"]
    yield _gauge("spyglass_broker_uptime_seconds", "Seconds since the broker started.", up)
    quarantined = "Pictures refused for some minutes: each had cost two workers or children."
    yield _gauge("spyglass_quarantined_pictures", quarantined, len(status["quarantine"]))
    for key, (name, help) in COUNTERS.items():
        if key in status["counters"]:  # a broker of another release may count other things
            yield CounterMetricFamily(name, help, status["counters"][key])


def _models(status: Snapshot) -> Iterator[Metric]:
    models = [m for m in status["models"] if NAME.fullmatch(m["name"])][:MAX_MODELS]
    waiting = GaugeMetricFamily(
        "spyglass_model_queue_depth", "Requests waiting for a worker, by model.", labels=["model"]
    )
    for model in models:
        waiting.add_metric([model["name"]], model["waiting"])
    yield waiting

    states = Counter((worker["model"], worker["state"]) for worker in status["workers"])
    known = {model["name"] for model in models}
    workers = GaugeMetricFamily(
        "spyglass_workers", "Connected workers, by model and state.", labels=["model", "state"]
    )
    for model, state in sorted(pair for pair in states if pair[0] in known):
        workers.add_metric([model, state], states[model, state])
    yield workers


def _workers(status: Snapshot) -> Iterator[Metric]:
    named = {w["name"]: w for w in status["workers"] if NAME.fullmatch(w["name"])}
    shown = list(named.values())[:MAX_WORKERS]
    omitted = "Workers without series of their own, being too many or without a proper name."
    yield _gauge("spyglass_workers_omitted", omitted, len(status["workers"]) - len(shown))

    def gauge(name: str, help: str, key: str, unit: float = 1) -> Metric:
        family = GaugeMetricFamily(f"spyglass_worker_{name}", help, labels=["worker", "model"])
        for worker in shown:
            if worker[key] is not None:
                family.add_metric([worker["name"], worker["model"]], worker[key] * unit)
        return family

    def counter(name: str, help: str, key: str) -> Metric:
        family = CounterMetricFamily(f"spyglass_worker_{name}", help, labels=["worker", "model"])
        for worker in shown:
            family.add_metric([worker["name"], worker["model"]], worker[key])
        return family

    yield gauge("requests_in_flight", "Requests this worker has.", "in_flight")
    yield counter("requests_answered", "Requests this worker answered.", "done")
    yield counter("requests_failed", "Requests this worker failed on.", "failed")
    yield gauge("processes", "Child processes of this worker.", "processes")
    yield gauge("credit", "Requests this worker would still take.", "credit")
    recent = "95th percentile of this worker's latest answers, from sent to answered."
    yield gauge("recent_p95_seconds", recent, "p95_ms", 1e-3)
    yield gauge("heartbeat_age_seconds", "Seconds since its last message.", "last_heartbeat_s")
    yield gauge("uptime_seconds", "Seconds since it joined.", "uptime_s")
