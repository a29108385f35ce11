"""HARL's own JSON files: what they say is done, and what can't be done is named key by key."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sde_harl.command import parse
from sde_harl.errors import UserError
from sde_harl.harl import experiment

FILE: dict[str, Any] = {
    "main_args": {"algo": "happo", "env": "pettingzoo_mpe", "exp_name": "report", "load_config": ""},
    "algo_args": {
        "train": {
            "n_rollout_threads": 10,
            "episode_length": 50,
            "eval_interval": 4,
            "use_linear_lr_decay": True,
            "model_dir": None,
        },
        "model": {"hidden_sizes": [96, 96], "lr": 2e-4, "weight_decay": 0, "activation_func": "relu", "gain": 0.02},
        "algo": {"ppo_epoch": 7, "critic_epoch": 3, "use_gae": True, "action_aggregation": "mean"},
        "device": {"cuda": True, "torch_threads": 1},
    },
    "env_args": {"scenario": "simple_reference_v2", "continuous_actions": True},
}


def written(folder: Path, **changes: Any) -> str:
    """A file like FILE; `changes` are of keys by name, in the section that has them, or in `algo` if none has."""
    tree = copy.deepcopy(FILE)
    sections = [tree["main_args"], tree["env_args"], *tree["algo_args"].values()]
    for name, value in changes.items():
        next((each for each in sections if name in each), tree["algo_args"]["algo"])[name] = value
    path = folder / "config.json"
    path.write_text(json.dumps(tree))
    return str(path)


def test_a_file_of_harls_says_what_is_run(tmp_path: Path) -> None:
    request = parse(["--load_config", written(tmp_path), "--seed", "5"])
    config = request.config
    assert config is not None
    assert (config.env.name, config.env.map, config.env.continuous_actions) == ("mpe", "simple_reference", True)
    assert (config.algo.name, config.algo.lr, config.algo.lr_decay) == ("happo", 2e-4, True)
    assert (config.algo.epochs, config.algo.critic_epochs, config.algo.action_aggregation) == (7, 3, "mean")
    policy = config.policy
    assert (policy.blocks, policy.width, policy.critic_blocks, policy.critic_width) == (2, 96, 2, 96)
    assert (config.train.envs, config.train.rollout, config.eval.interval) == (10, 50, 4 * 50 * 10)
    assert (policy.head_gain, config.record.exp, config.seed) == (0.02, "report", 5)
    assert request.text.startswith("ignored of ") and request.text.endswith(": cuda")


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    config = parse([written(tmp_path), "algo.lr=1e-3"]).config
    assert config is not None and config.algo.lr == 1e-3


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"weight_decay": 0.1, "recurrent_n": 2}, ["weight_decay 0.1", "recurrent_n 2"]),
        ({"hidden_sizes": [64, 32], "polyak": 0.005}, ["hidden_sizes [64, 32]", "polyak"]),
        ({"eval_interval": "x"}, ["eval_interval 'x'"]),
        ({"env": "football"}, ["env.name", "'football'"]),
        ({"lr": "fast"}, ["algo.lr", "'fast'", "algo_args.model"]),
        ({"scenario": "simple_tag_v2", "n_rollout_threads": 7}, ["train.envs", "algo_args.train"]),
    ],
)
def test_every_key_that_cant_be_followed_is_named(changes: dict[str, Any], named: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        parse(["--load_config", written(tmp_path, **changes)])
    assert "\n" not in str(caught.value)
    for name in named:
        assert name in str(caught.value)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner))


@given(st.text() | st.dictionaries(st.sampled_from([*FILE, "more"]), JSON | st.dictionaries(st.text(), JSON)))
def test_anything_else_gives_one_line(tree: object) -> None:
    try:
        experiment(tree if isinstance(tree, str) else json.dumps(tree), "mine.json")
    except UserError as error:
        assert "\n" not in str(error) and "mine.json" in str(error)
