"""Which refusals of workers are logged: a worker that is refused may try again endlessly."""

from __future__ import annotations

from spyglass.dispatcher.policy import REFUSAL_LOGGED_EVERY, REFUSALS_REMEMBERED


class Refusals:
    """Times are seconds on any monotonic clock."""

    def __init__(self) -> None:
        # When the refusal of a name for a reason was logged, and how often it came since.
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}

    def line(self, name: str, why: str, now: float) -> str | None:
        """The log line of a refusal of this name, or None if the same one was logged just now."""
        logged, since = self._logged.get((name, why), (float("-inf"), 0))
        if now < logged + REFUSAL_LOGGED_EVERY:
            self._logged[name, why] = logged, since + 1
            return None
        self._logged.pop((name, why), None)  # so that it is the last again
        self._logged[name, why] = now, 0
        if len(self._logged) > REFUSALS_REMEMBERED:
            del self._logged[next(iter(self._logged))]
        return f"{name} refused{f' {since + 1} times' if since else ''}: {why}"
