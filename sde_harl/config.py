"""The configuration: a frozen dataclass a section, built from layers of raw values and checked whole.

The text under a field is its help. A layer comes from YAML or from the command line (command.py puts them in order);
past `build` there are only objects.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import yaml

from sde_harl.errors import UserError


def _number(default: float, least: float = -math.inf, most: float = math.inf, above: float = -math.inf) -> Any:
    return field(default=default, metadata={"bounds": (least, most, above)})


def _choice(default: str, *others: str) -> Any:
    return field(default=default, metadata={"choices": (default, *others)})


@dataclass(frozen=True)
class EnvConfig:
    """What is played."""

    name: str = "smac"
    """Benchmark: smac, mpe, mamujoco, or pettingzoo for an environment of your own."""
    map: str = "3s5z"
    """Map (smac), scenario (mpe), robot and partition (mamujoco: HalfCheetah-6x1)."""
    backend: str = "auto"
    """smac: starcraft2, smax (JaxMARL's battles), auto (StarCraft II where found). mpe: mpe2, jax (simple_spread)."""
    state_type: str = _choice("EP", "FP")
    """What the critic sees: EP, one state for the team; FP, the state and the agent's own observation."""
    continuous_actions: bool = False
    """Continuous instead of discrete actions, where the benchmark has both (mpe)."""
    workers: int = _number(0, least=0, most=1024)
    """Processes that step each half-batch, for benchmarks of one game at a time; 0 = none, rank 0 steps them itself."""
    agent_obsk: int = _number(1, least=-1)
    """mamujoco: joints away from its own that an agent sees; -1 = the whole robot and which agent it is, as in HARL."""
    factory: str = "none"
    """pettingzoo: module:function, which makes your parallel environment; called without arguments."""


@dataclass(frozen=True)
class AlgoConfig:
    """How it is learnt."""

    name: str = "happo"
    """Algorithm: a file of configs/algos."""
    lr: float = _number(5e-4, above=0)
    """Learning rate of the policies (Adam); hatrpo has none."""
    critic_lr: float = _number(5e-4, above=0)
    """Learning rate of the critic (Adam)."""
    adam_eps: float = _number(1e-5, above=0)
    """Adam's epsilon, policies and critic."""
    epochs: int = _number(5, least=1)
    """Passes over a rollout; of hatrpo the critic's and the entropy model's alone, the policies take one step."""
    minibatches: int = _number(1, least=1)
    """Parts that a rollout is cut into in each pass; 1 copies nothing."""
    critic_epochs: int = _number(0, least=0)
    """The critic's passes over a rollout; 0 = epochs."""
    critic_minibatches: int = _number(0, least=0)
    """The critic's parts of a rollout; 0 = minibatches."""
    clip_coef: float = _number(0.2, above=0)
    """PPO's clip range, of the ratio and of the value."""
    action_aggregation: str = _choice("prod", "mean")
    """The ratio of an action of several numbers: the product or the mean of theirs."""
    policy_active_masks: bool = True
    """Leave decisions of the dead out of the policies' losses."""
    share_param: bool = False
    """Agents of a group share local net and head too; with policy.groups empty, all agents are one group."""
    kl_threshold: float = _number(0.01, above=0)
    """hatrpo: bound of a step's KL divergence, old from new."""
    ls_step: int = _number(10, least=1)
    """hatrpo: most steps of the line search."""
    accept_ratio: float = _number(0.5, least=0)
    """hatrpo: share of the promised improvement that a step must bring."""
    backtrack_coeff: float = _number(0.8, above=0, most=1)
    """hatrpo: factor between the step lengths of the line search."""
    entropy_coef: float = _number(0.01, least=0)
    """Weight of the policy's entropy."""
    gamma: float = _number(0.99, least=0, most=1)
    """Discount."""
    gae_lambda: float = _number(0.95, least=0, most=1)
    """Lambda of generalised advantage estimation."""
    max_grad_norm: float = _number(10.0, above=0)
    """Gradients are clipped to this norm."""
    value_coef: float = _number(1.0, above=0)
    """Weight of the value loss."""
    use_huber: bool = True
    """Huber's loss for the value, else half the square."""
    huber_delta: float = _number(10.0, above=0)
    """Where the value loss turns from quadratic to linear."""
    clip_value_loss: bool = True
    """Clip the value's change as PPO clips the ratio."""
    valuenorm: bool = True
    """Normalise returns by their running mean and deviation."""
    fixed_order: bool = False
    """Update role groups in the given order instead of a fresh random one."""
    chunk: int = _number(8, least=1)
    """Recurrent policies: steps that gradients flow through, and that a rollout is cut into."""
    lr_decay: bool = False
    """Let both learning rates fall linearly to zero over the run."""


@dataclass(frozen=True)
class PolicyConfig:
    """The networks, and where they are cut."""

    blocks: int = _number(3, least=1)
    """Blocks (Linear + ReLU) of a policy, before its head."""
    local_blocks: int = _number(1, least=0)
    """Blocks that run on the device; 0 sends the coded observation itself, all of them nothing but what was done."""
    width: int = _number(64, least=1)
    """Width of a block."""
    latent: int = _number(16, least=0)
    """Numbers that a device sends for a decision; 0 = width."""
    feature_norm: bool = True
    """Normalise observations and states over their features."""
    layer_norm: bool = False
    """Normalise what comes out of every block's ReLU over its features, in policies and critic, as HARL does."""
    recurrent: bool = False
    """A GRU before the heads, at the server, and one in the critic."""
    head_gain: float = _number(0.01, above=0)
    """Gain of the heads' orthogonal initialisation."""
    std_x_coef: float = _number(1.0, above=0)
    """Continuous actions: their deviation is std_y_coef * sigmoid(s / std_x_coef), s learnt from std_x_coef on."""
    std_y_coef: float = _number(0.5, above=0)
    """Continuous actions: the largest deviation."""
    groups: tuple[tuple[int, ...], ...] = ()
    """Role groups that share a trunk, as lists of agent indices; empty = every agent alone (see algo.share_param)."""
    critic_blocks: int = _number(2, least=1)
    """Blocks of the critic."""
    critic_width: int = _number(128, least=1)
    """Width of the critic."""


@dataclass(frozen=True)
class CodecConfig:
    """How latents become bytes."""

    name: str = _choice("entropy", "float32", "float16", "int8", "none")
    """entropy (CompressAI's model, rANS), a baseline (float32, float16, int8), or none: all blocks on the device."""
    rate_coef: float = _number(1e-3, least=0)
    """Lambda: weight of the rate, in bits per latent element, beside the policy's loss."""
    lr: float = _number(1e-3, above=0)
    """Learning rate of the entropy model's densities."""
    aux_lr: float = _number(1e-2, above=0)
    """Learning rate of its quantiles (the auxiliary loss)."""
    pack: int = _number(0, least=0)
    """Rows that share one string; 0 = all rows of a message."""
    rate_rows: int = _number(256, least=1)
    """Rows of a minibatch on which the rate is estimated."""


@dataclass(frozen=True)
class PlacementConfig:
    """Who computes what."""

    mode: str = _choice("local", "agents")
    """local: one process; agents: MPI ranks 1..N hold the agents' local nets, rank 0 all else."""
    assign: dict[int, int] = field(default_factory=dict)
    """Agents pinned to executors, {agent: rank}; the others are dealt in turn."""


@dataclass(frozen=True)
class LinkConfig:
    """The link between rank 0 and the executors."""

    patience_s: float = _number(60.0, above=0)
    """Seconds that rank 0 waits for an executor before it ends the run and names it."""


@dataclass(frozen=True)
class TrainConfig:
    """How much is played."""

    steps: int = _number(5_000_000, least=1, most=10**15)
    """Environment steps of the run."""
    envs: int = _number(64, least=2)
    """Environments, in two half-batches: an even number."""
    rollout: int = _number(128, least=1)
    """Steps of every environment between two updates."""
    threads: int = _number(1, least=0)
    """torch threads of the learner; 0 = one for each core: faster on idle cores, far slower on busy ones."""


@dataclass(frozen=True)
class EvalConfig:
    """Greedy episodes, the same ones every time."""

    interval: int = _number(250_000, least=0)
    """Environment steps between evaluations; 0 = only at the end."""
    episodes: int = _number(128, least=0)
    """Episodes of an evaluation; 0 = never evaluate."""


@dataclass(frozen=True)
class RecordConfig:
    """What is written down."""

    dir: str = "results"
    """Folder of all results; a run gets <dir>/<env>/<task>/<algo>/<exp>/seed-<seed>-<time>."""
    exp: str = "test"
    """Name of the experiment."""
    trajectories: str = _choice("none", "eval")
    """Whole episodes in run.h5 (observations, actions, rewards; Minari's layout): none, or those of evaluations."""
    decisions: bool = True
    """Record every decision message: bytes, times, versions."""
    tensorboard: bool = True
    """Write TensorBoard files."""
    checkpoint_interval: int = _number(1_000_000, least=0)
    """Environment steps between checkpoints; 0 = only at the end."""
    on_disk_full: str = _choice("stop", "continue")
    """When run.h5 can't be written any more: stop the run, or continue without recording."""


@dataclass(frozen=True)
class Config:
    """A whole run."""

    env: EnvConfig = field(default_factory=EnvConfig)
    algo: AlgoConfig = field(default_factory=AlgoConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    link: LinkConfig = field(default_factory=LinkConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    record: RecordConfig = field(default_factory=RecordConfig)
    seed: int = _number(1, least=0, most=2**31 - 1)
    """Seed of everything random."""


class Value(NamedTuple):
    """A raw value and where it was written."""

    value: Any
    source: str


Layer = dict[str, Value]
"""Flat keys ("train.envs") and their raw values."""


class Key(NamedTuple):
    """One key of the configuration: its section ("" at the top), its field and the field's type."""

    section: str
    field: dataclasses.Field[Any]
    kind: Any


SECTIONS: dict[str, Any] = {
    name: kind for name, kind in get_type_hints(Config).items() if dataclasses.is_dataclass(kind)
}
"""Every section's class."""

KEYS = {
    f"{section}.{item.name}": Key(section, item, get_type_hints(owner)[item.name])
    for section, owner in SECTIONS.items()
    for item in dataclasses.fields(owner)
}
KEYS |= {
    item.name: Key("", item, get_type_hints(Config)[item.name])
    for item in dataclasses.fields(Config)
    if item.name not in SECTIONS
}
"""Every key by its flat name, in the order of a file."""


def build(layer: Layer) -> Config:
    """A checked Config from flat keys. Raises UserError for an unknown key, a wrong type or a value out of bounds."""
    values: dict[str, dict[str, Any]] = {section: {} for section in ("", *SECTIONS)}
    for name, given in layer.items():
        if name not in KEYS:
            raise UserError(f"{shown(name)}: no such key ({given.source}){did_you_mean(name, KEYS, 0.3)}")
        key = KEYS[name]
        values[key.section][key.field.name] = _checked(name, given, key)
    config = Config(**{section: kind(**values[section]) for section, kind in SECTIONS.items()}, **values[""])
    _check_together(config, layer)
    return config


def to_yaml(config: Config) -> str:
    """The complete file; `from_yaml` reads it back to an equal Config."""
    plain: dict[str, Any] = dataclasses.asdict(config)
    plain["policy"]["groups"] = [list(group) for group in config.policy.groups]
    return str(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None))


def from_yaml(text: str, source: str) -> Config:
    """A Config from a complete or partial file's text; `source` names it in errors."""
    return build(layer_of(text, source))


def layer_of(text: str, source: str) -> Layer:
    """The flat keys of a YAML text. Raises UserError where it is no YAML, no sections, or a key is given twice."""
    tree = load(text, source)
    if not isinstance(tree, (dict, type(None))):
        raise UserError(f"{source}: sections are expected, got {brief(tree)}")
    layer: Layer = {}
    for name, value in (tree or {}).items():
        inside = value if name in SECTIONS else {name: value}
        if not isinstance(inside, (dict, type(None))):
            raise UserError(f"{name}: a section of keys is expected, got {brief(value)} ({source})")
        for key, raw in (inside or {}).items():
            flat = f"{name}.{key}" if name in SECTIONS else str(key)
            if flat in layer:
                raise UserError(f"{shown(flat)}: given twice ({source})")
            layer[flat] = Value(raw, source)
    return layer


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where PyYAML would silently take the last, and endless numbers."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # the parent class says so
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{brief(key)} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number: int = super().construct_yaml_int(node)
        if number.bit_length() > 63:  # Python refuses to print numbers of thousands of digits
            raise yaml.constructor.ConstructorError(None, None, "a whole number beyond 64 bits", node.start_mark)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)

BAD_YAML = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What PyYAML raises for text that is not YAML, or only just: `!!int ""`, `!!map [x]`, `!!timestamp x`, a deep nest."""


def load(text: str, source: str) -> Any:
    """The value of a YAML text. Raises UserError that names the source, the line and the problem."""
    try:
        return _Loader(text).get_single_data()
    except BAD_YAML as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark and "\n" in text else source
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "a value can't be read"
        raise UserError(f"{where}: not valid YAML: {shown(problem)}") from error


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


def brief(raw: Any) -> str:
    """Any value in one line, short even where YAML's aliases made it huge or endless."""
    text = _SHORT.repr(raw)
    return text if len(text) <= 63 else f"{text[:60]}..."


def shown(text: str) -> str:
    """A key, file or problem as it stands, or quoted where it would break the line."""
    return text if text and text.isprintable() else repr(text)


def did_you_mean(word: str, valid: Iterable[str], cutoff: float = 0.6) -> str:
    """A hint to end a message with, or nothing."""
    near = difflib.get_close_matches(word[:80], valid, 1, cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def _checked(name: str, given: Value, key: Key) -> Any:
    """The value in the key's type and within its bounds."""
    value = _convert(given.value, key.kind)
    wanted = _spell(key.kind) if value is None else _broken_bound(value, key.field)
    if wanted:
        raise UserError(f"{name}: expected {wanted}, got {brief(given.value)} ({given.source})")
    return value


def _broken_bound(value: Any, item: dataclasses.Field[Any]) -> str:
    """What `value` should have been, or nothing where it is right."""
    choices, bounds = item.metadata.get("choices"), item.metadata.get("bounds")
    if choices and value not in choices:
        return f"one of {', '.join(choices)}"
    if isinstance(value, str) and not (value and value.isprintable()):
        return "text that is neither empty nor holds control characters"
    if bounds:
        least, most, above = bounds
        if not (math.isfinite(value) and least <= value <= most and value > above):
            limits = f"{least} or more" if most == math.inf else f"{least} to {most}"
            return f"a number above {above}" if above > -math.inf else limits
    return ""


def _convert(raw: Any, kind: Any) -> Any:
    """`raw` as `kind`, or None where it is something else. 3e-4, which YAML 1.1 reads as text, is a number."""
    if kind in (int, float) and isinstance(raw, (str, int, float)) and not isinstance(raw, bool):
        try:
            number = float(raw)
        except (ValueError, OverflowError):
            return None
        if kind is float:
            return number
        return int(raw if isinstance(raw, int) else number) if number.is_integer() else None
    if get_origin(kind) is tuple and isinstance(raw, (list, tuple)):
        items = [_convert(each, get_args(kind)[0]) for each in raw]
        return None if None in items else tuple(items)
    if get_origin(kind) is dict and isinstance(raw, dict):
        pairs = {_convert(key, int): _convert(each, int) for key, each in raw.items()}
        return None if None in pairs or None in pairs.values() or len(pairs) < len(raw) else pairs
    if kind is str and isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return str(raw)  # an experiment may well be called 7
    return raw if kind in (bool, str) and isinstance(raw, kind) else None


def _spell(kind: Any) -> str:
    return {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        tuple: "lists of agent indices",
        dict: "a map of agent to rank, each agent once",
    }[get_origin(kind) or kind]


def _check_together(config: Config, layer: Layer) -> None:
    """What no single field can tell."""
    policy, train, exp = config.policy, config.train, config.record.exp
    local, minibatches, critics = policy.local_blocks, config.algo.minibatches, config.algo.critic_minibatches
    chunk = config.algo.chunk if policy.recurrent else 1
    on_device, coded = local == policy.blocks, config.codec.name != "none"
    rows = train.envs * train.rollout // chunk
    agents = sorted(agent for group in policy.groups for agent in group)
    whole = agents == [*range(len(agents))] and () not in policy.groups
    for key, value, right, wanted in (
        ("policy.local_blocks", local, local <= policy.blocks, f"policy.blocks ({policy.blocks}) or less"),
        (
            "codec.name",
            config.codec.name,
            coded or on_device,
            "a codec (policy.local_blocks < policy.blocks: latents are sent)",
        ),
        (
            "codec.name",
            config.codec.name,
            not (coded and on_device),
            "none (policy.local_blocks = policy.blocks: nothing is coded)",
        ),
        ("policy.recurrent", policy.recurrent, not (policy.recurrent and on_device), "a block at the server"),
        ("policy.groups", policy.groups, whole, "every agent from 0 on exactly once"),
        ("train.envs", train.envs, train.envs % 2 == 0, "an even number (two half-batches)"),
        ("algo.minibatches", minibatches, minibatches <= rows, f"{rows} (a rollout's rows or chunks) or less"),
        ("algo.critic_minibatches", critics, critics <= rows, f"{rows} (a rollout's rows or chunks) or less"),
        ("train.rollout", train.rollout, train.rollout % chunk == 0, f"a multiple of algo.chunk ({chunk})"),
        ("record.exp", exp, "/" not in exp and exp not in (".", ".."), "the name of a folder"),
    ):
        if not right:
            source = layer[key].source if key in layer else "default"
            raise UserError(f"{key}: expected {wanted}, got {brief(value)} ({source})")
