"""HTTP itself: the server and its limits, requests and responses, failures, and who may act.

Routes, pages and the fleet do not belong here.
"""
