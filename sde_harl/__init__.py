"""Split multi-agent reinforcement-learning policies on real clusters."""

__version__ = "0.1.0"
