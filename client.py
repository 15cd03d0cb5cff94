#!/usr/bin/env python3
"""The command line: send pictures to a broker and print what they show.

As a library, use BrokerClient, which is offered here too:

    from client import BrokerClient
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

import formats
from brokerclient import MAX_PICTURE_BYTES, Answer, BrokerClient, RequestFailed
from settings import EXIT_FAILED, EXIT_OK, FRONTEND, Parser, address, seconds, whole
from zmq_protocol import DEFAULT_TIMEOUT, MAX_TIMEOUT, MAX_TOP_K

__all__ = ["Answer", "BrokerClient", "RequestFailed"]

#: Pictures on their way at a time: enough for a fleet of some machines, few in memory.
IN_FLIGHT = 32


def pictures(paths: Iterable[str]) -> Iterator[Path]:
    """Files as named; folders searched for files with a picture's suffix."""
    for path in map(Path, paths):
        if path.is_dir():
            found = (p for p in path.rglob("*") if p.suffix.lower() in formats.EXTENSIONS)
            yield from sorted(found)
        else:
            yield path


def parser() -> Parser:
    """The command line."""
    p = Parser(
        "client.py",
        "Sends pictures to a broker and prints what they show.",
        "  python client.py photo.jpg\n"
        "  python client.py --json holidays/ > labels.jsonl\n"
        "  python client.py --broker tcp://127.0.0.1:7555 --top-k 1 *.jpg",
    )
    p.add_argument("paths", nargs="+", metavar="PATH", help="picture, or folder of pictures")
    p.setting("--broker", FRONTEND, "address of the broker's clients' port", address)
    p.setting("--model", "", "the model to ask (the broker's default if none)")
    p.setting("--top-k", 5, "predictions for each picture", whole(1, MAX_TOP_K))
    p.setting("--timeout", DEFAULT_TIMEOUT, "seconds for a picture", seconds(0.1, MAX_TIMEOUT))
    p.add_argument("--json", action="store_true", help="one JSON object a line (default: text)")
    return p


def recognise(
    client: BrokerClient, paths: Iterable[Path], options: argparse.Namespace
) -> Iterator[tuple[Path, Answer | Exception]]:
    """Each picture with its answer or what went wrong, in order, some at a time on their way."""
    waiting: deque[tuple[Path, Future[Answer] | Exception]] = deque()
    for path in paths:
        if len(waiting) >= IN_FLIGHT:
            yield _result(*waiting.popleft())
        try:
            if path.stat().st_size > MAX_PICTURE_BYTES:
                raise ValueError(f"larger than {MAX_PICTURE_BYTES} bytes")
            future = client.submit(
                path.read_bytes(),
                model=options.model,
                top_k=options.top_k,
                timeout=options.timeout,
            )
            waiting.append((path, future))
        except (OSError, ValueError) as error:
            waiting.append((path, error))
    while waiting:
        yield _result(*waiting.popleft())


def _result(path: Path, future: Future[Answer] | Exception) -> tuple[Path, Answer | Exception]:
    if isinstance(future, Exception):
        return path, future
    try:
        return path, future.result()
    except RequestFailed as failed:
        return path, failed


def _print(path: Path, outcome: Answer | Exception, as_json: bool) -> None:
    if as_json:
        told = asdict(outcome) if isinstance(outcome, Answer) else {"error": str(outcome)}
        tqdm.write(json.dumps({"path": str(path)} | told))
    elif isinstance(outcome, Answer):
        rows = [f"  {100 * p['probability']:5.1f} %  {p['label']}" for p in outcome.predictions]
        tqdm.write("\n".join([str(path), *rows]))
    else:
        tqdm.write(f"{path}: {outcome}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Recognise everything named; 0 if all were, 1 if any was not."""
    options = parser().parse_args(argv)
    paths = list(pictures(options.paths))
    if not paths:
        print(f"client.py: no {formats.ACCEPTED} files there.", file=sys.stderr)
        return EXIT_FAILED
    client = BrokerClient([options.broker])
    failed = False
    try:
        outcomes = recognise(client, paths, options)
        hide = True if len(paths) == 1 else None  # None: shown on a terminal only
        for path, outcome in tqdm(outcomes, total=len(paths), unit="picture", disable=hide):
            _print(path, outcome, options.json)
            failed = failed or isinstance(outcome, Exception)
        sys.stdout.flush()
    except KeyboardInterrupt:
        failed = True
    except BrokenPipeError:  # `| head` has seen enough: leave Python nothing to write at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        failed = True
    finally:
        client.close()
    return EXIT_FAILED if failed else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
