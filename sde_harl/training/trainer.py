"""Rank 0's loop: collect -> report -> learn -> publish -> evaluate -> record. Knows no MPI, no algorithm's insides."""

from __future__ import annotations

import gc
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sde_harl.algorithms.registry import ALGORITHMS
from sde_harl.auxiliary.distillation import Distillation
from sde_harl.auxiliary.diversity import Diversity
from sde_harl.auxiliary.rate import RateControl
from sde_harl.buffers.rollout import Rollout
from sde_harl.codec.tables import Tables
from sde_harl.config.layers import shown
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec, VectorEnv
from sde_harl.envs.registry import make, resolve_backend
from sde_harl.errors import UserError
from sde_harl.executor.sensors import Actions
from sde_harl.link.transport import Transport
from sde_harl.meters.timing import Stages, now_ns
from sde_harl.policy.critic import Critic
from sde_harl.policy.critic_input import make_critic_input
from sde_harl.policy.shapes import (
    FallbackShape,
    OnDeviceShape,
    fallback_shape,
    local_shape,
    on_device_shape,
)
from sde_harl.policy.split_policy import SplitPolicy
from sde_harl.record.checkpoint import load, save
from sde_harl.roles.grouping import find_roles
from sde_harl.server.executor_pool import ExecutorPool, SessionPlan
from sde_harl.training.collector import Collector, EnvSlot, Episodes, evaluate
from sde_harl.training.episodes import EpisodeRecorder
from sde_harl.training.run_logger import RunLogger


class Trainer:
    """One training run."""

    def __init__(self, config: Config, transport: Transport) -> None:
        self.config = config
        torch.set_num_threads(config.train.threads or os.cpu_count() or 1)
        backend, line = resolve_backend(config.env)
        self._stages = Stages()
        self._envs: list[VectorEnv] = []
        envs = self._make_envs(first=0)
        torch.set_flush_denormal(
            True
        )  # a policy that has made up its mind is full of them, and they are slow
        self.spec: EnvSpec = envs[0].spec
        algorithm = ALGORITHMS[config.algo.name]
        if self.spec.continuous and not algorithm.continuous:
            raise UserError(
                f"algo.name: {config.algo.name} can't act in the continuous actions of {self.spec.name}"
            )
        shape = local_shape(
            agents=tuple(range(len(self.spec.agents))), spec=self.spec, policy=config.policy
        )
        assign = dict(config.placement.assign)
        link = (config.train.slots, assign, config.link.failure_timeout_s)
        actions = (len(self.spec.branches), self.spec.continuous, self._whole())
        late = (
            1e-3 * config.link.deadline_ms,
            config.link.max_age,
            config.link.on_fault == "fallback",
        )
        emulated = (config.link.model, config.seed)
        coded = (shape, config.codec.name, config.codec.pack, envs[0].num_envs)
        nets_by = config.executor.device if config.executor.backend == "torch" else ""
        exits = self._fallback_shape()
        plan = SessionPlan(
            *coded,
            *link,
            *actions,
            config.meters.idle_s,
            *late,
            *emulated,
            self._sensed(),
            nets_by,
            exits,
        )
        self.pool = ExecutorPool(transport, plan)
        self.pool.handshake()
        self._seed(config.seed)
        roles = find_roles(config, envs)
        share, nets = config.algo.share_param, replace(config.policy, groups=roles.groups)
        self.policy = SplitPolicy(self.spec, nets, config.codec, share, self._torch)
        view = make_critic_input("own" if algorithm.own_view else config.env.state_type, self.spec)
        critic = Critic(view, config.policy, share or not algorithm.own_view, self._torch)
        self.algorithm = algorithm(self.policy, critic, config.algo, config.codec, self._torch)
        self._rate = RateControl(config.codec)
        diversity = config.diversity
        self._diversity = (
            Diversity(self.policy, self.spec, diversity, self._torch) if diversity.coef else None
        )
        self._fallback = (
            Distillation(self.policy, self.spec, config.seed)
            if config.policy.fallback_head
            else None
        )
        chunks = (config.algo.chunk, config.policy.width) if config.policy.recurrent else (1, 0)
        sizes = (
            config.train.rollout,
            config.train.envs,
            0 if self.pool.whole else shape.latent_max(),
        )
        self._rollout = Rollout(self.spec, *sizes, view, *chunks)
        self._env_slots = [
            EnvSlot(slot, env, self.pool, self._stages) for slot, env in enumerate(envs)
        ]
        self._collector = Collector(self._env_slots, self._rollout, self._numpy, self._ended)
        self._episodes: list[Episodes] = []
        self._eval_slots: list[EnvSlot] = []
        self.steps = 0
        if config.train.load != "none":
            self._restore(Path(config.train.load))
        self.logger = RunLogger(config, self.spec, self.pool, backend, roles)
        players = f"{self.spec.name}, {config.algo.name}, {transport.size - 1} executor(s)"
        for note in (line, players, roles.line(), f"run folder {self.logger.folder}"):
            self.logger.note(note)

    def _make_envs(self, first: int) -> list[VectorEnv]:
        """The environments of every slot, numbered from `first`."""
        config, rows = self.config, self.config.train.envs // self.config.train.slots
        envs = [
            make(config.env, rows, config.seed, first + slot * rows)
            for slot in range(config.train.slots)
        ]
        self._envs += envs  # to be closed
        return envs

    def _whole(self) -> OnDeviceShape | None:
        """Returns what devices have to know that run their policies alone; None where they are split."""
        return on_device_shape(spec=self.spec, policy=self.config.policy, seed=self.config.seed)

    def _fallback_shape(self) -> FallbackShape | None:
        """Returns what devices have to know of their fallback heads; None where they have none."""
        wait_s = 2e-3 * self.config.link.deadline_ms  # one deadline there and one back
        return fallback_shape(spec=self.spec, policy=self.config.policy, wait_s=wait_s)

    def _sensed(self) -> Actions | None:
        """What devices have to know that sense for themselves."""
        if self.config.executor.sensor == "none":
            return None
        spec = self.spec
        return Actions(
            tuple(each[0] if spec.continuous else len(each) for each in spec.action_sizes),
            spec.continuous,
        )

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
                self.logger.close()
                for env in self._envs:
                    env.close()

    def _train(self) -> None:
        self._publish()
        self.logger.cost(
            0, *self.pool.report(), train=True
        )  # what the start has cost, to be told from what follows
        if not self.config.train.steps:
            self._evaluate()
        while self.steps < self.config.train.steps:
            before = self.steps
            self._update()
            for interval, action in (
                (self.config.eval.interval, self._evaluate),
                (self.config.record.checkpoint_interval, self._checkpoint),
            ):
                if self.steps >= self.config.train.steps or (
                    interval and before // interval != self.steps // interval
                ):
                    action()

    def _update(self) -> None:
        """One rollout and what is learnt from it."""
        started, first = now_ns(), self.steps // self.config.train.envs
        self._collector.collect(self._acting, first)
        self.steps += self._rollout.rewards.size
        episodes, self._episodes = Episodes.join(self._episodes), []
        with self._stages("report"):
            decisions, resources = self.pool.report()
            self.logger.cost(self.steps, decisions, resources, train=True)
        progress = self.steps / self.config.train.steps
        with self._stages("diversity"):
            scalars = self._diversify()
        with self._stages("learn"):
            self.algorithm.rate_coef = self._rate.next(progress, decisions.bytes_per_decision())
            scalars |= self.algorithm.update(self._rollout, progress)
        with self._stages("distil"):
            scalars |= self._fallback.update(self._rollout, self.steps) if self._fallback else {}
        with self._stages("publish"):
            self._publish()
        elapsed = (now_ns() - started) * 1e-9
        seconds = self._stages.take()
        scalars |= {f"share/{name}": seconds.get(name, 0.0) / elapsed for name in STAGES}
        if self.config.codec.name == "entropy":
            scalars["rate_coef"] = self.algorithm.rate_coef
        scalars["steps_per_s"] = self._rollout.rewards.size / elapsed
        self.logger.update(self.steps, episodes, decisions, scalars)

    def _diversify(self) -> dict[str, float]:
        """Add the intrinsic reward, if there is one, to the team's; scalars to log."""
        if not self._diversity:
            return {}
        intrinsic = self._diversity.reward(self._rollout)
        self._rollout.rewards += intrinsic.rewards
        return intrinsic.scalars

    def _publish(self) -> None:
        """A new version of everything that acts: local nets and tables to the executors, the rest to this process."""
        number = self.pool.version + 1
        tables: list[Tables] = []
        if self.config.codec.name == "entropy":
            tables = self.policy.build_tables(number)
        weights = self.policy.local_parameters()
        if self._fallback:
            weights = [net + head for net, head in zip(weights, self._fallback.arrays())]
        self.pool.publish(number, weights, tables)
        self._acting = self.policy.acting()

    def _evaluate(self) -> None:
        """Fixed greedy episodes, the same ones every time."""
        config = self.config
        if not config.eval.episodes:
            return
        if not self._eval_slots:
            envs = self._make_envs(EVAL_FIRST_ENV)
            self._eval_slots = [
                EnvSlot(slot, env, self.pool, self._stages) for slot, env in enumerate(envs)
            ]
        recorders = None
        if config.record.trajectories == "eval":
            recorders = [
                EpisodeRecorder(self.spec, env_slot.num_envs, self.logger.trajectory)
                for env_slot in self._eval_slots
            ]
        when = self.steps // config.train.envs
        episodes = evaluate(self._eval_slots, self._acting, config.eval.episodes, when, recorders)
        decisions, resources = self.pool.report()
        self.logger.cost(self.steps, decisions, resources, train=False)
        self.logger.evaluation(self.steps, episodes, decisions)

    def _state(self) -> dict[str, torch.Tensor]:
        """Everything that was learnt; of the optimisers, the exit heads' alone."""
        tensors = {f"policy.{key}": value for key, value in self.policy.state_dict().items()}
        tensors |= {
            f"critic.{key}": value
            for key, value in self.algorithm.critic.critic.state_dict().items()
        }
        exits = self._fallback.state() if self._fallback else {}
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
            raise UserError(
                f"train.load: {path} is of the role groups {shown(str(meta['groups']))}, not {groups}"
            )

        def part(head: str) -> dict[str, torch.Tensor]:
            return {key[len(head) :]: each for key, each in tensors.items() if key.startswith(head)}

        self.policy.load_state_dict(part("policy."))
        self.algorithm.critic.critic.load_state_dict(part("critic."))
        self.algorithm.critic.norm.restore(tensors["value_norm"])
        if self._fallback:
            self._restore_fallback(path, part(EXIT))

    def _restore_fallback(self, path: Path, tensors: dict[str, torch.Tensor]) -> None:
        """Where a checkpoint has no exit heads they are learnt from now on. Raises UserError where that can't be."""
        assert self._fallback
        if tensors:
            try:
                self._fallback.restore(tensors)
            except ValueError as error:
                raise UserError(
                    f"train.load: {path}: its exit heads are damaged: {error}"
                ) from error
        elif not self.config.train.steps:
            raise UserError(
                f"policy.fallback_head: expected false, for {path} has no exit heads and train.steps = 0"
            )

    def _ended(self, episodes: Episodes) -> None:
        self.logger.ended(self.steps, episodes)
        self._episodes.append(episodes)

    def _checkpoint(self, name: str = "") -> None:
        meta: dict[str, str | int | float] = {
            "env": self.spec.name,
            "algo": self.config.algo.name,
            "steps": self.steps,
            "version": self.pool.version,
            "groups": self._groups(),
        }
        try:
            save(self.logger.folder / "models" / f"{name or self.steps}.pt", self._state(), meta)
        except UserError as error:
            if self.config.record.on_disk_full == "stop":
                raise
            self.logger.note(str(error))


STAGES = (
    "environment",
    "send",
    "latents",
    "policy",
    "devices",
    "report",
    "diversity",
    "learn",
    "distil",
    "publish",
)
"""Where the learner's time goes; what is left over is evaluation, checkpoints and logging."""
EXIT = "fallback_head."
"""What the exit heads' names in a checkpoint begin with."""
SPARE = ("latent_model", EXIT)
"""What a checkpoint may have more than its reader needs: a plain codec has no entropy model."""
EVAL_FIRST_ENV = 1 << 20
"""Evaluation environments are numbered from here, so that none shares a random stream with training."""
