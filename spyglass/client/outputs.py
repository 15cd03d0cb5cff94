"""How the command line writes answers: a table, JSON lines or CSV, and a file it can go on with.

A file holds answers only, each written whole and flushed; so what stands in it is done, and at most
its last line is half written when the program was killed.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, Protocol

from spyglass.client.thread_client import Answer
from spyglass.runtime.commands import prog

#: How every JSON line starts. A file that starts otherwise is not ours to cut.
JSON_START = b'{"path": '


class NotOurs(Exception):
    """A file that cannot be continued; the sentence says why, and what to do."""


class Form(Protocol):
    """One way to write answers."""

    def head(self) -> str:
        """What stands above all answers."""
        ...

    def line(self, path: Path, answer: Answer) -> str:
        """One answer, with the end of its line."""
        ...


class Continued(Form, Protocol):
    """A form that can be read again."""

    def read(self, file: BinaryIO) -> Iterator[tuple[str, int]]:
        """Path of each whole answer, and the byte where it ends.

        Raises:
            ValueError: this is no such file. A half-written last line is only left out.
        """
        ...


class Table:
    """Columns for people: picture, probability, label."""

    def __init__(self, width: int) -> None:
        """`width`: characters of the longest path."""
        self._width = width

    def head(self) -> str:
        return f"{'picture':{self._width}}  probability  label\n"

    def line(self, path: Path, answer: Answer) -> str:
        names = [str(path)] + [""] * (len(answer.predictions) - 1)
        return "".join(
            f"{name:{self._width}}  {100 * p['probability']:9.1f} %  {p['label']}\n"
            for name, p in zip(names, answer.predictions, strict=True)
        )


class JsonLines:
    """One JSON object a line."""

    def head(self) -> str:
        return ""

    def line(self, path: Path, answer: Answer) -> str:
        return json.dumps({"path": str(path)} | asdict(answer)) + "\n"

    def read(self, file: BinaryIO) -> Iterator[tuple[str, int]]:
        end = 0
        for line in file:
            if not line.startswith(JSON_START[: len(line)]):
                raise ValueError("a line is not one of these answers")
            if line.endswith(b"\n"):
                end += len(line)
                yield json.loads(line)["path"], end


class Csv:
    """Comma-separated values (RFC 4180): path, then label and probability of each prediction."""

    def __init__(self, top_k: int) -> None:
        numbers = range(1, top_k + 1)
        pairs = [name for n in numbers for name in (f"label_{n}", f"probability_{n}")]
        self._columns = ["path", *pairs]

    def head(self) -> str:
        return self._row(self._columns)

    def line(self, path: Path, answer: Answer) -> str:
        pairs = [cell for p in answer.predictions for cell in (p["label"], p["probability"])]
        cells = [str(path), *pairs]
        return self._row(cells + [""] * (len(self._columns) - len(cells)))

    def read(self, file: BinaryIO) -> Iterator[tuple[str, int]]:
        head = self.head().encode()
        start = file.readline()
        if start != head:
            if head.startswith(start):
                return  # empty, or killed amid its first line
            raise ValueError("its columns are not those of this command (--top-k sets them)")
        end = len(start)
        last = ""

        def lines() -> Iterator[str]:
            nonlocal end, last
            for line in file:
                end += len(line)
                last = os.fsdecode(line)
                yield last

        yield "", end  # the head is whole
        for row in csv.reader(lines()):
            if len(row) == len(self._columns) and last.endswith("\r\n"):
                yield row[0], end
            elif file.read(1):
                raise ValueError("a row has not as many cells as the first")

    @staticmethod
    def _row(cells: list[str]) -> str:
        text = io.StringIO()
        csv.writer(text).writerow(cells)
        return text.getvalue()


class Record:
    """An output file: goes on after the answers it already has."""

    def __init__(self, path: Path, form: Continued) -> None:
        """Open it, and cut off a half-written last line.

        Raises:
            OSError: it cannot be opened.
            NotOurs: another program writes to it, or it holds something else. It is left as it is.
        """
        self._form = form
        self.done: set[str] = set()
        self._file = open(path, "a+b")  # noqa: SIM115 - closed by `close`
        try:
            self._go_on(path)
        except BaseException:
            self._file.close()
            raise

    def _go_on(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotOurs(
                f"Another {prog('classify')} writes to {path}. Name another file."
            ) from None
        self._file.seek(0)
        end = 0
        try:
            for name, at in self._form.read(self._file):
                self.done.add(name)
                end = at
        except (ValueError, KeyError, csv.Error) as error:
            raise NotOurs(f"{path} cannot be continued: {error}. Name another file.") from None
        self._file.truncate(end)
        if not end:
            self._write(self._form.head())

    def add(self, path: Path, answer: Answer) -> None:
        """One more answer, out of this program's hands when this returns."""
        self._write(self._form.line(path, answer))

    def _write(self, text: str) -> None:
        self._file.write(os.fsencode(text))
        self._file.flush()

    def close(self) -> None:
        self._file.close()
