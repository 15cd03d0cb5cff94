"""How long until the work of a killed worker moves to another: `python -m bench.failover`.

Three workers under steady load; one after the other is ended by SIGKILL amid its work and started
again. Measured is the time from the signal to the broker's event that the work has moved. The
workers are the real ones, but their model is a stand-in that takes 20 ms: what is measured does
not depend on it, and a worker is back within half a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import count
from pathlib import Path

from tqdm import tqdm

from chaos.failover import percentile
from spyglass.client.thread_client import Answer, BrokerClient, RequestFailed
from spyglass.runtime.settings import EXIT_FAILED, EXIT_OK, whole
from testbed.fleet import Fleet
from testbed.processes import QUIET, eventually, undisturbed

WORKERS = 3
#: Pictures in flight: each worker computes one and holds one.
LOAD = 2 * WORKERS
#: Seconds anything may take.
PATIENCE = 30.0
#: Seconds between two queries while workers start: answering them takes the broker time.
QUERY_EVERY = 0.05


class Load:
    """Keeps `LOAD` pictures in flight, each another, and counts what becomes of them."""

    def __init__(self, client: BrokerClient) -> None:
        self._client = client
        self._numbers = count(1)
        self.sent = self.answered = self.failed = 0
        self.running = True
        for _ in range(LOAD):
            self._send()

    @property
    def open(self) -> int:
        """Pictures without an answer."""
        return self.sent - self.answered - self.failed

    def _send(self) -> None:
        if self.running:
            self.sent += 1
            picture = b"sleep:0.02 %d" % next(self._numbers)
            self._client.submit(picture, timeout=PATIENCE).add_done_callback(self._done)

    def _done(self, future: Future[Answer]) -> None:
        try:
            future.result()
            self.answered += 1
        except RequestFailed:
            self.failed += 1
        self._send()


def moved_after(client: BrokerClient, name: str, killed: float) -> tuple[float, bool]:
    """Milliseconds until the broker counted a worker as lost, and whether it held work."""
    until = killed + PATIENCE
    while time.monotonic() < until:
        events = client.status()["events"]
        received = time.monotonic()
        for event in events:
            if event["text"].startswith(f"{name} lost"):
                return 1000 * (received - event["ago_s"] - killed), "moved" in event["text"]
    raise TimeoutError(f"the broker never noticed the end of {name}")


def measure(fleet: Fleet, kills: int) -> tuple[list[float], Load]:
    """Kill until so many had work in hand; the times in milliseconds."""
    # A fresh name for each process, so that the events on one are not taken for another's.
    names = (f"w{n}" for n in count(1))
    workers = deque((name := next(names), fleet.launch_worker(name)) for _ in range(WORKERS))
    eventually(lambda: len(fleet.names()) == WORKERS, "the workers join", every=QUERY_EVERY)
    load = Load(fleet.client)
    times: list[float] = []
    with tqdm(total=kills, unit="kill") as progress:
        while len(times) < kills:
            name, process = workers.popleft()
            killed = time.monotonic()
            process.kill()
            elapsed, had_work = moved_after(fleet.client, name, killed)
            process.wait()
            if had_work:
                times.append(elapsed)
                progress.update()
            successor = next(names)
            workers.append((successor, fleet.launch_worker(successor)))
            eventually(lambda: len(fleet.names()) == WORKERS, "another joins", every=QUERY_EVERY)
    load.running = False
    eventually(lambda: load.open == 0, "the rest is answered", every=QUERY_EVERY)
    return times, load


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    p = argparse.ArgumentParser(
        prog="python -m bench.failover",
        description="Kills workers under load and measures until their work has moved to another.",
        epilog="examples:\n  python -m bench.failover\n  python -m bench.failover --kills 20",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--kills", type=whole(1, 10_000), default=100, help="kills (100)")
    p.add_argument("--json", type=Path, help="file for the figures (default: none)")
    options = p.parse_args(argv)
    with Fleet(**undisturbed(), **QUIET) as fleet:
        try:
            fleet.start_broker()
            times, load = measure(fleet, options.kills)
        except TimeoutError as error:
            print(f"bench.failover: {error}", file=sys.stderr)
            return EXIT_FAILED
    figures = {
        "kills": len(times),
        "median_ms": round(statistics.median(times), 1),
        "p99_ms": round(percentile(times, 99), 1),
        "longest_ms": round(max(times), 1),
        "sent": load.sent,
        "answered": load.answered,
    }
    print(", ".join(f"{name} {value}" for name, value in figures.items()))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return EXIT_OK if load.answered == load.sent else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
