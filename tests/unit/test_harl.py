"""HARL's own JSON files: what they say is done, and what can't be done is named key by key."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sde_harl.config.arguments import parse
from sde_harl.config.harl import experiment
from sde_harl.config.schema import Config
from sde_harl.errors import UserError

FILE: dict[str, Any] = {
    "main_args": {
        "algo": "happo",
        "env": "pettingzoo_mpe",
        "exp_name": "report",
        "load_config": "",
    },
    "algo_args": {
        "train": {
            "n_rollout_threads": 10,
            "episode_length": 50,
            "eval_interval": 4,
            "use_linear_lr_decay": True,
            "model_dir": None,
        },
        "model": {
            "hidden_sizes": [96, 96],
            "lr": 2e-4,
            "weight_decay": 0,
            "activation_func": "relu",
            "gain": 0.02,
        },
        "algo": {"ppo_epoch": 7, "critic_epoch": 3, "use_gae": True, "action_aggregation": "mean"},
        "device": {"cuda": True, "torch_threads": 1},
    },
    "env_args": {"scenario": "simple_reference_v2", "continuous_actions": True},
}


def written(folder: Path, **changes: Any) -> str:
    """Returns a file like FILE with `changes`, in the section that has the key, else in `algo`."""
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
    assert (config.env.name, config.env.map, config.env.continuous_actions) == (
        "mpe",
        "simple_reference",
        True,
    )
    assert (config.algo.name, config.algo.lr, config.algo.lr_decay) == ("happo", 2e-4, True)
    assert (config.algo.epochs, config.algo.critic_epochs, config.algo.action_aggregation) == (
        7,
        3,
        "mean",
    )
    policy = config.policy
    assert (policy.blocks, policy.width, policy.critic_blocks, policy.critic_width) == (
        2,
        96,
        2,
        96,
    )
    assert (config.train.envs, config.train.rollout, config.eval.interval) == (10, 50, 4 * 50 * 10)
    assert (policy.head_gain, config.record.exp, config.seed) == (0.02, "report", 5)
    assert request.text.startswith("ignored of ")
    assert request.text.endswith(": cuda")


REPORT = {
    "train": {
        "n_rollout_threads": 20,
        "num_env_steps": 10_000_000,
        "episode_length": 200,
        "eval_interval": 25,
        "use_valuenorm": True,
        "use_linear_lr_decay": False,
        "use_proper_time_limits": True,
    },
    "eval": {"use_eval": True, "n_eval_rollout_threads": 10, "eval_episodes": 20},
    "model": {
        "hidden_sizes": [128, 128],
        "use_feature_normalization": True,
        "gain": 0.01,
        "std_x_coef": 1,
        "std_y_coef": 0.5,
        "lr": 0.0005,
        "critic_lr": 0.0005,
        "opti_eps": 1e-05,
    },
    "algo": {
        "clip_param": 0.2,
        "critic_epoch": 5,
        "entropy_coef": 0.01,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "huber_delta": 10.0,
        "max_grad_norm": 10.0,
        "value_loss_coef": 1,
        "actor_num_mini_batch": 1,
        "critic_num_mini_batch": 1,
        "use_huber_loss": True,
        "use_clipped_value_loss": True,
        "action_aggregation": "prod",
    },
}
"""The figures that its tuned on-policy files of particle worlds have in common."""
MUJOCO = {
    "eval_episodes": 40,
    "hidden_sizes": [128, 128, 128],
    "entropy_coef": 0,
    "clip_param": 0.1,
}
"""The figures that those of robots set otherwise."""
LONG = {"clip_param": 0.05, "ppo_epoch": 15, "critic_epoch": 15, "entropy_coef": 0.01}
NATURAL = {
    "kl_threshold": 0.005,
    "ls_step": 10,
    "accept_ratio": 0.5,
    "backtrack_coeff": 0.8,
    "clip_param": 0.2,
}
HATRPO = ["algo.kl_threshold=0.005"]


def tuned(folder: Path, algo: str, env: str, env_args: dict[str, Any], **changes: Any) -> str:
    """One of HARL's tuned files."""
    shared = algo == "mappo"
    sections = copy.deepcopy(REPORT)
    sections["algo"] |= {"share_param": shared, "fixed_order": shared}
    epochs = {"happo": "ppo_epoch", "mappo": "ppo_epoch", "haa2c": "a2c_epoch"}
    sections["algo"] |= {epochs[algo]: 5} if algo in epochs else {}
    for name, value in changes.items():
        next((each for each in sections.values() if name in each), sections["algo"])[name] = value
    if algo == "hatrpo":
        del sections["algo"]["entropy_coef"]
    path = folder / "config.json"
    main_args = {"algo": algo, "env": env, "exp_name": "report", "load_config": ""}
    path.write_text(
        json.dumps({"main_args": main_args, "algo_args": sections, "env_args": env_args})
    )
    return str(path)


def learnt(words: list[str]) -> Config:
    """Returns what a run learns with; names, spellings and unused values are made alike."""
    config = parse(
        [*words, "record.exp=x", "algo.chunk=8", "env.workers=0", "train.slots=2"]
    ).config
    assert config is not None
    algo = config.algo
    critic = {"critic_epochs": algo.critic_epochs or algo.epochs}
    critic |= {"critic_minibatches": algo.critic_minibatches or algo.minibatches}
    return config.model_copy(update={"algo": algo.model_copy(update=critic)})


ROBOTS = ("mamujoco", {"episode_limit": 1000, "agent_obsk": 0})
WORLDS = ("pettingzoo_mpe", {"continuous_actions": False})
ANT = {"scenario": "Ant-v2", "agent_conf": "4x2"}
CHEETAH = {"scenario": "HalfCheetah-v2", "agent_conf": "2x3"}


@pytest.mark.parametrize(
    ("file", "algo", "words", "family", "task", "changes"),
    [
        ("ant_4x2", "happo", [], ROBOTS, ANT, MUJOCO),
        ("ant_4x2", "mappo", [], ROBOTS, ANT, MUJOCO),
        (
            "ant_4x2",
            "haa2c",
            ["algo.lr_decay=true"],
            ROBOTS,
            ANT,
            {**MUJOCO, "use_linear_lr_decay": True},
        ),
        ("ant_4x2", "hatrpo", ["algo.clip_coef=0.2", *HATRPO], ROBOTS, ANT, {**MUJOCO, **NATURAL}),
        ("halfcheetah_2x3", "happo", [], ROBOTS, CHEETAH, {**MUJOCO, **LONG}),
        ("halfcheetah_2x3", "mappo", [], ROBOTS, CHEETAH, {**MUJOCO, **LONG}),
        (
            "halfcheetah_2x3",
            "haa2c",
            ["algo.epochs=5", "algo.clip_coef=0.1", "algo.entropy_coef=0", "algo.lr_decay=true"],
            ROBOTS,
            CHEETAH,
            {**MUJOCO, "use_linear_lr_decay": True},
        ),
        (
            "halfcheetah_2x3",
            "hatrpo",
            ["algo.epochs=5", "algo.clip_coef=0.2"],
            ROBOTS,
            CHEETAH,
            {**MUJOCO, **NATURAL, "kl_threshold": 0.01},
        ),
        (
            "halfcheetah_6x1",
            "happo",
            [],
            ROBOTS,
            {**CHEETAH, "agent_conf": "6x1"},
            {},
        ),  # its defaults: none are tuned
        ("mpe_reference", "happo", [], WORLDS, {"scenario": "simple_reference_v2"}, {}),
        (
            "mpe_speaker_listener",
            "mappo",
            [],
            WORLDS,
            {"scenario": "simple_speaker_listener_v3"},
            {"share_param": False},
        ),
        ("mpe_spread", "hatrpo", HATRPO, WORLDS, {"scenario": "simple_spread_v2"}, NATURAL),
        (
            "mpe_spread_continuous",
            "haa2c",
            [],
            WORLDS,
            {"scenario": "simple_spread_v2", "continuous_actions": True},
            {},
        ),
    ],
)
def test_shipped_settings_are_harls_tuned_ones(
    file: str,
    algo: str,
    words: list[str],
    family: tuple[str, dict[str, Any]],
    task: dict[str, Any],
    changes: dict[str, Any],
    tmp_path: Path,
) -> None:
    name, env_args = family
    theirs = learnt([tuned(tmp_path, algo, name, {**env_args, **task}, **changes)])
    assert learnt([f"configs/{file}.yaml", f"algo.name={algo}", *words]) == theirs


FOOTBALL = {
    "channel_dimensions": [96, 72],
    "dump_frequency": 1,
    "env_name": "academy_3_vs_1_with_keeper",
    "extra_players": None,
    "logdir": None,
    "number_of_left_players_agent_controls": 3,
    "number_of_right_players_agent_controls": 0,
    "other_config_options": None,
    "render": False,
    "representation": "simple115v2",
    "rewards": "scoring,checkpoints",
    "stacked": False,
    "write_full_episode_dumps": False,
    "write_goal_dumps": False,
    "write_video": False,
}
DRILL = {
    "ppo_epoch": 15,
    "critic_epoch": 15,
    "actor_num_mini_batch": 2,
    "critic_num_mini_batch": 2,
    "hidden_sizes": [64, 64],
    "n_rollout_threads": 50,
    "num_env_steps": 25_000_000,
    "eval_episodes": 100,
    "use_linear_lr_decay": True,
}
"""The figures that those of football set otherwise."""


@pytest.mark.parametrize("algo", ["happo", "mappo"])
def test_footballs_settings_are_harls_tuned_ones(algo: str, tmp_path: Path) -> None:
    theirs = learnt([tuned(tmp_path, algo, "football", FOOTBALL, **DRILL)])
    assert learnt(["configs/football.yaml", f"algo.name={algo}"]) == theirs


def test_a_recurrent_policy_of_harls_is_whole_too(tmp_path: Path) -> None:
    config = parse([written(tmp_path, use_recurrent_policy=True, data_chunk_length=10)]).config
    assert config is not None
    policy = config.policy
    assert policy.recurrent
    assert policy.local_blocks == policy.blocks == 2
    assert config.codec.name == "none"


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    config = parse([written(tmp_path), "algo.lr=1e-3"]).config
    assert config is not None
    assert config.algo.lr == 1e-3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weight_decay": 0.1, "recurrent_n": 2}, ["weight_decay 0.1", "recurrent_n 2"]),
        ({"hidden_sizes": [64, 32], "task": 0.005}, ["hidden_sizes [64, 32]", "task"]),
        ({"eval_interval": "x"}, ["eval_interval 'x'"]),
        ({"env": "dexhands"}, ["env.name", "'dexhands'"]),
        ({"lr": "fast"}, ["algo.lr", "'fast'", "algo_args.model"]),
        ({"episode_limit": 50}, ["episode_limit 50 (only 1000)"]),
        ({"scenario": "simple_tag_v2", "n_rollout_threads": 7}, ["train.envs", "algo_args.train"]),
    ],
)
def test_every_key_that_cant_be_followed_is_named(
    changes: dict[str, Any], named: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        parse(["--load_config", written(tmp_path, **changes)])
    assert "\n" not in str(caught.value)
    for name in named:
        assert name in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner)
)


@given(
    st.text()
    | st.dictionaries(st.sampled_from([*FILE, "more"]), JSON | st.dictionaries(st.text(), JSON))
)
def test_anything_else_gives_one_line(tree: object) -> None:
    try:
        experiment(tree if isinstance(tree, str) else json.dumps(tree), "mine.json")
    except UserError as error:
        line = str(error)
    else:
        return
    assert "\n" not in line
    assert "mine.json" in line


REPLAY_FILE: dict[str, Any] = {
    "seed": {"seed_specify": True, "seed": 1},
    "device": {"cuda": True, "cuda_deterministic": True, "torch_threads": 4},
    "train": {
        "n_rollout_threads": 20,
        "num_env_steps": 10_000_000,
        "warmup_steps": 5000,
        "train_interval": 40,
        "update_per_train": 2,
        "log_interval": None,
        "eval_interval": 1000,
        "use_valuenorm": False,
        "use_linear_lr_decay": False,
        "use_proper_time_limits": True,
        "model_dir": None,
    },
    "eval": {"use_eval": True, "n_eval_rollout_threads": 10, "eval_episodes": 20},
    "render": {"use_render": False, "render_episodes": 10},
    "logger": {"log_dir": "./results"},
}
"""What its off-policy files have in common."""
COMMON = {"buffer_size": 500_000, "batch_size": 800, "polyak": 0.01, "n_step": 10, "gamma": 0.98}
COMMON |= {"share_param": False, "fixed_order": True}
SOFT = {"auto_alpha": True, "alpha": 0.1, "alpha_lr": 1e-4, "use_huber_loss": False}
DUELLING = {"base_hidden_sizes": [96], "base_activation_func": "relu"}
DUELLING |= {"dueling_v_hidden_sizes": [128], "dueling_v_activation_func": "hardswish"}


def replaying(folder: Path, algo: str, model: Any, own: Any, **env_args: Any) -> str:
    """Returns an off-policy file of `algo`."""
    args = {**copy.deepcopy(REPLAY_FILE), "model": {**model, "lr": 2e-4, "critic_lr": 3e-4}}
    args["algo"] = {**COMMON, **own}
    main = {"algo": algo, "env": "pettingzoo_mpe", "exp_name": "report", "load_config": ""}
    tree = {"main_args": main, "algo_args": args, "env_args": env_args}
    path = folder / "config.json"
    path.write_text(json.dumps(tree))
    return str(path)


HIDDEN = {"hidden_sizes": [256, 256], "activation_func": "relu", "final_activation_func": "tanh"}


def test_an_entropy_of_no_weight_is_refused(tmp_path: Path) -> None:
    """0 stands for a weight that a run finds itself."""
    path = replaying(tmp_path, "hasac", HIDDEN, {**SOFT, "alpha": 0}, scenario="simple_spread_v2")
    with pytest.raises(UserError, match="not supported: alpha 0"):
        parse(["--load_config", path])


@pytest.mark.parametrize(
    ("algo", "model", "own", "continuous", "ignored"),
    [
        ("hasac", HIDDEN | {"use_feature_normalization": True}, SOFT, False, "final_act"),
        ("hasac", HIDDEN | {"use_feature_normalization": True}, SOFT, True, "final_act"),
        ("hatd3", HIDDEN, {"policy_noise": 0.3, "noise_clip": 0.4, "policy_freq": 3}, True, ""),
        ("haddpg", HIDDEN, {"expl_noise": 0.2}, True, ""),
        ("had3qn", DUELLING, {"epsilon": 0.1}, False, "dueling_v_hidden_sizes"),
    ],
)
def test_an_off_policy_file_says_what_is_run(
    algo: str, model: Any, own: Any, continuous: bool, ignored: str, tmp_path: Path
) -> None:
    path = replaying(
        tmp_path, algo, model, own, scenario="simple_spread_v2", continuous_actions=continuous
    )
    request = parse(["--load_config", path])
    config = request.config
    assert config is not None
    learnt = config.algo
    assert (learnt.name, learnt.lr, learnt.critic_lr) == (algo, 2e-4, 3e-4)
    assert (learnt.buffer_size, learnt.batch_size, learnt.polyak) == (500_000, 800, 0.01)
    assert (learnt.n_step, learnt.gamma, learnt.fixed_order) == (10, 0.98, True)
    assert (learnt.warmup_steps, learnt.updates, config.train.rollout) == (5000, 2.0, 40)
    # Off-policy it counts the steps of each world.
    assert config.eval.interval == 1000 * 20
    for key in own.keys() - {"use_huber_loss"}:
        assert getattr(learnt, key) == own[key]
    assert ignored in request.text
    # Its plain nets normalise nothing.
    assert config.algo.adam_eps == 1e-8  # which its files don't name
    normalised = algo == "hasac" and not continuous
    assert (config.policy.layer_norm, config.policy.feature_norm) == (normalised, normalised)
    sizes = model.get("hidden_sizes") or model["base_hidden_sizes"]
    assert (config.policy.blocks, config.policy.width) == (len(sizes), sizes[0])
