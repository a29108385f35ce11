"""Makes the parts of a training run from its configuration. Read `build` from top to bottom."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from sde_harl.algorithms.algorithm import Algorithm
from sde_harl.algorithms.off_policy.requirements import check_off_policy
from sde_harl.algorithms.registry import ALGORITHMS
from sde_harl.auxiliary.peers import ALONE
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.layers import digest
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec, VectorEnv
from sde_harl.envs.registry import resolve_backend
from sde_harl.errors import UserError
from sde_harl.executor.in_process import loopback
from sde_harl.link.transport import Transport
from sde_harl.meters.cores import own_seat, threads_line, usable_cores
from sde_harl.meters.timing import Stages
from sde_harl.outside.process import interruption
from sde_harl.placement.registry import find_placement
from sde_harl.policy.shapes import server_shape
from sde_harl.protocol.session import SessionSpec, ShardSpec
from sde_harl.roles.grouping import Roles, find_roles
from sde_harl.server.executor_pool import ExecutorPool
from sde_harl.server.settings import PoolSettings
from sde_harl.server.sharded_pool import ShardedPool
from sde_harl.training.checkpoint import Checkpoints, Stateful, as_arrays, load_part
from sde_harl.training.collector import Collector
from sde_harl.training.counters import Counters
from sde_harl.training.env_slot import EnvSlot
from sde_harl.training.environments import Environments
from sde_harl.training.episodes import EpisodeRecorder
from sde_harl.training.evaluation import Evaluator
from sde_harl.training.learned import (
    Learned,
    build_learned,
    critic_kind,
    first_generator,
    prepare_torch,
)
from sde_harl.training.learners import Learners
from sde_harl.training.remote import RemoteCollector, RemoteEnvironments
from sde_harl.training.resuming import Resumed, find_resumed
from sde_harl.training.rollouts import make_rollout, make_slots
from sde_harl.training.run_logger import RunLogger

FIRST_EVAL_ENV = 1 << 20
"""Number of the first evaluation environment: far above those of training, because environments
of the same number have the same random stream."""


@dataclass(frozen=True, kw_only=True)
class TrainingParts:
    """The parts of one training run. `Trainer` has them work together."""

    config: Config
    environments: Environments
    pool: ExecutorPool
    learned: Learned
    collector: Collector | RemoteCollector
    evaluator: Evaluator
    learners: Learners | None
    """Those beside rank 0, if any."""
    counters: Counters
    checkpoints: Checkpoints
    logger: RunLogger
    stages: Stages


@dataclass(frozen=True, kw_only=True)
class PolicyParts:
    """The policies of a run, the executors that act by them, and what is kept of both."""

    spec: EnvSpec
    session: SessionSpec
    pool: ExecutorPool
    roles: Roles
    learned: Learned
    counters: Counters
    checkpoints: Checkpoints


def build_policies(
    config: Config,
    transport: Transport,
    environments: Environments,
    *,
    resumed: Resumed | None = None,
    learners: Learners | None = None,
) -> PolicyParts:
    """Returns the policies for these environments, those of `train.load` where that names some.

    resumed: a run whose checkpoint will be loaded into them. learners: those beside rank 0, if
    any. The executors behind `transport` have shaken hands then. Raises UserError for everything
    that the user can mend.
    """
    spec = environments.spec
    prepare_torch()
    algorithm_class = _find_algorithm(config, spec)

    # The handshake comes before the learning of roles, which is slow: a missing executor, or one
    # of another version, is reported at once.
    session = SessionSpec.from_config(config, spec, heads=algorithm_class.heads(spec))
    pool = _make_pool(
        config,
        environments,
        transport,
        session=session,
        algorithm_class=algorithm_class,
        resumed=resumed,
    )
    if learners:
        learners.share_link(transport, pool)
    pool.handshake()
    if learners:
        learners.call()

    roles = find_roles(config, environments.training, nets=_nets_to_load(config, resumed))
    learned = build_learned(
        config,
        spec,
        algorithm_class,
        roles=roles,
        generator=first_generator(config.seed),
        peers=learners.peers if learners else ALONE,
    )
    counters = Counters()
    return PolicyParts(
        spec=spec,
        session=session,
        pool=pool,
        roles=roles,
        learned=learned,
        counters=counters,
        checkpoints=_checkpoints(
            config,
            spec,
            learned,
            counters=counters,
            environments=environments,
            loads=resumed is None,
        ),
    )


def build(config: Config, transport: Transport, learners: Learners | None = None) -> TrainingParts:
    """Returns the parts of a run, after the handshake with the executors behind `transport`.

    `learners` are those beside rank 0, if any. Raises UserError for everything that the user can
    mend.
    """
    threads = config.train.threads or len(usable_cores())
    torch.set_num_threads(threads)
    backend = resolve_backend(config.env)
    environments = make_environments(config)
    resumed = find_resumed(config, environments.spec)
    policies = build_policies(config, transport, environments, resumed=resumed, learners=learners)
    spec = policies.spec
    pool = policies.pool
    learned = policies.learned
    checkpoints = policies.checkpoints

    stages = Stages()
    placement = find_placement(config.placement, config.policy)
    slots_of = functools.partial(
        make_slots, placement=placement, pool=pool, stages=stages, note=pool.note
    )
    rollout = make_rollout(
        config,
        spec,
        learned.critic_input,
        shape=policies.session.shape,
        envs=config.train.envs,
        replays=learned.algorithm.replays,
    )
    learned.algorithm.start(rollout)
    learning = threads_line([own_seat()], [threads])
    if learners:
        learning = learners.start(learned, spec, policies.roles.groups)
    if resumed:
        checkpoints.resume(resumed.checkpoint)
    # After the roles, which are learnt by random play in these environments, and after the
    # checkpoint, which says with which episodes they begin: slots reset them.
    collector = _make_collector(config, pool, environments, rollout, slots_of, stages=stages)
    _go_on(collector, "slots", checkpoints, resumed)
    if isinstance(collector, RemoteCollector) and config.train.overlap:
        _go_on(collector.ahead, "ahead", checkpoints, resumed)

    # From here on there is something to save.
    interruption.defer()
    # The logger makes the run's folder, so everything that can fail comes before it: a run that
    # can't start leaves no folder behind.
    roles = policies.roles
    logger = RunLogger(
        config=config, spec=spec, pool=pool, backend=backend, roles=roles, resumed=resumed
    )
    checkpoints.add("record", logger)
    for line in (
        f"{spec.name}, {config.algo.name}, {len(transport.executors)} executor(s)",
        learning,
        roles.line(),
        f"run folder {logger.folder}",
        *_first_lines(config, policies, environments, resumed=resumed),
        backend.line,
    ):
        logger.note(line)
    evaluator = Evaluator(
        config.eval.episodes,
        make_slots=lambda: slots_of(dict(enumerate(environments.make(first=FIRST_EVAL_ENV)))),
        make_recorder=_recorder_factory(config, spec, logger),
    )

    return TrainingParts(
        config=config,
        environments=environments,
        pool=pool,
        learned=learned,
        collector=collector,
        evaluator=evaluator,
        learners=learners,
        counters=policies.counters,
        checkpoints=checkpoints,
        logger=logger,
        stages=stages,
    )


def _make_collector(
    config: Config,
    pool: ExecutorPool,
    environments: Environments,
    rollout: Rollout,
    slots_of: Callable[[Mapping[int, VectorEnv]], list[EnvSlot]],
    *,
    stages: Stages,
) -> Collector | RemoteCollector:
    """Returns what fills a rollout: slots that are played here, or executors that play."""
    if isinstance(pool, ShardedPool) and isinstance(environments, RemoteEnvironments):
        return RemoteCollector(
            pool, environments, rollout, stages=stages, overlap=config.train.overlap
        )
    slots = slots_of(dict(enumerate(environments.training)))
    return Collector(slots, rollout, config.seed)


def _go_on(part: Stateful, name: str, checkpoints: Checkpoints, resumed: Resumed | None) -> None:
    """Gives a part the state that it had in a resumed run, and adds it to the checkpoints."""
    if resumed:
        state = as_arrays(resumed.checkpoint.nested(name))
        load_part(resumed.checkpoint.path, part, state)
    checkpoints.add(name, part)


def make_environments(config: Config) -> Environments:
    """Returns the environments of a run, which executors may play."""
    if config.placement.mode == "envs":
        return RemoteEnvironments(config)
    return Environments(config)


def _make_pool(
    config: Config,
    environments: Environments,
    transport: Transport,
    *,
    session: SessionSpec,
    algorithm_class: type[Algorithm],
    resumed: Resumed | None,
) -> ExecutorPool:
    """Returns the executors of a run. Raises UserError where there are too many."""
    spec = environments.spec
    settings = PoolSettings.from_config(config, spec)
    if not isinstance(environments, RemoteEnvironments):
        return ExecutorPool(transport, session, settings)
    heads = algorithm_class.heads(spec)
    return ShardedPool(
        transport,
        session,
        settings,
        shape=server_shape(spec=spec, policy=config.policy, heads=heads),
        plays=ShardSpec(
            # The pool deals the slots.
            first_slot=0,
            slots=0,
            heads=heads,
            critic=critic_kind(config, algorithm_class),
            replays=algorithm_class.replays,
            config=digest(config),
        ),
        own=loopback(),
        # All that a checkpoint holds is more than what its environments take of it.
        state_bytes=resumed.checkpoint.path.stat().st_size if resumed else 0,
    )


def _first_lines(
    config: Config, policies: PolicyParts, environments: Environments, *, resumed: Resumed | None
) -> Iterator[str]:
    """Yields what else the user should know when the run begins."""
    if resumed:
        yield from resumed.lines()
        lost = policies.learned.algorithm.restore(resumed.folder / "models")
        if lost:
            yield lost
        if not environments.are_brought_back:
            yield "these environments don't repeat themselves: all episodes begin anew"
    if config.train.planned_steps > config.train.steps:
        yield _rounded_up(config)
    if config.train.overlap:
        yield (
            "train.overlap: all rollouts but the first are played by a policy that is one update"
            " older than the one that learns from them (lag = 1), so ratio_error is not 0"
        )


def _nets_to_load(config: Config, resumed: Resumed | None) -> Path | None:
    """Returns the checkpoint that the nets come from, whose role groups they are learnt in."""
    if resumed:
        return resumed.checkpoint.path
    if config.train.load != "none":
        return Path(config.train.load)
    return None


def _rounded_up(config: Config) -> str:
    train = config.train
    return (
        f"train.steps: {train.steps:,} asked, {train.planned_steps:,} will be played, which is "
        f"whole rollouts of train.rollout x train.envs = {train.rollout_steps:,}"
    )


def _find_algorithm(config: Config, spec: EnvSpec) -> type[Algorithm]:
    name = config.algo.name
    found = ALGORITHMS[name]
    if spec.continuous and not found.continuous:
        raise UserError(f"algo.name: {name} can't act in the continuous actions of {spec.name}")
    if not spec.continuous and not found.discrete:
        raise UserError(f"algo.name: {name} can't act by the choices of {spec.name}")
    if len(spec.branches) > found.most_choices and not spec.continuous:
        raise UserError(
            f"algo.name: {name} makes one choice at a time, and an action of {spec.name} is"
            f" {len(spec.branches)}"
        )
    if found.replays:
        check_off_policy(config, spec)
    return found


def _checkpoints(
    config: Config,
    spec: EnvSpec,
    learned: Learned,
    *,
    counters: Counters,
    environments: Environments,
    loads: bool,
) -> Checkpoints:
    """Returns the run's checkpoints; loads another run's nets first if `train.load` names it."""
    checkpoints = Checkpoints(
        learned=learned,
        counters=counters,
        environments=environments,
        env=spec.name,
        algo=config.algo.name,
    )
    if loads and config.train.load != "none":
        checkpoints.start_from(Path(config.train.load), learns=config.train.steps > 0)
    return checkpoints


def _recorder_factory(
    config: Config, spec: EnvSpec, logger: RunLogger
) -> functools.partial[EpisodeRecorder] | None:
    """Returns a function that makes a recorder for a number of environments; None without any."""
    if config.record.trajectories != "eval":
        return None
    return functools.partial(EpisodeRecorder, spec, emit=logger.trajectory)
