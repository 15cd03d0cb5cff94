"""Which runs there are, and what is kept of each for the table and the plot."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from simulation import figures
from simulation.figures import Figures
from simulation.plan import NONE, Plan
from simulation.world import World

#: Offered load, as a share of what all workers together can compute.
LOADS = (0.5, 0.8, 0.95, 1.1)
#: Fleets for the cost of a request by the number of workers.
FLEETS = (10, 100, 1_000, 10_000)
#: Of the requests, and of the workers, how many the other parts take: they need fewer.
FEWER = 10

PARTS = ("loads", "workers", "brokers", "storm")


@dataclass(frozen=True)
class Run:
    """One run, ended."""

    part: str
    name: str
    figures: Figures
    survival: tuple[list[float], list[float]]
    samples: list[tuple[float, int, int]]
    rates: tuple[list[float], list[float]]


def plans(part: str, plan: Plan) -> list[tuple[str, Plan]]:
    """The runs of a part, by name."""
    fewer = replace(plan, requests=max(1, plan.requests // FEWER))
    if part == "loads":
        return [(f"load {load:.2f}", replace(plan, load=load)) for load in LOADS]
    if part == "workers":
        sizes = [size for size in FLEETS if size <= plan.workers]
        calm = replace(fewer, faults=NONE)
        return [(f"{size:,} workers", replace(calm, workers=size)) for size in sizes]
    half = replace(fewer, workers=max(2, plan.workers // FEWER))
    if part == "storm":
        return [("all connections cut", replace(half, storm=True))]
    two = replace(half, brokers=2)
    return [
        ("one broker", half),
        ("two, workers at both", two),
        ("two, workers split", replace(two, split=True)),
        ("two, both, one killed", replace(two, kill=True)),
        ("two, split, one killed", replace(two, split=True, kill=True)),
    ]


def run(part: str, name: str, plan: Plan, progress: Callable[[int], Any]) -> Run:
    """Play a plan. The collector rests: its passes over all that is simulated would be counted
    as the dispatcher's, and requests leave no cycles behind."""
    gc.collect()
    gc.disable()
    try:
        world = World(plan, progress)
        world.run()
    finally:
        gc.enable()
    ordered = sorted(world.ledger.latencies) or [0.0]
    curve = figures.survival(ordered)
    return Run(part, name, figures.of(world), curve, world.samples, figures.rates(world))


def study(parts: list[str], plan: Plan, progress: Callable[[int], Any]) -> Iterator[Run]:
    """All runs of these parts, one after the other."""
    for part in parts:
        for name, one in plans(part, plan):
            yield run(part, name, one, progress)
