"""The command line of the chaos run: `python -m chaos`, or `make chaos`."""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from chaos import report
from chaos.run import Plan, Run
from chaos.schedule import schedule
from spyglass.runtime.settings import EXIT_FAILED, EXIT_OK, seconds, whole
from testbed.processes import ROOT

#: Exit code after Ctrl-C or SIGTERM, as shells expect it (128 + SIGINT).
EXIT_STOPPED = 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m chaos",
        description="Starts a real fleet on free ports of this machine, sends it pictures, hits\n"
        "it with one fault a second, and checks every promise: each request answered once, in\n"
        "time, rightly. Exit code 0: all promises kept. 1: one was broken. 2: wrong usage.",
        epilog="examples:\n"
        "  make chaos\n"
        "  python -m chaos --seed 7 --seconds 15\n"
        "  python -m chaos --brokers 2\n"
        "  python -m chaos --overload 0 --json artefacts/chaos.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--seed", type=whole(0, 2**63), help="decides every fault (default: random)")
    p.add_argument("--seconds", type=whole(1, 86_400), default=60, help="faults, one a second (60)")
    p.add_argument(
        "--rate", type=seconds(0.1, 1000), default=20.0, help="HTTP requests a second (20)"
    )
    p.add_argument("--workers", type=whole(2, 16), default=3, help="workers in the fleet (3)")
    p.add_argument("--brokers", type=whole(1, 2), default=1, help="1 or 2 brokers (1)")
    p.add_argument(
        "--job-limit", type=seconds(0.2, 60), default=1.0, help="seconds a child may take (1)"
    )
    p.add_argument(
        "--timeout", type=seconds(1, 60), default=10.0, help="seconds a request may take (10)"
    )
    p.add_argument("--overload", type=whole(0, 1), default=1, help="1: overload it at the end (1)")
    p.add_argument("--plot", type=Path, default=ROOT / "artefacts" / "chaos.png", help="PNG file")
    p.add_argument("--json", type=Path, help="file for the figures (default: none)")
    p.add_argument(
        "--logs", type=Path, default=ROOT / "artefacts" / "chaos-logs", help="folder for the logs"
    )
    return p


def plan_of(options: argparse.Namespace) -> Plan:
    """The run that these options ask for. Only here is chance not from the seed."""
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    relayed = range(1, options.workers)  # the first is connected to its broker directly
    return Plan(
        seed=seed,
        seconds=options.seconds,
        rate=options.rate,
        workers=options.workers,
        relayed=relayed,
        brokers=options.brokers,
        job_limit=options.job_limit,
        timeout=options.timeout,
        overload=bool(options.overload),
        logs=options.logs,
        faults=schedule(seed, options.seconds, options.workers, relayed, options.brokers),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    options = parser().parse_args(argv)
    plan = plan_of(options)
    plan.logs.mkdir(parents=True, exist_ok=True)
    for old in plan.logs.glob("*.log"):
        old.unlink()
    # SIGINT too: a shell that starts this in the background lets it be ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    print(
        f"seed {plan.seed}: {plan.seconds} faults, {plan.workers} workers, {plan.brokers} broker(s)"
    )
    try:
        outcome = Run(plan).execute()
    except TimeoutError as error:
        print(f"chaos: {error}. The logs are in {plan.logs}.", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nchaos: stopped; all its processes are ended.", file=sys.stderr)
        return EXIT_STOPPED
    print(report.text(outcome))
    report.plot(outcome, options.plot)
    print(f"plot: {options.plot}")
    if options.json is not None:
        report.save_json(outcome, options.json)
    return EXIT_FAILED if outcome.breaches() else EXIT_OK


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
