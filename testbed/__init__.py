"""Real fleets and counterfeit peers for whoever tries the service: tests, chaos, bench and deploy.

Belongs here: starting processes, cutting their connections, standing in for a model or a peer. Does
not belong here: any judgement of what is seen, and anything that the product itself needs.
"""
