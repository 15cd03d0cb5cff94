"""Whether a request is accepted, and by which pool. A limit is checked before its cost arises.

Part of the dispatcher: no I/O, and `now` is an argument.
"""

from __future__ import annotations

from typing import NamedTuple

from spyglass.dispatcher.jobs import QUARANTINED, Jobs
from spyglass.dispatcher.journal import Journal
from spyglass.dispatcher.policy import Policy
from spyglass.dispatcher.pools import Pool, Pools
from spyglass.protocol import Reason, Request


class Refusal(NamedTuple):
    """Why a request is not accepted."""

    reason: Reason
    detail: str


#: The answer while the broker leaves.
LEAVING = Refusal(Reason.DRAINING, "The broker is restarting. Send the picture again.")


class Admission:
    """Accepts or refuses."""

    def __init__(self, policy: Policy, journal: Journal, jobs: Jobs, pools: Pools) -> None:
        self._policy = policy
        self._journal = journal
        self._jobs = jobs
        self._pools = pools

    def admit(self, request: Request, stopping: bool, now: float) -> Pool | Refusal:
        """The pool that takes the request, or why none does."""
        pool = self._pools.of(request.model)
        if pool is None:
            return Refusal(Reason.NO_MODEL, self._pools.unknown())
        suspect = self._jobs.quarantine.refuses(request.sha256, now)
        if suspect is not None:
            suspect.refused += 1
            self._journal.counters.quarantined += 1
            return Refusal(Reason.QUARANTINED, QUARANTINED)
        if stopping:
            return LEAVING
        if request.budget_ms <= 0:
            return Refusal(Reason.DEADLINE, "The time allowed for this picture ran out.")
        if not pool.idle and self._full(request):
            waiting = self._pools.waiting
            return Refusal(
                Reason.BUSY, f"{waiting} pictures are waiting already. Try again shortly."
            )
        return pool

    def _full(self, request: Request) -> bool:
        """Whether the queue has no room for one more picture, or not for its bytes."""
        waiting_bytes = self._jobs.waiting_bytes + request.body.size
        return (
            self._pools.waiting >= self._policy.max_waiting
            or waiting_bytes > self._policy.max_waiting_bytes
        )
