"""The metrics, without any port: what they contain, how they are bounded, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
from calling_web import FORM, TIMES, Site, form, jpeg
from dispatching import fleet, ready, request, result
from prometheus_client import Counter, Histogram
from scraping import Samples, needs_prometheus, promtool, samples

from spyglass.client.thread_client import Answer, RequestFailed
from spyglass.dispatcher.dispatcher import Dispatcher
from spyglass.dispatcher.snapshot import snapshot
from spyglass.protocol import Reason
from spyglass.protocol.snapshot import MAX_MODELS, Counters
from spyglass.web.fleet_metrics import COUNTERS, MAX_WORKERS, STATUS_WITHIN, FleetCollector
from spyglass.web.metrics import HTTP_BUCKETS, Metrics

ANSWER = Answer("ab" * 16, "squeezenet1_1", "cd" * 32, [], "attic", 1, TIMES, 14.9)


class Broker:
    """The client that the metrics ask: it has the snapshot of a dispatcher, or no broker."""

    connected = True

    def __init__(self, dispatcher: Dispatcher | None, now: float = 0.0) -> None:
        self.status_of: Callable[[], dict[str, Any] | None] = lambda: (
            snapshot(dispatcher, now) if dispatcher else None
        )

    def status(self, timeout: float) -> dict[str, Any]:
        assert timeout == STATUS_WITHIN
        status = self.status_of()
        if status is None:
            raise RequestFailed(Reason.NO_BROKER, "No broker answers.")
        return status


def metrics_with(broker: Any) -> Metrics:
    return Metrics(FleetCollector(broker))


def text_of(broker: Any) -> str:
    return metrics_with(broker).exposition("")[0].decode()


def scraped(dispatcher: Dispatcher | None, now: float = 0.0) -> Samples:
    return samples(text_of(Broker(dispatcher, now)))


@pytest.fixture
def busy() -> Dispatcher:
    """Two workers of one slot each; of four requests one is answered, the others came at 1.0."""
    d = fleet(b"attic", b"cellar")
    d.request_arrived(b"web", request(0), 0.0)
    d.worker_answered(b"attic", result(request(0)), 0.5)
    for n in range(1, 4):
        d.request_arrived(b"web", request(n), 1.0)
    return d


# --- the fleet --------------------------------------------------------------------------------


def test_queue_depth_and_oldest_wait_come_first(busy: Dispatcher) -> None:
    first, second, *_ = scraped(busy, now=3.5).items()
    assert first == ("spyglass_queue_depth", 1)
    assert second == ("spyglass_queue_oldest_wait_seconds", 2.5)


def test_models_and_workers_have_their_own_series(busy: Dispatcher) -> None:
    values = scraped(busy, now=3.5)
    assert values["spyglass_broker_up"] == 1
    assert values['spyglass_model_queue_depth{model="squeezenet1_1"}'] == 1
    assert values['spyglass_workers{model="squeezenet1_1",state="busy"}'] == 2
    attic = '{model="squeezenet1_1",worker="attic"}'
    assert values[f"spyglass_worker_requests_answered_total{attic}"] == 1
    assert values[f"spyglass_worker_requests_in_flight{attic}"] == 1
    assert values[f"spyglass_worker_recent_p95_seconds{attic}"] == 0.5
    assert 'spyglass_worker_recent_p95_seconds{model="squeezenet1_1",worker="cellar"}' not in values


def test_every_counter_of_the_broker_has_a_metric(busy: Dispatcher) -> None:
    assert set(COUNTERS) == set(Counters.__annotations__)
    values = scraped(busy)
    assert all(f"{name}_total" in values for name, _ in COUNTERS.values())
    assert values["spyglass_requests_accepted_total"] == 4
    assert values["spyglass_requests_answered_total"] == 1


def test_the_series_of_a_departed_worker_vanish(busy: Dispatcher) -> None:
    assert any('worker="attic"' in name for name in scraped(busy))
    busy.worker_gone(b"attic", "connection closed", 2.0)
    assert not any('worker="attic"' in name for name in scraped(busy))


def test_without_a_broker_the_fleet_has_one_metric_which_says_so(busy: Dispatcher) -> None:
    values = scraped(None)
    assert values["spyglass_broker_up"] == 0
    assert "spyglass_queue_depth" not in values  # zero would mean that nothing waits
    assert "spyglass_http_requests_in_flight" in values
    assert "process_resident_memory_bytes" in values


def test_without_a_connection_the_broker_is_not_even_asked(busy: Dispatcher) -> None:
    broker = Broker(busy)
    broker.connected = False
    assert samples(text_of(broker))["spyglass_broker_up"] == 0


def test_a_closed_client_counts_as_no_broker() -> None:
    broker = Broker(None)
    ending = RequestFailed(Reason.NO_BROKER, "This program is ending.")
    broker.status_of = lambda: (_ for _ in ()).throw(ending)
    assert samples(text_of(broker))["spyglass_broker_up"] == 0


@pytest.mark.parametrize("over", [0, 1, 100])
def test_workers_beyond_the_limit_have_no_series_but_are_counted(over: int) -> None:
    d = fleet(*(b"w%04d" % n for n in range(MAX_WORKERS + over)))
    values = scraped(d)
    assert sum(name.startswith("spyglass_worker_uptime") for name in values) == MAX_WORKERS
    assert values["spyglass_workers_omitted"] == over
    states = [value for name, value in values.items() if name.startswith("spyglass_workers{")]
    assert sum(states) == MAX_WORKERS + over


def test_a_name_that_the_protocol_does_not_allow_becomes_no_label(busy: Dispatcher) -> None:
    broker = Broker(busy)
    status = broker.status_of()
    assert status is not None
    status["workers"][0]["name"] = 'x"} 1\nspyglass_queue_depth 7'
    status["models"].append({**status["models"][0], "name": "<b>", "default": False})
    status["models"] += [{**status["models"][0], "name": f"m{n}"} for n in range(MAX_MODELS)]
    broker.status_of = lambda: status
    values = samples(text_of(broker))
    assert values["spyglass_queue_depth"] == 1
    assert values["spyglass_workers_omitted"] == 1
    depths = [name for name in values if name.startswith("spyglass_model_queue_depth")]
    assert len(depths) == MAX_MODELS and not any("<" in name for name in depths)


def test_two_workers_of_one_name_share_one_series() -> None:
    d = fleet(b"attic")
    d.worker_ready(b"other", ready(1, name="attic"), 0.0)
    assert sum("uptime" in name and "worker" in name for name in scraped(d)) == 2


# --- the web's own ----------------------------------------------------------------------------


@pytest.fixture
def site() -> Site:
    site = Site()
    site.fleet.connected = False
    return site


def metrics_of(site: Site, **headers: Any) -> Samples:
    answer = site("GET", "/metrics", **headers)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return samples(answer.body.decode())


def test_pictures_are_counted_by_outcome_and_timed_by_model(site: Site) -> None:
    assert site("POST", "/v1/classify", jpeg()).status == 200
    assert site("POST", "/", form(jpeg()), **FORM).status == 200
    assert site("POST", "/v1/classify", b"hello").status == 415
    site.fleet.failure = RequestFailed(Reason.WORKER_LOST, "A sentence.")
    assert site("POST", "/v1/classify", jpeg()).status == 502
    site.fleet.failure = None
    site.fleet.hangs = True
    site("POST", "/v1/classify", jpeg(), hangs_up=True)
    values = metrics_of(site)
    outcomes = {
        name.split('"')[1]: value
        for name, value in values.items()
        if name.startswith("spyglass_recognitions_total") and value
    }
    assert outcomes == {"answered": 2, "unsupported": 1, "worker-lost": 1, "hung-up": 1}
    assert values['spyglass_recognitions_total{outcome="deadline"}'] == 0  # there before the first
    of_model = 'model="squeezenet1_1"'
    assert values[f"spyglass_infer_seconds_count{{{of_model}}}"] == 2
    assert values[f"spyglass_infer_seconds_sum{{{of_model}}}"] == pytest.approx(0.0224)
    assert values[f'spyglass_infer_seconds_bucket{{le="0.01",{of_model}}}'] == 0
    assert values[f'spyglass_infer_seconds_bucket{{le="0.015",{of_model}}}'] == 2
    assert values[f"spyglass_queue_wait_seconds_sum{{{of_model}}}"] == pytest.approx(0.0008)


def test_http_requests_are_counted_by_method_route_and_status(site: Site) -> None:
    site("POST", "/v1/classify?top_k=3", jpeg())
    site("GET", "/livez")
    site("GET", "/static/style.css")
    site("DELETE", "/v1/workers/unknown")
    site.fleet.hangs = True
    site("POST", "/v1/classify", jpeg(), hangs_up=True)
    values = metrics_of(site)
    for method, route, status in [
        ("POST", "/v1/classify", "200"),
        ("POST", "/v1/classify", "none"),
        ("GET", "/livez", "200"),
        ("GET", "/static/<path:path>", "200"),
        ("DELETE", "/v1/workers/<worker_id>", "404"),
    ]:
        labels = f'method="{method}",route="{route}",status="{status}"'
        assert values[f"spyglass_http_requests_total{{{labels}}}"] == 1
    took = 'spyglass_http_request_duration_seconds_count{route="/v1/classify"}'
    assert values[took] == 2
    assert values["spyglass_http_requests_in_flight"] == 1  # the one that asks


def test_what_clients_invent_opens_no_series(site: Site) -> None:
    site("GET", "/metrics")
    before = len(metrics_of(site))
    for n in range(3):
        site(f"BREW{n}", "/v1/classify")
        site("GET", f"/no/such/page/{n}")
        site("POST", f"/v1/classify?model=no-such-{n}", b"hello")
        site("POST", "/", form(jpeg(), name=f"holiday-{n}.jpg"), **FORM)
    values = metrics_of(site)
    assert not any("BREW" in name or "such" in name or "holiday" in name for name in values)
    assert values['spyglass_http_requests_total{method="other",route="/v1/classify",status="405"}']
    assert values['spyglass_http_requests_total{method="GET",route="other",status="404"}'] == 3
    # Of classify, the form and pages that are not there: a counter or two and a histogram each.
    histograms = 3 * 16 + 2 * 16
    assert len(values) < before + histograms + 10


def test_models_beyond_the_limit_share_their_series() -> None:
    metrics = metrics_with(Broker(None))
    for n in range(MAX_MODELS + 5):
        metrics.answered(Answer("", f"model-{n}", "", [], "attic", 1, TIMES, 1.0))
    metrics.answered(Answer("", 'x"} 1\n', "", [], "attic", 1, TIMES, 1.0))
    values = samples(metrics.exposition("")[0].decode())
    counts = [v for name, v in values.items() if name.startswith("spyglass_infer_seconds_count")]
    assert len(counts) == MAX_MODELS + 1
    assert values['spyglass_infer_seconds_count{model="other"}'] == 6


def test_a_scraper_that_asks_for_openmetrics_gets_it(site: Site) -> None:
    answer = site("GET", "/metrics", accept="application/openmetrics-text;version=1.0.0")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")


@needs_prometheus
def test_promtool_finds_no_fault_with_names_units_and_help(site: Site, busy: Dispatcher) -> None:
    site("POST", "/v1/classify", jpeg())
    site("POST", "/v1/classify", b"hello")
    client: Any = site.fleet
    client.connected = True
    client.status = Broker(busy, 3.5).status
    text = site("GET", "/metrics").body.decode()
    assert "spyglass_worker_uptime_seconds" in text
    promtool("check", "metrics", given=text)


def test_a_picture_costs_little_more_than_its_five_series() -> None:
    metrics = metrics_with(Broker(None))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def plain_send(message: Any) -> None:
        pass

    measured = metrics.measured(app, ["/v1/classify"])
    scope = {"type": "http", "method": "POST", "path": "/v1/classify"}
    counter = Counter("bare", "Alone.", registry=None)
    histogram = Histogram("bare", "Alone.", buckets=HTTP_BUCKETS, registry=None)

    def served(wanted: Any) -> None:
        with pytest.raises(StopIteration):
            wanted(scope, None, plain_send).send(None)

    def counted() -> None:
        metrics.answered(ANSWER)
        served(measured)

    def bare() -> None:
        for _ in range(2):
            counter.inc()
        for _ in range(3):
            histogram.observe(0.02)

    def seconds_of(work: Callable[[], None], count: int = 100) -> float:
        began = time.thread_time()
        for _ in range(count):
            work()
        return time.thread_time() - began

    def ratio() -> float:
        return (seconds_of(counted) - seconds_of(lambda: served(app))) / seconds_of(bare)

    # In turns, and the median of many: others use this machine as well. Measured: 1.4.
    assert median(ratio() for _ in range(101)) < 2
