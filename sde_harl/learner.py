"""Rank 0's loop: collect -> report -> learn -> publish -> evaluate -> record. Knows no MPI, no algorithm's insides."""

from __future__ import annotations

import gc
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sde_harl.algorithms import ALGORITHMS
from sde_harl.algorithms.distillation import Distillation
from sde_harl.algorithms.rate import RateControl
from sde_harl.algorithms.rollout import Rollout
from sde_harl.codec.tables import Tables
from sde_harl.collector import Collector, Episodes, Seat, evaluate
from sde_harl.config import Config
from sde_harl.envs import make, resolve_backend
from sde_harl.envs.base import EnvSpec, VectorEnv
from sde_harl.errors import UserError
from sde_harl.fleet import Fleet, Plan
from sde_harl.journal import Journal
from sde_harl.layering import shown
from sde_harl.link.transport import Transport
from sde_harl.meters.timing import Stages, now_ns
from sde_harl.policy.critic import Critic
from sde_harl.policy.exit import ExitShape
from sde_harl.policy.split import SplitPolicy, local_shape
from sde_harl.policy.view import make_view
from sde_harl.policy.whole import WholeShape
from sde_harl.record.checkpoint import load, save
from sde_harl.roles.diversity import Diversity
from sde_harl.roles.grouping import find_roles
from sde_harl.sensing import Actions
from sde_harl.tape import Tape


class Learner:
    """One training run."""

    def __init__(self, config: Config, transport: Transport) -> None:
        self.config = config
        torch.set_num_threads(config.train.threads or os.cpu_count() or 1)
        backend, line = resolve_backend(config.env)
        self._stages = Stages()
        self._envs: list[VectorEnv] = []
        envs = self._make_envs(first=0)
        torch.set_flush_denormal(True)  # a policy that has made up its mind is full of them, and they are slow
        self.spec: EnvSpec = envs[0].spec
        algorithm = ALGORITHMS[config.algo.name]
        if self.spec.continuous and not algorithm.continuous:
            raise UserError(f"algo.name: {config.algo.name} can't act in the continuous actions of {self.spec.name}")
        shape = local_shape(self.spec, config.policy, tuple(range(len(self.spec.agents))))
        assign = dict(config.placement.assign)
        link = (config.train.slots, assign, config.link.patience_s)
        actions = (len(self.spec.branches), self.spec.continuous, self._whole())
        late = (1e-3 * config.link.deadline_ms, config.link.max_age, config.link.on_fault == "fallback")
        emulated = (config.link.model, config.seed)
        coded = (shape, config.codec.name, config.codec.pack, envs[0].num_envs)
        nets_by = config.executor.device if config.executor.backend == "torch" else ""
        exits = self._exit_shape()
        plan = Plan(*coded, *link, *actions, config.meters.idle_s, *late, *emulated, self._sensed(), nets_by, exits)
        self.fleet = Fleet(transport, plan)
        self.fleet.handshake()
        self._seed(config.seed)
        roles = find_roles(config, envs)
        share, nets = config.algo.share_param, replace(config.policy, groups=roles.groups)
        self.policy = SplitPolicy(self.spec, nets, config.codec, share, self._torch)
        view = make_view("own" if algorithm.own_view else config.env.state_type, self.spec)
        critic = Critic(view, config.policy, share or not algorithm.own_view, self._torch)
        self.algorithm = algorithm(self.policy, critic, config.algo, config.codec, self._torch)
        self._rate = RateControl(config.codec)
        diversity = config.diversity
        self._diversity = Diversity(self.policy, self.spec, diversity, self._torch) if diversity.coef else None
        self._exits = Distillation(self.policy, self.spec, config.seed) if config.policy.exit_head else None
        chunks = (config.algo.chunk, config.policy.width) if config.policy.recurrent else (1, 0)
        sizes = (config.train.rollout, config.train.envs, 0 if self.fleet.whole else shape.latent_max())
        self._rollout = Rollout(self.spec, *sizes, view, *chunks)
        self._seats = [Seat(slot, env, self.fleet, self._stages) for slot, env in enumerate(envs)]
        self._collector = Collector(self._seats, self._rollout, self._numpy, self._ended)
        self._episodes: list[Episodes] = []
        self._eval_seats: list[Seat] = []
        self.steps = 0
        if config.train.load != "none":
            self._restore(Path(config.train.load))
        self.journal = Journal(config, self.spec, self.fleet, backend, roles)
        players = f"{self.spec.name}, {config.algo.name}, {transport.size - 1} executor(s)"
        for note in (line, players, roles.line(), f"run folder {self.journal.folder}"):
            self.journal.note(note)

    def _make_envs(self, first: int) -> list[VectorEnv]:
        """The environments of every slot, numbered from `first`."""
        config, rows = self.config, self.config.train.envs // self.config.train.slots
        envs = [make(config.env, rows, config.seed, first + slot * rows) for slot in range(config.train.slots)]
        self._envs += envs  # to be closed
        return envs

    def _whole(self) -> WholeShape | None:
        """What devices have to know that run their whole policies."""
        if self.config.policy.local_blocks < self.config.policy.blocks:
            return None
        memory = self.config.policy.width if self.config.policy.recurrent else 0
        return WholeShape(self.spec.branches, self.spec.continuous, self.config.seed, memory)

    def _exit_shape(self) -> ExitShape | None:
        """What devices have to know of their exit heads: the server's deadline has passed twice, there and back."""
        if not self.config.policy.exit_head:
            return None
        return ExitShape(self.spec.branches, self.spec.continuous, 2e-3 * self.config.link.deadline_ms)

    def _sensed(self) -> Actions | None:
        """What devices have to know that sense for themselves."""
        if self.config.executor.sensor == "none":
            return None
        spec = self.spec
        return Actions(tuple(each[0] if spec.continuous else len(each) for each in spec.action_sizes), spec.continuous)

    def _seed(self, seed: int) -> None:
        sequence = np.random.SeedSequence(seed)
        self._numpy = np.random.Generator(np.random.PCG64(sequence.spawn(1)[0]))
        self._torch = torch.Generator().manual_seed(int(sequence.generate_state(1)[0]))
        torch.manual_seed(seed)  # CompressAI draws its initial densities from the global generator

    def run(self) -> None:
        """Train to the end; whatever happens, what was learnt and recorded is saved."""
        gc.collect()
        gc.freeze()  # the libraries' objects are many, and the collector would go through them again and again
        try:
            self._train()
        finally:
            try:
                self._checkpoint("last")
            finally:
                self.journal.close()
                for env in self._envs:
                    env.close()

    def _train(self) -> None:
        self._publish()
        self.journal.cost(0, *self.fleet.report(), train=True)  # what the start has cost, to be told from what follows
        if not self.config.train.steps:
            self._evaluate()
        while self.steps < self.config.train.steps:
            before = self.steps
            self._update()
            for interval, action in (
                (self.config.eval.interval, self._evaluate),
                (self.config.record.checkpoint_interval, self._checkpoint),
            ):
                if self.steps >= self.config.train.steps or (interval and before // interval != self.steps // interval):
                    action()

    def _update(self) -> None:
        """One rollout and what is learnt from it."""
        started, first = now_ns(), self.steps // self.config.train.envs
        self._collector.collect(self._acting, first)
        self.steps += self._rollout.rewards.size
        episodes, self._episodes = Episodes.join(self._episodes), []
        with self._stages("report"):
            decisions, resources = self.fleet.report()
            self.journal.cost(self.steps, decisions, resources, train=True)
        progress = self.steps / self.config.train.steps
        with self._stages("diversity"):
            scalars = self._diversify()
        with self._stages("learn"):
            self.algorithm.rate_coef = self._rate.next(progress, decisions.bytes_per_decision())
            scalars |= self.algorithm.update(self._rollout, progress)
        with self._stages("distil"):
            scalars |= self._exits.update(self._rollout, self.steps) if self._exits else {}
        with self._stages("publish"):
            self._publish()
        elapsed = (now_ns() - started) * 1e-9
        seconds = self._stages.take()
        scalars |= {f"share/{name}": seconds.get(name, 0.0) / elapsed for name in STAGES}
        if self.config.codec.name == "entropy":
            scalars["rate_coef"] = self.algorithm.rate_coef
        scalars["steps_per_s"] = self._rollout.rewards.size / elapsed
        self.journal.update(self.steps, episodes, decisions, scalars)

    def _diversify(self) -> dict[str, float]:
        """Add the intrinsic reward, if there is one, to the team's; scalars to log."""
        if not self._diversity:
            return {}
        intrinsic = self._diversity.reward(self._rollout)
        self._rollout.rewards += intrinsic.rewards
        return intrinsic.scalars

    def _publish(self) -> None:
        """A new version of everything that acts: local nets and tables to the executors, the rest to this process."""
        number = self.fleet.version + 1
        tables: list[Tables] = []
        if self.config.codec.name == "entropy":
            tables = self.policy.build_tables(number)
        weights = self.policy.local_parameters()
        if self._exits:
            weights = [net + head for net, head in zip(weights, self._exits.arrays())]
        self.fleet.publish(number, weights, tables)
        self._acting = self.policy.acting()

    def _evaluate(self) -> None:
        """Fixed greedy episodes, the same ones every time."""
        config = self.config
        if not config.eval.episodes:
            return
        if not self._eval_seats:
            envs = self._make_envs(EVAL_FIRST_ENV)
            self._eval_seats = [Seat(slot, env, self.fleet, self._stages) for slot, env in enumerate(envs)]
        tapes = None
        if config.record.trajectories == "eval":
            tapes = [Tape(self.spec, seat.num_envs, self.journal.trajectory) for seat in self._eval_seats]
        when = self.steps // config.train.envs
        episodes = evaluate(self._eval_seats, self._acting, config.eval.episodes, when, tapes)
        decisions, resources = self.fleet.report()
        self.journal.cost(self.steps, decisions, resources, train=False)
        self.journal.evaluation(self.steps, episodes, decisions)

    def _state(self) -> dict[str, torch.Tensor]:
        """Everything that was learnt; of the optimisers, the exit heads' alone."""
        tensors = {f"policy.{key}": value for key, value in self.policy.state_dict().items()}
        tensors |= {f"critic.{key}": value for key, value in self.algorithm.critic.critic.state_dict().items()}
        exits = self._exits.state() if self._exits else {}
        tensors |= {f"{EXIT}{key}": value for key, value in exits.items()}
        return tensors | {"value_norm": self.algorithm.critic.norm.state()}

    def _groups(self) -> str:
        """As a checkpoint tells them."""
        return json.dumps([net.members for net in self.policy.groups])

    def _restore(self, path: Path) -> None:
        """Start from another run's checkpoint. Raises UserError where its nets are not this configuration's."""
        shapes = {name: tuple(each.shape) for name, each in self._state().items()}
        tensors, meta = load(path, shapes, SPARE, optional=EXIT)
        groups = self._groups()
        if meta.get("groups", groups) != groups:
            raise UserError(f"train.load: {path} is of the role groups {shown(str(meta['groups']))}, not {groups}")
        part = lambda head: {key[len(head) :]: each for key, each in tensors.items() if key.startswith(head)}  # noqa: E731
        self.policy.load_state_dict(part("policy."))
        self.algorithm.critic.critic.load_state_dict(part("critic."))
        self.algorithm.critic.norm.restore(tensors["value_norm"])
        if self._exits:
            self._restore_exits(path, part(EXIT))

    def _restore_exits(self, path: Path, tensors: dict[str, torch.Tensor]) -> None:
        """Where a checkpoint has no exit heads they are learnt from now on. Raises UserError where that can't be."""
        assert self._exits
        if tensors:
            try:
                self._exits.restore(tensors)
            except ValueError as error:
                raise UserError(f"train.load: {path}: its exit heads are damaged: {error}") from error
        elif not self.config.train.steps:
            raise UserError(f"policy.exit_head: expected false, for {path} has no exit heads and train.steps = 0")

    def _ended(self, episodes: Episodes) -> None:
        self.journal.ended(self.steps, episodes)
        self._episodes.append(episodes)

    def _checkpoint(self, name: str = "") -> None:
        meta: dict[str, str | int | float] = {
            "env": self.spec.name,
            "algo": self.config.algo.name,
            "steps": self.steps,
            "version": self.fleet.version,
            "groups": self._groups(),
        }
        try:
            save(self.journal.folder / "models" / f"{name or self.steps}.pt", self._state(), meta)
        except UserError as error:
            if self.config.record.on_disk_full == "stop":
                raise
            self.journal.note(str(error))


STAGES = ("environment", "send", "latents", "policy", "devices", "report", "diversity", "learn", "distil", "publish")
"""Where the learner's time goes; what is left over is evaluation, checkpoints and logging."""
EXIT = "exit."
"""What the exit heads' names in a checkpoint begin with."""
SPARE = ("latent_model", EXIT)
"""What a checkpoint may have more than its reader needs: a plain codec has no entropy model."""
EVAL_FIRST_ENV = 1 << 20
"""Evaluation environments are numbered from here, so that none shares a random stream with training."""
