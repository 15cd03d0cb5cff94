"""The whole of `make run` over HTTP, beside what the cores can do without it:
`python -m bench.http`.

The fleet is the one `make run` starts, with its defaults, on free ports. It and the in-process
pipeline (bench/pipeline.py) take turns in one run, with the same pictures and as many processes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psutil
from tqdm import tqdm

from bench import load, pipeline, stages, table
from bench.photos import photos, usual
from spyglass.runtime.settings import EXIT_FAILED, cores, seconds, whole
from testbed.fleet import Service
from testbed.processes import QUIET, eventually

#: Connections at a time. One shows the latency, the others the throughput.
CONNECTIONS = (1, 16, 32, 64)
#: Those whose requests are followed through every stage: one alone, and many that wait.
PROFILED = (1, 32)
#: The least share of the in-process pipeline's images a second that goes through HTTP.
SHARE_OF_CEILING = 0.92
#: Milliseconds that one picture alone may take longer than in process.
LATENCY_ABOVE = 2.0
#: Times the mean wait that the throughput implies, at most, for 99 % of 32 connections.
TAIL = 1.5
#: MiB (PSS) of everything that `make run` starts, and of the broker.
MEMORY, BROKER_MEMORY = 900, 50
#: Seconds until all workers are ready.
START_WITHIN = 120.0


class Running(Service):
    """What `make run` starts, on ports of its own."""

    def __init__(self, **settings: str) -> None:
        """With the defaults, but for these environment variables."""
        super().__init__(settings=settings, **QUIET)

    def wait(self) -> None:
        """Until every process of the fleet that computes is ready.

        Raises:
            TimeoutError: they were not in time.
        """
        what = "`make run` is ready; if it is not, start it by hand to see why"
        eventually(self._ready_or_ended, what, START_WITHIN, every=0.1)
        if self.process.poll() is not None:
            raise TimeoutError("`make run` ended by itself; start it by hand to see why")

    def _ready_or_ended(self) -> bool:
        return self.process.poll() is not None or self._workers() >= 2

    def _workers(self) -> int:
        try:
            return len(self.status()["workers"])
        except OSError:
            return 0

    def parts(self) -> Iterator[tuple[str, psutil.Process]]:
        """Every process and what it is."""
        root = psutil.Process(self.process.pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                words = process.cmdline()
            except psutil.NoSuchProcess:  # it has just ended, as the one that prints "ready" does
                continue
            command = " ".join(words)
            if "web" in words:
                yield "web", process
            elif "broker" in words:
                yield "broker", process
            elif "worker" in words:
                yield "workers' parents", process
            elif "forkserver" in command or "resource_tracker" in command:
                yield "workers' children", process
            else:
                yield "supervisor", process

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU each part has used since it began."""
        used: dict[str, float] = defaultdict(float)
        for part, process in self.parts():
            times = process.cpu_times()
            used[part] += times.user + times.system
        return used

    def memory(self) -> dict[str, float]:
        """MiB of memory (PSS) of each part."""
        taken: dict[str, float] = defaultdict(float)
        for part, process in self.parts():
            taken[part] += process.memory_full_info().pss / 2**20
        return taken


@contextmanager
def running(**settings: str) -> Iterator[Running]:
    """A fleet that is ready; ended afterwards."""
    with Running(**settings) as fleet:
        fleet.wait()
        yield fleet


def measure(pictures: Sequence[bytes], runs: int, for_seconds: float) -> list[table.Row]:
    """Take turns `runs` times, for so many seconds each.

    Raises:
        TimeoutError, ConnectionError, EOFError: a side did not start, or stopped answering.
    """
    asked = load.requests(pictures)
    rates: dict[int, list[float]] = defaultdict(list)
    p50, alone, tail, ceiling = [], [], [], []
    spent: dict[str, list[float]] = defaultdict(list)
    passed: dict[tuple[int, str], list[float]] = defaultdict(list)
    with ExitStack() as ended:
        fleet = ended.enter_context(running())
        load.run(fleet.port, asked, 32, for_seconds)
        memory = fleet.memory()  # now: whoever else loads torch shares its pages, and lowers it
        all_cores = ended.enter_context(closing(pipeline.Side("spyglass", cores(), list(pictures))))
        one_core = ended.enter_context(closing(pipeline.Side("spyglass", 1, list(pictures))))
        for side in (all_cores, one_core):
            side.wait()
            side.run(0.5)
        for _ in tqdm(range(runs), unit="turn", desc="HTTP"):
            ceiling.append(all_cores.run(for_seconds))
            alone.append(1000 / one_core.run(for_seconds))
            for connections in CONNECTIONS:
                before, own = fleet.cpu(), time.process_time()
                measured = load.run(fleet.port, asked, connections, for_seconds)
                rates[connections].append(measured.rate)
                if connections == 1:
                    p50.append(measured.at(0.5))
                if connections == 32:
                    tail.append(measured.at(0.99) / (1000 * connections / measured.rate))
                    used = {part: at - before[part] for part, at in fleet.cpu().items()}
                    used["load"] = time.process_time() - own
                    for part, value in used.items():
                        spent[part].append(1000 * value / len(measured.answers))
                if connections in PROFILED:
                    for stage, took in stages.mean(measured.answers).items():
                        passed[connections, stage].append(took)
        broker = fleet.memory()["broker"]
    rows = [table.row("in process, all cores", ceiling, "images/s")]
    for connections in CONNECTIONS[1:]:
        name = f"HTTP, {connections} connections"
        against = (ceiling, SHARE_OF_CEILING)
        rows.append(table.row(name, rates[connections], "images/s", *against))
    above = [http - inside for http, inside in zip(p50, alone, strict=True)]
    rows += [
        table.row("in process, one picture alone", alone, "ms"),
        table.row("HTTP, 1 connection, median", p50, "ms"),
        table.row("  more than in process", above, "ms", at_most=LATENCY_ABOVE),
        table.row("HTTP, 32 connections, p99 / mean wait", tail, "x", at_most=TAIL),
    ]
    for (connections, stage), took_each in passed.items():
        rows.append(table.row(f"of a request's time, {connections}: {stage}", took_each, "ms"))
    rows += [table.row(f"CPU an image: {part}", values, "ms") for part, values in spent.items()]
    rows += [table.row(f"memory: {part}", [taken], "MiB (PSS)") for part, taken in memory.items()]
    rows.append(table.row("memory: all", [sum(memory.values())], "MiB (PSS)", at_most=MEMORY))
    rows.append(
        table.row("memory: broker, in the end", [broker], "MiB (PSS)", at_most=BROKER_MEMORY)
    )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code shows whether the promises were kept."""
    what = "Images a second through all of Spyglass, and in process, in turns."
    return command("http", what, measure, argv)


def command(
    name: str,
    what: str,
    measure: Callable[[Sequence[bytes], int, float], list[table.Row]],
    argv: Sequence[str] | None,
) -> int:
    """The command line of a measurement over HTTP; the exit code."""
    p = argparse.ArgumentParser(
        prog=f"python -m bench.{name}",
        description=what,
        epilog=f"examples:\n  python -m bench.{name}\n"
        f"  python -m bench.{name} --photos holidays/ --runs 3 --json {name}.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--photos", type=Path, help="folder of JPEGs (default: made ones)")
    p.add_argument("--runs", type=whole(1, 1000), default=5, help="turns (5)")
    p.add_argument("--seconds", type=seconds(0.1, 600), default=3.0, help="seconds a turn (3)")
    p.add_argument("--json", type=Path, help="file for the figures (default: none)")
    options = p.parse_args(argv)
    try:
        rows = measure(usual(photos(options.photos)), options.runs, options.seconds)
    except (ValueError, TimeoutError, ConnectionError, EOFError) as error:
        print(f"bench.{name}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return table.report(rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
