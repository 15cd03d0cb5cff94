"""Metrics for Prometheus: the broker's snapshot, and what the web itself counts and times.

A test bounds what counting a picture costs: less than twice what its five series take alone.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable

import bottle
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from spyglass.client.session import Answer
from spyglass.protocol import NAME, Reason
from spyglass.protocol.snapshot import MAX_MODELS
from spyglass.web.http.request import App, Message, Receive, Scope, Send

#: Upper bounds of seconds of an HTTP request, from a page to the longest usual timeout.
HTTP_BUCKETS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
#: Upper bounds of seconds in the queue: close to zero on an idle fleet.
QUEUE_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
#: Upper bounds of seconds of computing: small models on a CPU take 10 to 20 ms.
INFER_BUCKETS = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
#: Methods with series of their own; a client may send any.
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"))
#: The label of everything that has no series of its own.
OTHER = "other"
#: Outcomes other than the reasons of a failure.
ANSWERED, DISCONNECTED = "answered", "hung-up"

# The time at which each counter was created would be one more series each, of no use here.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Counts and times requests, and renders all metrics as text for a scrape.

    Args:
        fleet: gives the fleet's figures, which come before the web's own.
    """

    def __init__(self, fleet: Collector) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(fleet)
        self._open = 0
        Gauge(
            "spyglass_http_requests_in_flight", "HTTP requests being answered.", registry=registry
        ).set_function(lambda: self._open)
        self._requests = Counter(
            "spyglass_http_requests",
            "HTTP requests, by method, route and status; the status is none if nobody waited.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._durations = Histogram(
            "spyglass_http_request_duration_seconds",
            "Seconds from a request's head to the end of its answer, by route.",
            ["route"],
            buckets=HTTP_BUCKETS,
            registry=registry,
        )
        self._outcomes = Counter(
            "spyglass_recognitions",
            "Pictures sent to be recognised, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        for outcome in (ANSWERED, DISCONNECTED, *(reason.value for reason in Reason)):
            self._outcomes.labels(outcome)  # there from the start, so that the first one shows
        self._queue = Histogram(
            "spyglass_queue_wait_seconds",
            "Seconds answered pictures waited for the worker that answered, by model.",
            ["model"],
            buckets=QUEUE_BUCKETS,
            registry=registry,
        )
        self._infer = Histogram(
            "spyglass_infer_seconds",
            "Seconds answered pictures were computed, by model.",
            ["model"],
            buckets=INFER_BUCKETS,
            registry=registry,
        )
        ProcessCollector(registry=registry)
        # Looking a series up by its labels takes as long as counting, so it is done once.
        self._answered = self._outcomes.labels(ANSWERED)
        self._of_model: dict[str, tuple[Histogram, Histogram]] = {}
        self._of_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    # --- counting, on the event loop ----------------------------------------------------------

    def answered(self, answer: Answer) -> None:
        """Count a picture that was answered with predictions."""
        self._answered.inc()
        queue, infer = self._of_model.get(answer.model) or self._series_of(answer.model)
        queue.observe(answer.times.queue / 1000)
        infer.observe(answer.times.infer / 1000)

    def failed(self, outcome: str) -> None:
        """Count a picture that failed, by the code of its problem."""
        self._outcomes.labels(outcome).inc()

    def measured(self, app: App, rules: Iterable[str]) -> App:
        """The application, each of its requests counted and timed.

        Args:
            app: the application.
            rules: its paths, as Bottle's rules.
        """
        rules = frozenset(rules)
        router = bottle.Router()
        for rule in rules:
            router.add(rule, "ANY", rule)

        def route_of(path: str) -> str:
            try:
                rule: str = router.match({"REQUEST_METHOD": "ANY", "PATH_INFO": path})[0]
            except bottle.HTTPError:
                return OTHER
            return rule

        async def timed(scope: Scope, receive: Receive, send: Send) -> None:
            status = 0

            def send_and_note(message: Message) -> Awaitable[None]:
                nonlocal status
                if not status:
                    status = message["status"]
                return send(message)

            began = time.perf_counter()
            self._open += 1
            try:
                await app(scope, receive, send_and_note)
            finally:
                self._open -= 1
                path = scope["path"]
                route = path if path in rules else route_of(path)
                self._served(scope["method"], route, status, time.perf_counter() - began)

        return timed

    def _served(self, method: str, route: str, status: int, took: float) -> None:
        label = method if method in METHODS else OTHER
        series = self._of_route.get((label, route, status))
        if series is None:
            counter = self._requests.labels(label, route, status or "none")
            series = self._of_route[label, route, status] = counter, self._durations.labels(route)
        series[0].inc()
        series[1].observe(took)

    def _series_of(self, model: str) -> tuple[Histogram, Histogram]:
        """The series of this model; the shared one if its name is invalid or there are too many."""
        if len(self._of_model) >= MAX_MODELS or not NAME.fullmatch(model):
            return self._queue.labels(OTHER), self._infer.labels(OTHER)
        series = self._queue.labels(model), self._infer.labels(model)
        self._of_model[model] = series
        return series

    # --- scraping, in any thread --------------------------------------------------------------

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics as text, and its content type, in the format an Accept header asks for.

        Waits for the broker for a second at most.
        """
        encoder, kind = choose_encoder(accept)
        return encoder(self._registry), kind
