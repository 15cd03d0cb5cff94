"""The real Prometheus scrapes a real fleet; dashboard and alerts name what is really there."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from scraping import needs_prometheus, promtool

from testbed.fleet import CAT, Fleet, Site
from testbed.processes import ROOT, eventually, free_port

DASHBOARD = ROOT / "deploy" / "grafana" / "spyglass.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"

pytestmark = needs_prometheus


class Prometheus:
    """A process that scrapes one web five times a second."""

    def __init__(self, fleet: Fleet, web_port: int, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        config = CONFIG.read_text()
        for shipped, here in (
            ("scrape_interval: 5s", "scrape_interval: 200ms"),
            ("127.0.0.1:8080", f"127.0.0.1:{web_port}"),
            ("- alerts.yml", f"- {ALERTS}"),
        ):
            assert shipped in config
            config = config.replace(shipped, here)
        (folder / "prometheus.yml").write_text(config)
        fleet.start_command(
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--log.level=error",
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The present value of an expression: its series."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=10) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        series: list[dict[str, Any]] = told["data"]["result"]
        return series

    def value(self, expression: str) -> float | None:
        """That of an expression with one series, if it has one yet."""
        try:
            series = self.query(expression)
        except OSError:  # it starts
            return None
        return float(series[0]["value"][1]) if len(series) == 1 else None


def test_prometheus_scrapes_a_fleet_and_everything_on_the_dashboard(
    site: Site, tmp_path: Path
) -> None:
    prometheus = Prometheus(site, site.port, tmp_path)
    worker = site.start_worker("attic", "--job-limit", "300")
    assert site.send(CAT)[0] == 200
    assert site.get("/no/such/page")[0] == 404
    held = [site.client.submit(b"sleep:200 %d" % n, timeout=300.0) for n in range(5)]

    def shows(expression: str, value: float) -> None:
        told = f"{expression} is {value:g}"
        eventually(lambda: prometheus.value(expression) == value, told)

    shows("spyglass_queue_depth", 3)  # the worker has two: one to compute, one to begin with then
    shows("spyglass_requests_in_flight", 2)
    shows('spyglass_workers{state="busy"}', 1)
    shows('spyglass_worker_requests_answered_total{worker="attic"}', 1)
    shows('spyglass_recognitions_total{outcome="answered"}', 1)
    eventually(lambda: prometheus.value("spyglass_queue_oldest_wait_seconds > 0.5"), "they wait")

    names = {series["metric"]["__name__"] for series in prometheus.query('{job="spyglass"}')}
    for where, expression in expressions():
        named = set(re.findall(r"\b(?:spyglass|process)_\w+", expression))
        assert named and named <= names, f"{where} names {named - names}"
        prometheus.query(expression)

    assert not any(future.done() for future in held)
    worker.kill()
    eventually(lambda: not prometheus.query("spyglass_worker_uptime_seconds"), "its series end")
    assert site.broker is not None
    site.broker.kill()
    shows("spyglass_broker_up", 0)
    shows("up", 1)  # the web answers all the same, within a scrape's 0.2 s
    assert not prometheus.query("spyglass_queue_depth")


def expressions() -> list[tuple[str, str]]:
    """All of the dashboard's and the alerts', ready to be asked."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [(p["title"], target["expr"]) for p in panels for target in p["targets"]]
    assert len(found) > len(panels)
    rule = re.compile(r"alert: (\w+)\n +expr: (?:>-\n)?(.*?)\n +(?:for|labels):", re.DOTALL)
    alerts = rule.findall(ALERTS.read_text())
    assert len(alerts) == ALERTS.read_text().count("alert:")
    asked = [(w, e.replace("$__rate_interval", "1m")) for w, e in found + alerts]
    return [(where, e.replace("$instance", ".*")) for where, e in asked]


def test_promtool_finds_no_fault_with_the_shipped_configuration() -> None:
    promtool("check", "config", str(CONFIG))


ALERTS_TRIED = """
rule_files: [{alerts}]
evaluation_interval: 10s
tests:
  - interval: 10s
    input_series:
      - {{series: 'spyglass_broker_up{{instance="web"}}', values: "1x30 0x30"}}
      - {{series: 'spyglass_workers{{state="draining"}}', values: "1x30"}}
      - {{series: 'spyglass_workers{{state="busy"}}', values: "1x10 stale"}}
      - {{series: 'spyglass_queue_oldest_wait_seconds', values: "0x5 3x25"}}
      - {{series: 'spyglass_queue_depth', values: "160x2 161x28"}}
      - {{series: 'spyglass_queue_limit', values: "200x30"}}
      - {{series: 'spyglass_requests_accepted_total', values: "0+100x90"}}
      - {{series: 'spyglass_requests_failed_total', values: "0+3x90"}}
    alert_rule_test:
{expected}
"""


@pytest.mark.parametrize(
    ("alert", "not_yet", "after"),
    [
        ("SpyglassBrokerDown", "5m", "5m50s"),
        ("SpyglassNoWorkers", "2m", "4m"),
        ("SpyglassQueueSlow", "2m", "3m30s"),
        ("SpyglassQueueNearlyFull", "20s", "2m"),
        ("SpyglassRequestsFail", "4m", "6m"),
    ],
)
def test_an_alert_fires_when_it_should_and_not_before(
    alert: str, not_yet: str, after: str, tmp_path: Path
) -> None:
    before = f"      - {{alertname: {alert}, eval_time: {not_yet}, exp_alerts: []}}"
    tried = ALERTS_TRIED.format(alerts=ALERTS, expected=before)
    (tmp_path / "quiet.yml").write_text(tried)
    promtool("test", "rules", str(tmp_path / "quiet.yml"))
    (tmp_path / "loud.yml").write_text(tried.replace(not_yet, after))
    with pytest.raises(AssertionError, match=f"(?s){alert}.*got:.*severity"):
        promtool("test", "rules", str(tmp_path / "loud.yml"))
