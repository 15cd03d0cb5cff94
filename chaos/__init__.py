"""A real fleet, a steady load, one fault a second; and a ledger that nobody can argue with."""
