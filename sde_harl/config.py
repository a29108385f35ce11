"""The configuration: a frozen dataclass a section, read from YAML in layers, checked whole before anything starts.

Layers, later ones win: the defaults below, configs/algos/<algo.name>.yaml, configs/envs/<env.name>.yaml, the experiment's
file, the command line. The text under a field is its help. Past `parse` there are only objects.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import yaml

from sde_harl.errors import UserError


def _number(default: float, least: float = -math.inf, most: float = math.inf, above: float = -math.inf) -> Any:
    return field(default=default, metadata={"least": least, "most": most, "above": above})


def _choice(default: str, *others: str) -> Any:
    return field(default=default, metadata={"choices": (default, *others)})


@dataclass(frozen=True)
class EnvConfig:
    """What is played."""

    name: str = "smac"
    """Benchmark: smac or mpe."""
    map: str = "3s5z"
    """Map (smac) or scenario (mpe: simple_spread, simple_reference, simple_speaker_listener)."""
    backend: str = "auto"
    """smac: starcraft2, smax (JaxMARL's embedded battles), or auto: StarCraft II where it is found, else smax."""
    continuous_actions: bool = False
    """Continuous instead of discrete actions, where the benchmark has both (mpe)."""


@dataclass(frozen=True)
class AlgoConfig:
    """How it is learnt."""

    name: str = "happo"
    """Algorithm: a file of configs/algos."""
    lr: float = _number(5e-4, above=0)
    """Learning rate of the policies (Adam)."""
    critic_lr: float = _number(5e-4, above=0)
    """Learning rate of the critic (Adam)."""
    adam_eps: float = _number(1e-5, above=0)
    """Adam's epsilon, policies and critic."""
    epochs: int = _number(5, least=1)
    """Passes over a rollout."""
    minibatches: int = _number(1, least=1)
    """Parts that a rollout is cut into in each pass; 1 copies nothing."""
    clip_coef: float = _number(0.2, above=0)
    """PPO's clip range, of the ratio and of the value."""
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
    huber_delta: float = _number(10.0, above=0)
    """Where the value loss turns from quadratic to linear."""
    clip_value_loss: bool = True
    """Clip the value's change as PPO clips the ratio."""
    valuenorm: bool = True
    """Normalise returns by their running mean and deviation."""
    fixed_order: bool = False
    """Update role groups in the given order instead of a fresh random one."""
    lr_decay: bool = False
    """Let both learning rates fall linearly to zero over the run."""


@dataclass(frozen=True)
class PolicyConfig:
    """The networks, and where they are cut."""

    blocks: int = _number(3, least=1)
    """Blocks (Linear + ReLU) of a policy, before its head."""
    local_blocks: int = _number(1, least=0)
    """Blocks that run on the device; 0 sends the coded observation itself. Less than blocks."""
    width: int = _number(64, least=1)
    """Width of a block."""
    latent: int = _number(16, least=0)
    """Numbers that a device sends for a decision; 0 = width."""
    feature_norm: bool = True
    """Normalise observations and states over their features."""
    head_gain: float = _number(0.01, above=0)
    """Gain of the heads' orthogonal initialisation."""
    groups: tuple[tuple[int, ...], ...] = ()
    """Role groups that share a trunk, as lists of agent indices; empty = every agent alone."""
    critic_blocks: int = _number(2, least=1)
    """Blocks of the critic."""
    critic_width: int = _number(128, least=1)
    """Width of the critic."""


@dataclass(frozen=True)
class CodecConfig:
    """How latents become bytes."""

    name: str = _choice("entropy", "float32", "float16", "int8")
    """entropy (CompressAI's factorised model and rANS), or a baseline: float32, float16, int8."""
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

    steps: int = _number(5_000_000, least=1, most=1e15)
    """Environment steps of the run."""
    envs: int = _number(64, least=2)
    """Environments, in two half-batches: an even number."""
    rollout: int = _number(128, least=1)
    """Steps of every environment between two updates."""
    threads: int = _number(0, least=0)
    """torch threads; 0 = one for each core."""


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


class Request(NamedTuple):
    """What the command line asks for: a run, or a text to print."""

    config: Config | None
    text: str = ""


class Value(NamedTuple):
    """A raw value and where it was written."""

    value: Any
    source: str


Layer = dict[str, Value]
"""Flat keys ("train.envs") and their raw values."""

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
    "actor_num_mini_batch": "algo.minibatches",
    "clip_param": "algo.clip_coef",
    "entropy_coef": "algo.entropy_coef",
    "gamma": "algo.gamma",
    "gae_lambda": "algo.gae_lambda",
    "max_grad_norm": "algo.max_grad_norm",
    "value_loss_coef": "algo.value_coef",
    "huber_delta": "algo.huber_delta",
    "use_clipped_value_loss": "algo.clip_value_loss",
    "use_valuenorm": "algo.valuenorm",
    "fixed_order": "algo.fixed_order",
    "use_linear_lr_decay": "algo.lr_decay",
    "use_feature_normalization": "policy.feature_norm",
    "n_rollout_threads": "train.envs",
    "episode_length": "train.rollout",
    "num_env_steps": "train.steps",
    "torch_threads": "train.threads",
    "eval_episodes": "eval.episodes",
    "log_dir": "record.dir",
}
"""HARL's flag -> our key."""

USAGE = """usage:
  python -m sde_harl.run CONFIG.yaml [key=value ...]           train in one process, or under mpirun:
  mpirun -np 9 --hostfile hostfiles/localhost python -m sde_harl.run configs/smac.yaml train.steps=200000
  python -m sde_harl.run --algo happo --env smac --exp_name test --seed 2 [--key value ...]      HARL's spelling
  python -m sde_harl.run CONFIG.yaml --print-config            show the whole configuration and stop
"""


def parse(argv: list[str]) -> Request:
    """Read the command line and the files it names. Raises UserError that names the key and the file."""
    if "--help" in argv or "-h" in argv:
        return Request(None, help_text())
    files, given = _arguments([each for each in argv if each != "--print-config"])
    if not files and not {"env.name", "algo.name"} & set(given):
        raise UserError("no configuration: give a YAML file, or --algo and --env; --help tells more")
    if len(files) > 1:
        raise UserError(f"one configuration file at a time, got {' and '.join(files)}")
    experiment = _read(Path(files[0])) if files else {}
    folder = _defaults_folder(Path(files[0]).parent if files else Path("configs"))
    layers = experiment | given
    config = build(_defaults(folder, "algo", layers) | _defaults(folder, "env", layers) | layers)
    return Request(None, to_yaml(config)) if "--print-config" in argv else Request(config)


def build(layer: Layer) -> Config:
    """A checked Config from flat keys. Raises UserError for an unknown key, a wrong type or a value out of bounds."""
    known = {f"{section}.{item.name}" if section else item.name: (section, item) for section, item in _fields()}
    sections: dict[str, dict[str, Any]] = {}
    for key, (raw, source) in layer.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.3) or difflib.get_close_matches(
                key.rpartition(".")[2], [each.rpartition(".")[2] for each in known], 1, 0.3
            )
            raise UserError(f"{key}: no such key ({source}){f'; did you mean {near[0]}?' if near else ''}")
        section, item = known[key]
        sections.setdefault(section, {})[item.name] = _checked(key, raw, source, item, _hints(section)[item.name])
    top = sections.pop("", {})
    config = Config(**{name: _section_types()[name](**values) for name, values in sections.items()}, **top)
    _check_together(config, layer)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested values, as YAML has them."""
    plain: dict[str, Any] = dataclasses.asdict(config)
    plain["policy"]["groups"] = [list(group) for group in config.policy.groups]
    return plain


def to_yaml(config: Config) -> str:
    """The complete file; `from_yaml` reads it back to an equal Config."""
    return str(yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None))


def from_yaml(text: str, source: str) -> Config:
    """A Config from a complete or partial file's text; `source` names it in errors."""
    return build(_flat(_load(text, source), source))


def help_text() -> str:
    """Usage, and every key with type, default and meaning."""
    lines = [USAGE, "keys (section.key=value; also as --section.key value):"]
    docs = _docs()
    for section, item in _fields():
        owner = _section_types()[section] if section else Config
        key = f"{section}.{item.name}" if section else item.name
        default = getattr(owner(), item.name)
        lines.append(f"  {key:<28} {item.type!s:<8.8} {default!s:<10} {docs[owner.__name__, item.name]}")
    lines += ["", f"HARL's flags understood: {', '.join('--' + key for key in HARL_KEYS)}"]
    return "\n".join(lines)


def _arguments(argv: list[str]) -> tuple[list[str], Layer]:
    """Configuration files, and the keys given on the command line."""
    files: list[str] = []
    given: Layer = {}
    words = iter(argv)
    for word in words:
        name, equals, text = word.partition("=")
        if word.startswith("--"):
            flag = name[2:]
            key = flag if "." in flag else HARL_KEYS.get(flag)
            if key is None:
                near = difflib.get_close_matches(flag, HARL_KEYS, 1)
                hint = f"; did you mean --{near[0]}?" if near else ""
                raise UserError(f"--{flag}: no such flag{hint}; --help lists all")
            value = text if equals else next(words, None)
            if value is None:
                raise UserError(f"--{flag}: needs a value")
            given[key] = Value(_scalar(value, word), "command line")
        elif equals and not name.endswith((".yaml", ".yml")):
            given[name] = Value(_scalar(text, word), "command line")
        else:
            files.append(word)
    return files, given


BAD_YAML = (yaml.YAMLError, ValueError, KeyError, OverflowError, RecursionError)
"""What PyYAML raises for text that is not YAML, or only just."""


def _scalar(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except BAD_YAML:
        raise UserError(f"{source[:80]}: not a YAML value") from None


def _read(path: Path) -> Layer:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: can't read the configuration: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file") from error
    return _flat(_load(text, str(path)), str(path))


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", mark)
        return super().construct_mapping(node, deep)


def _load(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
    except BAD_YAML as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"{where}: not valid YAML: {problem}") from error


def _flat(tree: Any, source: str) -> Layer:
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{source}: sections are expected, got {type(tree).__name__}")
    layer: Layer = {}
    for name, value in tree.items():
        if name in _section_types():
            if not isinstance(value, (dict, type(None))):
                raise UserError(f"{name}: a section of keys is expected, got {value!r} ({source})")
            layer.update({f"{name}.{key}": Value(each, source) for key, each in (value or {}).items()})
        else:
            layer[str(name)] = Value(value, source)
    return layer


def _defaults_folder(beside: Path) -> Path:
    for folder in (beside, Path("configs"), Path(__file__).parents[1] / "configs"):
        if (folder / "algos").is_dir():
            return folder
    raise UserError(f"configs/algos is missing: looked beside the configuration ({beside}), here, and with the package")


def _defaults(folder: Path, section: str, layers: Layer) -> Layer:
    """The defaults file of the algorithm or environment that `layers` name."""
    raw, source = layers.get(f"{section}.name", Value(getattr(Config(), section).name, "default"))
    valid = sorted(path.stem for path in (folder / f"{section}s").glob("*.yaml"))
    if raw not in valid:
        near = difflib.get_close_matches(str(raw), valid, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{section}.name: unknown {raw!r} ({source}); {hint}there are: {', '.join(valid)}")
    return _read(folder / f"{section}s" / f"{raw}.yaml")


def _checked(key: str, raw: Any, source: str, item: dataclasses.Field[Any], kind: Any) -> Any:
    """The value in the field's type and within its bounds."""
    value = _convert(raw, kind)
    if value is None:
        raise UserError(f"{key}: expected {_spell(kind)}, got {_brief(raw)} ({source})")
    choices = item.metadata.get("choices")
    if choices and value not in choices:
        raise UserError(f"{key}: expected one of {', '.join(choices)}, got {_brief(raw)} ({source})")
    if "least" in item.metadata:
        least, most, above = (item.metadata[name] for name in ("least", "most", "above"))
        if not (least <= value <= most and value > above and math.isfinite(value)):
            bound = f"{least:g} or more" if most == math.inf else f"{least:g} to {most:g}"
            bound = f"above {above:g}" if above > -math.inf else bound
            raise UserError(f"{key}: must be {bound}, got {_brief(raw)} ({source})")
    return value


def _brief(raw: Any) -> str:
    text = repr(raw)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _convert(raw: Any, kind: Any) -> Any:
    """`raw` as `kind`, or None where it is something else. 3e-4, which YAML 1.1 reads as text, is a number."""
    if kind in (int, float) and isinstance(raw, (str, int, float)) and not isinstance(raw, bool):
        try:
            number = float(raw)
        except (ValueError, OverflowError):
            return None
        if kind is float:
            return number
        return (int(raw) if isinstance(raw, int) else int(number)) if number.is_integer() else None
    if get_origin(kind) is tuple and isinstance(raw, (list, tuple)):
        items = [_convert(each, get_args(kind)[0]) for each in raw]
        return None if None in items else tuple(items)
    if get_origin(kind) is dict and isinstance(raw, dict):
        pairs = {_convert(key, int): _convert(each, int) for key, each in raw.items()}
        return None if None in pairs or None in pairs.values() else pairs
    if kind is str and isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return str(raw)  # an experiment may well be called 7
    return raw if kind in (bool, str) and isinstance(raw, kind) else None


def _spell(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return "lists of agent indices"
    if get_origin(kind) is dict:
        return "a map of agent to rank"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _check_together(config: Config, layer: Layer) -> None:
    """What no single field can tell."""

    def source(key: str) -> str:
        return layer[key].source if key in layer else "default"

    policy, envs = config.policy, config.train.envs
    if policy.local_blocks >= policy.blocks:
        raise UserError(
            f"policy.local_blocks: must be less than policy.blocks = {policy.blocks}, got {policy.local_blocks} "
            f"({source('policy.local_blocks')})"
        )
    if envs % 2:
        raise UserError(f"train.envs: must be even (two half-batches), got {envs} ({source('train.envs')})")
    if config.algo.minibatches > envs * config.train.rollout:
        raise UserError(f"algo.minibatches: more than the {envs * config.train.rollout} rows of a rollout")
    agents = [agent for group in policy.groups for agent in group]
    if sorted(agents) != list(range(len(agents))) or () in policy.groups:
        groups = [list(group) for group in policy.groups]
        raise UserError(f"policy.groups: every agent from 0 on exactly once, got {groups} ({source('policy.groups')})")


def _section_types() -> dict[str, type]:
    hints = get_type_hints(Config)
    return {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}


def _fields() -> list[tuple[str, dataclasses.Field[Any]]]:
    """Every (section, field); the section of a top-level key is empty."""
    pairs = [(name, item) for name, kind in _section_types().items() for item in dataclasses.fields(kind)]
    return pairs + [("", item) for item in dataclasses.fields(Config) if item.name not in _section_types()]


def _hints(section: str) -> dict[str, Any]:
    return get_type_hints(_section_types()[section] if section else Config)


def _docs() -> dict[tuple[str, str], str]:
    """The text under each field of this module, by class and field."""
    docs: dict[tuple[str, str], str] = {}
    for node in ast.parse(Path(__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            for item, below in zip(node.body, node.body[1:]):
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(below, ast.Expr):
                    docs[node.name, item.target.id] = ast.literal_eval(below.value)
    return docs
