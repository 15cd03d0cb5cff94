"""Sends pictures to a broker and waits for their answers: the library and its command line.

HTTP does not belong here, nor decisions about workers, which are the broker's.
"""

from spyglass.client.session import Answer, RequestFailed
from spyglass.client.thread_client import BrokerClient

__all__ = ["Answer", "BrokerClient", "RequestFailed"]
