"""The HTTP APIs that programs use: Spyglass's own, TorchServe's, and the Open Inference Protocol.

Pages for people, and connections and their limits, do not belong here.
"""
