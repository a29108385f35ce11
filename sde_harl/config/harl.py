"""HARL's spelling of a run: its flags, and the JSON files that it writes and ships in tuned_configs.

Its sections are main_args (what the command line gave), algo_args (a section a topic) and env_args.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sde_harl.config.layers import Layer, Value
from sde_harl.config.wording import brief, shown
from sde_harl.errors import UserError

HARL_KEYS = {
    "algo": "algo.name",
    "env": "env.name",
    "exp_name": "record.exp",
    "seed": "seed",
    "map_name": "env.map",
    "scenario": "env.map",
    "scenario_name": "env.map",
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
"""HARL's flag -> our key."""

UNSUPPORTED = {
    "hidden_sizes": "use policy.blocks and policy.width",
    "agent_conf": "use env.map, as in HalfCheetah-2x3",
    "agent_obsk": "use env.agent_obsk; HARL's agents see as with -1, whatever they are told",
}
"""HARL's flag that has no key of ours -> what to give instead."""

ENVIRONMENTS = {"pettingzoo_mpe": "mpe"}
"""HARL's name of a benchmark -> ours, where they differ."""

FIXED: dict[str, tuple[Any, ...]] = {
    "weight_decay": (0,),
    "activation_func": ("relu",),
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
}
"""Keys of its files that have no key of ours, and the values that say what happens here anyway."""

IGNORED = (
    "cuda",
    "cuda_deterministic",
    "log_interval",
    "n_eval_rollout_threads",
    "render_episodes",
)
"""Keys of its files that change nothing that is learnt."""


class Entry(NamedTuple):
    """One key of a file."""

    name: str
    value: Any
    where: str
    """File and section."""


def experiment(text: str, source: str) -> tuple[Layer, str]:
    """The flat keys of HARL's file, and a line that names what of it is ignored (or nothing).

    Raises UserError that names every key that can't be followed.
    """
    entries = list(_entries(text, source))
    given = {entry.name: entry.value for entry in entries}
    layer: Layer = {}
    refused: list[str] = []
    for entry in entries:
        if entry.name in TRANSLATED:
            translated = TRANSLATED[entry.name](entry, given)
            layer |= translated
            refused += [] if translated else [f"{entry.name} {brief(entry.value)}"]
        elif entry.name in HARL_KEYS:
            layer[HARL_KEYS[entry.name]] = Value(entry.value, entry.where)
        elif entry.name in FIXED and entry.value not in FIXED[entry.name]:
            refused.append(
                f"{entry.name} {brief(entry.value)} (only {brief(FIXED[entry.name][0])})"
            )
        elif entry.name not in FIXED and entry.name not in IGNORED:
            refused.append(shown(entry.name))
    if refused:
        raise UserError(f"{source}: not supported: {', '.join(refused)}")
    ignored = [entry.name for entry in entries if entry.name in IGNORED]
    return layer, f"ignored of {source}: {', '.join(ignored)}" if ignored else ""


def _entries(text: str, source: str) -> Iterator[Entry]:
    """The keys of all sections. Raises UserError where the text is no such file."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: not valid JSON: {shown(str(error))}") from error
    sections = ("main_args", "algo_args", "env_args")
    if (
        not isinstance(tree, dict)
        or set(tree) != set(sections)
        or not all(isinstance(tree[k], dict) for k in sections)
    ):
        raise UserError(
            f"{source}: not a configuration of HARL's: it has sections {', '.join(sections)}"
        )
    for topic, keys in tree["algo_args"].items():
        if not isinstance(keys, dict):
            raise UserError(
                f"{source}: algo_args.{shown(topic)}: keys are expected, got {brief(keys)}"
            )
        yield from (
            Entry(name, value, f"{source}: algo_args.{topic}") for name, value in keys.items()
        )
    for section in ("main_args", "env_args"):
        yield from (
            Entry(name, value, f"{source}: {section}") for name, value in tree[section].items()
        )


def _environment(entry: Entry, given: dict[str, Any]) -> Layer:
    name = (
        ENVIRONMENTS.get(entry.value, entry.value) if isinstance(entry.value, str) else entry.value
    )
    return {"env.name": Value(name, entry.where)}


def _scenario(entry: Entry, given: dict[str, Any]) -> Layer:
    """Versions are the benchmark package's business here; a robot's partition is a key of its own there."""
    partition = f"-{given['agent_conf']}" if "agent_conf" in given else ""
    return {"env.map": Value(re.sub(r"[_-]v\d+$", "", str(entry.value)) + partition, entry.where)}


def _partition(entry: Entry, given: dict[str, Any]) -> Layer:
    """Goes with the robot, without which it says nothing."""
    return (
        _scenario(Entry("scenario", given["scenario"], entry.where), given)
        if "scenario" in given
        else {}
    )


def _agent_obsk(entry: Entry, given: dict[str, Any]) -> Layer:
    """Its agents see the whole robot and their number, whatever this says (MujocoMulti.get_obs)."""
    return {"env.agent_obsk": Value(-1, entry.where)}


def _hidden_sizes(entry: Entry, given: dict[str, Any]) -> Layer:
    """All sizes must be the same. Its policies are not split."""
    sizes = entry.value
    if not isinstance(sizes, list) or not sizes or any(size != sizes[0] for size in sizes):
        return {}
    blocks, width = Value(len(sizes), entry.where), Value(sizes[0], entry.where)
    return {
        "policy.local_blocks": blocks,
        "codec.name": Value("none", entry.where),
        "policy.layer_norm": Value(True, entry.where),
        "policy.blocks": blocks,
        "policy.width": width,
        "policy.critic_blocks": blocks,
        "policy.critic_width": width,
    }


def _eval_interval(entry: Entry, given: dict[str, Any]) -> Layer:
    """HARL counts rollouts."""
    factors = [entry.value, given.get("episode_length"), given.get("n_rollout_threads")]
    if not all(isinstance(factor, int) for factor in factors):
        return {}
    return {"eval.interval": Value(factors[0] * factors[1] * factors[2], entry.where)}


TRANSLATED: dict[str, Callable[[Entry, dict[str, Any]], Layer]] = {
    "env": _environment,
    "scenario": _scenario,
    "agent_conf": _partition,
    "agent_obsk": _agent_obsk,
    "hidden_sizes": _hidden_sizes,
    "eval_interval": _eval_interval,
}
"""Keys of its files whose values are said otherwise here, not at all where the layer is empty.

The second argument holds all keys of the file."""
