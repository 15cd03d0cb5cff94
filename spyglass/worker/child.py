"""The child process of a worker: pictures come down a pipe, predictions go up.

It is forked from a fork server that has loaded the model already (preload.py), so it is
ready in some 0.05 s and shares the model's memory with its siblings. It may crash, hang or outgrow
its memory; the parent lives on.
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
    tell: the fork server itself has nobody to tell it to."""
    global _loaded, _failure
    try:
        spec = json.loads(os.environ[CLASSIFIER_VARIABLE])
        module, _, name = spec.pop("class").partition(":")
        _loaded = getattr(importlib.import_module(module), name)(**spec)
    except Exception as error:  # whatever it is, the person who started the worker must read it
        _failure = f"{error}" or type(error).__name__
    settle()


def serve(connection: socket.socket, largest_batch: int = 1) -> None:
    """Answer what comes down the pipe, batch by batch, until the parent closes it.

    Args:
        connection: this end of the pipe, blocking.
        largest_batch: pictures it will be given at a time, at most.
    """
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which decides
    if _loaded is None and not _failure:
        preload()  # the fork server was restarted without it
    failure = _failure or _prepare()
    if failure:
        connection.sendall(_told(NO_ID, REFUSED, {"detail": failure}))
        return
    device = json.loads(os.environ[CLASSIFIER_VARIABLE])["device"]
    limit_child(largest_batch, on_cpu=device == "cpu")
    connection.sendall(_told(NO_ID, 0, {"model": _loaded.model, "digest": _loaded.digest}))
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
                except Exception:  # told by way of the parent: this process may write no log file
                    connection.sendall(_told(NO_ID, REFUSED, {"detail": traceback.format_exc()}))
                    sys.exit(1)
                batch = []


def _prepare() -> str:
    """Warm up and take the golden test; why it cannot serve, or nothing."""
    try:
        _loaded.prepare()
    except Exception as error:  # told to the parent, which refuses to start
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
    told = []
    for frame, top_k, outcome in zip(frames, wanted, outcomes, strict=True):
        if isinstance(outcome, Exception):
            refusal = {"code": getattr(outcome, "code", ""), "detail": str(outcome)}
            told.append(_told(frame.id, REFUSED, refusal))
        else:
            rows = [
                {"label": p.label, "index": p.index, "probability": round(p.probability, 6)}
                for p in outcome[:top_k]
            ]
            told.append(Frame(frame.id, 0, took + json.dumps(rows).encode()).pack())
    return b"".join(told)


def _told(request_id: bytes, number: int, value: object) -> bytes:
    return Frame(request_id, number, json.dumps(value).encode()).pack()


def _die_with_parent() -> None:
    """Ask Linux to kill this process with the fork server, even in the middle of a hang."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
