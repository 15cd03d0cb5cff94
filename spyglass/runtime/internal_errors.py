"""Errors of this program's own while it handles a message: counted and logged, and it goes on."""

from __future__ import annotations

import logging
import traceback

log = logging.getLogger(__name__)


class InternalErrors:
    """Counts unexpected exceptions, each caught around one message: a message that fails must not
    end a program that serves everybody.

    Each line of code that fails is logged once, with its traceback, however often a peer makes it
    fail: otherwise a peer could fill the log.
    """

    def __init__(self) -> None:
        self.count = 0
        self._logged: set[tuple[str, int | None, type[Exception]]] = set()

    def add(self, what: str, error: Exception) -> None:
        """Count an error.

        Args:
            what: what was not done because of it, for the log.
        """
        self.count += 1
        where = traceback.extract_tb(error.__traceback__, limit=-1)[0]
        place = where.filename, where.lineno, type(error)
        if place not in self._logged:
            self._logged.add(place)
            log.error("%s; further errors like it are only counted", what, exc_info=error)
