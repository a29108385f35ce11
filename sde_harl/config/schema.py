"""The configuration: a frozen model for each section, with type, bounds and default of each key.

The text under a field is its help in `sde-harl run --help`. layers.py builds a Config from files
and the command line. rules.py holds what ties several keys together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sde_harl.config.field_types import (
    TEXT,
    Assignment,
    Groups,
    Number,
    Text,
    WholeNumber,
)


class Section(BaseModel):
    """A section of the configuration."""

    # strict: what a type accepts beside itself is said in field_types.py, and nowhere else.
    # protected_namespaces: link.model is no method of pydantic's.
    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class EnvConfig(Section):
    """The game that is played."""

    name: Text = "smac"
    """Benchmark (sde-harl envs lists them), pettingzoo (your environment) or devices (sensors)."""
    map: Text = "3s5z"
    """Map (smac, smacv2), scenario (mpe), or robot and partition (mamujoco: HalfCheetah-6x1)."""
    backend: Text = "auto"
    """smac: starcraft2, smax (JaxMARL), auto (StarCraft II if found). mpe: mpe2, jax."""
    state_type: Annotated[Literal["EP", "FP"], TEXT] = "EP"
    """Input of the critic: EP, the team's state; FP, the state and the agent's observation."""
    continuous_actions: bool = False
    """Use continuous actions instead of discrete ones, where the benchmark has both (mpe)."""
    workers: Annotated[WholeNumber, Field(ge=0, le=1024)] = 0
    """Processes that step each slot, for benchmarks that run one game at a time. 0: rank 0 does."""
    agent_id: bool = False
    """StarCraft II: observations end with the agent's number, one-hot (HARL: in smac)."""
    last_action: bool = False
    """StarCraft II: observations show own and visible allies' last actions (HARL: in smac)."""
    representation: Text = "simple115v2"
    """football: agents observe 115 numbers (simple115v2), or a small map of bytes (extracted)."""
    stacked: bool = False
    """football: the maps of the last four steps, with env.representation=extracted."""
    rewards: Text = "scoring,checkpoints"
    """football: scoring (goals), or scoring,checkpoints (and for coming closer to the goal)."""
    agent_obsk: Annotated[WholeNumber, Field(ge=-1)] = 1
    """mamujoco: an agent observes joints up to this many away. -1: whole robot, agent id (HARL)."""
    factory: Text = "none"
    """pettingzoo: module:function, called without arguments, returns your parallel environment."""
    spec: Text = "none"
    """devices: the spec.json of the run whose policies act."""
    steps: Annotated[WholeNumber, Field(ge=0, le=2**31 - 1)] = 0
    """devices: decisions of an episode. 0: the limit in env.spec."""


class AlgoConfig(Section):
    """The learning algorithm."""

    name: Text = "happo"
    """On-policy: happo, hatrpo, haa2c, mappo, ippo. Off-policy: hasac, haddpg, hatd3, had3qn,
    maddpg, matd3."""
    lr: Annotated[Number, Field(gt=0)] = 5e-4
    """Learning rate of the policies (Adam). hatrpo has none."""
    critic_lr: Annotated[Number, Field(gt=0)] = 5e-4
    """Learning rate of the critic (Adam)."""
    adam_eps: Annotated[Number, Field(gt=0)] = 1e-5
    """Epsilon of Adam, for policies and critic."""
    epochs: Annotated[WholeNumber, Field(ge=1)] = 5
    """Passes over a rollout. hatrpo: only of critic and entropy model; policies take one step."""
    minibatches: Annotated[WholeNumber, Field(ge=1)] = 1
    """Parts that a rollout is split into in each pass. 1 saves a copy."""
    critic_epochs: Annotated[WholeNumber, Field(ge=0)] = 0
    """Passes of the critic over a rollout. 0: algo.epochs."""
    critic_minibatches: Annotated[WholeNumber, Field(ge=0)] = 0
    """Parts that a rollout is split into for the critic. 0: algo.minibatches."""
    clip_coef: Annotated[Number, Field(gt=0)] = 0.2
    """Clip range of PPO, for the ratio and for the value."""
    action_aggregation: Annotated[Literal["prod", "mean"], TEXT] = "prod"
    """Ratio of an action of several numbers: the product or the mean of theirs."""
    policy_active_masks: bool = True
    """Leave the decisions of dead agents out of the policies' losses."""
    share_param: bool = False
    """Agents of a group share local net and head too. Without policy.groups, all are one group."""
    kl_threshold: Annotated[Number, Field(gt=0)] = 0.01
    """hatrpo: bound of the KL divergence of the old policy from the new one in a step."""
    ls_step: Annotated[WholeNumber, Field(ge=1)] = 10
    """hatrpo: most steps of the line search."""
    accept_ratio: Annotated[Number, Field(ge=0)] = 0.5
    """hatrpo: share of the expected improvement that a step must reach."""
    backtrack_coeff: Annotated[Number, Field(gt=0, le=1)] = 0.8
    """hatrpo: factor from one step length of the line search to the next."""
    entropy_coef: Annotated[Number, Field(ge=0)] = 0.01
    """Weight of the policy's entropy in its loss."""
    gamma: Annotated[Number, Field(ge=0, le=1)] = 0.99
    """Discount factor."""
    gae_lambda: Annotated[Number, Field(ge=0, le=1)] = 0.95
    """Lambda of generalised advantage estimation (GAE)."""
    max_grad_norm: Annotated[Number, Field(gt=0)] = 10.0
    """On-policy: gradients are clipped to this norm."""
    value_coef: Annotated[Number, Field(gt=0)] = 1.0
    """Weight of the value loss."""
    use_huber: bool = True
    """Use Huber's loss for the value instead of half the squared error."""
    huber_delta: Annotated[Number, Field(gt=0)] = 10.0
    """Error at which Huber's loss turns from quadratic to linear."""
    clip_value_loss: bool = True
    """Clip the change of the value as PPO clips the ratio."""
    valuenorm: bool = True
    """Normalise returns by their running mean and standard deviation."""
    fixed_order: bool = False
    """Update role groups in the given order instead of a random one."""
    chunk: Annotated[WholeNumber, Field(ge=1)] = 8
    """Recurrent policies: steps that gradients flow through. Rollouts are cut into such chunks."""
    lr_decay: bool = False
    """Decrease both learning rates linearly to zero over the run."""
    buffer_size: Annotated[WholeNumber, Field(ge=1, le=10**9)] = 1_000_000
    """Off-policy: environment steps that the replay keeps, in all environments together."""
    buffer_dtype: Annotated[Literal["float32", "float16"], TEXT] = "float32"
    """Off-policy: type that the replay keeps observations and states of floats in."""
    buffer_folder: Text = "none"
    """Off-policy: folder of a file that holds most of the replay instead of the memory."""
    batch_size: Annotated[WholeNumber, Field(ge=1, le=10**6)] = 1000
    """Off-policy: rows of the replay that an update learns from."""
    warmup_steps: Annotated[WholeNumber, Field(ge=0)] = 10_000
    """Off-policy: environment steps of random actions before the first update."""
    updates: Annotated[Number, Field(gt=0, le=1000)] = 1.0
    """Off-policy: updates for each step of train.rollout. HARL: update_per_train."""
    n_step: Annotated[WholeNumber, Field(ge=1, le=1000)] = 1
    """Off-policy: steps of rewards before a return goes on with the critic's value."""
    polyak: Annotated[Number, Field(gt=0, le=1)] = 0.005
    """Off-policy: share of the nets that moves into the target nets after an update."""
    replay: Annotated[Literal["observations", "symbols"], TEXT] = "observations"
    """Off-policy: groups learn on latents encoded anew, or on those that were sent."""
    precision: Annotated[Literal["float32", "bfloat16"], TEXT] = "float32"
    """Off-policy: type that updates compute the nets' blocks in. Parameters stay float32."""
    alpha: Annotated[Number, Field(ge=0)] = 0.0
    """hasac: weight of entropy; with algo.auto_alpha the first. 0: measured in the warm-up."""
    auto_alpha: bool = True
    """hasac: learn alpha, so that the entropy comes to algo.target_entropy."""
    alpha_lr: Annotated[Number, Field(gt=0)] = 3e-4
    """hasac: learning rate of log alpha."""
    share_alpha: bool = False
    """hasac: one alpha for all agents, instead of one for each."""
    target_entropy: Annotated[Number, Field(gt=0, le=1)] = 0.3
    """hasac: of choices, this share of log(available choices). Of D numbers it is -D nats."""
    expl_noise: Annotated[Number, Field(ge=0)] = 0.1
    """haddpg, hatd3, maddpg, matd3: deviation of the noise that they act with, in half ranges."""
    policy_noise: Annotated[Number, Field(ge=0)] = 0.2
    """hatd3, matd3: deviation of the noise on the target policies' actions, in half ranges."""
    noise_clip: Annotated[Number, Field(ge=0)] = 0.5
    """hatd3, matd3: bound of that noise."""
    policy_freq: Annotated[WholeNumber, Field(ge=1)] = 2
    """hatd3, matd3: the policies and all target nets learn at every so manyth update."""
    epsilon: Annotated[Number, Field(ge=0, le=1)] = 0.05
    """had3qn: probability that an agent acts at random, drawn for each environment."""
    epsilon_steps: Annotated[WholeNumber, Field(ge=0)] = 0
    """had3qn: environment steps after the warm-up in which it falls from 1 to algo.epsilon."""


class PolicyConfig(Section):
    """The networks, and where they are split."""

    blocks: Annotated[WholeNumber, Field(ge=1, le=1000)] = 3
    """Blocks (Linear + ReLU) of a policy, before its head."""
    local_blocks: Annotated[WholeNumber, Field(ge=0)] = 1
    """Blocks on the device. 0 sends the coded observation; all of them send only what was done."""
    width: Annotated[WholeNumber, Field(ge=1, le=65536)] = 64
    """Width of a block."""
    latent: Annotated[WholeNumber, Field(ge=0, le=65536)] = 16
    """Numbers in the latent that a device sends for a decision. 0: policy.width."""
    feature_norm: bool = True
    """Normalise each observation over its features; on-policy each state, too."""
    layer_norm: bool = False
    """Normalise the output of each block and of the GRU, as HARL does; on-policy critics too."""
    recurrent: bool = False
    """Add a GRU before the heads (on the device if all blocks are there) and one in the critic."""
    conv_channels: Annotated[WholeNumber, Field(ge=0, le=65536)] = 32
    """Image observations: channels of the convolution before the first block. 0: no convolution."""
    conv_kernel: Annotated[WholeNumber, Field(ge=1, le=1024)] = 3
    """Height and width of the convolution's kernel."""
    conv_stride: Annotated[WholeNumber, Field(ge=1)] = 1
    """Stride of the convolution. The block behind it has this squared times fewer weights."""
    fallback_head: bool = False
    """When no answer arrives, a layer on the device acts, which is distilled from the policy."""
    head_gain: Annotated[Number, Field(gt=0)] = 0.01
    """Gain of the orthogonal initialisation of the heads."""
    std_x_coef: Annotated[Number, Field(gt=0)] = 1.0
    """Continuous actions: deviation = std_y_coef * sigmoid(s / std_x_coef), s learnt from here."""
    std_y_coef: Annotated[Number, Field(gt=0)] = 0.5
    """Continuous actions: the largest standard deviation."""
    groups: Groups = ()
    """Role groups, whose agents share a trunk: [[0, 1], [2]]. Empty: each agent is a group."""
    critic_blocks: Annotated[WholeNumber, Field(ge=1, le=1000)] = 2
    """Blocks of the critic."""
    critic_width: Annotated[WholeNumber, Field(ge=1, le=65536)] = 128
    """Width of the critic."""


class RolesConfig(Section):
    """The choice of the agents that share a group net."""

    source: Annotated[Literal["config", "learnt", "types", "alone", "one"], TEXT] = "config"
    """Role groups: config (policy.groups), learnt, types (of units), alone (none), one (of all)."""
    count: Annotated[WholeNumber, Field(ge=0)] = 0
    """learnt: number of groups. 0: chosen by an index."""
    steps: Annotated[WholeNumber, Field(ge=1, le=10**9)] = 12_800
    """learnt: environment steps of random play to learn from. All are kept in memory."""
    # `from` is a word of Python's. In files and on the command line the key is roles.from.
    from_: Text = "none"
    """run.h5 of a run with the same agents, whose groups are used. Needs roles.source=config."""


class CodecConfig(Section):
    """The coding of latents into bytes."""

    name: Annotated[Literal["entropy", "float32", "float16", "int8", "none"], TEXT] = "entropy"
    """entropy (learnt model, rANS); float32, float16, int8 (baselines); none (all on device)."""
    rate_coef: Annotated[Number, Field(ge=0)] = 1e-3
    """Lambda: weight of the rate, in bits per latent element, in the policy's loss."""
    rate_warmup: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Share of the run in which lambda rises linearly from 0 to codec.rate_coef."""
    target_bytes: Annotated[Number, Field(ge=0)] = 0.0
    """Payload bytes of a decision of one agent. Lambda is controlled to reach it. 0: no target."""
    latent_scale: Annotated[Number, Field(ge=2**-10, le=2**10)] = 4.0
    """Quantisation steps in one unit of a latent, a power of 2. Untrained, 4 sends about 4 bits."""
    share_tables: bool = False
    """Agents of a role group share one entropy model and its tables."""
    lr: Annotated[Number, Field(gt=0)] = 1e-2
    """Learning rate of the entropy model. Latents shrink only as fast as it follows them."""
    pack: Annotated[WholeNumber, Field(ge=0)] = 0
    """Rows that are coded into one string. 0: all rows of a message."""
    rate_rows: Annotated[WholeNumber, Field(ge=1)] = 256
    """Rows of a minibatch that the rate is estimated on."""


class DiversityConfig(Section):
    """An intrinsic reward for agents that act unlike the others of their role group."""

    coef: Annotated[Number, Field(ge=0)] = 0.0
    """Beta: weight of the intrinsic reward beside the environment's. 0: no intrinsic reward."""
    beta1: Annotated[Number, Field(gt=0)] = 1.0
    """Sharpens the agent's policy in the reward, and weighs the predictor that knows the agent."""
    beta2: Annotated[Number, Field(ge=0)] = 1.0
    """Weight of the policies' part (KL from the group's mean) beside that of the predictors."""
    lr: Annotated[Number, Field(gt=0)] = 3e-4
    """Learning rate of the predictors of the next observation (Adam)."""
    width: Annotated[WholeNumber, Field(ge=1, le=65536)] = 64
    """Width of the two layers of the predictors."""
    steps: Annotated[WholeNumber, Field(ge=1)] = 16
    """Training steps of the predictors for each rollout, on 256 random rows each."""


class PlacementConfig(Section):
    """The processes that hold the agents."""

    mode: Annotated[Literal["local", "agents", "envs"], TEXT] = "local"
    """local: one process. agents: MPI ranks 1..N hold local nets. envs: they play environments."""
    assign: Assignment = Field(default_factory=dict)
    """Agents fixed to executors: {agent: rank}. The others are dealt in turn."""


class ExecutorConfig(Section):
    """The executors on their hosts."""

    sensor: Text = "none"
    """env.name=devices: module:function, makes an agent's sensor. Each executor reads its own."""
    backend: Annotated[Literal["numpy", "torch", "onnx"], TEXT] = "numpy"
    """Library that computes the local nets. The executors' hosts need it (onnx: the extra onnx)."""
    device: Annotated[Literal["cpu", "cuda", "tensorrt"], TEXT] = "cpu"
    """Device that it computes them on: cuda with torch or onnx, tensorrt with onnx."""


class LinkProfile(Section):
    """A radio link to be emulated."""

    loss: Annotated[Number, Field(ge=0, le=0.9)] = 0.0
    """Share of the messages that are lost and sent again."""
    delay_ms: Annotated[Number, Field(ge=0, le=60_000)] = 0.0
    """Delay of a message to the server."""
    jitter_ms: Annotated[Number, Field(ge=0, le=60_000)] = 0.0
    """The delay is uniform within this much of delay_ms."""


# Examples, not measurements.
PROFILES = {
    "none": LinkProfile(),
    "good": LinkProfile(loss=0.0, delay_ms=1.0, jitter_ms=0.5),
    "lossy": LinkProfile(loss=0.01, delay_ms=2.0, jitter_ms=1.0),
    "poor": LinkProfile(loss=0.05, delay_ms=8.0, jitter_ms=4.0),
}


def as_profile(raw: Any) -> LinkProfile:
    """Reads a link by name or by its numbers. Raises ValueError for anything else."""
    if isinstance(raw, str):
        if raw not in PROFILES:
            raise ValueError("no such link")
        return PROFILES[raw]
    return LinkProfile.model_validate(raw)


class LinkConfig(Section):
    """The link between rank 0 and the executors."""

    failure_timeout_s: Annotated[Number, Field(gt=0, le=1e6)] = 60.0
    """Seconds without an answer after which rank 0 gives an executor up: see link.on_fault."""
    deadline_ms: Annotated[Number, Field(ge=0, le=3_600_000)] = 0.0
    """Milliseconds a decision waits for latents, then uses the last ones. 0: failure_timeout_s."""
    max_age: Annotated[WholeNumber, Field(ge=0, le=1000)] = 8
    """Steps for which an agent's last latents may replace late ones. Later it does nothing."""
    on_fault: Annotated[Literal["abort", "fallback", "redeal"], TEXT] = "abort"
    """After giving an executor up: abort the run; fallback: its agents do nothing; redeal them."""
    model: Annotated[LinkProfile, BeforeValidator(as_profile)] = PROFILES["none"]
    """Emulated link: none, good, lossy, poor, or {loss: 0.01, delay_ms: 2, jitter_ms: 1}."""


class MetersConfig(Section):
    """The measurement of costs."""

    idle_s: Annotated[Number, Field(ge=0, le=3600)] = 0.0
    """Seconds before the run in which hosts with an energy sensor measure their idle power."""


class TrainConfig(Section):
    """The amount of training."""

    steps: Annotated[WholeNumber, Field(ge=0, le=10**15)] = 5_000_000
    """Environment steps of the run. 0: evaluate once and end."""
    load: Text = "none"
    """Checkpoint (models/*.pt of a run) to start from: nets, entropy models, value normaliser."""
    resume: Text = "none"
    """Run to go on with: its folder, or auto: the newest unfinished one of this configuration."""
    envs: Annotated[WholeNumber, Field(ge=1, le=65536)] = 64
    """Environments, a multiple of train.slots."""
    slots: Annotated[WholeNumber, Field(ge=1, le=4096)] = 2
    """Parts of the environments that take turns: devices code one while another steps."""
    rollout: Annotated[WholeNumber, Field(ge=1, le=10**9)] = 128
    """Steps of each environment between two updates."""
    overlap: bool = False
    """Executors that play environments play the next rollout while this one is learnt."""
    threads: Annotated[WholeNumber, Field(ge=0, le=1024)] = 1
    """torch threads of the learner. 0: one a core, faster on idle cores, slower on busy ones."""

    @property
    def rollout_steps(self) -> int:
        """Returns the environment steps of one rollout, of all environments together."""
        return self.rollout * self.envs

    @property
    def planned_steps(self) -> int:
        """Returns the environment steps that will be played: `steps`, up to whole rollouts."""
        return -(-self.steps // self.rollout_steps) * self.rollout_steps


class LearnerConfig(Section):
    """The processes that learn."""

    ranks: Annotated[WholeNumber, Field(ge=1, le=4096)] = 1
    """MPI ranks that learn, each from a share of every minibatch: rank 0 and the last ones."""
    device: Annotated[Literal["auto", "cpu", "cuda"], TEXT] = "cpu"
    """Device of the updates. auto: cuda where there is one, whose numbers differ by rounding."""


class EvalConfig(Section):
    """Evaluation by greedy episodes, the same ones every time."""

    interval: Annotated[WholeNumber, Field(ge=0)] = 250_000
    """Environment steps between evaluations. 0: only at the end."""
    episodes: Annotated[WholeNumber, Field(ge=0)] = 128
    """Episodes of an evaluation. 0: never evaluate."""


class RecordConfig(Section):
    """The files that a run writes."""

    dir: Text = "results"
    """Folder of all results. A run writes <dir>/<env>/<task>/<algo>/<exp>/seed-<seed>-<time>."""
    exp: Text = "test"
    """Name of the experiment."""
    trajectories: Annotated[Literal["none", "eval"], TEXT] = "none"
    """Whole episodes in run.h5 (Minari's layout): none, or those of evaluations."""
    decisions: bool = True
    """Record each decision message: bytes, times, versions."""
    tensorboard: bool = True
    """Write TensorBoard files."""
    metrics_port: Annotated[WholeNumber, Field(ge=0, le=65535)] = 0
    """Port on rank 0's 127.0.0.1 where Prometheus finds the newest scalars. 0: none."""
    checkpoint_interval: Annotated[WholeNumber, Field(ge=0)] = 1_000_000
    """Environment steps between checkpoints. 0: only at the end."""
    keep: Annotated[WholeNumber, Field(ge=0)] = 0
    """Checkpoints to keep beside last.pt, the newest ones. 0: all."""
    on_disk_full: Annotated[Literal["stop", "continue"], TEXT] = "stop"
    """When run.h5 can't be written any more: stop the run, or continue without recording."""


class Config(Section):
    """The configuration of a whole run."""

    env: EnvConfig = EnvConfig()
    algo: AlgoConfig = AlgoConfig()
    policy: PolicyConfig = PolicyConfig()
    roles: RolesConfig = RolesConfig()
    codec: CodecConfig = CodecConfig()
    diversity: DiversityConfig = DiversityConfig()
    placement: PlacementConfig = PlacementConfig()
    executor: ExecutorConfig = ExecutorConfig()
    link: LinkConfig = LinkConfig()
    meters: MetersConfig = MetersConfig()
    train: TrainConfig = TrainConfig()
    learner: LearnerConfig = LearnerConfig()
    eval: EvalConfig = EvalConfig()
    record: RecordConfig = RecordConfig()
    seed: Annotated[WholeNumber, Field(ge=0, le=2**31 - 1)] = 1
    """Seed of all random numbers."""
