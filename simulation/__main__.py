"""The command line of the simulation: `python -m simulation`, or `make simulate`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from simulation import figures, plot
from simulation.plan import SERVICE, Plan
from simulation.study import PARTS, Run, plans, study
from spyglass.runtime.settings import EXIT_FAILED, EXIT_OK, seconds, whole

#: Exit code after Ctrl-C, as shells expect it (128 + SIGINT).
EXIT_STOPPED = 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m simulation",
        description="Drives the dispatcher with a simulated fleet: how long requests take, who\n"
        "gets the work, what a decision costs, what a second broker adds. Exit code 0:\n"
        "every request was answered once. 1: one was lost or answered twice. 2: wrong usage.",
        epilog="examples:\n"
        "  make simulate\n"
        "  python -m simulation --only loads\n"
        "  python -m simulation --workers 1000 --requests 50000 --seed 7\n"
        "  python -m simulation --only loads --service 1.2  # a heavy model",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--only", action="append", choices=PARTS, help="a part; can be repeated (all)")
    p.add_argument("--workers", type=whole(2, 100_000), default=10_000, help="workers (10000)")
    p.add_argument(
        "--requests", type=whole(1, 10_000_000), default=1_000_000, help="requests (1000000)"
    )
    p.add_argument(
        "--service", type=seconds(0.001, 3), default=SERVICE, help="seconds a picture (0.012)"
    )
    p.add_argument("--seed", type=whole(0, 2**63), default=1, help="decides everything (1)")
    p.add_argument(
        "--folder", type=Path, default=Path("artefacts"), help="for what is written (artefacts)"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    options = parser().parse_args(argv)
    parts = options.only or list(PARTS)
    plan = Plan(
        seed=options.seed,
        workers=options.workers,
        requests=options.requests,
        service=options.service,
    )
    ahead = sum(one.requests for part in parts for _, one in plans(part, plan))
    runs: list[Run] = []
    try:
        with tqdm(total=ahead, unit="request", unit_scale=True, disable=None) as bar:
            bar.write(figures.headings())
            for run in study(parts, plan, bar.update):
                runs.append(run)
                bar.write(figures.line(run.name, run.figures))
    except KeyboardInterrupt:
        print("\nsimulation: stopped; nothing was written.", file=sys.stderr)
        return EXIT_STOPPED
    options.folder.mkdir(parents=True, exist_ok=True)
    figures_of = {f"{run.part}: {run.name}": run.figures.json() for run in runs}
    (options.folder / "simulation.json").write_text(json.dumps(figures_of, indent=1) + "\n")
    drawn = plot.draw(runs, options.folder / "simulation.png")
    print(f"written: {options.folder / 'simulation.json'}{' and simulation.png' if drawn else ''}")
    kept = all(not run.figures.lost and not run.figures.twice for run in runs)
    return EXIT_OK if kept else EXIT_FAILED


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
