"""Which refusals of workers are worth a line in the log: a peer may be refused for ever."""

from __future__ import annotations

from spyglass.dispatcher.policy import REFUSAL_LOGGED_EVERY, REFUSALS_REMEMBERED


class Refusals:
    """Times are seconds on any monotonic clock."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], tuple[float, int]] = {}  # when, and how often since

    def line(self, name: str, why: str, now: float) -> str | None:
        """What to say of a refusal of this name, or None if it was said just now."""
        said, since = self._said.get((name, why), (float("-inf"), 0))
        if now < said + REFUSAL_LOGGED_EVERY:
            self._said[name, why] = said, since + 1
            return None
        self._said.pop((name, why), None)  # so that it is the last again
        self._said[name, why] = now, 0
        if len(self._said) > REFUSALS_REMEMBERED:
            del self._said[next(iter(self._said))]
        return f"{name} refused{f' {since + 1} times' if since else ''}: {why}"
