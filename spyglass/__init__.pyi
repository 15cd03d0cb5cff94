from spyglass.client import Answer as Answer
from spyglass.client import BrokerClient as BrokerClient
from spyglass.client import RequestFailed as RequestFailed

__version__: str
