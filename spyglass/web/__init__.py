"""The web: an HTTP server with the upload and status pages, the HTTP APIs, health and metrics.

It passes pictures to a broker as they came: decoding them does not belong here, nor any decision
about the fleet.
"""
