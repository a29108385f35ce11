"""Rank 0's side of the wire: it sends observations and actions, waits for answers and counts what they cost."""
