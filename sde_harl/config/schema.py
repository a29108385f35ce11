"""The configuration: a frozen dataclass a section, with the bounds of its fields. layering.py builds and checks it.

The text under a field is its help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


def _number(
    default: float, least: float = -math.inf, most: float = math.inf, above: float = -math.inf
) -> Any:
    return field(default=default, metadata={"bounds": (least, most, above)})


def _choice(default: str, *others: str) -> Any:
    return field(default=default, metadata={"choices": (default, *others)})


@dataclass(frozen=True)
class EnvConfig:
    """What is played."""

    name: str = "smac"
    """Benchmark: smac, mpe, mamujoco; pettingzoo: an environment of your own; devices: what executors sense."""
    map: str = "3s5z"
    """Map (smac), scenario (mpe), robot and partition (mamujoco: HalfCheetah-6x1)."""
    backend: str = "auto"
    """smac: starcraft2, smax (JaxMARL's battles), auto (StarCraft II where found). mpe: mpe2, jax (simple_spread)."""
    state_type: str = _choice("EP", "FP")
    """What the critic sees: EP, one state for the team; FP, the state and the agent's own observation."""
    continuous_actions: bool = False
    """Continuous instead of discrete actions, where the benchmark has both (mpe)."""
    workers: int = _number(0, least=0, most=1024)
    """Processes that step each slot, for benchmarks of one game at a time; 0 = none, rank 0 steps them itself."""
    agent_obsk: int = _number(1, least=-1)
    """mamujoco: joints away from its own that an agent sees; -1 = the whole robot and which agent it is, as in HARL."""
    factory: str = "none"
    """pettingzoo: module:function, which makes your parallel environment; called without arguments."""
    spec: str = "none"
    """devices: the spec.json of the run whose policies act."""
    steps: int = _number(0, least=0, most=2**31 - 1)
    """devices: decisions of an episode; 0 = the limit that the spec tells."""


@dataclass(frozen=True)
class AlgoConfig:
    """How it is learnt."""

    name: str = "happo"
    """Algorithm: a file of sde_harl/config/presets/algorithms."""
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
    """Normalise what comes out of every block's ReLU, and of the GRU, over its features, as HARL does; critic too."""
    recurrent: bool = False
    """A GRU before the heads, at the server or with all else on the device, and one in the critic."""
    conv_channels: int = _number(32, least=0)
    """Channels of the convolution before the first block, of observations that are images; 0 = none, plain numbers."""
    conv_kernel: int = _number(3, least=1)
    """Its kernel's height and width."""
    conv_stride: int = _number(1, least=1)
    """Its stride; the block behind it has this squared times fewer weights."""
    fallback_head: bool = False
    """Where an agent would do nothing for want of an answer, a layer of its device acts, distilled from the policy."""
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
class RolesConfig:
    """Which agents share a group net."""

    source: str = _choice("config", "learnt", "types", "alone", "one")
    """Role groups: config (policy.groups), learnt (from random play), types (the units'), alone (none), one (all)."""
    count: int = _number(0, least=0)
    """learnt: number of groups; 0 = chosen by an index."""
    steps: int = _number(12_800, least=1, most=10**9)
    """learnt: environment steps of random play that are learnt from, all kept in memory."""
    from_: str = "none"
    """run.h5 of a run with the same agents, to take the groups from; leave source at config."""


@dataclass(frozen=True)
class CodecConfig:
    """How latents become bytes."""

    name: str = _choice("entropy", "float32", "float16", "int8", "none")
    """entropy (CompressAI's model, rANS), a baseline (float32, float16, int8), or none: all blocks on the device."""
    rate_coef: float = _number(1e-3, least=0)
    """Lambda: weight of the rate, in bits per latent element, beside the policy's loss."""
    rate_warmup: float = _number(0.0, least=0, most=1)
    """Share of the run over which lambda rises from 0 to rate_coef, in proportion."""
    target_bytes: float = _number(0.0, least=0)
    """Payload bytes, as sent, for a decision of one agent: lambda is steered to it, from rate_coef on. 0 = it isn't."""
    latent_scale: float = _number(4.0, least=2**-10, most=2**10)
    """Quantisation steps in one unit of a latent: untrained, 4 sends some 4 bits an element, 1 some 2. A power of 2."""
    share_tables: bool = False
    """Agents of a role group share one entropy model and its tables; else each has its own."""
    lr: float = _number(1e-2, above=0)
    """Learning rate of the entropy model's densities: latents shrink only as fast as it follows them."""
    pack: int = _number(0, least=0)
    """Rows that share one string; 0 = all rows of a message."""
    rate_rows: int = _number(256, least=1)
    """Rows of a minibatch on which the rate is estimated."""


@dataclass(frozen=True)
class DiversityConfig:
    """An intrinsic reward for being told apart from the other agents of one's role group."""

    coef: float = _number(0.0, least=0)
    """Beta: weight of the intrinsic reward beside the environment's; 0 = none."""
    beta1: float = _number(1.0, above=0)
    """How much the identity's own part counts: sharpens the agent's policy, and weighs the predictor that knows it."""
    beta2: float = _number(1.0, least=0)
    """Weight of the policies' part (KL from the group's mean) beside the predictors' (of the next observation)."""
    lr: float = _number(3e-4, above=0)
    """Learning rate of the predictors (Adam)."""
    width: int = _number(64, least=1)
    """Width of the predictors' two layers."""
    steps: int = _number(16, least=1)
    """Steps of the predictors for each rollout, on 256 random rows each."""


@dataclass(frozen=True)
class PlacementConfig:
    """Who computes what."""

    mode: str = _choice("local", "agents")
    """local: one process; agents: MPI ranks 1..N hold the agents' local nets, rank 0 all else."""
    assign: dict[int, int] = field(default_factory=dict)
    """Agents pinned to executors, {agent: rank}; the others are dealt in turn."""


@dataclass(frozen=True)
class ExecutorConfig:
    """What executors are on their hosts."""

    sensor: str = "none"
    """env.name=devices: module:function, makes an agent's sensor; each executor takes it from its own command line."""
    backend: str = _choice("numpy", "torch")
    """What computes the local nets: numpy, or torch, which their hosts must then have."""
    device: str = _choice("cpu", "cuda")
    """Where torch computes them."""


@dataclass(frozen=True)
class LinkProfile:
    """A radio link, to be emulated."""

    loss: float = _number(0.0, least=0, most=0.9)
    """Share of the messages that are lost and have to be sent again."""
    delay_ms: float = _number(0.0, least=0, most=60_000)
    """On the way to the server."""
    jitter_ms: float = _number(0.0, least=0, most=60_000)
    """The delay is uniform within this much of delay_ms."""


PROFILES = {
    "none": LinkProfile(),
    "good": LinkProfile(loss=0.0, delay_ms=1.0, jitter_ms=0.5),
    "lossy": LinkProfile(loss=0.01, delay_ms=2.0, jitter_ms=1.0),
    "poor": LinkProfile(loss=0.05, delay_ms=8.0, jitter_ms=4.0),
}
"""Links by name. They are examples, not measurements."""


@dataclass(frozen=True)
class LinkConfig:
    """The link between rank 0 and the executors."""

    failure_timeout_s: float = _number(60.0, above=0)
    """Seconds that rank 0 waits for an executor before it gives it up: see link.on_fault."""
    deadline_ms: float = _number(0.0, least=0, most=3_600_000)
    """What a decision waits for latents; an agent's last ones stand for those that come later. 0 = link.failure_timeout_s."""
    max_age: int = _number(8, least=0, most=1000)
    """Steps for which an agent's last latents may stand for later ones; then it does nothing."""
    on_fault: str = _choice("abort", "fallback")
    """When an executor is given up: abort, all ranks end; fallback, the run goes on and its agents do nothing."""
    model: LinkProfile = PROFILES["none"]
    """Emulate a link in front of the server: none, good, lossy, poor, or {loss: 0.01, delay_ms: 2, jitter_ms: 1}."""


@dataclass(frozen=True)
class MetersConfig:
    """How the cost is measured."""

    idle_s: float = _number(0.0, least=0, most=3600)
    """Pause before the run in which every host measures its idle power, where it has a sensor; 0 = none."""


@dataclass(frozen=True)
class TrainConfig:
    """How much is played."""

    steps: int = _number(5_000_000, least=0, most=10**15)
    """Environment steps of the run; 0 = evaluate once and end."""
    load: str = "none"
    """A checkpoint (models/*.pt of a run) to start from: the nets, the entropy models and the value normalisation."""
    envs: int = _number(64, least=1)
    """Environments, a multiple of slots."""
    slots: int = _number(2, least=1, most=16)
    """Parts of the environments that take turns: devices code one while another steps; 1 suits short steps (jax)."""
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
    roles: RolesConfig = field(default_factory=RolesConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    diversity: DiversityConfig = field(default_factory=DiversityConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    link: LinkConfig = field(default_factory=LinkConfig)
    meters: MetersConfig = field(default_factory=MetersConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    record: RecordConfig = field(default_factory=RecordConfig)
    seed: int = _number(1, least=0, most=2**31 - 1)
    """Seed of everything random."""
