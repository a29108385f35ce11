"""Publishes what was learnt: local nets and tables to the executors, the rest to rank 0."""

from __future__ import annotations

from typing import NamedTuple

from sde_harl.codec.tables import Tables
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.server.executor_pool import ExecutorPool
from sde_harl.training.learned import Learned


class Published(NamedTuple):
    """A published model, as rank 0 keeps it."""

    acting: ActingPolicy
    """Its own part of the policies."""
    tables: list[Tables]
    """Each agent's; empty for plain codecs."""


def publish(learned: Learned, pool: ExecutorPool, *, version: int, codec: str) -> Published:
    """Publishes version number `version`.

    codec: as in `codec.name`.
    """
    tables: list[Tables] = []
    if codec == "entropy":
        tables = learned.policy.build_tables(version)
    weights = learned.policy.local_parameters()
    # A fallback head travels behind its agent's local net, as one vector with it.
    if learned.fallback:
        weights = [net + head for net, head in zip(weights, learned.fallback.arrays())]
    acting = learned.policy.acting()
    pool.publish(version, weights, tables, acting)
    return Published(acting=acting, tables=tables)
