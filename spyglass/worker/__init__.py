"""A worker: the parent process that speaks to brokers, and its children, which compute.

Neither pixels nor models belong here, nor anything that decides for the fleet as a whole: the
parent imports no model, and knows only the requests it was given.
"""
