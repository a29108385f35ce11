"""An embedding of every agent's identity, learnt from what its actions do.

The method is SePS (Christianos et al., ICML 2021, arXiv 2102.07475). An encoder maps an agent's
identity i to a distribution q_i(e) = N(mu_i, sigma_i) of an embedding e. A decoder predicts the
change of the observation and the reward from (o, a, e). Identity reaches the decoder only through
e, so agents whose actions have the same effects have no reason to lie apart. The loss is the
negative evidence lower bound of that model:

    mean over transitions of  -log p(o' - o, r | o, a, e),  e ~ q_i
    + mean over identities of  KL(q_i || N(0, I)) / number of transitions of i

The KL is divided because all transitions of an identity share one e: over all of them it counts
once. docs/roles.md has figures of where this one differs from SePS, whose own form fails to
separate the units of a battle:

* Changes are predicted, o' - o, each scaled by its deviation. An agent's own effect is a small part
  of what it observes, and predicting o' itself would mostly be predicting o.
* p is Student's t with 3 degrees of freedom and a learnt scale for each feature. Under a Gaussian,
  rare jumps (a death, a unit that comes into sight) would outweigh everything that agents do.
* A feature that never varies for an agent (its number, its type, padding) is hidden from the
  decoder and isn't predicted: it tells who the agent is, and nothing of what its actions do.
* Each agent counts as HALVES identities, each with its part of the transitions. Nothing but chance
  separates two halves of one agent, so their distance is the scale by which two agents differ.

N agents, H halves, I = N * H identities, B rows of a minibatch, O observation, A numbers that
describe an action, Z embedding.
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
from sde_harl.roles.examples import Examples, make_examples
from sde_harl.roles.experience import Experience

HALVES = 2
SIZE = 8
"""Z."""
WIDTH = 64
"""Width of the decoder's two hidden layers."""
UPDATES = 1500
BATCH = 32
"""Rows of each identity in a minibatch."""
LR = 3e-3
"""The decoder's learning rate."""
EMBEDDING_LR = 2e-2
WARM_UP = 50
"""Updates for which both learning rates rise. Then they fall linearly to 0: the noise of steps that
are still large at the end would separate agents too."""
LOG_SIGMA = -1.5
"""At the start. With the prior's deviation of 1, noise would hide mu from the decoder at first."""
DEGREES = 3.0
"""Degrees of freedom of Student's t."""
LEAST_SCALE = 0.01
"""In deviations of a feature. A feature that is predicted exactly must not outweigh all others."""


class Embedding(NamedTuple):
    """The embeddings of all identities."""

    mu: NDArray[np.float32]
    """(N, H, Z)."""
    sigma: NDArray[np.float32]
    """(N, H, Z)."""


class Minibatch(NamedTuple):
    """Rows of every identity."""

    inputs: Tensor
    """(I, B, O + A)."""
    targets: Tensor
    """(I, B, O + 1)."""


class Decoder(nn.Module):
    """Predicts the change of o, and r, from (o, a, e); and how exactly each can be predicted."""

    def __init__(self, size_in: int, size_out: int, generator: torch.Generator) -> None:
        super().__init__()
        widths = [size_in + SIZE, WIDTH, WIDTH, size_out]
        self.weights, self.biases = stack(
            1, widths, gains=[RELU_GAIN, RELU_GAIN, 1.0], generator=generator
        )
        self.log_scale = nn.Parameter(torch.zeros(size_out))

    def forward(self, inputs: Tensor, embedded: Tensor) -> Tensor:
        """Returns predictions (I, B, O + 1) of inputs (I, B, O + A) and e (I, B, Z)."""
        *inner, last = zip(self.weights, self.biases)
        # One product for the rows of all identities, which share the decoder.
        x = torch.cat([inputs, embedded], -1).flatten(0, 1)[None]  # (1, I * B, O + A + Z)
        for each in inner:
            x = torch.relu(affine(x, *each))
        predicted: Tensor = affine(x, *last)[0].unflatten(0, inputs.shape[:2])
        return predicted

    def loss(self, minibatch: Minibatch, embedded: Tensor, varies: Tensor) -> Tensor:
        """Returns the mean -log p, up to a constant; e (I, B, Z), varies (I, O + 1).

        For Student's t of nu degrees of freedom and scale s that is, for each target,
        (nu + 1) / 2 log(1 + error^2 / (nu s^2)) + log s.
        """
        # As a logarithm, so that no step of Adam can make the scale negative.
        scale = self.log_scale.exp() + LEAST_SCALE
        errors = self(minibatch.inputs, embedded) - minibatch.targets
        squares = (errors / scale).square()
        surprise = (DEGREES + 1) / 2 * torch.log1p(squares / DEGREES) + scale.log()
        return (surprise * varies[:, None]).sum(-1).mean()


class IdentityModel(nn.Module):
    """The embeddings of all identities, and the decoder that they are learnt with."""

    def __init__(self, identities: list[Examples], generator: torch.Generator) -> None:
        """`generator` draws initial weights, minibatches and noise."""
        super().__init__()
        self._identities = identities
        self._generator = generator
        self._varies = torch.stack([each.varies for each in identities])  # (I, O + 1)
        self._rows = torch.tensor([float(len(each.inputs)) for each in identities])  # (I,)
        shape = (len(identities), SIZE)
        self.mu = nn.Parameter(torch.zeros(shape))
        self.log_sigma = nn.Parameter(torch.full(shape, LOG_SIGMA))
        self.decoder = Decoder(identities[0].inputs.shape[-1], self._varies.shape[-1], generator)

    def loss(self) -> Tensor:
        """Returns the loss of a new minibatch."""
        minibatch = self._draw()
        # Drawn beside mu and sigma, not from N(mu, sigma): so gradients reach both of them.
        noise = torch.randn(len(self.mu), BATCH, SIZE, generator=self._generator)
        embedded = self.mu[:, None] + noise * self.log_sigma.exp()[:, None]  # (I, B, Z)
        variance = (2 * self.log_sigma).exp()
        divergence = 0.5 * (self.mu.square() + variance - 2 * self.log_sigma - 1).sum(-1)  # (I,)
        likelihood = self.decoder.loss(minibatch, embedded, self._varies)
        return likelihood + (divergence / self._rows).mean()

    def _draw(self) -> Minibatch:
        drawn = [
            torch.randint(len(each.inputs), (BATCH,), generator=self._generator)
            for each in self._identities
        ]
        pairs = list(zip(self._identities, drawn))
        return Minibatch(
            inputs=torch.stack([each.inputs[rows] for each, rows in pairs]),
            targets=torch.stack([each.targets[rows] for each, rows in pairs]),
        )


def embed(experience: Experience, agents: Sequence[str], seed: int) -> Embedding:
    """Returns the embedding of the `agents` that played, after UPDATES updates.

    The same experience and seed give the same embedding. Raises UserError where an agent was hardly
    ever alive.
    """
    generator = torch.Generator().manual_seed(seed)
    examples = make_examples(experience)
    for name, each in zip(agents, examples):
        if len(each.inputs) < HALVES:
            raise UserError(
                f"roles.steps: too few, {name} was alive in {len(each.inputs)} steps of random play"
            )
    model = IdentityModel([half for each in examples for half in each.split(HALVES)], generator)
    _train(model)
    return Embedding(mu=_by_agent(model.mu), sigma=_by_agent(model.log_sigma.exp()))


def _train(model: IdentityModel) -> None:
    """Takes UPDATES steps of Adam."""
    optimizer = torch.optim.Adam(
        (
            {"params": list(model.decoder.parameters()), "lr": LR},
            {"params": [model.mu, model.log_sigma], "lr": EMBEDDING_LR},
        )
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _learning_rate_factor)
    for _ in progress_range(UPDATES, "roles: identities"):
        loss = model.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _learning_rate_factor(update: int) -> float:
    """Returns the factor of both learning rates: up for WARM_UP updates, then down to 0."""
    return min((update + 1) / WARM_UP, 1.0 - update / UPDATES)


def _by_agent(values: Tensor) -> NDArray[np.float32]:
    """Returns (N, H, Z) of values (I, Z)."""
    by_agent: NDArray[np.float32] = values.detach().numpy().reshape(-1, HALVES, SIZE)
    return by_agent
