"""Which workers are left out for a while, and when they come back: the fleet's side of health.py.

At most a share of a model's workers is out at a time: when everything fails, the workers
are probably not the cause. Part of the dispatcher: no I/O, and `now` is an argument. The caller
then puts the worker into its new place among the idle ones (`idle.put`).
"""

from __future__ import annotations

from collections import OrderedDict

from spyglass.dispatcher.health import Health
from spyglass.dispatcher.journal import Journal
from spyglass.dispatcher.policy import HEALTHS_KEPT, Policy
from spyglass.dispatcher.pools import Pool
from spyglass.dispatcher.worker_state import Worker


class Outliers:
    """Counts outcomes, ejects, probes, reinstates."""

    def __init__(self, policy: Policy, journal: Journal) -> None:
        self._policy = policy
        self._journal = journal
        self._departed: OrderedDict[tuple[str, str], Health] = OrderedDict()

    # --- joining and leaving ------------------------------------------------------------------

    def recall(self, host: str, name: str) -> Health:
        """The outcomes of a worker that joins: its old ones, if it was connected before."""
        return self._departed.pop((host, name), None) or Health()

    def joined(self, worker: Worker, now: float) -> None:
        """It is in its pool now."""
        if worker.health.out:
            worker.pool.out[worker.address] = worker
        self.keep_enough(worker.pool, now)

    def left(self, worker: Worker, now: float) -> None:
        """It is no longer in its pool."""
        worker.pool.out.pop(worker.address, None)
        if not worker.health.unremarkable:
            self._departed[worker.hello.host, worker.name] = worker.health
            if len(self._departed) > HEALTHS_KEPT:
                self._departed.popitem(last=False)
        self.keep_enough(worker.pool, now)

    # --- outcomes -----------------------------------------------------------------------------

    def succeeded(self, worker: Worker, now: float) -> None:
        """It answered a request that it had."""
        if worker.health.succeeded():
            del worker.pool.out[worker.address]
            self._journal.log_event(f"{worker.name} answered its probe and is back", now)

    def failed(self, worker: Worker, now: float) -> None:
        """A crash, a hang, a checksum, no ACK or no answer in time, or lost while it held work."""
        worker.failed += 1
        if worker.health.failed():
            self._eject(worker, "it failed again and again", now)

    def unasked(self, worker: Worker, now: float) -> None:
        """It answered a request it had not been given, or a second time."""
        self._journal.counters.duplicate += 1
        if worker.health.unasked_answer():
            self._eject(worker, "it answers what nobody asked", now)

    # --- out and back -------------------------------------------------------------------------

    def end_ejection(self, worker: Worker, now: float) -> bool:
        """Whether its ejection ends now; it is on probation then."""
        until = worker.health.until
        if until is None or now < until:
            return False
        worker.health.probe()
        self._journal.log_event(f"{worker.name} may try one request as a probe", now)
        return True

    def keep_enough(self, pool: Pool, now: float) -> None:
        """Reinstate the earliest ejected while too few others are left."""
        while pool.out and len(pool.out) > self._allowed(pool):
            worker = next(iter(pool.out.values()))
            del pool.out[worker.address]
            worker.health.reinstate()
            pool.idle.put(worker)
            self._journal.log_event(f"{worker.name} is back without a probe: too few others", now)

    def _eject(self, worker: Worker, why: str, now: float) -> None:
        pool = worker.pool
        if worker.address in pool.workers:
            others = len(pool.out) - (worker.address in pool.out)
            if others + 1 > self._allowed(pool):
                return
            pool.out[worker.address] = worker
        seconds = worker.health.eject(now)
        self._journal.counters.ejected += 1
        self._journal.log_event(f"{worker.name} ejected for {seconds:.0f} s: {why}", now)

    def _allowed(self, pool: Pool) -> int:
        """How many workers of the pool may be out."""
        return int(self._policy.ejected_share * (len(pool.workers) - pool.draining))
