"""The convolution that a device computes: numpy's p50 on one thread beside torch's in the same run.

`conv/HxWxC-kK-sS/batchB` is for one agent and B images of float32, 32 filters, ReLU included. Its
ratio is how many times as long as torch it takes.

    python benchmarks/conv.py [--quick] [--json OUT.json]
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported

import numpy as np
import torch
from rows import Row, medians_ns, report

from sde_harl.policy.inference.conv import ConvArrays
from sde_harl.policy.layers import ConvLayer
from sde_harl.policy.shapes import ConvShape

SHAPES = (
    ConvShape(height=7, width=7, channels=3, filters=32, kernel=3, stride=1),
    ConvShape(height=20, width=20, channels=3, filters=32, kernel=3, stride=1),
    ConvShape(height=84, width=84, channels=3, filters=32, kernel=3, stride=1),
    ConvShape(height=84, width=84, channels=3, filters=32, kernel=8, stride=4),
)
BATCHES = (1, 32)


def measure(shape: ConvShape, batch: int, seconds: float) -> Row:
    layer = ConvLayer(1, shape, scale=1.0, generator=torch.Generator().manual_seed(0))
    weight, bias = layer.arrays()
    arrays = ConvArrays(shape=shape, weight=weight.numpy(), bias=bias.numpy())
    images = np.random.default_rng(0).random((1, batch, shape.size_in()), dtype=np.float32)
    x = torch.from_numpy(images)
    if not np.allclose(arrays(images), layer(x).numpy(), rtol=1e-4, atol=1e-5):
        raise AssertionError("the two convolutions differ")
    ours_ns, torch_ns = medians_ns([lambda: arrays(images), lambda: layer(x)], seconds)
    size = f"{shape.height}x{shape.width}x{shape.channels}"
    return Row(
        name=f"conv/{size}-k{shape.kernel}-s{shape.stride}/batch{batch}",
        value=ours_ns / 1e3,
        unit="us",
        floor=torch_ns / 1e3,
        ratio=ours_ns / torch_ns,
    )


def main(argv: list[str]) -> None:
    torch.set_num_threads(1)
    seconds = 2.0
    if "--quick" in argv:
        seconds = 0.1
    with torch.inference_mode():
        report([measure(shape, batch, seconds) for shape in SHAPES for batch in BATCHES], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
