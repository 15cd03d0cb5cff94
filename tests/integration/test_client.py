"""The client's command line, with a real broker and a fake model; and the README's example."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from spyglass.client import cli
from spyglass.client.cli import BYTES_IN_FLIGHT, IN_FLIGHT
from spyglass.client.inputs import pictures
from spyglass.client.outputs import CannotContinue, Csv, JsonLines, OutputFile
from spyglass.client.thread_client import Answer, RequestFailed
from spyglass.protocol import Reason, Times
from testbed.fleet import Fleet
from testbed.processes import ROOT

NOBODY = "tcp://127.0.0.1:9"


@pytest.fixture(scope="module")
def shared() -> Iterator[Fleet]:
    with Fleet() as fleet:
        fleet.start_broker()
        fleet.start_worker("attic")
        yield fleet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of them in a subfolder, and a file that is not a picture."""
    (tmp_path / "deep").mkdir()
    for name in ("a.jpg", "b.PNG", "deep/c.webp"):
        (tmp_path / name).write_text(f"label:{Path(name).stem}")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def named(*names: str, stdin: bytes = b"") -> list[str]:
    return [str(path) for path in pictures(names, io.BytesIO(stdin))]


def run(fleet: Fleet, *arguments: object) -> int:
    return cli.main(["--broker", fleet.frontend, *map(str, arguments)])


# --- which pictures ---------------------------------------------------------------------------


def test_a_folder_means_the_pictures_in_it_at_any_depth(folder: Path) -> None:
    assert named(str(folder)) == [f"{folder}/{n}" for n in ("a.jpg", "b.PNG", "deep/c.webp")]


def test_a_pattern_means_the_files_it_matches(folder: Path) -> None:
    assert named(f"{folder}/**/*.[jw]*") == [f"{folder}/a.jpg", f"{folder}/deep/c.webp"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder: Path) -> None:
    (folder / "[a].jpg").touch()
    assert named(f"{folder}/[a].jpg") == [f"{folder}/[a].jpg"]


def test_a_list_on_standard_input_has_lines_or_zero_bytes(folder: Path) -> None:
    assert named("-", stdin=f"x y.jpg\n\n{folder}/deep\n".encode()) == [
        "x y.jpg",
        f"{folder}/deep/c.webp",
    ]
    assert named("-", stdin=b"two\nlines.jpg\0z.jpg\0") == ["two\nlines.jpg", "z.jpg"]


def test_a_picture_named_twice_is_sent_once(folder: Path) -> None:
    assert named(f"{folder}/a.jpg", f"{folder}/a.jpg", f"{folder}/*.jpg") == [f"{folder}/a.jpg"]


# --- forms ------------------------------------------------------------------------------------


def test_the_table_shows_each_picture_with_its_labels(
    shared: Fleet, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shared, "--top-k", 2, folder / "a.jpg", folder / "deep") == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["picture", "probability", "label"]
    assert [row.split("%")[1].strip() for row in rows] == ["a", "label 1", "c", "label 1"]
    assert [row.split()[0] for row in rows[::2]] == [f"{folder}/a.jpg", f"{folder}/deep/c.webp"]


def test_json_has_a_line_for_each_picture_also_for_one_that_failed(
    shared: Fleet, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.jpg").write_text("bad")
    assert run(shared, "--json", folder, folder / "missing.jpg") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["path"]).name for line in lines] == [
        "a.jpg",
        "b.PNG",
        "c.webp",
        "missing.jpg",
    ]
    assert "not a picture" in lines[0]["error"] and "No such file" in lines[3]["error"]
    assert lines[1]["worker"] == "attic" and len(lines[1]["predictions"]) == 5


def test_csv_has_a_row_for_each_answer_and_failures_go_to_standard_error(
    shared: Fleet, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.jpg").write_text("bad")
    assert run(shared, "--csv", "--top-k", 1, folder) == 1
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [Path(row["path"]).name for row in rows] == ["b.PNG", "c.webp"]
    assert rows[0].keys() == {"path", "label_1", "probability_1"}
    assert rows[0]["probability_1"] == "0.5"
    assert f"{folder}/a.jpg: This is not a picture." in printed.err


def test_a_terminal_shows_a_progress_bar_with_rate_and_time_left(
    shared: Fleet, folder: Path
) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "client.py", "--broker", shared.frontend, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        process.communicate(timeout=30)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert re.search(r"3/3 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+picture/s\]", shown), shown


# --- files that are continued -----------------------------------------------------------------


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_what_an_output_file_has_is_not_sent_again(
    shared: Fleet, folder: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = folder / "labels"
    (folder / "b.PNG").write_text("bad")
    assert run(shared, form, "--output", output, folder) == 1
    first = output.read_bytes()
    assert b"b.PNG" not in first and b"c.webp" in first
    (folder / "a.jpg").unlink()  # reading it again would fail
    (folder / "b.PNG").write_text("good now")
    assert run(shared, form, "--output", output, f"{folder}/a.jpg", folder) == 0
    whole = output.read_bytes()
    assert whole.startswith(first) and whole.count(b"b.PNG") == 1
    assert "2 of 3 are in" in capsys.readouterr().err
    output.write_bytes(whole[:-9])  # killed while it wrote
    assert run(shared, form, "--output", output, folder) == 0
    lines = output.read_bytes().splitlines()
    assert lines[-1].count(b"b.PNG") == 1 and len(lines) == (3 if form == "--json" else 4)


def test_a_file_cut_anywhere_is_continued_to_the_same_content(tmp_path: Path) -> None:
    answer = Answer(
        "id", "m", "d", [{"label": 'a, "b"', "probability": 0.5}], "w", 1, Times(0, 0), 0
    )
    names = [Path("x.jpg"), Path("two\r\nlines, é.jpg"), Path(os.fsdecode(b"\xff.jpg"))]
    for form in (JsonLines(), Csv(1)):
        output = tmp_path / "labels"
        output.unlink(missing_ok=True)
        whole = form.header() + "".join(form.line(name, answer) for name in names)
        for cut in range(len(os.fsencode(whole)) + 1):
            output.write_bytes(os.fsencode(whole)[:cut])
            record = OutputFile(output, form)
            for name in names:
                if str(name) not in record.done:
                    record.add(name, answer)
            record.close()
            assert output.read_bytes() == os.fsencode(whole), cut


@pytest.mark.parametrize("form", [JsonLines(), Csv(5)], ids=["json", "csv"])
@pytest.mark.parametrize("other", [b"a poem", b"path,x\r\n1,2\r\n", b'{"path": 1\n{"path": 2\n'])
def test_a_file_with_other_content_is_left_as_it_is(
    tmp_path: Path, form: Any, other: bytes
) -> None:
    (tmp_path / "mine").write_bytes(other)
    with pytest.raises(CannotContinue, match="Name another file"):
        OutputFile(tmp_path / "mine", form)
    assert (tmp_path / "mine").read_bytes() == other


def test_two_programs_do_not_write_to_one_file(tmp_path: Path) -> None:
    first = OutputFile(tmp_path / "labels", JsonLines())
    with pytest.raises(CannotContinue, match=r"Another client\.py"):
        OutputFile(tmp_path / "labels", JsonLines())
    first.close()
    OutputFile(tmp_path / "labels", JsonLines()).close()


# --- limits and exit codes --------------------------------------------------------------------


class Counting:
    """A fake client that counts the pictures, and their bytes, that are in flight at a time."""

    def __init__(self) -> None:
        self.open = self.bytes = self.most = self.most_bytes = 0

    def submit(self, picture: bytes, **_: Any) -> Any:
        self.open += 1
        self.bytes += len(picture)
        self.most = max(self.most, self.open)
        self.most_bytes = max(self.most_bytes, self.bytes)
        return self._Future(self, len(picture))

    class _Future:
        def __init__(self, counting: Counting, size: int) -> None:
            self.counting, self.size = counting, size

        def result(self) -> None:
            self.counting.open -= 1
            self.counting.bytes -= self.size


@pytest.mark.parametrize(
    ("size", "most"), [(1, IN_FLIGHT), (BYTES_IN_FLIGHT // 2, 2), (BYTES_IN_FLIGHT // 2 - 1, 2)]
)
def test_few_pictures_and_few_bytes_are_in_flight_at_a_time(
    size: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_read", lambda path: (size, bytes(1)))
    counting: Any = Counting()
    options = cli.parser().parse_args(["x"])
    assert len(list(cli.classify(counting, [tmp_path] * 50, options))) == 50
    assert counting.most == most and counting.open == 0


def test_without_a_broker_it_exits_at_once_with_a_code_of_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--broker", NOBODY, str(folder)]) == 3
    assert f"No broker answers at {NOBODY}. Is broker.py running there?" in capsys.readouterr().err


def test_a_broker_that_is_lost_meanwhile_ends_the_run_with_the_same_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Losing(Counting):
        def __init__(self, brokers: list[str]) -> None:
            super().__init__()

        def status(self) -> None: ...

        def submit(self, picture: bytes, **_: Any) -> Any:
            lost: Future[Answer] = Future()
            lost.set_exception(RequestFailed(Reason.NO_BROKER, "No broker answers."))
            return lost

        def close(self) -> None: ...

    monkeypatch.setattr(cli, "BrokerClient", Losing)
    assert cli.main([str(folder)]) == 3
    assert capsys.readouterr().err.count("No broker answers.") == 1


@pytest.mark.parametrize("wrong", [["--output", "f", "x"], ["--json", "--csv", "x"], []])
def test_flags_that_exclude_each_other_are_a_usage_error(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(wrong)
    assert left.value.code == 2


def test_an_output_file_that_cannot_be_used_is_a_usage_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for output in (folder, folder / "a.jpg"):
        assert cli.main(["--json", "--output", str(output), str(folder)]) == 2
        assert str(output) in capsys.readouterr().err
    assert (folder / "a.jpg").read_text() == "label:a"


def test_the_library_example_of_the_readme_runs(
    shared: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found and "BrokerClient(" in found[1] and len(found[1].splitlines()) <= 10
    (tmp_path / "photo.jpg").write_text("label:espresso")
    example = found[1].replace("tcp://127.0.0.1:5555", shared.frontend)
    shown = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert shown.stdout.splitlines()[0] == "espresso 0.5"
    assert shown.stdout.splitlines()[-1].startswith("attic 1 ")
