"""Starts a worker's child processes from a fork server, which has loaded the model once for all.

The fork server imports preload.py, by its name. It and the children run the program's file again
as `__mp_main__`: so the programs import under the `__main__` guard, or each would load ZeroMQ.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from spyglass.runtime import import_path
from spyglass.worker import child

log = logging.getLogger(__name__)

#: The module that loads the model; it is imported by name, in the fork server.
PRELOAD = "spyglass.worker.preload"


class StartedChild(NamedTuple):
    """A new child process, this end of its pipe, and when its start began."""

    process: BaseProcess
    connection: socket.socket
    began: float


class ChildSpawner:
    """Starts children from a fork server, in a thread of its own.

    Starting blocks for seconds while the fork server loads the model (at first, or after it was
    killed itself); the parent must send heartbeats meanwhile. New children appear in `started`.
    """

    def __init__(self, classifier: str, arguments: dict[str, str], largest_batch: int = 1) -> None:
        self._classifier = json.dumps({"class": classifier} | arguments)
        self._context = multiprocessing.get_context("forkserver")
        self._largest_batch = largest_batch
        self._requested = threading.Semaphore(0)
        self._closed = False
        self.started: deque[StartedChild] = deque()
        self.wake: Callable[[], None] = lambda: None

    def open(self, clock: Callable[[], float]) -> None:
        """Start the thread, and leave in this process's environment what the fork server reads.

        Python 3.11's does not take over sys.path, and would begin it with the current folder.
        """
        os.environ[child.CLASSIFIER_VARIABLE] = self._classifier
        os.environ.update(import_path.for_children())
        forkserver.set_forkserver_preload([PRELOAD])
        threading.Thread(target=self._run, args=(clock,), name="spawner", daemon=True).start()

    def request_one(self) -> None:
        """Have one more child started."""
        self._requested.release()

    def close(self) -> None:
        self._closed = True
        self._requested.release()

    def _run(self, clock: Callable[[], float]) -> None:
        while True:
            self._requested.acquire()
            if self._closed:
                return
            began = clock()
            try:
                self.started.append(self._start(began))
            except (OSError, EOFError) as error:
                # The fork server died meanwhile; the next start begins with a new one.
                log.warning("could not start a child (%s); trying again", error)
                self._requested.release()
            self.wake()

    def _start(self, now: float) -> StartedChild:
        ours, theirs = socket.socketpair()
        arguments = (theirs, self._largest_batch)
        process = self._context.Process(target=child.serve, args=arguments, daemon=True)
        try:
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        return StartedChild(process, ours, now)
