"""The broker's decisions: which workers are alive, and which request goes to which of them.

A state machine: events and the time go in, actions come out. Sockets, clocks, threads, logging and
chance do not belong here.
"""
