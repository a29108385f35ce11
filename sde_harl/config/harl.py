"""HARL's spelling of a run: its flags, and the JSON files that it writes and ships (tuned_configs).

Its files have three sections: main_args (its command line), algo_args (with a section for each
topic) and env_args.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sde_harl.config.layers import Layer, Value
from sde_harl.config.wording import brief, shown
from sde_harl.errors import UserError
from sde_harl.outside.text import strict_json

SECTIONS = ("main_args", "algo_args", "env_args")

HARL_KEYS = {
    "algo": "algo.name",
    "env": "env.name",
    "exp_name": "record.exp",
    "seed": "seed",
    "map_name": "env.map",
    "scenario": "env.map",
    "scenario_name": "env.map",
    "env_name": "env.map",
    "representation": "env.representation",
    "stacked": "env.stacked",
    "rewards": "env.rewards",
    "lr": "algo.lr",
    "critic_lr": "algo.critic_lr",
    "opti_eps": "algo.adam_eps",
    "ppo_epoch": "algo.epochs",
    "a2c_epoch": "algo.epochs",
    "actor_num_mini_batch": "algo.minibatches",
    "critic_epoch": "algo.critic_epochs",
    "critic_num_mini_batch": "algo.critic_minibatches",
    "action_aggregation": "algo.action_aggregation",
    "use_policy_active_masks": "algo.policy_active_masks",
    "share_param": "algo.share_param",
    "kl_threshold": "algo.kl_threshold",
    "ls_step": "algo.ls_step",
    "accept_ratio": "algo.accept_ratio",
    "backtrack_coeff": "algo.backtrack_coeff",
    "clip_param": "algo.clip_coef",
    "entropy_coef": "algo.entropy_coef",
    "gamma": "algo.gamma",
    "gae_lambda": "algo.gae_lambda",
    "max_grad_norm": "algo.max_grad_norm",
    "value_loss_coef": "algo.value_coef",
    "use_huber_loss": "algo.use_huber",
    "huber_delta": "algo.huber_delta",
    "use_clipped_value_loss": "algo.clip_value_loss",
    "use_valuenorm": "algo.valuenorm",
    "fixed_order": "algo.fixed_order",
    "data_chunk_length": "algo.chunk",
    "use_linear_lr_decay": "algo.lr_decay",
    "warmup_steps": "algo.warmup_steps",
    "train_interval": "train.rollout",
    "update_per_train": "algo.updates",
    "buffer_size": "algo.buffer_size",
    "batch_size": "algo.batch_size",
    "n_step": "algo.n_step",
    "polyak": "algo.polyak",
    "auto_alpha": "algo.auto_alpha",
    "alpha_lr": "algo.alpha_lr",
    "expl_noise": "algo.expl_noise",
    "policy_noise": "algo.policy_noise",
    "noise_clip": "algo.noise_clip",
    "policy_freq": "algo.policy_freq",
    "epsilon": "algo.epsilon",
    "use_feature_normalization": "policy.feature_norm",
    "use_recurrent_policy": "policy.recurrent",
    "gain": "policy.head_gain",
    "std_x_coef": "policy.std_x_coef",
    "std_y_coef": "policy.std_y_coef",
    "state_type": "env.state_type",
    "continuous_actions": "env.continuous_actions",
    "n_rollout_threads": "train.envs",
    "episode_length": "train.rollout",
    "num_env_steps": "train.steps",
    "torch_threads": "train.threads",
    "eval_episodes": "eval.episodes",
    "log_dir": "record.dir",
}
"""Our key for each flag of HARL's that means the same."""

UNSUPPORTED = {
    "hidden_sizes": "use policy.blocks and policy.width",
    "base_hidden_sizes": "use policy.blocks and policy.width",
    "agent_conf": "use env.map, as in HalfCheetah-2x3",
    "agent_obsk": "use env.agent_obsk; HARL's agents always see as with -1",
}
"""What to give instead of a flag of HARL's that has no key here."""

ENVIRONMENTS = {"pettingzoo_mpe": "mpe"}
"""Our name for each benchmark that HARL calls otherwise."""

FIXED: dict[str, tuple[Any, ...]] = {
    "weight_decay": (0,),
    "activation_func": ("relu",),
    "base_activation_func": ("relu",),
    "initialization_method": ("orthogonal_",),
    "use_naive_recurrent_policy": (False,),
    "recurrent_n": (1,),
    "use_gae": (True,),
    "use_max_grad_norm": (True,),
    "use_proper_time_limits": (True,),
    "seed_specify": (True,),
    "model_dir": (None,),
    "use_eval": (True,),
    "episode_limit": (1000,),
    "use_render": (False,),
    "load_config": ("",),
    # Football: nothing is recorded or rendered by the engine, and all opponents are its bots.
    "channel_dimensions": ([96, 72],),
    "extra_players": (None,),
    "number_of_right_players_agent_controls": (0,),
    "other_config_options": (None,),
    "render": (False,),
    "write_full_episode_dumps": (False,),
    "write_goal_dumps": (False,),
    "write_video": (False,),
}
"""Keys of its files that can't be set here, with the values that describe what happens here."""

IGNORED = (
    "cuda",
    "cuda_deterministic",
    "log_interval",
    "n_eval_rollout_threads",
    "render_episodes",
    "dump_frequency",
    "logdir",
    # It follows from the scenario, as in HARL's own settings.
    "number_of_left_players_agent_controls",
    # Of hasac's policies the last hidden layer is meant, which ends in a ReLU here; of the others'
    # the action, which is a tanh here too.
    "final_activation_func",
    # Values and advantages of had3qn are linear in the last block here.
    "dueling_v_hidden_sizes",
    "dueling_a_hidden_sizes",
    "dueling_v_activation_func",
    "dueling_a_activation_func",
)
"""Keys of its files that don't change what is learnt, or change it in a way that isn't built."""

PLAIN = ("haddpg", "hatd3", "maddpg", "matd3", "had3qn")
"""Algorithms whose nets normalise nothing in HARL; so are those of hasac with continuous actions.
"""
OFF_POLICY = (*PLAIN, "hasac")
OFF_POLICY_ADAM_EPS = 1e-8
"""Adam's epsilon in HARL's off-policy algorithms, whose files don't name it."""
CONTINUOUS_ENVS = ("mamujoco", "dexhands")


class Entry(NamedTuple):
    """One key of a file."""

    name: str
    value: Any
    where: str
    """File and section."""


class Experiment(NamedTuple):
    """The contents of a file of HARL's."""

    layer: Layer
    note: str
    """A line to print that names the ignored keys, or nothing."""


def experiment(text: str, source: str) -> Experiment:
    """Reads a file of HARL's. Raises UserError that names every key that can't be followed."""
    entries = list(_entries(text, source))
    given = {entry.name: entry.value for entry in entries}
    layer: Layer = {}
    refused: list[str] = []
    ignored: list[str] = []
    for entry in entries:
        if entry.name in TRANSLATED:
            translated = TRANSLATED[entry.name](entry, given)
            layer.update(translated)
            if not translated:
                refused.append(f"{entry.name} {brief(entry.value)}")
        elif entry.name in HARL_KEYS:
            layer[HARL_KEYS[entry.name]] = Value(value=entry.value, source=entry.where)
        elif entry.name in IGNORED:
            ignored.append(entry.name)
        elif entry.name not in FIXED:
            refused.append(shown(entry.name))
        elif entry.value not in FIXED[entry.name]:
            only = brief(FIXED[entry.name][0])
            refused.append(f"{entry.name} {brief(entry.value)} (only {only})")
    if refused:
        raise UserError(f"{source}: not supported: {', '.join(refused)}")
    note = ""
    if ignored:
        note = f"ignored of {source}: {', '.join(ignored)}"
    return Experiment(layer=layer, note=note)


def _entries(text: str, source: str) -> Iterator[Entry]:
    """Yields the keys of all sections. Raises UserError where the text is no such file."""
    tree = _tree(text, source)
    for topic, keys in tree["algo_args"].items():
        if not isinstance(keys, dict):
            raise UserError(
                f"{source}: algo_args.{shown(topic)}: keys are expected, got {brief(keys)}"
            )
        for name, value in keys.items():
            yield Entry(name=name, value=value, where=f"{source}: algo_args.{topic}")
    for section in ("main_args", "env_args"):
        for name, value in tree[section].items():
            yield Entry(name=name, value=value, where=f"{source}: {section}")


def _tree(text: str, source: str) -> dict[str, dict[str, Any]]:
    """Returns the sections of a file. Raises UserError where they are not HARL's."""
    try:
        tree = strict_json(text)
    except ValueError as error:
        raise UserError(f"{source}: not valid JSON: {shown(str(error))}") from error
    if (
        not isinstance(tree, dict)
        or set(tree) != set(SECTIONS)
        or not all(isinstance(section, dict) for section in tree.values())
    ):
        raise UserError(
            f"{source}: not a configuration of HARL's: it has sections {', '.join(SECTIONS)}"
        )
    return tree


def _algorithm(entry: Entry, given: dict[str, Any]) -> Layer:
    """Returns the algorithm, and what HARL's code sets of it where no key of a file does."""
    layer = {"algo.name": Value(value=entry.value, source=entry.where)}
    if entry.value in OFF_POLICY and "opti_eps" not in given:
        layer["algo.adam_eps"] = Value(value=OFF_POLICY_ADAM_EPS, source=entry.where)
    return layer


def _environment(entry: Entry, given: dict[str, Any]) -> Layer:
    name = entry.value
    if isinstance(name, str):
        name = ENVIRONMENTS.get(name, name)
    return {"env.name": Value(value=name, source=entry.where)}


def _scenario(entry: Entry, given: dict[str, Any]) -> Layer:
    """Returns the map. A robot's partition, a key of its own in HARL, is part of it."""
    # Which version of a scenario is played depends here on the benchmark's package.
    name = re.sub(r"[_-]v\d+$", "", str(entry.value))
    if "agent_conf" in given:
        name += f"-{given['agent_conf']}"
    return {"env.map": Value(value=name, source=entry.where)}


def _partition(entry: Entry, given: dict[str, Any]) -> Layer:
    """Returns the map. Without a robot, a partition says nothing."""
    if "scenario" not in given:
        return {}
    scenario = Entry(name="scenario", value=given["scenario"], where=entry.where)
    return _scenario(scenario, given)


def _agent_obsk(entry: Entry, given: dict[str, Any]) -> Layer:
    # Its agents see the whole robot and their number, whatever this key says (MujocoMulti.get_obs).
    return {"env.agent_obsk": Value(value=-1, source=entry.where)}


def _hidden_sizes(entry: Entry, given: dict[str, Any]) -> Layer:
    """Returns the networks, whose sizes must all be the same. HARL's policies are not split."""
    sizes = entry.value
    if not isinstance(sizes, list) or not sizes or any(size != sizes[0] for size in sizes):
        return {}
    blocks = Value(value=len(sizes), source=entry.where)
    width = Value(value=sizes[0], source=entry.where)
    return {
        "policy.local_blocks": blocks,
        "codec.name": Value(value="none", source=entry.where),
        **_normalisation(entry, given),
        "policy.blocks": blocks,
        "policy.width": width,
        "policy.critic_blocks": blocks,
        "policy.critic_width": width,
    }


def _normalisation(entry: Entry, given: dict[str, Any]) -> Layer:
    """Returns whether the nets normalise. In HARL some nets do and others can't."""
    layer_norm = Value(value=not _is_plain(given), source=entry.where)
    if not _is_plain(given):
        return {"policy.layer_norm": layer_norm}
    return {"policy.layer_norm": layer_norm, "policy.feature_norm": layer_norm}


def _is_plain(given: dict[str, Any]) -> bool:
    """Returns whether the nets of the file's algorithm normalise nothing in HARL."""
    if given.get("algo") in PLAIN:
        return True
    continuous = given.get("continuous_actions") or given.get("env") in CONTINUOUS_ENVS
    return given.get("algo") == "hasac" and bool(continuous)


def _feature_norm(entry: Entry, given: dict[str, Any]) -> Layer:
    """Returns the normalisation of features, which a plain net in HARL doesn't read."""
    return {
        "policy.feature_norm": Value(value=entry.value and not _is_plain(given), source=entry.where)
    }


def _alpha(entry: Entry, given: dict[str, Any]) -> Layer:
    """Returns the weight of the entropy, but for 0, which has another meaning here."""
    if entry.value == 0:
        return {}
    return {"algo.alpha": Value(value=entry.value, source=entry.where)}


def _eval_interval(entry: Entry, given: dict[str, Any]) -> Layer:
    """Returns the interval in steps. HARL counts rollouts, off-policy the steps of each world."""
    factors = [entry.value, given.get("n_rollout_threads")]
    if "train_interval" not in given:
        factors.append(given.get("episode_length"))
    if not all(isinstance(factor, int) for factor in factors):
        return {}
    return {"eval.interval": Value(value=math.prod(factors), source=entry.where)}


TRANSLATED: dict[str, Callable[[Entry, dict[str, Any]], Layer]] = {
    "algo": _algorithm,
    "env": _environment,
    "scenario": _scenario,
    "agent_conf": _partition,
    "agent_obsk": _agent_obsk,
    "hidden_sizes": _hidden_sizes,
    "base_hidden_sizes": _hidden_sizes,
    "use_feature_normalization": _feature_norm,
    "alpha": _alpha,
    "eval_interval": _eval_interval,
}
"""Functions for keys whose values are spelt otherwise here. The second argument holds all keys of
the file. An empty layer means that the value can't be followed."""
