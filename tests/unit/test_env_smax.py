"""SMAX: what is particular to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launch import launch
from playing import STOP, play, shoot_first

from sde_harl.config.schema import EnvConfig
from sde_harl.envs.registry import make

SMAX = EnvConfig(name="smac", map="3m", backend="smax")
pytestmark = pytest.mark.usefixtures("compile_cache")


def test_smax_spec() -> None:
    spec = make(SMAX, num_envs=4, seed=1).spec
    assert (spec.name, spec.agents) == ("smax/3m", ("ally_0", "ally_1", "ally_2"))
    assert (spec.episode_limit, spec.has_win, spec.unit_types) == (100, True, ("marine",) * 3)


def test_smax_dead_agents_may_only_stop() -> None:
    dead = 0
    for step in play(make(SMAX, num_envs=4, seed=1), 80):
        assert step.available_actions[step.active][:, : STOP + 1].all()
        assert step.available_actions[~step.active][:, STOP].all()
        assert (step.available_actions[~step.active].sum(-1) == 1).all()
        dead += (~step.active).sum()
    assert dead > 0


def test_smax_wins_and_losses() -> None:
    steps = play(make(SMAX, num_envs=4, seed=1), 200, shoot_first)[1:]
    won = np.concatenate([step.won for step in steps])
    returns = np.concatenate([step.returns for step in steps])
    over = np.concatenate([step.terminated for step in steps])
    np.testing.assert_array_equal(over, won >= 0)
    assert (won == 1).sum() > 5
    assert (won == 0).sum() > 0
    # all damage is worth 1 (a last shot may overkill), the win 1 more
    assert returns[won == 1].min() > 1.99 > returns[won == 0].max()


def test_smax_time_limit_truncates() -> None:
    env: Any = make(SMAX, num_envs=4, seed=1)
    env.reset()
    env._state = env._state._replace(lengths=env._state.lengths + 98)
    stop = np.full((4, 3, 1), STOP)
    for truncated in (False, True, False):
        env.send(stop)
        step = env.recv()
        assert (step.truncated == truncated).all()
        assert not step.terminated.any()
        assert (step.won == (0 if truncated else -1)).all()


def test_smax_compiles_once_for_vectors_of_one_size() -> None:
    one, other = make(SMAX, num_envs=4, seed=1), make(SMAX, num_envs=4, seed=2, first_env=4)
    assert one._program.step is other._program.step  # type: ignore[attr-defined]


def test_smax_import_is_silent_and_late() -> None:
    program = """
import sys
import sde_harl.envs.registry
assert not {"jax", "mpe2", "torch"} & set(sys.modules), "heavy at import"
before = sys.stdout, sys.stderr, sys.__stdout__
from sde_harl.envs import smax
smax._import_smax()
assert before == (sys.stdout, sys.stderr, sys.__stdout__), "streams replaced"
"""
    done = launch(1, "-c", program)
    assert (done.code, done.out) == (0, ""), done.err


def test_smax_cache_that_cannot_be_written_is_only_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from sde_harl.envs.vector import jax_setup

    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    jax_setup._keep_compiled(jax_setup._cache_dir())
    assert "compiles again" in caplog.text
