"""The measurements' own arithmetic, and that they run at all."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from bench import __main__ as command
from bench import photos, pipeline, plot, stages, table, workers
from spyglass.runtime.settings import EXIT_FAILED


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
    text = table.show({"Speed": rows})
    assert "Speed" in text
    assert "≤ 0.5 BROKEN" in text
    table.write({"Speed": rows}, tmp_path / "rows.json")
    (told,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (told["part"], told["name"], told["promise"], told["kept"]) == (
        "Speed",
        "slow",
        "≤ 0.5",
        False,
    )


def test_the_command_counts_promises_and_leaves_a_file_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        table.row("fast", [3.0], "/s", [1.0], at_least=2.0),
        table.row("slow", [1.0], "ms", at_most=0.5),
        table.row("only told", [1.0], "ms"),
    ]
    monkeypatch.setattr(command, "PARTS", {"speed": ("Speed", lambda _: rows)})
    assert command.main(["--folder", str(tmp_path)]) == EXIT_FAILED
    assert capsys.readouterr().out.strip().endswith("1 promise kept, 1 broken")
    assert len(json.loads((tmp_path / "bench.json").read_text())["rows"]) == 3
    with Image.open(tmp_path / "bench.png") as drawn:
        assert drawn.width > 500


def test_a_bar_reaches_its_promise_where_the_value_does() -> None:
    assert plot.share(table.row("x", [4.0], "ms", at_most=8.0)) == 0.5
    assert plot.share(table.row("x", [4.0], "ms", at_most=0)) > 1
    assert plot.share(table.row("x", [0.0], "ms", at_most=0)) == 1


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


def test_the_stages_of_a_request_add_up_to_what_it_took() -> None:
    timings = dict(decode=2.0, infer=6.0, worker=9.0, queue=1.0, broker=11.0, total=12.0)
    body = json.dumps({"timings_ms": timings}).encode()
    found = stages.mean([(0.013, body), (0.015, body)])
    assert found["HTTP"] == pytest.approx(2.0)
    assert found["broker, to the worker and back"] == pytest.approx(1.0)
    assert sum(found.values()) == pytest.approx(14.0)


def test_a_part_that_fails_costs_no_other_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> list[table.Row]:
        raise AssertionError("the worker never came up")

    fine = [table.row("fast", [3.0], "/s", [1.0], at_least=2.0)]
    parts = {"bad": ("Bad", broken), "good": ("Good", lambda _: fine)}
    monkeypatch.setattr(command, "PARTS", parts)
    assert command.main(["--folder", str(tmp_path)]) == EXIT_FAILED
    printed = capsys.readouterr()
    assert "fast" in printed.out
    assert "the worker never came up" in printed.err
    assert (tmp_path / "bench.json").exists()
