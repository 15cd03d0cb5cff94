"""The measurement of the broker runs, and tells what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import broker as bench
from bench import table
from spyglass.runtime.settings import EXIT_FAILED


def test_a_short_run_measures_every_row() -> None:
    found = bench.rows(runs=1, span=0.1, fleets=(2, 4), queues=(1, 50), many=500)
    assert len(found) == 5 * len(bench.SIZES) + 3 + 2 + 2
    assert all(row.value > 0 for row in found if row.unit == "requests/s")


def test_a_broken_promise_is_a_failure_and_is_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = table.row("broker", [5.0], "requests/s", [10.0], at_least=0.75)
    monkeypatch.setattr(bench, "rows", lambda *_: [row])
    file = tmp_path / "broker.json"
    assert bench.main(["--json", str(file)]) == EXIT_FAILED
    assert json.loads(file.read_text())["rows"][0]["ratio"] == 0.5
