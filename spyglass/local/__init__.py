"""What `make run` starts: broker, workers and web on one machine, kept alive by supervisor.

How the programs themselves work, and fleets on several machines, do not belong here.
"""
