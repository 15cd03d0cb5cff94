"""Pictures that kill the process which computes them: suspected after one loss, refused after two.

A picture is known by its SHA-256. When a child, or a whole worker, is lost while it computes a
picture, the picture is suspected: from then on it is computed alone and once at a time. A second
loss, that time alone, puts it in quarantine; an answer clears it. A picture that was never
answered is computed once at a time as well, so that a hundred copies of a deadly one cost no more
than one copy.

After the second loss the decision waits while a lost worker may still come back, in which case the
picture was not the cause; until then no worker gets the picture. An answer clears it at any time
before it is in quarantine.

Part of the dispatcher: no I/O, and `now` is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from spyglass.dispatcher.policy import LOSSES_TO_QUARANTINE, PICTURES_REMEMBERED


@dataclass(frozen=True, slots=True)
class Loss:
    """A child, or with `process` a whole worker, that was lost computing a picture."""

    worker: str  # its name
    alone: bool  # whether this was the only picture it was computing
    process: tuple[str, int] | None = None  # (host, pid) if the worker was lost
    certain_at: float = 0.0  # seconds on the dispatcher's clock until which it may come back


@dataclass(slots=True)
class Suspect:
    """A picture that was being computed when a child or a worker was lost."""

    sha256: str
    until: float  # seconds on the dispatcher's clock when it is forgotten
    losses: list[Loss] = field(default_factory=list)
    refused: int = 0  # requests refused since it is in quarantine
    quarantined: bool = False

    @property
    def likely_cause(self) -> bool:
        """Two losses, in one of which it was alone: of a slow picture's two attempts, the one that
        began in a batch may be the second to end."""
        return len(self.losses) >= LOSSES_TO_QUARANTINE and any(loss.alone for loss in self.losses)

    @property
    def decided_at(self) -> float:
        """When all its losses are certain."""
        return max(loss.certain_at for loss in self.losses)


class Quarantine:
    """Which pictures may be computed, and how."""

    def __init__(self, seconds: float) -> None:
        """Forget a suspect this many seconds after its last loss."""
        self._seconds = seconds
        self._suspects: OrderedDict[str, Suspect] = OrderedDict()  # the next forgotten first
        self._undecided: dict[str, Suspect] = {}
        self._proven: OrderedDict[str, None] = OrderedDict()
        #: By process, the pictures that may have a loss of it: so that a whole fleet can come back
        #: at once without a look at every suspect for each worker.
        self._lost: dict[tuple[str, int], dict[str, None]] = {}
        self._sweep_at = PICTURES_REMEMBERED

    # --- what is computed ---------------------------------------------------------------------

    def must_wait(self, sha256: str, computing: bool) -> bool:
        """Whether no worker may get it now: while it is undecided, or while a copy is computed
        unless it was answered before."""
        return sha256 in self._undecided or (computing and sha256 not in self._proven)

    def suspected(self, sha256: str) -> bool:
        """Whether it must be computed alone."""
        return sha256 in self._suspects

    # --- results and losses ----------------------------------------------------------------------

    def clear_suspicion(self, sha256: str) -> bool:
        """It was computed and no process died, so it did not cause the losses before. Whether
        copies waited for that."""
        suspect = self._suspects.get(sha256)
        if suspect is not None:
            if suspect.quarantined:
                return False
            del self._suspects[sha256]
        self._proven[sha256] = None
        self._proven.move_to_end(sha256)
        if len(self._proven) > PICTURES_REMEMBERED:
            self._proven.popitem(last=False)
        return self._undecided.pop(sha256, None) is not None

    def record_loss(self, sha256: str, loss: Loss, now: float) -> None:
        """Keep a loss; `newly_quarantined` decides what follows from it."""
        self._proven.pop(sha256, None)
        suspect = self._suspects.setdefault(sha256, Suspect(sha256, 0.0))
        suspect.losses.append(loss)
        if loss.process is not None:
            self._remember(loss.process, sha256)
        suspect.until = now + self._seconds
        self._suspects.move_to_end(sha256)
        if len(self._suspects) > PICTURES_REMEMBERED:
            self._undecided.pop(self._suspects.popitem(last=False)[0], None)
        if suspect.likely_cause and not suspect.quarantined:
            self._undecided[sha256] = suspect

    def came_back(self, host: str, pid: int) -> list[str]:
        """A worker that counted as lost had only lost its connection, which no picture caused.
        The pictures that may be computed again."""
        released = []
        for sha256 in self._lost.pop((host, pid), ()):
            suspect = self._suspects.get(sha256)
            if suspect is None:
                continue
            suspect.losses = [loss for loss in suspect.losses if loss.process != (host, pid)]
            if not suspect.likely_cause:
                suspect.quarantined = False
                if self._undecided.pop(sha256, None):
                    released.append(sha256)
            if not suspect.losses:
                del self._suspects[sha256]
        return released

    def newly_quarantined(self, now: float) -> list[str]:
        """The pictures that go into quarantine now."""
        decided = [s for s in self._undecided.values() if s.decided_at <= now]
        for suspect in decided:
            suspect.quarantined = True
            del self._undecided[suspect.sha256]
        return [suspect.sha256 for suspect in decided]

    def next_decision(self) -> float:
        """When `newly_quarantined` must be asked at the latest."""
        if not self._undecided:  # nearly always, and asked in each turn of the broker
            return float("inf")
        return min(s.decided_at for s in self._undecided.values())

    # --- who is refused -----------------------------------------------------------------------

    def refuses(self, sha256: str, now: float) -> Suspect | None:
        """The picture's entry if it is in quarantine."""
        self._forget(now)
        suspect = self._suspects.get(sha256)
        return suspect if suspect is not None and suspect.quarantined else None

    def entries(self, now: float) -> list[Suspect]:
        """All pictures in quarantine, the longest first."""
        self._forget(now)
        return [suspect for suspect in self._suspects.values() if suspect.quarantined]

    def clear(self, sha256: str = "") -> int:
        """Forget one picture, or all of them without a name; how many left quarantine."""
        chosen = [s for s in self._suspects.values() if sha256 in ("", s.sha256) and s.quarantined]
        for suspect in chosen:
            del self._suspects[suspect.sha256]
        return len(chosen)

    def _remember(self, process: tuple[str, int], sha256: str) -> None:
        self._lost.setdefault(process, {})[sha256] = None
        if len(self._lost) > self._sweep_at:
            # Processes that never came back would stay when their pictures are long forgotten.
            self._lost = {}
            for suspect in self._suspects.values():
                for loss in suspect.losses:
                    if loss.process is not None:
                        self._lost.setdefault(loss.process, {})[suspect.sha256] = None
            self._sweep_at = max(PICTURES_REMEMBERED, 2 * len(self._lost))

    def _forget(self, now: float) -> None:
        while self._suspects and (first := next(iter(self._suspects.values()))).until <= now:
            del self._suspects[first.sha256]
