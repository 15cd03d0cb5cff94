"""The broker alone, beside `zmq.proxy`: `python -m bench.broker`.

One client keeps requests outstanding, workers answer at once (echo.py), and the same frames pass
either through the broker or through libzmq's own proxy, which is written in C and promises
nothing. All sides run in turns, so that a machine that slows down slows them alike.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from bench import table
from bench.echo import CREDIT, Run, Setup, start_broker, start_proxy
from spyglass.runtime.settings import EXIT_FAILED, seconds, whole
from testbed.processes import rss

#: Requests a client keeps outstanding, unless a row names another number.
OUTSTANDING = 64
#: Bytes of the pictures, and the share of the proxy's rate that the broker must reach with them.
SIZES = {110_000: 0.75, 100: 0.22}
#: Workers that must not make a request dearer, and requests waiting that must not.
FLEETS, QUEUES = (2, 20, 200, 1000), (10, 10_000)
#: Dearer than with the smallest fleet or queue by at most this counts as no dearer.
STEADY = 1.5
#: Per cent of a core that the largest fleet may take while idle.
IDLE_SHARE = 5
#: Growth of the broker's memory over all runs that counts as none, in MiB.
FLAT = 16
#: Requests over which it must stay so, and what it may take after them, in MiB.
MANY, LARGEST = 100_000, 50
MIB = 1024 * 1024


def beside_proxy(
    size: int, least: float, runs: int, span: float, progress: tqdm
) -> list[table.Row]:
    """Rate and CPU of both, in alternating runs."""
    sides = {"zmq.proxy": Setup(start_proxy, 2, size)}
    try:
        sides["broker"] = Setup(start_broker, 2, size)
        taken: dict[str, list[Run]] = {side: [] for side in sides}
        for setup in sides.values():
            setup.run(OUTSTANDING, span / 2)  # the first requests fill caches
        memory = []
        for _ in range(runs):
            for side, setup in sides.items():
                taken[side].append(setup.run(OUTSTANDING, span))
                progress.update()
            memory.append(rss(sides["broker"].pid))
        # At its lowest: what passes through comes and goes.
        half = (runs + 1) // 2
        grown = (min(memory[-half:]) - min(memory[:half])) / MIB
    finally:
        for setup in sides.values():
            setup.close()
    rates = {side: [run.rate for run in taken[side]] for side in sides}
    costs = {side: [run.cpu_us for run in taken[side]] for side in sides}
    what = f"{size:,} B in"
    against = (rates["zmq.proxy"], least)
    return [
        table.row(f"zmq.proxy, {what}", rates["zmq.proxy"], "requests/s"),
        table.row(f"broker, {what}", rates["broker"], "requests/s", *against),
        table.row(f"zmq.proxy's CPU, {what}", costs["zmq.proxy"], "us/request"),
        table.row(f"broker's CPU, {what}", costs["broker"], "us/request"),
        table.row(f"broker's memory grown, {what}", [grown], "MiB", at_most=FLAT),
    ]


def steady(costs: dict[str, list[float]]) -> list[table.Row]:
    """CPU of the broker for each request, beside that of the first."""
    first = next(iter(costs.values()))
    return [
        table.row(name, values, "us/request", first, at_most=STEADY)
        for name, values in costs.items()
    ]


def with_fleets(fleets: Sequence[int], runs: int, span: float, progress: tqdm) -> list[table.Row]:
    """Cost of a request with more and more workers, and of the largest fleet while idle."""
    costs, idle = {}, 0.0
    for workers in fleets:
        setup = Setup(start_broker, workers, 100)
        try:
            setup.run(OUTSTANDING, span / 2)
            taken = [setup.run(OUTSTANDING, span) for _ in range(runs)]
            idle = setup.idle(span * runs)
        finally:
            setup.close()
        # Heartbeats cost the same whatever is asked, so they are no part of a request.
        costs[f"broker's CPU but beats, {workers:,} workers"] = [
            run.cpu_us - 1e6 * idle / run.rate for run in taken
        ]
        progress.update()
    name = f"broker's CPU, {fleets[-1]:,} idle workers"
    last = table.row(name, [100 * idle], "% of a core", at_most=IDLE_SHARE)
    return [*steady(costs), last]


def with_queues(queues: Sequence[int], runs: int, span: float, progress: tqdm) -> list[table.Row]:
    """Cost of a request while more and more wait."""
    costs = {}
    setup = Setup(start_broker, 2, 100)
    try:
        setup.run(OUTSTANDING, span / 2)
        for waiting in queues:
            taken = [setup.run(2 * CREDIT + waiting, span) for _ in range(runs)]
            costs[f"broker's CPU, {waiting:,} waiting"] = [run.cpu_us for run in taken]
            progress.update()
    finally:
        setup.close()
    return steady(costs)


def after_many(many: int, span: float, progress: tqdm) -> list[table.Row]:
    """The broker's memory over so many pictures."""
    setup = Setup(start_broker, 2, max(SIZES))
    try:
        done, memory = 0, []
        while done < many:
            done += setup.run(OUTSTANDING, span).answers
            memory.append(rss(setup.pid) / MIB)
    finally:
        setup.close()
    progress.update()
    grown = memory[-1] - memory[0]
    return [
        table.row(f"broker's memory after {many:,} pictures", memory[-1:], "MiB", at_most=LARGEST),
        table.row("  grown since the first second of them", [grown], "MiB", at_most=FLAT),
    ]


def rows(
    runs: int = 5,
    span: float = 1.0,
    fleets: Sequence[int] = FLEETS,
    queues: Sequence[int] = QUEUES,
    many: int = MANY,
) -> list[table.Row]:
    """Everything measured.

    Args:
        runs: of each side; the rows have the medians.
        span: seconds of a run.
        fleets: numbers of workers.
        queues: numbers of waiting requests.
        many: pictures over which the broker's memory must not grow.

    Raises:
        TimeoutError: a process started for it did not do its part.
    """
    found: list[table.Row] = []
    total = 2 * runs * len(SIZES) + len(fleets) + len(queues) + 1
    with tqdm(total=total, unit="run", disable=None) as progress:
        for size, least in SIZES.items():
            found += beside_proxy(size, least, runs, span, progress)
        found += with_fleets(fleets, runs, span, progress)
        found += with_queues(queues, runs, span, progress)
        found += after_many(many, span, progress)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    p = argparse.ArgumentParser(
        prog="python -m bench.broker",
        description="Measures the broker alone, beside zmq.proxy, with echo workers.",
        epilog="examples:\n  python -m bench.broker\n"
        "  python -m bench.broker --runs 9 --seconds 2 --json broker.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--runs", type=whole(1, 1000), default=5, help="runs of each side (5)")
    p.add_argument("--seconds", type=seconds(0.1, 60), default=1.0, help="of a run (1)")
    p.add_argument("--json", type=Path, help="file for the figures (default: none)")
    options = p.parse_args(argv)
    try:
        found = rows(options.runs, options.seconds)
    except TimeoutError as error:
        print(f"bench.broker: {error}; is the machine very busy?", file=sys.stderr)
        return EXIT_FAILED
    return table.report(found, options.json)


if __name__ == "__main__":
    sys.exit(main())
