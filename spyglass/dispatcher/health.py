"""How well a worker did lately, and whether it is left out for a while.

Outlier ejection as in Envoy
(https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier): a worker that
fails again and again gets no work for a time, then one request as a probe, and all work again when
it answers that. Part of the dispatcher: no I/O, and `now` is an argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from spyglass.dispatcher.policy import (
    EJECTION,
    FAILURES_IN_A_ROW,
    LONGEST_EJECTION,
    OUTCOMES_KEPT,
    UNASKED_ANSWERS,
)


@dataclass(slots=True, eq=False)
class Health:
    """The latest outcomes of one worker, kept when its connection ends and it comes back."""

    outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=OUTCOMES_KEPT))
    failures: int = 0  # among the outcomes
    in_a_row: int = 0  # failures since the last success
    unasked: int = 0  # answers without a request
    ejections: int = 0  # without a long good time between
    until: float | None = None  # when the ejection ends; None when not ejected
    probing: bool = False  # the ejection is over, the next outcome decides

    @property
    def out(self) -> bool:
        """Ejected, or on probation: its one probe has not ended yet."""
        return self.until is not None or self.probing

    @property
    def unremarkable(self) -> bool:
        """Nothing here needs to be remembered when it leaves."""
        return not (self.failures or self.unasked or self.ejections)

    def succeeded(self) -> bool:
        """One more answer; whether it ends the probation."""
        self._note(False)
        self.in_a_row = 0
        if not self.failures and len(self.outcomes) == OUTCOMES_KEPT:
            self.ejections = self.unasked = 0
        ends, self.probing = self.probing, False
        if ends:
            self._start_anew()
        return ends

    def failed(self) -> bool:
        """One more failure; whether the worker should be ejected."""
        self._note(True)
        self.in_a_row += 1
        many = self.failures >= FAILURES_IN_A_ROW and 2 * self.failures >= len(self.outcomes)
        return self.probing or many or self.in_a_row >= FAILURES_IN_A_ROW

    def unasked_answer(self) -> bool:
        """An answer without a request; whether the worker should be ejected."""
        self.unasked += 1
        return self.unasked >= UNASKED_ANSWERS

    def eject(self, now: float) -> float:
        """Leave the worker out; for how many seconds."""
        self.ejections += 1
        seconds = min(LONGEST_EJECTION, EJECTION * self.ejections)
        self.until, self.probing = now + seconds, False
        self._start_anew()
        return seconds

    def probe(self) -> None:
        """The ejection is over: one request decides whether another one follows."""
        self.until, self.probing = None, True

    def reinstate(self) -> None:
        """Back without a probe, because too few others are left."""
        self.until, self.probing = None, False

    def _note(self, failure: bool) -> None:
        if len(self.outcomes) == OUTCOMES_KEPT:
            self.failures -= self.outcomes[0]
        self.outcomes.append(failure)
        self.failures += failure

    def _start_anew(self) -> None:
        self.outcomes.clear()
        self.failures = self.in_a_row = self.unasked = 0
