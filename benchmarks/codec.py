"""Encodes and decodes a 128-wide latent: our coder beside CompressAI's, same tables, same run.

`codec/batchB/speed` is our p50 for B rows, encoding and decoding. Its floor is CompressAI's p50,
its ratio how many times faster ours is. `codec/batchB/bytes` is the size of the B rows in one
string, beside the ideal size by the tables. CompressAI makes a string for every row;
`codec/batchB/unpacked` is our p50 for the very same strings.

    python benchmarks/codec.py [--json OUT.json]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from rows import Row, report

from sde_harl.codec.coder import EntropyCoder
from sde_harl.codec.entropy import LatentModel

LATENT = 128
BATCHES = (1, 8, 64)
ROUNDS = {1: 300, 8: 100, 64: 30}


def fitted_model(std: torch.Tensor, generator: torch.Generator) -> LatentModel:
    """Returns a model trained on Gaussian latents of deviations `std` (Z,), and settled."""
    model = LatentModel(1, LATENT)
    optimiser = torch.optim.Adam(model.density_parameters(), lr=2e-2)
    for _ in range(300):
        optimiser.zero_grad()
        z = std * torch.randn((1, 64, LATENT), generator=generator)
        model.rate(z, model.noise(64, generator), 64).backward()
        optimiser.step()
    model.settle()
    return model


def medians_ns(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Returns the p50 of each call.

    All are called in turn in every round, so that a slow moment of the machine is in all of them.
    """
    taken = np.empty((rounds, len(calls)))
    for row in taken:
        for column, call in enumerate(calls):
            start = time.perf_counter_ns()
            call()
            row[column] = time.perf_counter_ns() - start
    medians: list[float] = np.median(taken[rounds // 10 :], axis=0).tolist()  # after a warm-up
    return medians


def measure(batch: int, model: LatentModel, z: NDArray[np.float32]) -> list[Row]:
    """Returns the rows of one batch size, for latents z, float32 (batch, Z)."""
    tables = model.build_tables(1)[0]
    packed = EntropyCoder(tables)
    single = EntropyCoder(tables, pack=1)
    theirs = model.bottleneck
    theirs.update(force=True)
    z_torch = torch.from_numpy(z)
    out = np.empty_like(z)
    single.decode(single.encode(z), out)
    if out.tobytes() != theirs.decompress(theirs.compress(z_torch), ()).numpy().tobytes():
        raise AssertionError("the two codecs decode to different latents")
    ours_ns, unpacked_ns, theirs_ns = medians_ns(
        [
            lambda: packed.decode(packed.encode(z), out),
            lambda: single.decode(single.encode(z), out),
            lambda: theirs.decompress(theirs.compress(z_torch), ()),
        ],
        ROUNDS[batch],
    )
    size = len(packed.encode(z))
    ideal = packed.decode(packed.encode(z), out) / 8
    name = f"codec/batch{batch}"
    return [
        speed(f"{name}/speed", ours_ns, theirs_ns),
        speed(f"{name}/unpacked", unpacked_ns, theirs_ns),
        Row(name=f"{name}/bytes", value=size, unit="B", floor=ideal, ratio=size / ideal),
    ]


def speed(name: str, ours_ns: float, theirs_ns: float) -> Row:
    return Row(
        name=name, value=ours_ns / 1e3, unit="us", floor=theirs_ns / 1e3, ratio=theirs_ns / ours_ns
    )


def main(argv: list[str]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    std = torch.linspace(0.3, 4, LATENT)
    model = fitted_model(std, generator)
    rows: list[Row] = []
    with torch.no_grad():
        for batch in BATCHES:
            z = std * torch.randn((batch, LATENT), generator=generator)
            rows += measure(batch, model, z.numpy())
    report(rows, argv)


if __name__ == "__main__":
    main(sys.argv[1:])
