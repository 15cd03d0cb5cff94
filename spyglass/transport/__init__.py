"""ZeroMQ sockets: their addresses, keys and options, and whole messages in and out of them.

What a message means, and what follows from it, does not belong here.
"""
