"""One pool for each model, and which of them a request or a worker belongs to.

Part of the dispatcher: no I/O.
"""

from __future__ import annotations

from spyglass.dispatcher.decisions import Policy
from spyglass.dispatcher.pool import Pool
from spyglass.protocol import PROTOCOL_REVISION, Ready

#: The model asked for when a request names none, if a worker offers it.
DEFAULT_MODEL = "squeezenet1_1"


class Pools(dict[str, Pool]):
    """The pools by model, the first one named first."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = policy

    @property
    def waiting(self) -> int:
        """Requests that no worker has."""
        return sum([pool.waiting for pool in self.values()])

    def default(self) -> Pool | None:
        """The pool of requests that name no model: the default's, or the first offered."""
        default = self.get(DEFAULT_MODEL)
        if default is not None and default.digest:
            return default
        return next((pool for pool in self.values() if pool.digest), default)

    def opened(self, model: str) -> Pool:
        """The model's pool, made if this is the first word of it."""
        if model not in self:
            self[model] = Pool(model, self._policy.hedge_burst)
        return self[model]

    def of(self, model: str) -> Pool | None:
        """The pool of a request for this model, or for none; None if nobody ever offered it."""
        if not self and model in ("", DEFAULT_MODEL):
            # Nobody joined yet: let it wait for the first worker rather than fail at once.
            return self.opened(DEFAULT_MODEL)
        return self.get(model) if model else self.default()

    def unknown(self) -> str:
        """What the sender of a request for an unknown model is told."""
        known = ", ".join(sorted(self)) or "none yet"
        return f"No worker offers this model. Offered: {known}."

    def rehome(self, pool: Pool) -> None:
        """Requests that named no model before any worker came go to the first one that came."""
        early = self.get(DEFAULT_MODEL)
        if early is None or early is pool or early.digest:
            return
        for job in [job for job in early.waiting_jobs() if not job.request.model]:
            early.dequeue(job)
            job.pool = pool
            pool.enqueue(job)

    def refusal(self, hello: Ready) -> str:
        """Why this worker may not join; empty if it may."""
        if hello.revision != PROTOCOL_REVISION:
            return f"it speaks protocol revision {hello.revision}, the broker {PROTOCOL_REVISION}"
        pool = self.get(hello.model)
        if pool is None and len(self) >= self._policy.max_models:
            return f"the broker serves {len(self)} models already"
        if pool is not None and pool.workers and hello.digest != pool.digest:
            return (
                f"its {hello.model} has digest {hello.digest[:12]}, the others have"
                f" {pool.digest[:12]}; start it with the same --weights as the others"
            )
        return ""
