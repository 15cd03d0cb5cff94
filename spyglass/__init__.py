"""Spyglass: image recognition that goes on answering while its workers die."""

#: This release, shown on the status page, in /openapi.json and by `--version`.
__version__ = "0.1.0"
