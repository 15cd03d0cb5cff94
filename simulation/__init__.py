"""Fleets larger than anybody here has: the real dispatcher, with everything around it simulated."""
