"""HAD3QN: double, duelling Q-learning, one role group after the other.

An agent has the values of its own choices, duelling: a value of what it sees, and an advantage of
each choice (Wang et al., ICML 2016). It takes the best one, or any with probability epsilon. The
joint critic learns with double targets (van Hasselt et al., AAAI 2016): the agents' present values
choose the next action, and the target critic values it. In turn, each agent's values learn what the
joint Q says of each of its choices, beside the present best choices of the others:

    min over q_i of E sum_a (q_i(o_i, a) - Q(s, a, a_-i))^2

N agents, n of a group, B rows, A choices, V values of a state.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sde_harl.algorithms.off_policy.base import OffPolicy
from sde_harl.algorithms.off_policy.batch import Batch
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.distributions import MASKED_LOGIT
from sde_harl.policy.group_net import GroupNet
from sde_harl.policy.q_critic import joint_action
from sde_harl.policy.shapes import VALUES


class Had3qn(OffPolicy):
    """Each group's values learn the joint Q beside what those before it would do now."""

    continuous = False
    # Of several, the values of all combinations would be needed.
    most_choices = 1

    @classmethod
    def heads(cls, spec: EnvSpec) -> str:
        return VALUES

    def exploration(self) -> tuple[float, float]:
        past = max(self.experience.steps - self.experience.random_steps, 0)
        if past >= self._algo.epsilon_steps:
            return self._algo.epsilon, 0.0
        return 1.0 + past / self._algo.epsilon_steps * (self._algo.epsilon - 1.0), 0.0

    def act(self, outputs: Tensor, available: Tensor | None) -> Tensor:
        values = outputs[..., :-1]
        if available is not None:
            values = values.masked_fill(~available, MASKED_LOGIT)
        return functional.one_hot(values.argmax(-1), values.shape[-1]).float()

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        outputs = batch.outputs_after(self.nets_of_all)
        actions = self.act(outputs, batch.choices(slice(None), batch.after))
        values = self.q_trainer.target_values(batch.states[:, batch.after], joint_action(actions))
        return batch.returns + batch.discounts * values

    def group_loss(
        self, net: GroupNet, outputs: Tensor, batch: Batch, others: Tensor, embedded: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        members = list(net.members)
        wanted = self._joint_values(members, others, embedded)  # (n, B, A)
        values = duelling(outputs, batch.choices(members, batch.now))
        errors = 0.5 * (values - wanted).square()
        available = batch.choices(members, batch.now)
        if available is None:
            each = errors.mean(-1)
        else:
            each = (errors * available).sum(-1) / available.sum(-1).clamp(min=1)
        loss = (each * batch.weights(net, mask_dead=self._algo.policy_active_masks)).sum(-1).mean()
        report = {"policy_loss": loss.detach(), "q": values.detach().amax(-1).mean()}
        return loss, report

    @torch.no_grad()
    def _joint_values(self, members: list[int], others: Tensor, embedded: Tensor) -> Tensor:
        """Returns (n, B, A): Q of each choice of each member beside `others`' actions."""
        choices = others.shape[-1]
        found = []
        for member in members:
            # All choices as one batch of A B rows.
            joint = others[:, None].repeat(1, choices, 1, 1)  # (N, A, B, A)
            joint[member] = torch.eye(choices)[:, None]
            rows = joint_action(joint.flatten(1, 2))  # (A B, J)
            values = self.q_trainer.values(_repeated(embedded, others.shape[1], choices), rows)
            # The mean over the views of FP, as in the other algorithms.
            found.append(values.amin(0).mean(0).unflatten(0, (choices, -1)).T)
        return torch.stack(found)


def duelling(outputs: Tensor, available: Tensor | None) -> Tensor:
    """Returns values (n, B, A) of outputs (n, B, A + 1): advantages, and the value behind them.

    The advantages are made relative to their mean over the available choices, so that the value is
    well-defined.
    """
    advantages = outputs[..., :-1]
    if available is None:
        mean = advantages.mean(-1, keepdim=True)
    else:
        count = available.sum(-1, keepdim=True).clamp(min=1)
        mean = (advantages * available).sum(-1, keepdim=True) / count
    return outputs[..., -1:] + advantages - mean


def _repeated(embedded: Tensor, rows: int, choices: int) -> Tensor:
    """Returns embedded states (k, V A B, M) of (k, V B, M), each view's rows A times."""
    views = embedded.unflatten(1, (-1, 1, rows))
    repeated: Tensor = views.expand(-1, -1, choices, -1, -1).flatten(1, 3)
    return repeated
