"""Pictures that kill: suspected after one loss, refused after two.

A picture is known by its SHA-256. When a child, or a whole worker, is lost while it computes a
picture, the picture is suspected: from then on it is computed alone and once at a time. A second
loss, that time alone, puts it in quarantine; an answer clears it. A picture that was never
answered is computed once at a time as well, so that a hundred copies of a deadly one cost no more
than one copy.

Part of the dispatcher: no I/O, and `now` is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

#: Losses after which a picture is refused (DESIGN: "two different workers or children").
LOSSES_ALLOWED = 2
#: Suspects and known good pictures remembered. Beyond it the oldest are forgotten, which costs
#: a picture its good name, or a deadly one another child, and never grows.
REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Loss:
    """A child, or with `process` a whole worker, that was lost computing a picture."""

    worker: str  # its name
    alone: bool  # whether this was the only picture it had in hand
    process: tuple[str, int] | None = None  # (host, pid) if the worker's connection was lost


@dataclass(slots=True)
class Suspect:
    """A picture that was at hand when something was lost."""

    sha256: str
    until: float  # seconds on the dispatcher's clock when all is forgotten
    losses: list[Loss] = field(default_factory=list)
    refused: int = 0  # requests refused since it is in quarantine

    @property
    def quarantined(self) -> bool:
        """Twice at the scene, the last time with no other there."""
        return len(self.losses) >= LOSSES_ALLOWED and self.losses[-1].alone


class Quarantine:
    """Which pictures may be computed, and how."""

    def __init__(self, seconds: float) -> None:
        """Forget a suspect this many seconds after its last loss."""
        self._seconds = seconds
        self._suspects: OrderedDict[str, Suspect] = OrderedDict()  # the next forgotten first
        self._proven: OrderedDict[str, None] = OrderedDict()

    # --- what is computed ---------------------------------------------------------------------

    def proven(self, sha256: str) -> bool:
        """Whether it was answered before, so that copies may be computed side by side."""
        return sha256 in self._proven

    def suspected(self, sha256: str) -> bool:
        """Whether it must be computed alone."""
        return sha256 in self._suspects

    # --- what came of it ----------------------------------------------------------------------

    def acquit(self, sha256: str) -> None:
        """It was computed and all lived: whatever was lost before was not its doing."""
        suspect = self._suspects.get(sha256)
        if suspect is not None:
            if suspect.quarantined:
                return
            del self._suspects[sha256]
        self._proven[sha256] = None
        self._proven.move_to_end(sha256)
        if len(self._proven) > REMEMBERED:
            self._proven.popitem(last=False)

    def blame(self, sha256: str, loss: Loss, now: float) -> bool:
        """Note a loss; whether the picture goes into quarantine by it."""
        self._proven.pop(sha256, None)
        suspect = self._suspects.setdefault(sha256, Suspect(sha256, 0.0))
        before = suspect.quarantined
        suspect.losses.append(loss)
        suspect.until = now + self._seconds
        self._suspects.move_to_end(sha256)
        if len(self._suspects) > REMEMBERED:
            self._suspects.popitem(last=False)
        return suspect.quarantined and not before

    def came_back(self, host: str, pid: int) -> None:
        """A worker thought dead only lost its connection: no picture is to blame for that."""
        for suspect in list(self._suspects.values()):
            suspect.losses = [loss for loss in suspect.losses if loss.process != (host, pid)]
            if not suspect.losses:
                del self._suspects[suspect.sha256]

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

    def _forget(self, now: float) -> None:
        while self._suspects and (first := next(iter(self._suspects.values()))).until <= now:
            del self._suspects[first.sha256]
