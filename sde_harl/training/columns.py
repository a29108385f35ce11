"""Makes columns of the tables of run.h5, named as record/schema.py has them.

N agents, K decisions of a slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.codec.symbols import BINS, SYMBOLS, SymbolCounts
from sde_harl.roles.identity import Embedding
from sde_harl.server.decision_log import Decisions
from sde_harl.server.executor_pool import ExecutorPool
from sde_harl.training.episodes import Episodes


def episode_columns(episodes: Episodes, *, slot_envs: int) -> dict[str, NDArray[Any]]:
    """Returns columns of /episodes; `slot_envs`: environments of a slot."""
    return {
        "slot": episodes.environment // slot_envs,
        "env": episodes.environment,
        "seed": episodes.seed,
        "length": episodes.length,
        "return": episodes.returns,
        "won": episodes.won,
    }


def evaluation_columns(
    episodes: Episodes, means: Mapping[str, float], link: Mapping[str, float]
) -> dict[str, float]:
    """Returns a row of /evaluations; `means` and `link` as summary.py makes them."""
    return {
        "episodes": len(episodes.length),
        "win_rate": means["win_rate"],
        "return_mean": means["return"],
        "return_std": float(episodes.returns.std()),
        "length_mean": means["length"],
        "bits_per_element": link["bits_per_element"],
        "bytes_per_decision": link["bytes_per_decision"],
        "missed": link["link/missed"],
        "idle": link["link/idle"],
        "fallback": link["link/fallback"],
    }


def symbol_columns(counts: SymbolCounts) -> dict[str, NDArray[Any]]:
    """Returns the columns of /symbols of an evaluation: a row for each agent and symbol."""
    agents = len(counts.sent)
    return {
        "agent": np.arange(agents).repeat(BINS),
        "symbol": np.tile(SYMBOLS, agents),
        "sent": counts.sent.ravel(),
        "probability": counts.expected.ravel(),
    }


def decision_columns(
    decisions: Decisions, pool: ExecutorPool, *, envs: int
) -> dict[str, NDArray[Any]]:
    """Returns columns of /decisions: K N rows, those of a decision together, agent by agent.

    envs: environments of all slots.
    """
    count, agents = decisions.payload_bytes.shape

    def for_each_agent(column: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(column, agents)

    device_ns = decisions.device_ns.reshape(-1, 3)
    return {
        # A decision has the step of its environments; tables count those of all environments.
        "step": for_each_agent(decisions.step * envs),
        "agent": np.tile(np.arange(agents), count),
        "rank": decisions.rank.ravel(),
        "environments": for_each_agent(decisions.environments),
        "payload_bytes": decisions.payload_bytes.ravel(),
        # A header came with each answer, late ones included: their payload is counted here too.
        "wire_bytes": (decisions.payload_bytes + pool.overhead * decisions.answers).ravel(),
        "ideal_bits": decisions.ideal_bits.ravel(),
        "version": for_each_agent(decisions.version),
        "t_local": device_ns[:, 0],
        "t_encode": device_ns[:, 1],
        "t_round_trip": device_ns[:, 2],
        "t_decode": decisions.decode_ns.ravel(),
        "t_policy": for_each_agent(decisions.policy_ns),
        "t_decision": for_each_agent(decisions.decision_ns),
        "latent_age": decisions.age.ravel(),
        "deadline_missed": decisions.missed.ravel(),
        "idle": decisions.idle.ravel(),
        "fallback": decisions.fallback.ravel(),
        "late": decisions.late.ravel(),
    }


def embedding_columns(embedding: Embedding) -> dict[str, NDArray[Any]]:
    """Returns the columns of /roles: a row for each half of each agent's random play."""
    agents, halves, numbers = embedding.mu.shape
    columns = {
        "agent": np.arange(agents).repeat(halves),
        "half": np.tile(np.arange(halves), agents),
    }
    for name, values in embedding._asdict().items():
        flat = values.reshape(-1, numbers)
        columns |= {f"{name}_{k}": flat[:, k] for k in range(numbers)}
    return columns
