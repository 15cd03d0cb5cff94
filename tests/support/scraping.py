"""What Prometheus would read from a text of metrics."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

#: Why tests with the real thing are skipped.
MISSING = "Prometheus is not installed (Debian: apt-get install prometheus)"

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None, reason=MISSING
)

#: Name and labels, as name{label="value"}.
Samples = dict[str, float]


def samples(text: str) -> Samples:
    """Every sample by its name and labels, in the order of the text."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            name = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert name not in found, f"{name} twice"
            found[name] = sample.value
    return found


def promtool(*command: str, given: str = "") -> None:
    """Run it; whatever it finds fault with fails the test."""
    done = subprocess.run(
        ["promtool", *command], input=given, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
