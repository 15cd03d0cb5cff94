"""Importing this module loads the model: the fork server imports it before it forks children."""

from spyglass.worker import child

child.preload()
