"""How the command line writes answers: a table, JSON lines or CSV, and files it can continue.

A file has answers only, each written whole and flushed. So all answers in it are complete, except
that its last line may be half written if the program was killed.
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

#: How every JSON line starts. A file that starts otherwise is not ours to truncate.
JSON_START = b'{"path": '


class CannotContinue(Exception):
    """A file cannot be continued. `str()` is a sentence on why, and what to do."""


class Format(Protocol):
    """One way to write answers."""

    def header(self) -> str:
        """The header above all answers."""
        ...

    def line(self, path: Path, answer: Answer) -> str:
        """The text of one answer, with the end of its line."""
        ...


class ReadableFormat(Format, Protocol):
    """A format that can be read again, so that a file can be continued."""

    def read(self, file: BinaryIO) -> Iterator[tuple[str, int]]:
        """The path of each whole answer, and the byte offset of its end.

        Raises:
            ValueError: the file has other content. A half-written last line is only left out.
        """
        ...


class Table:
    """Columns for people: picture, probability, label."""

    def __init__(self, width: int) -> None:
        """`width`: characters of the longest path."""
        self._width = width

    def header(self) -> str:
        return f"{'picture':{self._width}}  probability  label\n"

    def line(self, path: Path, answer: Answer) -> str:
        names = [str(path)] + [""] * (len(answer.predictions) - 1)
        return "".join(
            f"{name:{self._width}}  {100 * p['probability']:9.1f} %  {p['label']}\n"
            for name, p in zip(names, answer.predictions, strict=True)
        )


class JsonLines:
    """One JSON object a line."""

    def header(self) -> str:
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

    def header(self) -> str:
        return self._row(self._columns)

    def line(self, path: Path, answer: Answer) -> str:
        pairs = [cell for p in answer.predictions for cell in (p["label"], p["probability"])]
        cells = [str(path), *pairs]
        return self._row(cells + [""] * (len(self._columns) - len(cells)))

    def read(self, file: BinaryIO) -> Iterator[tuple[str, int]]:
        header = self.header().encode()
        start = file.readline()
        if start != header:
            if header.startswith(start):
                return  # empty, or killed while it wrote the first line
            raise ValueError("its columns are not those of this command (--top-k sets them)")
        end = len(start)
        last = ""

        def lines() -> Iterator[str]:
            nonlocal end, last
            for line in file:
                end += len(line)
                last = os.fsdecode(line)
                yield last

        yield "", end  # the header is whole
        for row in csv.reader(lines()):
            if len(row) == len(self._columns) and last.endswith("\r\n"):
                yield row[0], end
            elif file.read(1):
                raise ValueError("a row has a different number of cells than the first")

    @staticmethod
    def _row(cells: list[str]) -> str:
        text = io.StringIO()
        csv.writer(text).writerow(cells)
        return text.getvalue()


class OutputFile:
    """A file of answers, continued after those it already has."""

    def __init__(self, path: Path, format: ReadableFormat) -> None:
        """Open it, and truncate a half-written last line.

        Raises:
            OSError: it cannot be opened.
            CannotContinue: another program writes to it, or it has other content. It is left as
                it is.
        """
        self._format = format
        self.done: set[str] = set()
        self._file = open(path, "a+b")  # noqa: SIM115 - closed by `close`
        try:
            self._continue(path)
        except BaseException:
            self._file.close()
            raise

    def _continue(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotContinue(
                f"Another {prog('classify')} writes to {path}. Name another file."
            ) from None
        self._file.seek(0)
        end = 0
        try:
            for name, at in self._format.read(self._file):
                self.done.add(name)
                end = at
        except (ValueError, KeyError, csv.Error) as error:
            raise CannotContinue(
                f"{path} cannot be continued: {error}. Name another file."
            ) from None
        self._file.truncate(end)
        if not end:
            self._write(self._format.header())

    def add(self, path: Path, answer: Answer) -> None:
        """Append an answer. When this returns, the operating system has it."""
        self._write(self._format.line(path, answer))

    def _write(self, text: str) -> None:
        self._file.write(os.fsencode(text))
        self._file.flush()

    def close(self) -> None:
        self._file.close()
