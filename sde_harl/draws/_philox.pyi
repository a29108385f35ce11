from typing import Any

UNIFORM: int
EXPONENTIAL: int
NORMAL: int

def fill(
    law: int, seed: int, purpose: int, step: int, first_environment: int, agents: Any, out: Any
) -> None: ...
