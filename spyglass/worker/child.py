"""The child process of a worker: pictures come down a pipe, predictions go up.

It is forked from a fork server that has loaded the model already (preload.py), so it is ready in
some 0.05 s and shares the model's memory with the other children. It may crash, hang or need too
much memory; the parent lives on. It has no socket but its pipe, and no ZeroMQ.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from typing import Any

from spyglass.runtime.memory import settle
from spyglass.worker.child_limits import limit_child
from spyglass.worker.pipe import LAST_OF_BATCH, NO_ID, REFUSED, TOOK, Frame, Reassembly, receive

#: Environment variable, set by the worker for its fork server: `module:Class` of the classifier
#: and its keyword arguments, as JSON.
CLASSIFIER_VARIABLE = "SPYGLASS_CHILD_CLASSIFIER"

#: prctl(2): the signal this process gets when the one that forked it dies.
_PR_SET_PDEATHSIG = 1

_loaded: Any = None
_failure = ""


def preload() -> None:
    """Load the classifier, once, in the fork server. A failure is kept for the first child to
    report, as the fork server has no pipe to the parent."""
    global _loaded, _failure
    try:
        spec = json.loads(os.environ[CLASSIFIER_VARIABLE])
        module, _, name = spec.pop("class").partition(":")
        _loaded = getattr(importlib.import_module(module), name)(**spec)
    except Exception as error:  # of any kind: the parent logs it for whoever started the worker
        _failure = f"{error}" or type(error).__name__
    settle()


def serve(connection: socket.socket, largest_batch: int = 1) -> None:
    """Answer the pictures that come down the pipe, batch by batch, until the parent closes it.

    Args:
        connection: this end of the pipe, blocking.
        largest_batch: pictures that may come at a time, at most.
    """
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which decides
    if _loaded is None and not _failure:
        preload()  # this fork server was started without the module preload
    failure = _failure or _prepare()
    if failure:
        connection.sendall(_report(NO_ID, REFUSED, {"detail": failure}))
        return
    device = json.loads(os.environ[CLASSIFIER_VARIABLE])["device"]
    limit_child(largest_batch, on_cpu=device == "cpu")
    greeting = {"model": _loaded.model, "digest": _loaded.digest, "unfused": _loaded.unfused}
    connection.sendall(_report(NO_ID, 0, greeting))
    batch: list[Frame] = []
    stream = Reassembly()
    while data := receive(connection):
        for frame in stream.feed(data):
            batch.append(frame)
            if frame.number & LAST_OF_BATCH:
                try:
                    connection.sendall(_answer(batch))
                except ConnectionError:
                    return  # the parent is gone, and with it whoever asked
                except Exception:  # for the parent's log: this process may write no file
                    connection.sendall(_report(NO_ID, REFUSED, {"detail": traceback.format_exc()}))
                    sys.exit(1)
                batch = []


def _prepare() -> str:
    """Warm up and check the answer to the shipped picture; why it cannot serve, or nothing."""
    try:
        _loaded.prepare()
    except Exception as error:  # of any kind: the parent logs it and refuses to start
        return f"{error}" or type(error).__name__
    return ""


def _answer(frames: list[Frame]) -> bytes:
    """Classify a batch; one outcome for each frame, in order."""
    wanted = [frame.number & ~LAST_OF_BATCH for frame in frames]
    began = time.monotonic()
    inputs = _loaded.decode([frame.payload for frame in frames])
    decoded = time.monotonic()
    outcomes = _loaded.infer(inputs, max(wanted))
    done = time.monotonic()
    each = 1e6 / len(frames)
    took = TOOK.pack(int(each * (decoded - began)), int(each * (done - decoded)))
    answers = []
    for frame, top_k, outcome in zip(frames, wanted, outcomes, strict=True):
        if isinstance(outcome, Exception):
            refusal = {"code": getattr(outcome, "code", ""), "detail": str(outcome)}
            answers.append(_report(frame.id, REFUSED, refusal))
        else:
            rows = [
                {"label": p.label, "index": p.index, "probability": round(p.probability, 6)}
                for p in outcome[:top_k]
            ]
            answers.append(Frame(frame.id, 0, took + json.dumps(rows).encode()).pack())
    return b"".join(answers)


def _report(request_id: bytes, number: int, value: object) -> bytes:
    return Frame(request_id, number, json.dumps(value).encode()).pack()


def _die_with_parent() -> None:
    """Ask Linux to kill this process with the fork server, even in the middle of a hang."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
