"""The broker's process: two ports, one loop, the command line, replies to queries, and the log.

It decides nothing about requests and workers; that belongs to the dispatcher.
"""
