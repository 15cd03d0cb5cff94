"""The pictures that a command line names: files, folders, patterns, a list on standard input."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from spyglass import formats

#: The name that stands for standard input.
STDIN = "-"


def pictures(names: Iterable[str], stdin: BinaryIO) -> list[Path]:
    """Each picture that is named, once, in the order of the names.

    Args:
        names: files, taken as named; folders, searched for files with a picture's suffix; patterns
            such as `**/*.jpg`, unless a file has that very name; `-` for names in `stdin`.
        stdin: one file or folder a line, or each ended by a zero byte, as `find -print0` does.
    """
    found = (path for name in names for path in _named(name, stdin))
    return list(dict.fromkeys(found))


def _named(name: str, stdin: BinaryIO) -> Iterator[Path]:
    if name == STDIN:
        text = os.fsdecode(stdin.read())
        for line in text.split("\0") if "\0" in text else text.splitlines():
            if line:
                yield from _pictures_in(Path(line))
    elif glob.has_magic(name) and not os.path.lexists(name):
        matches = sorted(glob.glob(name, recursive=True))
        for match in matches or [name]:  # without a match it is reported like a missing file
            yield from _pictures_in(Path(match))
    else:
        yield from _pictures_in(Path(name))


def _pictures_in(path: Path) -> Iterator[Path]:
    """The pictures in a folder, or a file itself."""
    if path.is_dir():
        found = (p for p in path.rglob("*") if p.suffix.lower() in formats.EXTENSIONS)
        yield from sorted(found)
    else:
        yield path
