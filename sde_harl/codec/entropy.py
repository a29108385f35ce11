"""The training side of the codec: CompressAI's factorised entropy model, its rate, and the tables made from it."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sde_harl.codec.coder import LIMIT
from sde_harl.codec.plain import FLOAT16_MAX
from sde_harl.codec.tables import MAX_SPAN, PRECISION, Tables
from sde_harl.errors import UserError

TAIL_MASS = 1e-6
"""Probability left to the escape code. CompressAI's 1e-9 makes tables half as wide again, for 1e-5 bits an element."""
SEARCH_RADIUS, HALVINGS = 2.0**15, 24
"""Quantiles are looked for this far from 0, in latent units, and found to within 1/256."""


def load_entropy_models() -> ModuleType:
    """The module `compressai.entropy_models.entropy_models`; UserError if CompressAI is not installed.

    CompressAI's package imports all of its image models, for 5 s, and torchvision, which fails where torchvision was
    built for another torch (a CUDA one beside a CPU torch). The entropy models need none of that, only the two
    functions that name the entropy coder. So unless CompressAI is imported already, its package stands in sys.modules
    unexecuted, with these two functions.
    """
    if "compressai" not in sys.modules:
        spec = importlib.util.find_spec("compressai")
        if spec is None:
            raise UserError("codec entropy: CompressAI is not installed")
        package: Any = importlib.util.module_from_spec(spec)
        package.get_entropy_coder = lambda: "ans"
        package.available_entropy_coders = lambda: ["ans"]
        sys.modules["compressai"] = package
    return importlib.import_module("compressai.entropy_models.entropy_models")


_models: Any = load_entropy_models()


class _Bottleneck(_models.EntropyBottleneck):  # type: ignore[misc]
    """EntropyBottleneck whose `update` makes the same tables in a third of the time."""

    def _pmf_to_cdf(
        self, pmf: Tensor, tail_mass: Tensor, pmf_length: Tensor, max_length: int
    ) -> Tensor:
        # A difference of two nearly equal sigmoids may come out just below zero, which the C++ function refuses.
        rows, tails, lengths = pmf.clamp(min=0).tolist(), tail_mass.tolist(), pmf_length.tolist()
        cdf = np.zeros((len(rows), max_length + 2), np.int32)
        for row, (probabilities, tail, length) in enumerate(zip(rows, tails, lengths)):
            cdf[row, : length + 2] = _models._pmf_to_quantized_cdf(
                probabilities[:length] + tail, PRECISION
            )
        return torch.from_numpy(cdf)


class _Replace(torch.autograd.Function):
    """The value of `rounded` with the gradient of `z`. (z + (rounded - z).detach() has a rounding error.)"""

    @staticmethod
    def forward(ctx: Any, z: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class LatentModel(nn.Module):
    """Entropy model of the latents of one role group: each latent element has a density of its own.

    Each agent, too, or with `share` all agents have one: k sets of densities, n or 1.
    """

    def __init__(self, agents: int, latent: int, scale: float = 4.0, share: bool = False) -> None:
        """Densities fit latents of standard deviation scale / 2 to scale, untrained."""
        super().__init__()
        self.agents = agents
        self.latent = latent
        self._sets = 1 if share else agents
        self.bottleneck = _Bottleneck(self._sets * latent, init_scale=scale, tail_mass=TAIL_MASS)
        self._centre()

    def medians(self) -> Tensor:
        """float32 (n, Z), detached. Adding zero makes a -0.0 the 0.0 that integers plus median give."""
        medians = self.bottleneck.quantiles[:, 0, 1].detach().reshape(self._sets, self.latent) + 0.0
        return medians.expand(self.agents, -1)

    def quantise(self, z: Tensor) -> Tensor:
        """z (n, B, Z) -> what decoding gives, bit for bit (n, B, Z), with the gradient of z."""
        medians = self.medians()[:, None, :]
        with torch.no_grad():
            rounded = torch.round(z - medians).clamp(-LIMIT, LIMIT) + medians
        return _replace(z, rounded)

    def rate(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """z (n, R, Z) -> scalar: mean bits per latent element under uniform noise (Balle et al. 2018, eq. 6).

        The gradient flows to z and to the densities. `generator` draws the noise.
        """
        noise = torch.rand(z.shape, generator=generator, device=z.device) - 0.5
        by_set = (z + noise).reshape(self._sets, -1, self.latent)  # (k, n / k * R, Z)
        values = by_set.transpose(1, 2).reshape(
            self._sets * self.latent, 1, -1
        )  # (k * Z, 1, n / k * R)
        # Both ends of every interval in one pass; CompressAI's _likelihood takes two.
        ends = self.bottleneck._logits_cumulative(
            torch.cat((values - 0.5, values + 0.5), -1), stop_gradient=False
        )
        lower, upper = ends.sigmoid().chunk(2, -1)
        return -torch.log2(self.bottleneck.likelihood_lower_bound(upper - lower)).mean()

    def density_parameters(self) -> list[nn.Parameter]:
        """What the rate trains."""
        return [p for name, p in self.bottleneck.named_parameters() if name != "quantiles"]

    @torch.no_grad()
    def settle(self, most: float = math.inf) -> None:
        """Move the quantiles to where the densities have them, by bisection; a median by `most` at most.

        CompressAI's auxiliary loss has them follow by gradient: behind a density that narrows, tables stay twice as
        long as need be. Medians alone are better slow: they are the grid that latents are rounded to, and a policy
        feels it jump.
        """
        bottleneck = self.bottleneck
        low = torch.full_like(bottleneck.quantiles, -SEARCH_RADIUS)
        high = -low
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = bottleneck._logits_cumulative(middle, stop_gradient=True) < bottleneck.target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        found, median = (low + high) / 2, bottleneck.quantiles[..., 1]
        found[..., 1] = torch.clamp(found[..., 1], median - most, median + most)
        bottleneck.quantiles.copy_(found)

    @torch.no_grad()
    def build_tables(self, version: int) -> list[Tables]:
        """The tables of each agent, by EntropyBottleneck.update; UserError if training has broken the model.

        Agents that share a density share its tables, the same object. Draws quantiles nearer than MAX_SPAN to their
        median first: a runaway density would make a huge table.
        """
        self._bound_quantiles()
        bottleneck = self.bottleneck
        try:
            bottleneck.update(force=True)
        except ValueError as error:
            raise UserError(
                f"codec: the entropy model's densities have broken down ({error}); lower its rates"
            ) from error
        cdf, lengths, offsets = (
            t.cpu().numpy().reshape(self._sets, self.latent, *t.shape[1:])
            for t in (bottleneck._quantized_cdf, bottleneck._cdf_length, bottleneck._offset)
        )
        for name in ("_quantized_cdf", "_cdf_length", "_offset"):
            # Tables in the state would give checkpoints shapes that vary, and refuse to load.
            setattr(bottleneck, name, torch.IntTensor())
        medians = self.medians().cpu().numpy()
        built = [
            Tables(
                version,
                cdf[i, :, : lengths[i].max()].copy(),
                lengths[i].copy(),
                offsets[i].copy(),
                medians[i].copy(),
            )
            for i in range(self._sets)
        ]
        return built * (self.agents // self._sets)

    @torch.no_grad()
    def _centre(self) -> None:
        """Move the untrained densities, which start up to 9 off zero, to median 0, and the quantiles with them.

        CompressAI's start at +-init_scale is too narrow for its density by far, and a table too narrow costs an escape
        code for each symbol outside it; one too wide costs next to nothing.
        """
        bottleneck = self.bottleneck
        self.settle()
        slope = nn.functional.softplus(bottleneck.matrices[0])
        bottleneck.biases[0] += slope * bottleneck.quantiles[:, :, 1:2]
        self.settle()

    def _bound_quantiles(self) -> None:
        """Bring quantiles within 1e-3..MAX_SPAN of their median: a table has a symbol on either side, and an end."""
        low, median, high = self.bottleneck.quantiles[:, 0].unbind(1)
        if not torch.isfinite(self.bottleneck.quantiles).all():  # from a checkpoint
            raise UserError("codec: a quantile of the entropy model is not finite")
        low.copy_(torch.maximum(torch.minimum(low, median - 1e-3), median - MAX_SPAN))
        high.copy_(torch.minimum(torch.maximum(high, median + 1e-3), median + MAX_SPAN))


def quantise_plain(name: str, z: Tensor) -> Tensor:
    """z (..., Z) -> what the plain codec `name` decodes to, bit for bit, with the gradient of z."""
    if name == "float32":
        return z
    with torch.no_grad():
        rounded = _PLAIN[name](z)
    return _replace(z, rounded)


def _replace(z: Tensor, rounded: Tensor) -> Tensor:
    result: Tensor = _Replace.apply(z, rounded)
    return result


def _round_float16(z: Tensor) -> Tensor:
    limit = float(FLOAT16_MAX)
    return z.clamp(-limit, limit).half().float()


def _round_int8(z: Tensor) -> Tensor:
    scale = z.abs().amax(dim=-1, keepdim=True) / 127
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (torch.round(z / scale).clamp(-127, 127) + 0.0) * scale


_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {"float16": _round_float16, "int8": _round_int8}
