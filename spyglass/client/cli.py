"""The command line: send pictures to a broker and print what they show."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from io import TextIOWrapper
from pathlib import Path

from tqdm import tqdm

from spyglass import formats
from spyglass.client.inputs import pictures
from spyglass.client.outputs import (
    CannotContinue,
    Csv,
    Format,
    JsonLines,
    OutputFile,
    ReadableFormat,
    Table,
)
from spyglass.client.session import MAX_PICTURE_BYTES, check_size
from spyglass.client.thread_client import Answer, BrokerClient, RequestFailed
from spyglass.protocol import DEFAULT_TIMEOUT, MAX_TIMEOUT, MAX_TOP_K, Reason
from spyglass.runtime.commands import command, prog
from spyglass.runtime.settings import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    FRONTEND,
    Parser,
    seconds,
    whole,
)
from spyglass.transport.credentials import address_with_keys

__all__ = ["Answer", "BrokerClient", "RequestFailed"]

#: Pictures in flight at a time: enough for a fleet of some machines, and few in memory.
IN_FLIGHT = 32
#: Bytes of pictures in flight at a time: two of the largest, or 32 of 4 MB each.
BYTES_IN_FLIGHT = 2 * MAX_PICTURE_BYTES


def parser() -> Parser:
    """The command line."""
    me = command("classify")
    p = Parser(
        prog("classify"),
        "Sends pictures to a broker and prints what they show.",
        f"  {me} photo.jpg\n"
        f"  {me} --top-k 1 --csv '**/*.jpg' > labels.csv\n"
        f"  {me} --json --output labels.jsonl holidays/   # again: goes on\n"
        f"  find /photos -name '*.png' -print0 | {me} --json -\n\n"
        "exit codes:\n"
        "  0  every picture has an answer\n"
        "  1  some have none\n"
        "  2  wrong usage\n"
        "  3  the broker cannot be reached",
    )
    p.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="picture, folder of pictures, pattern, or - for a list of paths on standard input",
    )
    p.setting("--broker", FRONTEND, "address of the broker's clients' port", address_with_keys)
    p.setting("--model", "", "the model to ask (the broker's default if none)")
    p.setting("--top-k", 5, "predictions for each picture", whole(1, MAX_TOP_K))
    p.setting("--timeout", DEFAULT_TIMEOUT, "seconds for a picture", seconds(0.1, MAX_TIMEOUT))
    form = p.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line, not a table")
    form.add_argument("--csv", action="store_true", help="comma-separated values, not a table")
    p.setting("--output", "", "file for --json or --csv; pictures it already has are skipped")
    return p


def classify(
    client: BrokerClient, paths: Iterable[Path], options: argparse.Namespace
) -> Iterator[tuple[Path, Answer | Exception]]:
    """Each picture with its answer or what went wrong, in order; some are in flight at a time."""
    waiting: deque[tuple[Path, int, Future[Answer] | Exception]] = deque()
    in_flight_bytes = 0
    for path in paths:
        size, outcome = _read(path)
        while waiting and (len(waiting) >= IN_FLIGHT or in_flight_bytes + size > BYTES_IN_FLIGHT):
            first, answered_bytes, future = waiting.popleft()
            in_flight_bytes -= answered_bytes
            yield _result(first, future)
        if isinstance(outcome, bytes):
            future = client.submit(
                outcome, model=options.model, top_k=options.top_k, timeout=options.timeout
            )
            waiting.append((path, size, future))
        else:
            waiting.append((path, 0, outcome))
        in_flight_bytes += waiting[-1][1]
    for path, _, future in waiting:
        yield _result(path, future)


def _read(path: Path) -> tuple[int, bytes | Exception]:
    """A file's size and bytes, or why it cannot be sent."""
    try:
        size = path.stat().st_size
        check_size(size)
        return size, path.read_bytes()
    except (OSError, ValueError) as error:
        return 0, error


def _result(path: Path, future: Future[Answer] | Exception) -> tuple[Path, Answer | Exception]:
    if isinstance(future, Exception):
        return path, future
    try:
        return path, future.result()
    except RequestFailed as failed:
        return path, failed


def _report(line: str) -> None:
    """Print a line on standard error, above the progress bar."""
    tqdm.write(line, file=sys.stderr)


def _run(
    client: BrokerClient,
    paths: list[Path],
    output: Format | OutputFile,
    options: argparse.Namespace,
) -> int:
    """Classify all pictures, and print the answers or write them to a file; the exit code."""
    client.status()  # fail now if there is no broker, not after the first picture's whole timeout
    code = EXIT_OK
    if not isinstance(output, OutputFile):
        tqdm.write(output.header(), end="")
    hide = True if len(paths) == 1 else None  # None: shown on a terminal only
    outcomes = classify(client, paths, options)
    for path, outcome in tqdm(outcomes, total=len(paths), unit="picture", disable=hide):
        if isinstance(outcome, Answer):
            if isinstance(output, OutputFile):
                output.add(path, outcome)
            else:
                tqdm.write(output.line(path, outcome), end="")
            continue
        if isinstance(outcome, RequestFailed) and outcome.reason is Reason.NO_BROKER:
            raise outcome  # all others would fail in the same way, each after its whole timeout
        code = EXIT_FAILED
        if options.json and not isinstance(output, OutputFile):
            tqdm.write(json.dumps({"path": str(path), "error": str(outcome)}))
        else:
            _report(f"{path}: {outcome}")
    sys.stdout.flush()
    return code


def _without_done(file: OutputFile, paths: list[Path], name: str) -> list[Path]:
    """The pictures that an output file does not have yet."""
    remaining = [path for path in paths if str(path) not in file.done]
    if len(remaining) < len(paths):
        _report(f"{len(paths) - len(remaining)} of {len(paths)} are in {name} already.")
    return remaining


def _classify_all(
    paths: list[Path], output: Format | OutputFile, options: argparse.Namespace
) -> int:
    """Connect, and classify all pictures; the exit code."""
    try:
        with closing(BrokerClient([options.broker])) as client:
            return _run(client, paths, output, options)
    except RequestFailed as failed:
        _report(f"{prog('classify')}: {failed}")
        _report("Name another broker with --broker (SPYGLASS_BROKER).")
        return EXIT_UNREACHABLE
    except KeyboardInterrupt:
        return EXIT_FAILED
    except BrokenPipeError:
        # The reader has closed the pipe, as `| head` does. Python flushes standard output at its
        # end, which would fail again: let it go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Classify every picture that is named; the exit code."""
    commands = parser()
    options = commands.parse_args(argv)
    if options.output and not (options.json or options.csv):
        commands.error("--output needs --json or --csv beside it")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a file's name need not be UTF-8
            stream.reconfigure(errors="surrogateescape")
    paths = pictures(options.paths, sys.stdin.buffer)
    if not paths:
        print(f"{commands.prog}: no {formats.ACCEPTED} files there.", file=sys.stderr)
        return EXIT_FAILED
    if not (options.json or options.csv):
        return _classify_all(paths, Table(max(len(str(path)) for path in paths)), options)
    kept: ReadableFormat = Csv(options.top_k) if options.csv else JsonLines()
    if not options.output:
        return _classify_all(paths, kept, options)
    try:
        file = OutputFile(Path(options.output), kept)
    except (OSError, CannotContinue) as error:
        print(f"{commands.prog}: {error}", file=sys.stderr)
        return EXIT_USAGE
    with closing(file):
        remaining = _without_done(file, paths, options.output)
        return _classify_all(remaining, file, options) if remaining else EXIT_OK
