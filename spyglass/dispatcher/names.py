"""The names of connected workers, made unique: a second "attic" becomes "attic#2".

Part of the dispatcher: no I/O.
"""

from __future__ import annotations

from spyglass.dispatcher.policy import NUMBERED_NAME_KEPT


class Names:
    """Taking and releasing one costs the same with two workers as with ten thousand."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._free_from: dict[str, int] = {}  # by name: no lower number of it is free

    def take(self, name: str) -> str:
        """The name, or the first free one made of it."""
        free = name
        if name in self._taken:
            base = name[:NUMBERED_NAME_KEPT]
            number = self._free_from.get(base, 2)
            while (free := f"{base}#{number}") in self._taken:
                number += 1
            self._free_from[base] = number + 1
        self._taken.add(free)
        return free

    def release(self, name: str) -> None:
        """Its worker is gone."""
        self._taken.discard(name)
        base, _, number = name.rpartition("#")
        free_from = self._free_from.get(base)
        if free_from is not None and number.isascii() and number.isdigit():
            free_from = min(free_from, max(2, int(number)))
            self._free_from[base] = free_from
            if free_from == 2:  # as if none had ever been made
                del self._free_from[base]
