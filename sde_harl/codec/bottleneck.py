"""CompressAI's `EntropyBottleneck`, loaded without the rest of CompressAI. It imports torch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sde_harl.codec.tables import PRECISION
from sde_harl.errors import UserError


def load_entropy_models() -> ModuleType:
    """Returns the module `compressai.entropy_models.entropy_models`.

    Raises UserError if CompressAI is not installed.
    """
    # CompressAI's package imports all of its image models, which takes 5 s, and torchvision, which
    # fails where torchvision was built for another torch (one for CUDA beside a torch for the CPU).
    # The entropy models need only two functions of it, which name the entropy coder. So unless
    # CompressAI has been imported already, its package stands in sys.modules with these two alone.
    if "compressai" not in sys.modules:
        spec = importlib.util.find_spec("compressai")
        if spec is None:
            raise UserError("codec entropy: CompressAI is not installed")
        package: Any = importlib.util.module_from_spec(spec)
        package.get_entropy_coder = _name_of_coder
        package.available_entropy_coders = _names_of_coders
        sys.modules["compressai"] = package
    return importlib.import_module("compressai.entropy_models.entropy_models")


def _name_of_coder() -> str:
    return "ans"


def _names_of_coders() -> list[str]:
    return ["ans"]


_models: Any = load_entropy_models()


class Bottleneck(_models.EntropyBottleneck):  # type: ignore[misc]
    """EntropyBottleneck whose `update` makes the same tables in a third of the time, and whose
    densities can be asked many times at little cost."""

    def fixed_logits(self) -> Callable[[Tensor], Tensor]:
        """Returns what `_logits_cumulative` computes, (C, 1, K) -> (C, 1, K), of the densities as
        they are now; to the bit, without a gradient.

        Each call of CompressAI's makes the densities' matrices anew from their parameters.
        """
        matrices = [nn.functional.softplus(matrix.detach()) for matrix in self.matrices]
        biases = [bias.detach() for bias in self.biases]
        # The last layer has no factor.
        factors = [torch.tanh(factor.detach()) for factor in self.factors]

        def logits(values: Tensor) -> Tensor:
            for matrix, bias, factor in zip(matrices, biases, factors):
                values = torch.matmul(matrix, values) + bias
                values = values + factor * torch.tanh(values)
            last: Tensor = torch.matmul(matrices[-1], values) + biases[-1]
            return last

        return logits

    def _pmf_to_cdf(
        self, pmf: Tensor, tail_mass: Tensor, pmf_length: Tensor, max_length: int
    ) -> Tensor:
        """Returns cumulative frequencies (C, max_length + 2) of probabilities (C, max_length).

        It overrides CompressAI's, which handles a tensor for each channel; here they are lists.
        """
        # A difference of two nearly equal sigmoids may come out just below zero, which the C++
        # function refuses.
        rows = pmf.clamp(min=0).tolist()
        tails = tail_mass.tolist()
        lengths = pmf_length.tolist()
        cdf = np.zeros((len(rows), max_length + 2), np.int32)
        for row, (probabilities, tail, length) in enumerate(zip(rows, tails, lengths)):
            cdf[row, : length + 2] = _models._pmf_to_quantized_cdf(
                probabilities[:length] + tail, PRECISION
            )
        return torch.from_numpy(cdf)
