"""The plot: latency, queue, cost by the size of the fleet, and a broker's death."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulation.study import Run

COLOURS = ("#2a7f62", "#2b6cb0", "#b7791f", "#c0392b", "#6b46c1")


def draw(runs: Sequence[Run], path: Path) -> bool:
    """Write the plot, a PNG, with a panel for each part that can be drawn; whether any can."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    loads = [run for run in runs if run.part == "loads"]
    sizes = [run for run in runs if run.part == "workers"]
    deaths = [run for run in runs if run.figures.failover is not None]
    wanted = [(_latency, loads), (_queue, loads), (_cost, sizes), (_death, deaths)]
    panels = [(panel, shown) for panel, shown in wanted if shown]
    if not panels:
        return False
    rows = (len(panels) + 1) // 2
    size = 12, 4.25 * rows
    columns = min(2, len(panels))
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for panel, (fill, shown) in zip(axes.flat, panels, strict=False):
        fill(panel, shown)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#dddddd", linewidth=0.6)
    figure.savefig(path, dpi=110, facecolor="white")
    pyplot.close(figure)
    return True


def _latency(panel: Any, runs: Sequence[Run]) -> None:
    for run, colour in zip(runs, COLOURS, strict=False):
        latencies, shares = run.survival
        milliseconds = [1000 * latency for latency in latencies]
        panel.plot(milliseconds, shares, label=run.name, color=colour)
    panel.set(xscale="log", yscale="log", xlabel="latency at the client (ms)")
    panel.set(ylabel="share of the answers that took longer", title="Latency by offered load")
    _legend(panel)


def _queue(panel: Any, runs: Sequence[Run]) -> None:
    for run, colour in zip(runs, COLOURS, strict=False):
        last = run.figures.plan.service + run.figures.lasts_s
        shown = [sample for sample in run.samples if sample[0] <= last]
        times = [at for at, _, _ in shown]
        panel.plot(times, [waiting for _, waiting, _ in shown], label=run.name, color=colour)
    panel.set(xlabel="simulated time (s)", ylabel="requests that no worker has")
    panel.set(title="Queue at the broker")
    _legend(panel)


def _cost(panel: Any, runs: Sequence[Run]) -> None:
    sizes = [run.figures.plan.workers for run in runs]
    panel.plot(sizes, [r.figures.us_a_request for r in runs], "o-", color=COLOURS[0])
    panel.set(xscale="log", ylim=(0, None), xlabel="workers")
    panel.set(ylabel="dispatcher's time a request (µs)", title="Cost of a request by fleet")


def _death(panel: Any, runs: Sequence[Run]) -> None:
    panel.axvline(runs[0].figures.lasts_s / 2, color="#888888", linestyle=":", label="its death")
    for run, colour in zip(runs, COLOURS[1:], strict=False):
        times, rates = run.rates
        panel.plot(times, rates, label=run.name, color=colour)
    panel.set(xlim=(0, 1.1 * runs[0].figures.lasts_s), ylim=(0, None))
    panel.set(xlabel="simulated time (s)", ylabel="answers a second")
    panel.set(title="One of two brokers killed half-way")
    _legend(panel)


def _legend(panel: Any) -> None:
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, fontsize=9)
