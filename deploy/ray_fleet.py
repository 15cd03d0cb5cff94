#!/usr/bin/env python3
"""A fleet of workers as Ray actors: Ray places them, spreads them, and starts lost ones again.

Each actor runs one `worker.py` as a process of its own and only waits for it. When the actor dies,
in whatever way, its worker gets SIGTERM, so none outlives its place in the cluster. Pictures never
pass through Ray: workers join the broker as everywhere else.
"""

if __name__ == "__main__":  # before anything else is imported
    import sys

    sys.path.insert(0, __file__.rsplit("/", 2)[0])
    from spyglass.runtime.import_path import leave_current_folder

    leave_current_folder()

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from spyglass.runtime.settings import (  # noqa: E402
    BACKEND,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_UNREACHABLE,
    BadSetting,
    Parser,
    from_environment,
    whole,
)
from spyglass.transport.credentials import address_with_keys  # noqa: E402

# Ray reads this when it is imported, and then sends no statistics to its makers.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    import ray
except ModuleNotFoundError:
    ray = None  # --help does without; `main` says what to install

#: Seconds between two queries of all actors.
LOOK_EVERY = 0.5
#: Seconds workers have to finish what they compute when the fleet stops: two of the longest
#: pictures (`--job-limit` is 5 by default), as long as under `make run`.
STOP_WITHIN = 12.0
#: Seconds before a worker that failed is started again, so that one that always fails is no storm.
PAUSE = 1.0
#: Seconds for the head of a cluster to take a connection.
CONNECT_WITHIN = 5.0
#: Files that are not copied to the nodes: large ones, and those a worker does not need.
EXCLUDED = [".*_cache", ".hypothesis", "artefacts", "docs", "*.md"]

#: Settings that are not passed on: each worker gets its own as flags.
OWN = {"SPYGLASS_NAME", "SPYGLASS_PROCESSES", "SPYGLASS_BROKERS", "SPYGLASS_LISTEN"}


class Place:
    """The actor: one worker's place in the cluster. Ray restarts it wherever there is room."""

    def __init__(self, command: Sequence[str], brokers: Sequence[str]) -> None:
        """Start nothing yet: while the constructor runs, `stop` could not be called.

        Args:
            command: what runs the worker, without the interpreter.
            brokers: addresses that it joins. They may hold secrets, so they are on no command line.
        """
        self._brokers = " ".join(brokers)
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def serve(self) -> int:
        """Run the worker; its exit code once it has left in order, which is 0 unless stopped.

        If it fails, this process ends as well, and Ray starts both again.
        """
        if self._stopping:
            return EXIT_OK
        # The kernel sends the worker SIGTERM when this actor's process has ended.
        run = ("setpriv", "--pdeathsig", "TERM", "--", sys.executable)
        environment = os.environ | {"SPYGLASS_BROKERS": self._brokers}
        self._process = await asyncio.create_subprocess_exec(*run, *self._command, env=environment)
        if self._stopping:  # asked while it started
            self._process.terminate()
        code = await self._process.wait()
        if code == EXIT_OK or self._stopping:
            return code
        await asyncio.sleep(PAUSE)
        os._exit(EXIT_FAILED)

    async def about(self) -> tuple[str, int]:
        """The node this runs on, and the process id of the actor."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    async def stop(self) -> None:
        """Let the worker finish what it computes and leave; `serve` then returns."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()


@dataclass(frozen=True, slots=True)
class Look:
    """The state of the fleet."""

    running: int
    wanted: int
    nodes: int
    restarts: int

    def __str__(self) -> str:
        text = f"{self.running} of {self.wanted} workers run on {self.nodes} nodes"
        if self.restarts:
            text += f"; started again by Ray: {self.restarts}"
        if self.running < self.wanted:
            text += "; the others start, or wait for room in the cluster"
        return text


class RayFleet:
    """Workers spread over the nodes of the Ray cluster that this process is connected to."""

    def __init__(
        self,
        brokers: Sequence[str],
        workers: int,
        cpus: int = 1,
        gpus: float = 0.0,
        program: str = "worker.py",
    ) -> None:
        """Ask Ray for the actors, and wait for none of them.

        Args:
            brokers: addresses of the brokers' workers' ports, as for `worker.py`.
            workers: how many.
            cpus: cores of each, as Ray counts them, and its child processes.
            gpus: graphics processors of each; a part of one is possible.
            program: the worker's program, for tests without a model.
        """
        device = ["--device", "cuda"] if gpus else []
        kind = ray.remote(Place).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=-1,  # `serve` is called again in the restarted actor
            max_concurrency=4,
            scheduling_strategy="SPREAD",
        )
        self.actors: list[Any] = [
            kind.remote([program, "--processes", str(cpus), "--name", f"ray-{n}", *device], brokers)
            for n in range(1, workers + 1)
        ]
        #: The worker's number by the reference that is ready once it has left.
        self.serving = {actor.serve.remote(): n for n, actor in enumerate(self.actors, 1)}
        self._asked: dict[int, Any] = {}  # by the worker's number: the reference of its reply
        self._known: dict[int, tuple[str, int]] = {}
        self._restarts = 0

    def look(self) -> Look:
        """The state of the fleet. Takes `LOOK_EVERY` seconds."""
        for n in self.serving.values():
            self._asked.setdefault(n, self.actors[n - 1].about.remote())
        until = time.monotonic() + LOOK_EVERY
        ray.wait(list(self._asked.values()), num_returns=len(self._asked), timeout=LOOK_EVERY)
        current: dict[int, tuple[str, int]] = {}
        for n, ref in list(self._asked.items()):
            if ray.wait([ref], timeout=0)[0]:
                del self._asked[n]
                current[n] = ray.get(ref)
                self._restarts += n in self._known and self._known[n] != current[n]
                self._known[n] = current[n]
        time.sleep(max(0.0, until - time.monotonic()))
        nodes = {node for node, _ in current.values()}
        return Look(len(current), len(self.serving), len(nodes), self._restarts)

    def left(self) -> list[str]:
        """A sentence on each worker that has left since the last call; its place stays empty."""
        done, _ = ray.wait(list(self.serving), num_returns=len(self.serving), timeout=0)
        numbers = [self.serving.pop(ref) for ref in done]
        return [f"ray-{n} has left: it was removed, and is not started again" for n in numbers]

    def stop(self, within: float = STOP_WITHIN) -> int:
        """Let all workers finish, then end the actors; returns how many were cut short."""
        for actor in self.actors:
            actor.stop.remote()
        waiting = list(self.serving)
        _, late = (
            ray.wait(waiting, num_returns=len(waiting), timeout=within) if waiting else ([], [])
        )
        for actor in self.actors:
            ray.kill(actor)
        return len(late)


# --- command line -----------------------------------------------------------------------------


def parser() -> Parser:
    """The command line."""
    p = Parser(
        "ray_fleet.py",
        "Runs workers as actors of a Ray cluster, until Ctrl-C. Ray spreads them over its nodes\n"
        "and starts lost ones again. Settings of worker.py in the environment, such as\n"
        "SPYGLASS_BATCH=4, are passed on to the workers.",
        "  python deploy/ray_fleet.py tcp://192.168.1.5:5556 --workers 4\n"
        "  python deploy/ray_fleet.py tcp://192.168.1.5:5556 --address 192.168.1.7:6379 --cpus 4\n"
        "  python deploy/ray_fleet.py --workers 2 --address local",
    )
    p.add_argument(
        "brokers",
        nargs="*",
        metavar="BROKER",
        type=address_with_keys,
        default=(from_environment("SPYGLASS_BROKERS") or BACKEND).split(),
        help="address of a broker's workers' port, seen from the nodes; keep one with a secret in"
        f" SPYGLASS_BROKERS, where no list of processes shows it (default: {BACKEND})",
    )
    p.setting("--workers", 2, "how many workers", whole(1, 10_000))
    p.setting("--cpus", 1, "cores, and child processes, of each", whole(1, 512))
    p.setting("--gpus", 0.0, "GPUs of each, such as 0.25 or 1", share)
    p.setting("--address", "auto", "the Ray cluster: auto (this machine's), HOST:PORT, or local")
    return p


def share(text: str) -> float:
    """A number of GPUs, for `type=`: whole above 1, as Ray has it."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 <= value <= 1 or value in range(1, 65):
        return value
    raise BadSetting(f"{text!r} is not a number of GPUs: use 0 to 1, or a whole number up to 64")


def passed_on() -> dict[str, str]:
    """The settings of workers in the environment, except for those in OWN."""
    return {k: v for k, v in os.environ.items() if k.startswith("SPYGLASS_") and k not in OWN}


def connect(where: str) -> None:
    """Join the Ray cluster, and give it this program's files.

    Raises:
        OSError: there is none.
    """
    host, _, port = where.rpartition(":")
    if port.isdigit():  # Ray itself would try for more than a minute
        socket.create_connection((host, int(port)), CONNECT_WITHIN).close()
    local = {"include_dashboard": False} if where == "local" else {}
    files = {"working_dir": str(ROOT), "excludes": EXCLUDED, "env_vars": passed_on()}
    ray.init(address=where, runtime_env=files, logging_level="warning", **local)


def main(argv: Sequence[str] | None = None, program: str = "worker.py") -> int:
    """Run workers in the cluster until SIGTERM or SIGINT, or until all have left.

    Args:
        argv: the command line, without the program's name.
        program: the worker's program, for tests without a model.
    """
    options = parser().parse_args(argv)
    if ray is None:
        what = "Ray is not installed. Do that with: pip install -r deploy/requirements-ray.txt"
        print(f"ray_fleet.py: {what}", file=sys.stderr)
        return EXIT_FAILED
    try:
        connect(options.address)
    except OSError as error:
        first = str(error).splitlines()[0].rstrip(".")
        print(
            f"ray_fleet.py: no Ray cluster at {options.address}: {first}. Start one with"
            " `ray start --head`, or use --address local.",
            file=sys.stderr,
        )
        return EXIT_UNREACHABLE
    stops: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stops.append(number))
    fleet = RayFleet(options.brokers, options.workers, options.cpus, options.gpus, program)
    shown = None
    while fleet.serving and not stops:
        for sentence in fleet.left():
            print(sentence, flush=True)
        if (look := fleet.look()) != shown:
            print(shown := look, flush=True)
    cut_short = fleet.stop()
    print("all workers have left" if not cut_short else f"{cut_short} workers were cut short")
    ray.shutdown()
    return EXIT_FAILED if cut_short else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
