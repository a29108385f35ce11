"""Who is like whom: an embedding of every agent's identity, learnt from what its actions do.

SePS (Christianos et al., ICML 2021, arXiv 2102.07475): an encoder maps an agent's identity to q(e) = N(mu, sigma); a
decoder predicts the next observation and the reward from (observation, action, e). Identity reaches the decoder through
e alone, so agents whose actions do the same come to lie together. The loss is the evidence bound of that model,

    mean over transitions of -log p(o' - o, r | o, a, e),  plus  KL(q(e) || N(0, 1)) / transitions of the identity

(e is one for all of an agent's transitions, so its KL is counted once). Ours differs where theirs doesn't part units of
battles (docs/roles.md has the figures):

* Changes are predicted, o' - o, scaled by each feature's deviation: what an agent does itself is a small part of what
  it sees.
* p is Student's t with 3 degrees of freedom, its scale learnt for every feature. Under a Gaussian rare jumps (a death,
  a unit that comes into sight) weigh more than all that agents do.
* A feature that never varies for an agent (its number, its type, padding) is hidden from the decoder and not predicted:
  it says who the agent is, and nothing of what it does.
* Every agent is HALVES identities, each with a part of its transitions. How far an agent lies from itself tells how far
  two agents must be apart to differ.

N agents, H halves, B rows of a minibatch, O observation, A numbers that describe an action, Z embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sde_harl.errors import UserError
from sde_harl.policy.layers import RELU_GAIN, affine, stack
from sde_harl.record.progress import progress_range
from sde_harl.roles.experience import Experience

HALVES = 2
SIZE = 8
"""Z."""
WIDTH = 64
UPDATES = 1500
BATCH = 32
"""Rows of each identity in a minibatch."""
LR, EMBEDDING_LR, WARM_UP = 3e-3, 2e-2, 50
"""Learning rates; they rise for WARM_UP updates and fall linearly to 0, for their noise too sets agents apart."""
DEGREES = 3.0
"""Of freedom, of Student's t."""
LEAST_SCALE = 0.01
"""Of a feature's deviation: one that is predicted exactly must not outweigh all others."""
VARIES = 1e-6
"""Deviation above which a feature is one that varies."""


class Embedding(NamedTuple):
    """Where identities lie."""

    mu: NDArray[np.float32]  # (N, H, Z)
    sigma: NDArray[np.float32]  # (N, H, Z)


class Examples(NamedTuple):
    """An agent's transitions, as the decoder sees them."""

    inputs: Tensor
    """(rows, O + A), scaled; observations that never vary are 0."""
    targets: Tensor
    """(rows, O + 1) changes and reward, scaled."""
    varies: Tensor
    """(O + 1,) 1.0 where the target counts."""


class Decoder(nn.Module):
    """(o, a, e) -> changes of o, and r; and how well each can be known."""

    def __init__(self, size_in: int, size_out: int, generator: torch.Generator) -> None:
        super().__init__()
        widths = [size_in + SIZE, WIDTH, WIDTH, size_out]
        self.weights, self.biases = stack(1, widths, [RELU_GAIN, RELU_GAIN, 1.0], generator)
        self.log_scale = nn.Parameter(torch.zeros(size_out))

    def loss(self, inputs: Tensor, embedded: Tensor, targets: Tensor, varies: Tensor) -> Tensor:
        """Mean -log p but for a constant, of inputs (I, B, O + A), e (I, B, Z), targets (I, B, O + 1)."""
        *inner, last = zip(self.weights, self.biases)
        x = torch.cat([inputs, embedded], -1).flatten(0, 1)[None]
        for each in inner:
            x = torch.relu(affine(x, *each))
        scale = self.log_scale.exp() + LEAST_SCALE
        errors = ((affine(x, *last)[0].view_as(targets) - targets) / scale).square()
        surprise = (DEGREES + 1) / 2 * torch.log1p(errors / DEGREES) + scale.log()
        return (surprise * varies[:, None]).sum(-1).mean()


def embed(experience: Experience, agents: Sequence[str], seed: int) -> Embedding:
    """Embed the `agents` that played, in UPDATES updates; the same experience and seed give the same embedding.

    Raises UserError where one was hardly ever alive.
    """
    generator = torch.Generator().manual_seed(seed)
    examples = _examples(experience)
    for name, each in zip(agents, examples):
        if len(each.inputs) < HALVES:
            raise UserError(
                f"roles.steps: too few, {name} was alive in {len(each.inputs)} steps of random play"
            )
    identities = [half for each in examples for half in _halves(each)]
    varies = torch.stack([each.varies for each in identities])
    count = len(identities)
    mu = nn.Parameter(torch.zeros(count, SIZE))
    log_sigma = nn.Parameter(
        torch.full((count, SIZE), -1.5)
    )  # as much noise as the prior has would hide mu at first
    decoder = Decoder(identities[0].inputs.shape[-1], varies.shape[-1], generator)
    steps = (
        {"params": list(decoder.parameters()), "lr": LR},
        {"params": [mu, log_sigma], "lr": EMBEDDING_LR},
    )
    optimizer = torch.optim.Adam(steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1) / WARM_UP, 1.0 - k / UPDATES)
    )
    rows = torch.tensor([float(len(each.inputs)) for each in identities])
    for _ in progress_range(UPDATES, "roles: identities"):
        inputs, targets = _draw(identities, generator)
        noise = torch.randn(count, BATCH, SIZE, generator=generator)
        embedded = mu[:, None] + noise * log_sigma.exp()[:, None]
        divergence = 0.5 * (mu.square() + (2 * log_sigma).exp() - 2 * log_sigma - 1).sum(-1)
        loss = decoder.loss(inputs, embedded, targets, varies) + (divergence / rows).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    by_agent = lambda each: each.detach().numpy().reshape(-1, HALVES, SIZE)  # noqa: E731
    return Embedding(by_agent(mu), by_agent(log_sigma.exp()))


def _examples(experience: Experience) -> list[Examples]:
    """Of each agent, while it was alive, one environment after the other."""
    obs, actions, next_obs = (
        np.moveaxis(each, 2, 0).swapaxes(1, 2) for each in experience[:3]
    )  # (N, E, T, ...)
    active, rewards = np.moveaxis(experience.active, 2, 0).swapaxes(1, 2), experience.rewards.T
    obs_scale, change_scale = _deviation(obs[active]), _deviation((next_obs - obs)[active])
    centre, reward_scale = obs[active].mean(0), _deviation(rewards.reshape(-1, 1))
    found = []
    for own, act, then, alive in zip(obs, actions, next_obs, active):
        seen, changes = own[alive], (then - own)[alive] / change_scale
        varies = seen.std(0) > VARIES if len(seen) else np.zeros(seen.shape[-1], bool)
        earned = (rewards[alive][:, None] - rewards.mean()) / reward_scale
        inputs = np.concatenate([(seen - centre) / obs_scale * varies, act[alive]], -1)
        targets = np.concatenate([changes, earned], -1)
        counts = torch.from_numpy(np.append(varies, True).astype(np.float32))
        found.append(
            Examples(torch.from_numpy(inputs).float(), torch.from_numpy(targets).float(), counts)
        )
    return found


def _deviation(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(O,) of values (rows, O); 1 where they don't vary."""
    deviation: NDArray[np.float32] = values.std(0)
    return np.where(deviation > VARIES, deviation, 1.0)


def _halves(examples: Examples) -> list[Examples]:
    """Parts of the environments, or of the time where there are few."""
    parts = zip(examples.inputs.tensor_split(HALVES), examples.targets.tensor_split(HALVES))
    return [Examples(*part, examples.varies) for part in parts]


def _draw(identities: list[Examples], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A minibatch: inputs (I, B, O + A) and targets (I, B, O + 1)."""
    drawn = [torch.randint(len(each.inputs), (BATCH,), generator=generator) for each in identities]
    pairs = list(zip(identities, drawn))
    return torch.stack([each.inputs[rows] for each, rows in pairs]), torch.stack(
        [each.targets[rows] for each, rows in pairs]
    )
