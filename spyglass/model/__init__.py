"""What turns the bytes of a picture into labels: its pixels, the model, and what computes it.

It runs in a worker's children and is loaded there by a name in a string. Sockets, processes, and
who asked for the labels do not belong here.
"""
