"""Fleets wider than any at hand: the real dispatcher, and all around it on paper."""
