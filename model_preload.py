"""Importing this module loads the model: the fork server imports it before it forks children."""

import child

child.preload()
