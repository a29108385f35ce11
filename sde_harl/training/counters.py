"""How far a run has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

MOST_STEPS = 2**53
MOST_VERSIONS = 2**32 - 1
"""The wire has 32 bits for a version."""


@dataclass
class Counters:
    """Numbers that grow over a run, and that a resumed run would go on from."""

    steps: int = 0
    """Environment steps, of all training environments together."""
    version: int = 0
    """Of the model that was published last; 0 before the first."""
    past_steps: int = 0
    """Environment steps of the runs whose nets this one started from (train.load)."""

    evaluated: int = 0
    """Environment steps at the last evaluation; 0 before the first."""

    @property
    def drawn_steps(self) -> int:
        """Returns the step that random draws count from: no run draws its predecessor's again."""
        return self.past_steps + self.steps

    def state_dict(self) -> dict[str, int]:
        """Returns all numbers."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Takes over what `state_dict` returned. Raises ValueError for what no run counts to."""
        for name, most in (
            ("steps", MOST_STEPS),
            ("version", MOST_VERSIONS),
            ("past_steps", MOST_STEPS),
            ("evaluated", state["steps"]),
        ):
            if not 0 <= state[name] <= most:
                raise ValueError(f"{name}: expected 0 to {most}, got {state[name]}")
        self.steps = state["steps"]
        self.version = state["version"]
        self.past_steps = state["past_steps"]
        self.evaluated = state["evaluated"]
