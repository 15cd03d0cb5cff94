"""The keys of a broker's encrypted ports: where they are stored, who is allowed, and `keys.py`.

How a socket uses a key (spyglass.transport.credentials) and the web's admin token do not belong
here.
"""
