"""The worst that one device may say leaves all weights finite, which bounds alone do not ensure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import made

from sde_harl.codec.plain import LARGEST_LATENT
from sde_harl.executor.handlers import on_device
from sde_harl.executor.handlers.split import SplitHandler
from sde_harl.record.checkpoint import load
from sde_harl.server.action_check import LARGEST_LOG_DENSITY, LEAST_LOG_PROB

ON_DEVICE = ["policy.local_blocks=3", "codec.name=none"]
TWO_UPDATES = ["train.envs=2", "train.steps=120", "eval.episodes=0"]


def check_weights(folder: Path, *words: str) -> None:
    """Checks that everything in the checkpoint of a short run is finite."""
    run = made(folder, "--env", "mpe", *TWO_UPDATES, *words)
    run.run()
    assert not run.pool.faults(), "these numbers are within bounds"
    tensors = {
        name: each
        for name, each in load(run.logger.folder / "models" / "last.pt").values.items()
        if isinstance(each, torch.Tensor)
    }
    assert len(tensors) > 10
    assert [name for name, each in tensors.items() if not torch.isfinite(each).all()] == []


@pytest.mark.parametrize("algo", ["happo", "mappo", "hatrpo"])
@pytest.mark.parametrize("aggregation", ["prod", "mean"])
def test_the_worst_log_probabilities(
    algo: str, aggregation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five of them for each action: their sum is beyond what float32 can raise e to."""
    random = np.random.default_rng(0)
    pack = on_device.pack_actions

    def forged(actions: np.ndarray, log_probs: np.ndarray, memory: Any) -> bytes:
        lies = log_probs.copy()
        lies[0] = random.choice([LEAST_LOG_PROB, LARGEST_LOG_DENSITY], (*lies[0].shape[:1], 1))
        return pack(actions, lies, memory)

    monkeypatch.setattr(on_device, "pack_actions", forged)
    more = ["env.continuous_actions=true", f"algo.action_aggregation={aggregation}"]
    check_weights(tmp_path, "--algo", algo, *ON_DEVICE, *more)


@pytest.mark.parametrize("codec", ["float32", "entropy"])
def test_the_largest_latents(codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    encode = SplitHandler.encode

    def forged(self: SplitHandler, observations: memoryview, rows: int) -> np.ndarray:
        latents = encode(self, observations, rows)
        latents[0] = random.choice([-LARGEST_LATENT, LARGEST_LATENT], latents[0].shape)
        return latents

    monkeypatch.setattr(SplitHandler, "encode", forged)
    check_weights(tmp_path, "--algo", "happo", f"codec.name={codec}")
