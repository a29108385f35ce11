"""The local nets through torch and onnxruntime decide as numpy's do.

A host that can't have them says so.
"""

from __future__ import annotations

import sys
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import Pair
from small_runs import play

from sde_harl.errors import UserError
from sde_harl.executor.backend import find_nets
from sde_harl.link.wire import WireError
from sde_harl.policy import local_onnx
from sde_harl.policy.inference.local_nets import LocalNets
from sde_harl.policy.local_onnx import OnnxLocalNets
from sde_harl.policy.local_torch import TorchLocalNets
from sde_harl.policy.shapes import ConvShape, LocalShape, local_parameter_shapes

TIE = 1e-3
"""Latents of some units, summed in another order, differ by less."""
NETS = {"torch": TorchLocalNets, "onnx": OnnxLocalNets}
SHAPES = {
    "plain": LocalShape((9, 9), 9, 16, 8, 2, False),
    "padded": LocalShape((9, 5), 9, 16, 8, 3, True),
    "normalised blocks": LocalShape((9, 5), 9, 16, 8, 3, True, True),
    "no block": LocalShape((9, 5), 9, 16, 8, 0, True),
    "images": LocalShape((84, 84), 84, 16, 8, 2, False, False, ConvShape(7, 6, 2, 4, 3, 2), True),
}


def parameters(shape: LocalShape) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.concatenate(
        [
            rng.normal(0, 0.5, each).astype(np.float32).ravel()
            for each in local_parameter_shapes(shape)
        ]
    )


def observations(shape: LocalShape) -> np.ndarray:
    obs = np.random.default_rng(2).normal(size=(2, 300, shape.obs)).astype(np.float32)
    for agent, size in enumerate(shape.obs_sizes):
        obs[agent, :, size:] = 0
    return obs


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("backend", NETS)
def test_they_make_the_same_symbols_but_at_ties(backend: str, name: str, on_device: bool) -> None:
    shape, obs = SHAPES[name], observations(SHAPES[name])
    if on_device and not shape.local_blocks:
        return
    flat = parameters(shape)
    ours = LocalNets(shape, flat, on_device=on_device)(obs)
    theirs = NETS[backend](shape, flat, on_device=on_device)(obs)
    assert theirs.dtype == np.float32
    assert np.ptp(ours) > 2
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=TIE / 10)
    other = np.rint(ours) != np.rint(theirs)
    assert (np.abs(np.abs(ours[other] - np.floor(ours[other])) - 0.5) < TIE).all()
    assert other.mean() < 1e-3


@pytest.mark.parametrize("backend", NETS)
def test_wrong_weights_and_a_missing_gpu_are_refused(backend: str) -> None:
    nets = NETS[backend]
    shape = SHAPES["plain"]
    with pytest.raises(ValueError, match="expected"):
        nets(shape, np.zeros(7, np.float32))
    flat = parameters(shape)
    with pytest.raises(ValueError, match="finite"):
        nets(shape, np.full_like(flat, np.nan))
    assert flat.size == sum(map(prod, local_parameter_shapes(shape)))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"^executor.device: cuda: "):
            nets(shape, flat, device="cuda")


def test_published_weights_take_the_place_of_the_last_ones_without_a_new_session() -> None:
    shape = SHAPES["padded"]
    obs = observations(shape)
    first = OnnxLocalNets(shape, parameters(shape))
    before = first(obs)
    made = local_onnx._net.cache_info().misses
    second = OnnxLocalNets(shape, 2 * parameters(shape))
    np.testing.assert_allclose(
        second(obs), LocalNets(shape, 2 * parameters(shape))(obs), 1e-3, 1e-3
    )
    np.testing.assert_array_equal(first(obs), before)
    assert local_onnx._net.cache_info().misses == made


@pytest.mark.parametrize("backend", NETS)
def test_a_host_without_the_library_is_named(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"sde_harl.policy.local_{backend}", None)
    pair = Pair("none", actions=None, backend=backend)
    with pytest.raises(
        UserError,
        match=rf"^executor 1 \(.+\): executor.backend: {backend} can't be imported here",
    ):
        pair.pool.report()


@pytest.mark.parametrize(
    ("backend", "device"), [("numpy", "cuda"), ("torch", "tensorrt"), ("os", "cpu")]
)
def test_what_the_wire_may_not_ask_for_is_refused(backend: str, device: str) -> None:
    with pytest.raises(WireError):
        find_nets(backend, device)


@pytest.mark.parametrize("backend", NETS)
@pytest.mark.parametrize(
    "words", [[], ["policy.local_blocks=3", "codec.name=none"]], ids=["split", "on_device"]
)
def test_a_run_learns_from_what_they_sent(backend: str, words: list[str], tmp_path: Path) -> None:
    given = ["--algo", "happo", "--env", "mpe", f"executor.backend={backend}"]
    tables = play(tmp_path, *given, *words)
    assert len(tables["step"]) == 2
