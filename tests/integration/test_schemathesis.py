"""Requests made from /openapi.json, sound and broken, against a real fleet: none is our fault.

Schemathesis runs as its command, not as a pytest plugin: that would cost every test run seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.fleet import Site

#: What a serving fleet may answer: no 500, and of the others only a deadline the request asked for.
CONFIG = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]
"""
#: That bytes are a picture, and names are known, no schema can say; and Spyglass, as TorchServe,
#: takes the default where a page size makes no sense.
NO_PROMISE = "positive_data_acceptance,negative_data_rejection"
#: Would dial what addresses it makes up, and drain workers whose ids it reads from the status.
HARMFUL = ("/v1/workers", "/v1/workers/{worker_id}")


@pytest.mark.slow
def test_requests_made_from_the_description_are_answered_as_it_says(
    site: Site, tmp_path: Path
) -> None:
    site.start_worker("attic")
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    excluded = [word for path in HARMFUL for word in ("--exclude-path", path)]
    told = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--no-color", "run", *excluded),
            *("--phases", "coverage,fuzzing", "--max-examples", "15", "--seed", "6"),
            *("--exclude-checks", NO_PROMISE, "--max-response-time", "10", "--no-shrink"),
            *("--continue-on-failure", "--suppress-health-check", "all"),
            site.url + "/openapi.json",
        ],
        cwd=tmp_path, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout[-20_000:] + told.stderr[-5000:]
    assert "generated" in told.stdout, told.stdout
    assert [process.poll() for process in site.processes] == [None, None, None]
    assert site.status()["counters"]["bad_frames"] == 0, "the web sends what the broker reads"
