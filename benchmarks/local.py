"""The local nets that a device computes: numpy's p50 beside another's, on one thread.

`local/widthW/batchB` is for B rows of one agent with 205 observations, which are normalised, three
local blocks of width W and a latent of W. Its ratio is how many times as long as torch or
onnxruntime it takes: above 1, that backend is faster here.

    python benchmarks/local.py [--backend onnx] [--quick] [--device cuda] [--json OUT.json]
"""

from __future__ import annotations

import argparse
import os
import sys
from math import prod

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported

import numpy as np
import torch
from rows import Row, medians_ns, report

from sde_harl.executor.backend import find_nets
from sde_harl.policy.inference.local_nets import LocalNets, MakeNets
from sde_harl.policy.shapes import LocalShape, local_parameter_shapes

OBS = 205
BLOCKS = 3
WIDTHS = (64, 128, 512, 2048)
BATCHES = (1, 32, 256)


def measure(width: int, batch: int, nets: MakeNets, seconds: float) -> Row:
    shape = LocalShape(
        obs_sizes=(OBS,), obs=OBS, width=width, latent=width, local_blocks=BLOCKS, feature_norm=True
    )
    rng = np.random.default_rng(0)
    flat = rng.normal(0, width**-0.5, sum(map(prod, local_parameter_shapes(shape)))).astype(
        np.float32
    )
    ours = LocalNets(shape, flat)
    theirs = nets(shape, flat)
    obs = rng.normal(size=(1, batch, OBS)).astype(np.float32)
    if not np.allclose(ours(obs), theirs(obs), rtol=1e-3, atol=1e-3):
        raise AssertionError("the two nets differ")
    ours_ns, theirs_ns = medians_ns([lambda: ours(obs), lambda: theirs(obs)], seconds)
    return Row(
        name=f"local/width{width}/batch{batch}",
        value=ours_ns / 1e3,
        unit="us",
        floor=theirs_ns / 1e3,
        ratio=ours_ns / theirs_ns,
    )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--backend", choices=("torch", "onnx"), default="torch")
    parser.add_argument("--device", choices=("cpu", "cuda", "tensorrt"), default="cpu")
    parser.add_argument("--json", metavar="OUT")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    nets = find_nets(asked.backend, asked.device)
    seconds = 2.0
    if asked.quick:
        seconds = 0.05
    report(
        [measure(width, batch, nets, seconds) for width in WIDTHS for batch in BATCHES],
        argv,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
