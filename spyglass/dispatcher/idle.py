"""Which worker gets the next request. No I/O, no clock."""

from __future__ import annotations

from collections import OrderedDict

from spyglass.dispatcher.worker_state import Worker


class Idle:
    """Workers with credit, the least loaded first, among those the least recently used.

    One ordered dictionary per level of load, so that both choosing and moving a worker cost the
    same with two workers as with a thousand.
    """

    def __init__(self) -> None:
        self._levels: list[OrderedDict[bytes, Worker]] = []
        self._level_of: dict[bytes, int] = {}

    def __bool__(self) -> bool:
        return bool(self._level_of)

    def __len__(self) -> int:
        return len(self._level_of)

    def __contains__(self, worker: Worker) -> bool:
        return worker.address in self._level_of

    def put(self, worker: Worker) -> None:
        """File a worker under its present load, or take it out if it may get nothing."""
        self.remove(worker)
        if not worker.willing:
            return
        level = worker.level
        while len(self._levels) <= level:
            self._levels.append(OrderedDict())
        self._levels[level][worker.address] = worker
        self._level_of[worker.address] = level

    def remove(self, worker: Worker) -> None:
        level = self._level_of.pop(worker.address, None)
        if level is not None:
            del self._levels[level][worker.address]

    def choose(
        self, request_id: bytes, excluded: set[bytes], below: int | None = None
    ) -> Worker | None:
        """The worker whose turn it is, passing over the excluded ones.

        Passed over too is one that has not replied yet to an earlier attempt of this very request:
        the two replies could not be distinguished, nor the credit that each gives back.

        Args:
            below: look only at workers of a level below this.
        """
        for level in self._levels if below is None else self._levels[:below]:
            for address, worker in level.items():
                if address not in excluded and request_id not in worker.awaiting_reply:
                    return worker
        return None
