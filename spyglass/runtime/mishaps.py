"""Faults of our own at single messages: they are counted and logged, and the loop goes on."""

from __future__ import annotations

import logging
import traceback

log = logging.getLogger(__name__)


class Mishaps:
    """A net around each message: what goes wrong with one must not end the program that serves all.

    Each place in the code that fails is logged once, with its traceback, however often a peer makes
    it fail.
    """

    def __init__(self) -> None:
        self.count = 0
        self._logged: set[tuple[str, int | None, type[Exception]]] = set()

    def add(self, what: str, error: Exception) -> None:
        """`what` was not done because of this error."""
        self.count += 1
        where = traceback.extract_tb(error.__traceback__, limit=-1)[0]
        place = where.filename, where.lineno, type(error)
        if place not in self._logged:
            self._logged.add(place)
            log.error("%s; further ones like it are only counted", what, exc_info=error)
