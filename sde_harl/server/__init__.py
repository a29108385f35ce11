"""Rank 0's side of the wire: sends observations and actions, waits for answers, counts costs."""
