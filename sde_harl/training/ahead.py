"""By which model executors play the next rollout, where rank 0 learns meanwhile (`train.overlap`).

Rollout v + 1 is played by the model that was published before rollout v was learnt, whatever takes
longer. A checkpoint is the state after a complete update, when the next rollout is under way: a run
that goes on has it played again, by the same model, which the checkpoint holds for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sde_harl.link.wire import Kind
from sde_harl.server.publisher import Sent
from sde_harl.server.sharded_pool import ShardedPool
from sde_harl.training.counters import MOST_VERSIONS


class Ahead:
    """The model that plays a rollout ahead."""

    def __init__(self, pool: ShardedPool) -> None:
        self._pool = pool
        self._loaded: Sent | None = None

    def take_model(self) -> Sent:
        """Returns the model for the rollout that begins now."""
        model = self._loaded or self._pool.published
        self._loaded = None
        return model

    def state_dict(self) -> dict[str, Any]:
        """Returns the model that plays the rollout under way; nothing where there is none."""
        model = self._loaded or self._pool.shards.played_by
        if model is None:
            return {}
        (_, weights), *tables = model.payloads
        return {
            "version": model.version,
            "weights": np.frombuffer(weights, np.float32).copy(),
            "tables": {
                str(number): np.frombuffer(each, np.uint8).copy()
                for number, (_, each) in enumerate(tables)
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned. Raises ValueError for what no model is."""
        if not state:
            return
        tables = state.get("tables", {})
        if not isinstance(tables, Mapping):
            raise ValueError("the tables of the model that plays ahead are none")
        arrays = [state["weights"], *(tables[str(number)] for number in range(len(tables)))]
        dtypes = [np.dtype(np.float32), *[np.dtype(np.uint8)] * len(tables)]
        version = state["version"]
        if not isinstance(version, int) or not 1 <= version <= MOST_VERSIONS:
            raise ValueError(f"version: expected 1 to {MOST_VERSIONS}, got {version}")
        for array, dtype in zip(arrays, dtypes):
            if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype != dtype:
                raise ValueError("the model that plays ahead is none")
        kinds = [Kind.WEIGHTS, *[Kind.TABLES] * len(tables)]
        payloads = tuple((kind, array.tobytes()) for kind, array in zip(kinds, arrays))
        self._loaded = Sent(version=version, payloads=payloads)
