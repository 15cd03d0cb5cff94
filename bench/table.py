"""What a measurement prints: rows with their spread, their ratio and the promise they keep.

Absolute figures move from hour to hour on a shared machine; a promise is therefore about a ratio
of two sides measured alternately in one run, wherever there are two sides.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from spyglass.runtime.settings import EXIT_FAILED, EXIT_OK


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        name: what was measured.
        value: the median of the runs.
        unit: of the value and of the spread.
        spread: (smallest, largest) of the runs.
        ratio: to the side it is compared with, the median of each run's own ratio; None without.
        at_least: the promise, for the ratio if there is one, else for the value.
        at_most: the same, from above.
    """

    name: str
    value: float
    unit: str
    spread: tuple[float, float]
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def promise(self) -> str:
        """The promise in signs, or nothing."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else ""

    @property
    def judged(self) -> float:
        """What the promise is about."""
        return self.value if self.ratio is None else self.ratio

    @property
    def kept(self) -> bool:
        """Whether the promise, if there is one, holds."""
        if self.at_least is not None and self.judged < self.at_least:
            return False
        return self.at_most is None or self.judged <= self.at_most


def row(
    name: str,
    runs: Sequence[float],
    unit: str,
    against: Sequence[float] | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """A row of the runs of one side, `against` those of the other, taken alternately."""
    ratio = None
    if against is not None:
        ratio = statistics.median(a / b for a, b in zip(runs, against, strict=True))
    spread = (min(runs), max(runs))
    return Row(name, statistics.median(runs), unit, spread, ratio, at_least, at_most)


def machine() -> str:
    """The processor, its cores that are ours, and Python's version."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def show(parts: Mapping[str, Sequence[Row]]) -> str:
    """The rows as a table of text, each part under its heading, all under a line on the machine."""
    lines = [("", "median", "from ... to", "", "ratio", "promise")]
    headings = {}
    for heading, rows in parts.items():
        if heading:
            headings[len(lines)] = heading
        lines += _cells(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [machine(), ""]
    for number, (name, *cells) in enumerate(lines):
        if number in headings:
            text += ["", headings[number]]
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        text.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(text)


def _cells(rows: Sequence[Row]) -> list[tuple[str, str, str, str, str, str]]:
    lines = []
    for r in rows:
        ratio = "" if r.ratio is None else f"{r.ratio:.2f}"
        promise = r.promise and f"{r.promise} {'kept' if r.kept else 'BROKEN'}"
        spread = f"{_number(r.spread[0])} ... {_number(r.spread[1])}"
        lines.append((r.name, _number(r.value), spread, r.unit, ratio, promise))
    return lines


def write(parts: Mapping[str, Sequence[Row]], path: Path) -> None:
    """The rows as JSON, each with the part it belongs to."""
    found = [
        {"part": part} | asdict(r) | {"promise": r.promise, "kept": r.kept}
        for part, rows in parts.items()
        for r in rows
    ]
    path.write_text(json.dumps({"machine": machine(), "rows": found}, indent=2) + "\n")


def report(rows: Sequence[Row], path: Path | None) -> int:
    """Print the rows, write them if a file is wanted; the exit code: 0 if all promises hold."""
    print(show({"": rows}))
    if path is not None:
        write({"": rows}, path)
    return EXIT_OK if all(row.kept for row in rows) else EXIT_FAILED


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
