"""Every measurement in one run, beside what was promised: `python -m bench`, or `make bench`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import broker, http, pipeline, plot, secure, table, workers
from bench.photos import Photo, photos, usual
from spyglass.runtime.settings import EXIT_FAILED, EXIT_OK, cores

#: Turns of each kind. The table shows the medians.
RUNS = 5
#: Seconds of a turn of the pipeline and of HTTP.
TURN = 3.0

Measure = Callable[[list[Photo]], list[table.Row]]

PARTS: dict[str, tuple[str, Measure]] = {
    "pipeline": (
        "In process, without any network",
        lambda pictures: pipeline.measure(pictures, cores(), RUNS, TURN),
    ),
    "workers": ("One worker, seen from its broker", lambda _: workers.measure(RUNS)),
    "broker": ("The broker alone, with echo workers", lambda _: broker.rows(RUNS)),
    "http": (
        "All of `make run` over HTTP",
        lambda pictures: http.measure(usual(pictures), RUNS, TURN),
    ),
    "secure": (
        "Encrypted, beside plain, over HTTP",
        lambda pictures: secure.measure(usual(pictures), RUNS, TURN),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code shows whether the promises were kept."""
    p = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures every part of Spyglass beside what was promised; "
        "writes bench.json and the plot bench.png.",
        epilog="examples:\n  python -m bench\n"
        "  python -m bench --photos holidays/\n"
        "  python -m bench --only pipeline --only http",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--photos", type=Path, help="folder of JPEGs, 0281-tabby.jpg names the label")
    p.add_argument("--only", action="append", choices=PARTS, help="a part; can be repeated (all)")
    p.add_argument(
        "--folder", type=Path, default=Path("artefacts"), help="for what is written (artefacts)"
    )
    options = p.parse_args(argv)
    chosen = {name: part for name, part in PARTS.items() if name in (options.only or PARTS)}
    measured: dict[str, list[table.Row]] = {}
    failed = 0
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        pictures = photos(options.photos)
    except (ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return EXIT_FAILED
    for number, (heading, measure) in enumerate(chosen.values(), 1):
        print(f"{number} of {len(chosen)}: {heading}", file=sys.stderr)
        try:
            measured[heading] = measure(pictures)
        except Exception as error:  # the other parts' figures took minutes, and count all the same
            failed += 1
            print(f"bench: this part could not be measured: {error!r}", file=sys.stderr)
    if not measured:
        return EXIT_FAILED
    print(table.show(measured))
    table.write(measured, options.folder / "bench.json")
    plot.draw(measured, table.machine(), options.folder / "bench.png")
    judged = [row.kept for rows in measured.values() for row in rows if row.promise]
    kept, broken = sum(judged), judged.count(False)
    print(f"\n{kept} promise{'s' * (kept != 1)} kept, {broken} broken")
    return EXIT_FAILED if broken or failed else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
