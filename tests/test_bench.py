"""The measurements' own arithmetic, and that they run at all."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from bench import photos, pipeline, table, workers


@pytest.mark.parametrize(
    ("against", "at_least", "at_most", "kept"),
    [
        (None, 4.0, None, True),
        (None, 4.1, None, False),
        (None, None, 3.9, False),
        ([2.0, 2.0, 2.0], 2.0, None, True),
        ([2.0, 2.0, 2.0], 2.1, None, False),
        ([2.0, 2.0, 2.0], None, 2.0, True),
        (None, None, None, True),
    ],
)
def test_a_promise_is_about_the_ratio_where_there_is_one(
    against: list[float] | None, at_least: float | None, at_most: float | None, kept: bool
) -> None:
    measured = table.row("x", [4.0, 2.0, 9.0], "ms", against, at_least, at_most)
    assert (measured.value, measured.spread, measured.kept) == (4.0, (2.0, 9.0), kept)


def test_a_ratio_is_the_median_of_each_turns_own() -> None:
    # The machine slowed down threefold in the last turn, for both sides.
    assert table.row("x", [20.0, 22.0, 7.0], "/s", [10.0, 10.0, 3.0]).ratio == 2.2


def test_a_broken_promise_is_seen_in_the_table_and_in_the_file(tmp_path: Path) -> None:
    rows = [table.row("slow", [1.0], "ms", None, None, 0.5)]
    assert "≤ 0.5 BROKEN" in table.show(rows)
    table.write(rows, tmp_path / "rows.json")
    (told,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (told["name"], told["promise"], told["kept"]) == ("slow", "≤ 0.5", False)


def test_made_photos_have_the_usual_size() -> None:
    made = photos.usual(photos.photos(None))
    assert len(set(made)) == len(made) >= 16
    for data in made:
        assert 0.8 < len(data) / photos.USUAL_BYTES < 1.1
        assert Image.open(io.BytesIO(data)).size == (500, 375)


def test_a_folder_without_photos_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(tmp_path)):
        photos.photos(tmp_path)


@pytest.mark.slow
def test_the_pipeline_is_measured_and_answers_as_the_naive_one_does() -> None:
    rows = pipeline.measure(photos.photos(None)[:4], 1, 1, 0.2)
    assert {row.name: row.value for row in rows}["first guess as the naive one"] >= 75
    assert all(row.value > 0 for row in rows if row.unit == "images/s")


@pytest.mark.slow
def test_a_workers_cpu_is_measured_around_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PICTURES", 50)
    parent, child = workers.cpu_times(1, [b"picture"])
    assert 0 < child.value < 10
    assert 0 < parent.value < 10
