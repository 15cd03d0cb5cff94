"""The measurement of the broker runs, and tells what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import broker as bench
from settings import EXIT_FAILED


def test_a_short_run_measures_every_row() -> None:
    found = bench.rows(runs=1, span=0.1, fleets=(2, 4), queues=(1, 50))
    assert len(found) == 5 * len(bench.SIZES) + 3 + 2
    assert all(row.value > 0 for row in found if row.unit == "requests/s")
    text = bench.table(found)
    assert all(row.name in text for row in found)


@pytest.mark.parametrize(("kept", "word"), [(True, "kept"), (False, "BROKEN")])
def test_the_table_says_which_promises_are_kept(kept: bool, word: str) -> None:
    row = bench.Row("broker", 5.0, "requests/s", 0.5, "at least 0.75", kept)
    assert f"{word}: at least 0.75" in bench.table([row])


def test_a_broken_promise_is_a_failure_and_is_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = bench.Row("broker", 5.0, "requests/s", 0.5, "at least 0.75", False)
    monkeypatch.setattr(bench, "rows", lambda *_: [row])
    file = tmp_path / "broker.json"
    assert bench.main(["--json", str(file)]) == EXIT_FAILED
    assert json.loads(file.read_text())["rows"][0]["ratio"] == 0.5
