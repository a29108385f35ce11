"""The entropy model: how many bits every value of a latent costs, learnt beside the policy.

Each latent element is rounded to an integer, its symbol: the steps from its median. The coder
writes a symbol of probability p in about -log2 p bits, so both ends of the link need the same
probability of every symbol. The model learns them: it has a density for each element (CompressAI's
EntropyBottleneck, a small monotone net that gives the cumulative distribution), and a symbol's
probability is the density's mass over the symbol's step.

    every minibatch         `quantise` gives the policy the latents as the server will decode them;
                            `rate` is what they cost in bits, the second term of the loss
    end of a group's update `settle` moves the quantiles to the densities, which have been learning
    every published model   `build_tables` makes integers of the densities (tables.py)

Tables are built once, here, and sent to the devices, which code with the very same integers: two
machines that computed them from the densities would differ by a rounding error somewhere, and after
the first wrong entry nothing of a string can be decoded.

All of this runs in torch at the server. n agents of a role group, k sets of densities (n, or 1
where agents share them), B or R rows, Z latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sde_harl.codec.bottleneck import Bottleneck
from sde_harl.codec.coder import LIMIT
from sde_harl.codec.plain import LARGEST_LATENT
from sde_harl.codec.tables import MAX_SPAN, Tables
from sde_harl.errors import UserError

TAIL_MASS = 1e-6
"""Probability outside a table, which is left to the escape code.

CompressAI's 1e-9 makes tables half as wide again and saves 1e-5 bits an element."""
SEARCH_RADIUS = 2.0**15
"""Quantiles are searched this far from 0, in steps of the quantiser."""
HALVINGS = 24
"""Steps of the bisection: they find a quantile to within 1/256."""


class LatentModel(nn.Module):
    """Entropy model of the latents of one role group: a density for each latent element.

    With `share` all agents of the group have one set of densities, else each has its own.
    """

    def __init__(
        self, agents: int, latent: int, *, scale: float = 4.0, share: bool = False
    ) -> None:
        """Untrained, the densities fit latents of standard deviation scale / 2 to scale."""
        super().__init__()
        self.agents = agents
        self.latent = latent
        self._sets = agents
        if share:
            self._sets = 1
        self.bottleneck = Bottleneck(self._sets * latent, init_scale=scale, tail_mass=TAIL_MASS)
        self._centre()

    def medians(self) -> Tensor:
        """Returns the elements' medians, float32 (n, Z), detached."""
        quantiles: Tensor = self.bottleneck.quantiles  # (k Z, 1, 3): the median is the second
        medians = quantiles[:, 0, 1].detach().reshape(self._sets, self.latent)
        # Adding zero makes a -0.0 the 0.0 that a decoder's symbol plus median gives.
        return (medians + 0.0).expand(self.agents, -1)

    def quantise(self, z: Tensor) -> Tensor:
        """Returns what decoding gives for z, bit for bit, (n, B, Z), with the gradient of z."""
        medians = self.medians()[:, None, :]  # (n, 1, Z)
        with torch.no_grad():
            rounded = torch.round(z - medians).clamp(-LIMIT, LIMIT) + medians
        return straight_through(z, rounded)

    def noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """Draws the noise (n, R, Z) that takes the place of the rounding of R rows in `rate`."""
        return torch.rand((self.agents, rows, self.latent), generator=generator) - 0.5

    def rate(self, z: Tensor, noise: Tensor, count: int) -> Tensor:
        """Returns the mean bits per latent element of z (n, R, Z), a scalar.

        Uniform noise takes the place of the rounding, which has no gradient (Balle et al. 2018, eq.
        6). The gradient flows to z and to the densities. The mean is over `count` rows: R, or more
        where z is a part of them.
        """
        by_set = (z + noise).reshape(self._sets, -1, self.latent)  # (k, n / k * R, Z)
        values = by_set.transpose(1, 2).reshape(self._sets * self.latent, 1, -1)  # (k Z, 1, ...)
        # Both ends of every interval in one pass; CompressAI's _likelihood takes two.
        ends = self.bottleneck._logits_cumulative(
            torch.cat((values - 0.5, values + 0.5), -1), stop_gradient=False
        )
        lower, upper = ends.sigmoid().chunk(2, -1)
        bits = torch.log2(self.bottleneck.likelihood_lower_bound(upper - lower))
        return -(bits.sum() / (self.agents * count * self.latent))

    def density_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that the rate trains."""
        return [p for name, p in self.bottleneck.named_parameters() if name != "quantiles"]

    @torch.no_grad()
    def settle(self, most: float = math.inf) -> None:
        """Moves the quantiles to where the densities have them; a median by `most` at most.

        An element has three quantiles: the median, which is the grid that latents are rounded to,
        and the two ends of its table. They are found by bisection.
        """
        # CompressAI has them follow the densities by the gradient of an auxiliary loss. Behind a
        # density that narrows they are late, and tables stay twice as long as need be. Medians
        # alone are better slow: the policy notices when the grid jumps.
        bottleneck = self.bottleneck
        logits = bottleneck.fixed_logits()
        low = torch.full_like(bottleneck.quantiles, -SEARCH_RADIUS)
        high = -low
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = logits(middle) < bottleneck.target
            low = torch.where(below, middle, low)
            high = torch.where(below, high, middle)
        found = (low + high) / 2
        median = bottleneck.quantiles[..., 1]
        found[..., 1] = torch.clamp(found[..., 1], median - most, median + most)
        bottleneck.quantiles.copy_(found)

    @torch.no_grad()
    def build_tables(self, version: int) -> list[Tables]:
        """Returns the tables of each agent, made by CompressAI's `EntropyBottleneck.update`.

        Agents that share densities share their tables, the same object. Raises UserError if
        training has broken the model.
        """
        self._bound_quantiles()
        arrays = zip(*self._integer_arrays(), self.medians().cpu().numpy())
        built = [
            Tables(
                version=version,
                cdf=cdf[:, : lengths.max()].copy(),
                lengths=lengths.copy(),
                offsets=offsets.copy(),
                medians=medians.copy(),
            )
            for cdf, lengths, offsets, medians in arrays
        ]
        return built * (self.agents // self._sets)

    def _integer_arrays(self) -> list[NDArray[np.int32]]:
        """Returns frequencies (k, Z, L), row lengths (k, Z) and offsets (k, Z), as in `Tables`."""
        try:
            self.bottleneck.update(force=True)
        except ValueError as error:
            raise UserError(
                f"codec: the entropy model's densities have broken down ({error}); lower its rates"
            ) from error
        arrays = []
        for name in ("_quantized_cdf", "_cdf_length", "_offset"):
            made: Tensor = getattr(self.bottleneck, name)
            arrays.append(made.cpu().numpy().reshape(self._sets, self.latent, *made.shape[1:]))
            # CompressAI keeps the tables in its state. They are left out of ours: their shapes vary
            # with the densities, so a checkpoint that holds them could not be loaded into a fresh
            # model, and they follow from the densities and quantiles, which the checkpoint has.
            setattr(self.bottleneck, name, torch.IntTensor())
        return arrays

    @torch.no_grad()
    def _centre(self) -> None:
        """Moves the untrained densities, whose medians lie up to 9 off zero, to median 0.

        The quantiles move with them.
        """
        # CompressAI starts the quantiles at +-init_scale, far too narrow for its densities. A table
        # too narrow costs an escape code for each symbol outside it; one too wide costs next to
        # nothing.
        bottleneck = self.bottleneck
        self.settle()
        slope = nn.functional.softplus(bottleneck.matrices[0])
        bottleneck.biases[0] += slope * bottleneck.quantiles[:, :, 1:2]
        self.settle()

    def _bound_quantiles(self) -> None:
        """Brings each table's ends within 1e-3 to MAX_SPAN of its median.

        A table then has a symbol, and a density that has run away doesn't make a huge one.
        """
        low, median, high = self.bottleneck.quantiles[:, 0].unbind(1)
        if not torch.isfinite(self.bottleneck.quantiles).all():  # from a checkpoint
            raise UserError("codec: a quantile of the entropy model is not finite")
        low.copy_(torch.maximum(torch.minimum(low, median - 1e-3), median - MAX_SPAN))
        high.copy_(torch.minimum(torch.maximum(high, median + 1e-3), median + MAX_SPAN))


# ---- rounding with a gradient ----


class _Replace(torch.autograd.Function):
    """Gives the value of `rounded` with the gradient of `z`.

    The usual z + (rounded - z).detach() has a rounding error of its own: training would see other
    numbers than the server decodes.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(z: Tensor, rounded: Tensor) -> Tensor:
    """Returns `rounded`, bit for bit, with the gradient of `z`."""
    result: Tensor = _Replace.apply(z, rounded)  # type: ignore[no-untyped-call]  # torch's
    return result


def quantise_plain(name: str, z: Tensor) -> Tensor:
    """Returns what the plain codec `name` decodes for z (..., Z), bit for bit.

    Its gradient is that of z.
    """
    limit = float(LARGEST_LATENT)
    with torch.no_grad():
        rounded = _PLAIN[name](z.clamp(-limit, limit))
    return straight_through(z, rounded)


def _round_float16(z: Tensor) -> Tensor:
    return z.half().float()


def _round_int8(z: Tensor) -> Tensor:
    scale = z.abs().amax(dim=-1, keepdim=True) / 127
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    # Adding zero makes a -0.0 the 0.0 that an int8 decodes to.
    return (torch.round(z / scale).clamp(-127, 127) + 0.0) * scale


def _keep(z: Tensor) -> Tensor:
    return z


_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": _keep,
    "float16": _round_float16,
    "int8": _round_int8,
}
"""The rounding of each plain codec in torch; plain.py has the numpy twins."""
