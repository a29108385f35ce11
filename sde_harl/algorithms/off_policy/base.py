"""The off-policy family: agents learn from a replay of all that was played, in turn.

A run takes them as it takes the on-policy family. The collector plays `train.rollout` steps of
every environment with the policies that were published last; `update` appends them to the replay,
takes `algo.updates` x `train.rollout` updates on random rows of it, and says how the agents explore
from then on; the trainer publishes. So actors are never further ahead of the learner than one
rollout (two with `train.overlap`). Placements, codecs and records know nothing of it. An update:

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

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from sde_harl.algorithms.algorithm import Algorithm, Net
from sde_harl.algorithms.off_policy.batch import Batch, BatchMaker
from sde_harl.algorithms.off_policy.experience import Experience
from sde_harl.algorithms.off_policy.group_trainers import GroupTrainers
from sde_harl.algorithms.off_policy.q_trainer import QTrainer
from sde_harl.algorithms.off_policy.reports import Reports
from sde_harl.algorithms.on_policy.base import set_learning_rate
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.outside.process import interruption
from sde_harl.policy.all_agents import AllAgents
from sde_harl.policy.critic_input import CriticInput
from sde_harl.policy.group_net import GroupNet, GroupOutput
from sde_harl.policy.layers import FeatureNorm
from sde_harl.policy.q_critic import QCritic, joint_action
from sde_harl.policy.split_policy import SplitPolicy


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
        if algo.precision == "bfloat16":
            critic.computes_in = torch.bfloat16
            for net in policy.groups:
                net.computes_in = torch.bfloat16
        self.q_trainer = QTrainer(critic, algo)
        shape = policy.shape
        features = FeatureNorm(shape.obs_sizes, shape.obs, shape.feature_norm)
        self._maker = BatchMaker(spec, critic_input, features=features)
        latent_size = shape.latent_max() if self._symbols else 0
        self.experience = Experience(spec, config, latent_size=latent_size)
        self._trainers = GroupTrainers(policy.groups, config, generator, rates=not self._symbols)
        self._updates = 0
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

    def begin(self) -> None:
        """Prepares for the first update of a run: its replay has what learning begins with."""

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
        self.experience.add(rollout)
        names = self.scalars + ("rate",) * self._trainers.has_rates
        reports = Reports(names)
        if self.experience.suffices:
            for _ in range(max(1, round(self._algo.updates * len(rollout.rewards)))):
                interruption.check()
                self.learn_once(reports)
            self._trainers.settle()
        self._explore()
        return {**reports.means(), "replay_rows": float(len(self.experience.replay))}

    def learn_once(self, reports: Reports) -> None:
        """Takes one update on a sample; none where there is nothing to learn from."""
        sample = self.experience.sample(self._generator)
        if sample is not None:
            if not self._updates:
                self.begin()
            batch = self._maker.make(sample, symbols=self._symbols)
            reports.update(self.learn_from(batch, reports), sample.age)

    def learn_from(self, batch: Batch, reports: Reports) -> Tensor:
        """Takes one update on a batch; returns the critics' loss."""
        loss = self.q_trainer.learn(
            batch.states[:, batch.now], joint_action(batch.actions), self.targets(batch)
        )
        self._updates += 1
        if self._updates % self.policy_freq == 0:
            self.update_groups(batch, reports)
            self.follow()
        return loss

    def update_groups(self, batch: Batch, reports: Reports) -> None:
        """Updates the groups in turn."""
        critic = self.q_trainer.critic.requires_grad_(False)
        with torch.no_grad():
            embedded = critic.embed(batch.states[:, batch.now])
        # Every group's own pass is taken now, so that it also tells what the group does before its
        # turn: nothing changes its nets until then.
        passes = [batch.forward(net, batch.now) for net in self.policy.groups]
        others = self._present_actions(passes, batch) if self.sequential else batch.actions
        order = self._order()
        for index in order:
            net = self.policy.groups[index]
            output = passes[index]
            loss, report = self.group_loss(net, output.outputs, batch, others, embedded)
            stepped = self._trainers.step(index, loss, output.latents, rate_coef=self.rate_coef)
            reports.group(report | stepped)
            if self.sequential and index != order[-1]:
                others = others.clone()
                others[list(net.members)] = self.actions_now(net, batch)
        critic.requires_grad_(True)

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
    def actions_now(self, net: GroupNet, batch: Batch) -> Tensor:
        """Returns (n, B, A), what a group does in the rows after its step."""
        available = batch.choices(list(net.members), batch.now)
        return self.act(batch.forward(net, batch.now).outputs, available)

    def _order(self) -> list[int]:
        groups = len(self.policy.groups)
        if self._algo.fixed_order:
            return list(range(groups))
        order: list[int] = torch.randperm(groups, generator=self._generator).tolist()
        return order

    def _explore(self) -> None:
        """Says how the agents explore from the next publication on."""
        epsilon, noise = self.exploration()
        if self.experience.warming_up:
            epsilon = 1.0
        self.policy.explore(epsilon, noise)

    def _decay(self, factor: float) -> None:
        set_learning_rate(self.q_trainer.optimizer, self._algo.critic_lr * factor)
        self._trainers.decay(factor)

    # ---- state ----

    def store(self, folder: Path) -> None:
        self.experience.store(folder)

    def restore(self, folder: Path) -> str:
        return self.experience.restore(folder)

    def nets(self) -> dict[str, Net]:
        return {
            "critics/critic": self.q_trainer.critic,
            "critics/target": self.q_trainer.target,
            "critics/value_norm": self.q_trainer.value_norm,
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns what changes over a run, except the policy itself and the replay."""
        return {
            "critics": self.q_trainer.state_dict(),
            "trainers": self._trainers.state_dict(),
            **self.experience.state_dict(),
            "updates": self._updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.q_trainer.load_state_dict(state["critics"])
        self._trainers.load_state_dict(state["trainers"])
        self.experience.load_state_dict(state)
        self._updates = state["updates"]
        self._explore()
