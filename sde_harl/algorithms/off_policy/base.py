"""The off-policy family: agents learn from a replay of all that was played, in turn.

A run takes them as it takes the on-policy family. The collector plays `train.rollout` steps of
every environment with the policies that were published last; `update` appends them to the replay,
takes `algo.updates` x `train.rollout` updates on random rows of it, and says how the agents explore
from then on; the trainer publishes. So actors are never further ahead of the learner than one
rollout, and placements, codecs and records know nothing of it. An update:

    sample     rows of the replay                                   buffers/replay.py
    targets    what Q(s, a) should be, an algorithm's own           `targets`
    critics    one step towards them                                q_trainer.py
    groups     in turn, in a fresh random order                     `group_loss`
    follow     target nets move towards the nets by `algo.polyak`   `follow`

A group learns against the joint Q, in which the agents before it act by their updated policies and
those after it by their present ones (Zhong et al., JMLR 25(32), 2024; HASAC: Liu et al., ICLR
2024). In algorithms that are not `sequential` (MADDPG, MATD3) the others act as in the replay.

A group's loss is L = L_RL + lambda R, as in the on-policy family. The latents of a row are encoded
anew by the present local nets, and rounded as a device would. So the gradient of Q reaches the
local nets through the quantiser (straight-through), and no row is too old for them: an update does
not depend on how a latent was coded when it was sent. With `algo.replay=symbols` the groups learn
on the latents that were sent; then no gradient reaches the local nets, which stay as they are.

N agents, n of a group, B rows, A numbers of an action, V values of a state.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sde_harl.algorithms.algorithm import Algorithm, Net
from sde_harl.algorithms.off_policy.batch import Batch, BatchMaker
from sde_harl.algorithms.off_policy.q_trainer import QTrainer
from sde_harl.algorithms.on_policy.base import set_learning_rate
from sde_harl.auxiliary.gradients import check_gradient
from sde_harl.auxiliary.optimizer_state import load_optimizer_state, optimizer_state
from sde_harl.auxiliary.rate import RateTrainer
from sde_harl.buffers.replay import Replay
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.all_agents import AllAgents
from sde_harl.policy.critic_input import CriticInput
from sde_harl.policy.group_net import GroupNet, GroupOutput, SubstitutedLatents
from sde_harl.policy.layers import FeatureNorm
from sde_harl.policy.q_critic import QCritic, joint_action
from sde_harl.policy.split_policy import SplitPolicy
from sde_harl.process import interruption


class Learnt(NamedTuple):
    """The result of one update."""

    loss: Tensor
    """Of the critics."""
    age: float
    """Mean age of the rows, in steps of their environments."""


class OffPolicy(Algorithm):
    """Updates a split policy and its critics from a replay."""

    replays = True
    sequential: ClassVar[bool] = True
    """True if a group takes account of the groups updated before it."""
    critics: ClassVar[int] = 1
    """Critics whose least value counts: 2 are twins."""
    scalars: ClassVar[tuple[str, ...]] = ("policy_loss", "grad_norm", "q")
    """Names of what each update of the policies reports."""

    def __init__(
        self,
        *,
        policy: SplitPolicy,
        spec: EnvSpec,
        critic_input: CriticInput,
        config: Config,
        generator: torch.Generator,
    ) -> None:
        """`generator` draws the first critics, and all that is drawn in an update."""
        algo = config.algo
        self.policy = policy
        self.nets_of_all = AllAgents(policy.groups)
        self.rate_coef = config.codec.rate_coef
        self.spec = spec
        self._config = config
        self._algo = algo
        self._generator = generator
        self._symbols = algo.replay == "symbols"
        critic = QCritic(
            critic_input=critic_input,
            joint=len(spec.agents) * sum(spec.branches),
            critics=self.critics,
            policy=config.policy,
            generator=generator,
        )
        self.q_trainer = QTrainer(critic, algo)
        shape = policy.shape
        features = FeatureNorm(shape.obs_sizes, shape.obs, shape.feature_norm)
        self._maker = BatchMaker(spec, critic_input, critic, features=features)
        self.replay = Replay(
            spec,
            # A run that only plays fills none.
            capacity=algo.buffer_size if config.train.steps else 0,
            envs=config.train.envs,
            obs_dtype=algo.buffer_dtype,
            latent_size=shape.latent_max() if self._symbols else 0,
        )
        self._optimizers = [
            torch.optim.Adam(net.policy_parameters(), algo.lr, eps=algo.adam_eps, fused=True)
            for net in policy.groups
        ]
        self._rate_trainers = [
            RateTrainer(net.latent_model, config.codec)
            if net.latent_model and not self._symbols
            else None
            for net in policy.groups
        ]
        self._steps = 0
        self._updates = 0
        # What another run has learnt is not thrown away for random play.
        self._warmup = 0 if config.train.load != "none" else algo.warmup_steps
        self._explore()

    # ---- an algorithm's own ----

    @abstractmethod
    def targets(self, batch: Batch) -> Tensor:
        """Returns (V, B), what Q(s, a) of the rows should be."""

    @abstractmethod
    def act(self, outputs: Tensor, available: Tensor | None) -> Tensor:
        """Returns actions (n, B, A) of outputs (n, B, ...), through which gradients flow."""

    @abstractmethod
    def group_loss(
        self, net: GroupNet, outputs: Tensor, batch: Batch, others: Tensor, embedded: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns a group's loss but for the rate, and scalars to log.

        outputs (n, B, ...); others (N, B, A), the actions of all agents, of which the group's own
        are to be replaced; embedded (k, V B, M), the critics' view of the states.
        """

    def exploration(self) -> tuple[float, float]:
        """Returns epsilon, and the deviation of the noise of bounded actions."""
        return 0.0, 0.0

    @property
    def policy_freq(self) -> int:
        """Returns at every how manyth update the policies learn."""
        return 1

    # ---- the loop ----

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        if self._algo.lr_decay:
            self._decay(1.0 - progress)
        self.replay.add(rollout)
        self._steps += rollout.rewards.size
        reports: list[dict[str, Tensor]] = []
        losses: list[Tensor] = []
        ages: list[float] = []
        if self._steps >= self._warmup and self._steps >= self._algo.warmup_steps:
            for _ in range(max(1, round(self._algo.updates * len(rollout.rewards)))):
                interruption.check()
                learnt = self.learn_once(reports)
                if learnt is None:
                    break
                losses.append(learnt.loss)
                ages.append(learnt.age)
            for trainer in self._rate_trainers:
                if trainer and losses:
                    trainer.settle()
        self._explore()
        return self._scalars(reports, losses, ages)

    def learn_once(self, reports: list[dict[str, Tensor]]) -> Learnt | None:
        """Takes one update on a sample, and appends what the groups report.

        Returns None where there is nothing to learn from.
        """
        algo = self._algo
        sample = self.replay.sample(
            algo.batch_size, self._generator, steps=algo.n_step, gamma=algo.gamma
        )
        if sample is None:
            return None
        batch = self._maker.make(sample, symbols=self._symbols)
        return Learnt(loss=self._update_once(batch, reports), age=sample.age)

    def _update_once(self, batch: Batch, reports: list[dict[str, Tensor]]) -> Tensor:
        """Takes one update on a batch; returns the critics' loss."""
        loss = self.q_trainer.learn(
            batch.states[:, batch.now], joint_action(batch.actions), self.targets(batch)
        )
        self._updates += 1
        if self._updates % self.policy_freq == 0:
            reports += self._update_policies(batch)
            self.follow()
        return loss

    def _update_policies(self, batch: Batch) -> list[dict[str, Tensor]]:
        """Updates the groups in turn; returns what each reports."""
        critic = self.q_trainer.critic.requires_grad_(False)
        with torch.no_grad():
            embedded = critic.embed(batch.states[:, batch.now])
        # Every group's own pass is taken now, so that it also tells what the group does before its
        # turn: nothing changes its nets until then.
        passes = [batch.forward(net, batch.now) for net in self.policy.groups]
        others = self._present_actions(passes, batch) if self.sequential else batch.actions
        order = self._order()
        reports = []
        for index in order:
            net = self.policy.groups[index]
            output = passes[index]
            loss, report = self.group_loss(net, output.outputs, batch, others, embedded)
            trainer = self._rate_trainers[index]
            if trainer:
                rate = trainer.rate(output.latents, self._generator)
                loss = loss + self.rate_coef * rate
                report["rate"] = rate.detach()
            report["grad_norm"] = self._step(index, loss, trainer)
            reports.append(report)
            if self.sequential and index != order[-1]:
                others = others.clone()
                others[list(net.members)] = self._actions_now(net, batch)
        critic.requires_grad_(True)
        return reports

    def follow(self) -> None:
        """Moves all target nets towards the nets."""
        self.q_trainer.follow()

    @torch.no_grad()
    def _present_actions(self, passes: list[GroupOutput], batch: Batch) -> Tensor:
        """Returns (N, B, A), what all agents do in the rows, from each group's pass over them."""
        actions = torch.empty_like(batch.actions)
        for net, output in zip(self.policy.groups, passes):
            members = list(net.members)
            actions[members] = self.act(output.outputs, batch.choices(members, batch.now))
        return actions

    @torch.no_grad()
    def _actions_now(self, net: GroupNet, batch: Batch) -> Tensor:
        """Returns (n, B, A), what a group does in the rows after its step."""
        available = batch.choices(list(net.members), batch.now)
        return self.act(batch.forward(net, batch.now).outputs, available)

    def outputs_after(self, nets: AllAgents, batch: Batch) -> Tensor:
        """Returns (N, B, ...), the heads' outputs in what followed the rows."""
        substituted = None
        if batch.latents is not None:
            substituted = SubstitutedLatents(*(each[:, batch.after] for each in batch.latents))
        return nets.outputs(batch.features[:, batch.after], substituted)

    def joint_with(self, net: GroupNet, own: Tensor, others: Tensor) -> Tensor:
        """Returns (B, J): the joint action in which a group does `own` (n, B, A)."""
        members = torch.tensor(net.members)
        return joint_action(others.index_copy(0, members, own))

    def row_weights(self, net: GroupNet, batch: Batch) -> Tensor:
        """Returns (n, B), the weight of each row in a mean over those that count: 1 in all."""
        active = batch.active[list(net.members), batch.now]
        if not self._algo.policy_active_masks:
            active = torch.ones_like(active)
        return active / active.sum(-1, keepdim=True).clamp(min=1.0)

    def _step(self, index: int, loss: Tensor, trainer: RateTrainer | None) -> Tensor:
        """Steps a group's policy and entropy model; returns the norm of the gradient."""
        net = self.policy.groups[index]
        net.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.policy_parameters(), self._algo.max_grad_norm)
        check_gradient(norm, f"group {index}'s policy")
        self._optimizers[index].step()
        if trainer:
            trainer.step()
        return norm

    def _order(self) -> list[int]:
        groups = len(self.policy.groups)
        if self._algo.fixed_order:
            return list(range(groups))
        order: list[int] = torch.randperm(groups, generator=self._generator).tolist()
        return order

    def _explore(self) -> None:
        """Says how the agents explore from the next publication on."""
        epsilon, noise = self.exploration()
        if self._steps < self._warmup:
            epsilon = 1.0
        assert self.policy.exploration
        chances = np.empty_like(self.policy.exploration.chances)
        chances[..., 0] = epsilon
        chances[..., 1] = noise
        self.policy.exploration = self.policy.exploration._replace(chances=chances)

    def _decay(self, factor: float) -> None:
        set_learning_rate(self.q_trainer.optimizer, self._algo.critic_lr * factor)
        for optimizer in self._optimizers:
            set_learning_rate(optimizer, self._algo.lr * factor)

    def _scalars(
        self, reports: list[dict[str, Tensor]], losses: list[Tensor], ages: list[float]
    ) -> dict[str, float]:
        """Returns the means over a rollout's updates; NaN of what there was none of."""
        names = list(self.scalars)
        if any(self._rate_trainers):
            names.append("rate")
        found = {name: [each[name] for each in reports if name in each] for name in names}
        return {
            **{name: _mean(values) for name, values in found.items()},
            "value_loss": _mean(losses),
            "replay_rows": float(len(self.replay)),
            "replay_age": float(np.mean(ages)) if ages else math.nan,
            "updates": float(len(losses)),
        }

    # ---- state ----

    def nets(self) -> dict[str, Net]:
        return {
            "q_trainer/critic": self.q_trainer.critic,
            "q_trainer/target": self.q_trainer.target,
            "q_trainer/value_norm": self.q_trainer.value_norm,
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns what changes over a run, except the policy itself and the replay."""
        return {
            "q_trainer": self.q_trainer.state_dict(),
            "optimizers": {
                str(index): optimizer_state(each) for index, each in enumerate(self._optimizers)
            },
            "rate_trainers": {
                str(index): trainer.state_dict()
                for index, trainer in enumerate(self._rate_trainers)
                if trainer
            },
            "steps": self._steps,
            "updates": self._updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.q_trainer.load_state_dict(state["q_trainer"])
        for index, optimizer in enumerate(self._optimizers):
            load_optimizer_state(optimizer, state["optimizers"][str(index)])
        for index, trainer in enumerate(self._rate_trainers):
            if trainer:
                trainer.load_state_dict(state["rate_trainers"][str(index)])
        self._steps = state["steps"]
        self._updates = state["updates"]
        self._explore()


def _mean(values: list[Tensor]) -> float:
    if not values:
        return math.nan
    return float(torch.stack(values).mean())
