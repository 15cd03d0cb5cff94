"""A worker seen from its broker: `python -m bench.workers`.

How long it takes to become ready, how long to replace a killed child, and what CPU its processes
take for a picture apart from recognising it. The broker is this program; for the CPU, the model
is a stand-in that answers at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from tqdm import tqdm

from bench import table
from bench.photos import photos, usual
from spyglass.protocol import (
    Ready,
    Result,
)
from spyglass.runtime.settings import EXIT_FAILED, whole
from testbed.fleet import REAL, STAND_IN, Programs
from testbed.peers import FakeBroker
from testbed.processes import QUIET, ROOT, child_of, cpu_seconds

#: READY may take so many times what importing torch and loading the model take by themselves.
START_RATIO = 1.5
#: Seconds within which a killed child is replaced.
RESPAWN = 0.2
#: Pictures that are answered for one reading of the CPU.
PICTURES = 1500
#: Seconds anything may take.
PATIENCE = 120.0

#: What no worker can do without.
_LOAD_ALONE = "from spyglass.model.classifier import Classifier; Classifier()"


@contextmanager
def worker(program: str) -> Iterator[tuple[FakeBroker, int]]:
    """A worker with one child that is ready: its broker and its process id."""
    with closing(FakeBroker(PATIENCE)) as broker, Programs(PATIENCE, **QUIET) as programs:
        process = programs.run_worker("bench", [broker.address], program=program)
        broker.receive(Ready)
        yield broker, process.pid


def start_times(runs: int) -> list[table.Row]:
    """The model alone and a whole worker, in turns; seconds."""
    alone, ready = [], []
    for _ in tqdm(range(runs), unit="turn", desc="start"):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", _LOAD_ALONE], cwd=ROOT, check=True)
        alone.append(time.perf_counter() - began)
        began = time.perf_counter()
        with worker(REAL):
            ready.append(time.perf_counter() - began)
    return [
        table.row("torch and model loaded, nothing else", alone, "s"),
        table.row("worker.py until READY", ready, "s", alone, at_most=START_RATIO),
    ]


def respawn_times(runs: int, image: bytes) -> list[table.Row]:
    """From a child's SIGKILL to the answer to a picture sent just then; seconds."""
    taken = []
    with worker(REAL) as (broker, pid):
        for _ in tqdm(range(runs), unit="kill", desc="respawn"):
            child = child_of(pid)
            assert child is not None
            os.kill(child, signal.SIGKILL)
            began = time.perf_counter()
            while child_of(pid) == child:  # given to the dead one, it would come back at once
                time.sleep(0.001)
            broker.request(image)
            broker.receive(Result)
            taken.append(time.perf_counter() - began)
    return [table.row("child killed until its successor's answer", taken, "s", at_most=RESPAWN)]


def cpu_times(runs: int, images: Sequence[bytes]) -> list[table.Row]:
    """CPU milliseconds of parent and child for a picture that is recognised at once."""
    parent, child = [], []
    with worker(STAND_IN) as (broker, pid):
        below_it = child_of(pid)
        assert below_it is not None
        for _ in tqdm(range(runs), unit="run", desc="cpu"):
            before = cpu_seconds(pid), cpu_seconds(below_it)
            broker.request(images[0])
            recognising = 0.0
            for number in range(1, PICTURES):  # one ahead of the answers, as with two credits
                broker.request(images[number % len(images)])
                recognising += _computing(broker.receive(Result))
            recognising += _computing(broker.receive(Result))
            parent.append(1000 * (cpu_seconds(pid) - before[0]) / PICTURES)
            child.append((1000 * (cpu_seconds(below_it) - before[1]) - recognising) / PICTURES)
    return [
        table.row("worker's parent, CPU a picture", parent, "ms"),
        table.row("worker's child around the model, CPU a picture", child, "ms"),
    ]


def _computing(result: Result) -> float:
    """Milliseconds its child computed."""
    return result.times.decode + result.times.infer


def measure(runs: int) -> list[table.Row]:
    """All rows.

    Raises:
        TimeoutError: the worker never became ready, or stopped answering.
    """
    images = usual(photos(None))
    return start_times(runs) + respawn_times(runs, images[0]) + cpu_times(runs, images)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code shows whether the promises were kept."""
    p = argparse.ArgumentParser(
        prog="python -m bench.workers",
        description="A worker's start, the replacement of a killed child, and the CPU its "
        "processes take for a picture besides recognising it.",
        epilog="examples:\n  python -m bench.workers\n"
        "  python -m bench.workers --runs 3 --json workers.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--runs", type=whole(1, 1000), default=5, help="runs of each kind (5)")
    p.add_argument("--json", type=Path, help="file for the figures (default: none)")
    options = p.parse_args(argv)
    try:
        rows = measure(options.runs)
    except TimeoutError as error:
        print(f"bench.workers: {error}", file=sys.stderr)
        return EXIT_FAILED
    return table.report(rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
