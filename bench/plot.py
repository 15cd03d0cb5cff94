"""The plot of `python -m bench`: every judged figure against its promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.table import Row

#: Bars end here: how far beyond its promise a figure lies is in its label.
LONGEST = 2.0
KEPT, BROKEN = "#2a7f62", "#c0392b"


def share(row: Row) -> float:
    """The judged figure as a multiple of its promise; of a promised zero, all or beyond all."""
    promised = row.at_most if row.at_least is None else row.at_least
    if not promised:
        return 1.0 if row.kept else LONGEST
    return row.judged / promised


def draw(parts: Mapping[str, Sequence[Row]], machine: str, path: Path) -> None:
    """Write the plot, a PNG: one bar for each promise, as long as the promise is 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for part in parts.values() for row in part if row.promise]
    figure, axes = pyplot.subplots(figsize=(10, 1.4 + 0.32 * len(rows)), layout="constrained")
    lengths = [min(share(row), LONGEST) for row in rows]
    colours = [KEPT if row.kept else BROKEN for row in rows]
    axes.barh(range(len(rows)), lengths, color=colours, height=0.62)
    axes.axvline(1, color="#222222", linewidth=1.2)
    for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        unit = "" if row.ratio is not None or not row.unit else f" {row.unit}"
        text = f"{row.judged:.3g}{unit}, promised {row.promise}"
        text += "" if row.kept else " BROKEN"
        axes.text(max(length, 1) + 0.02, place, text, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row.name.strip() for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, LONGEST + 0.8)
    axes.set_xticks([0, 0.5, 1, 1.5, 2], ["0", "0.5", "promise", "1.5", "2 or more"])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"Spyglass beside its promises\n{machine}", loc="left", fontsize=10)
    axes.set_xlabel("≥ must reach the line, ≤ must not pass it", fontsize=9)
    figure.savefig(path, dpi=120, facecolor="white")
    pyplot.close(figure)
