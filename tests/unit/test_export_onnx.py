"""sde-harl export --onnx: onnxruntime computes what the policies in numpy do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh_venv import load, make_venv

from sde_harl.cli.main import main
from sde_harl.config.schema import CodecConfig, PolicyConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.policy.inference.local_nets import LocalNets
from sde_harl.policy.shapes import SAMPLED, local_parameter_shapes, server_shape
from sde_harl.policy.split_policy import SplitPolicy

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

SPEC = EnvSpec(
    name="x/y",
    agents=("a", "b", "c"),
    obs_sizes=(12, 7, 12),
    action_sizes=((4,), (2, 3), (4,)),
    state_size=1,
    episode_limit=3,
    continuous=False,
    unit_types=("", "", ""),
    has_win=False,
)
ROWS = 6
POLICIES = {
    "split": {},
    "two blocks on the device": {"local_blocks": 2},
    "recurrent": {"recurrent": True},
    "normalised layers": {"recurrent": True, "layer_norm": True, "feature_norm": False},
    "observations are sent": {"local_blocks": 0},
    "on the device": {"local_blocks": 3, "layer_norm": True},
}


def written(folder: Path, policy: PolicyConfig, spec: EnvSpec = SPEC) -> SplitPolicy:
    """Writes a policy of random parameters, and returns it."""
    from sde_harl.export.onnx_policy import Policy, write_onnx

    generator = torch.Generator().manual_seed(1)
    split = SplitPolicy(
        spec=spec, policy=policy, codec=CodecConfig(), share=False, generator=generator
    )
    with torch.no_grad():
        for parameter in split.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    exported = Policy(
        shape=split.shape,
        local=split.local_parameters(),
        server=server_shape(spec=spec, policy=policy, heads=SAMPLED),
        above=split.acting().arrays(),
    )
    write_onnx(exported, folder, {"env": spec.name})
    return split


def session(path: Path) -> runtime.InferenceSession:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def local_nets(split: SplitPolicy, *, on_device: bool = False) -> LocalNets:
    parameters = split.local_parameters()
    count = len(local_parameter_shapes(split.shape))
    flat = [np.stack([each[k] for each in parameters]).ravel() for k in range(count)]
    return LocalNets(split.shape, np.concatenate(flat), on_device=on_device)


@pytest.mark.parametrize("name", POLICIES)
def test_onnxruntime_computes_what_numpy_does(tmp_path: Path, name: str) -> None:
    config = PolicyConfig(width=16, latent=8, blocks=3, **{"local_blocks": 1, **POLICIES[name]})
    split = written(tmp_path, config)
    draws = np.random.default_rng(1)
    about = json.loads((tmp_path / "networks.json").read_text())

    obs = np.zeros((3, ROWS, 12), np.float32)
    for agent, size in enumerate(SPEC.obs_sizes):
        obs[agent, :, :size] = draws.normal(size=(ROWS, size))
    is_on_device = not about["quantised"]
    latents = local_nets(split, on_device=is_on_device)(obs)
    for agent, (file, size) in enumerate(zip(about["local"], about["latent_sizes"], strict=True)):
        given = {"observation": obs[agent, :, : SPEC.obs_sizes[agent]]}
        (got,) = session(tmp_path / file).run(None, given)
        np.testing.assert_allclose(got, latents[agent, :, :size], rtol=1e-4, atol=1e-5)

    server = session(tmp_path / about["server"])
    # As a server gets them: whole numbers away from the medians, which are 0 here.
    received = latents if is_on_device else np.round(latents)
    memory = None
    given = {"latents": received}
    for _ in range(3):
        outputs, after = split.acting().outputs(received, memory)
        if after is not None:
            given["memory"] = np.zeros_like(after) if memory is None else memory
        got = dict(zip([each.name for each in server.get_outputs()], server.run(None, given)))
        np.testing.assert_allclose(got["outputs"], outputs, rtol=1e-4, atol=1e-4)
        if after is not None:
            np.testing.assert_allclose(got["memory_after"], after, rtol=1e-4, atol=1e-5)
        memory = after


@pytest.mark.slow
def test_onnxruntime_alone_computes_it(tmp_path: Path) -> None:
    """In an environment of its own, with the newest numpy."""
    config = PolicyConfig(width=16, latent=8, blocks=3, local_blocks=1, recurrent=True)
    split = written(tmp_path, config)
    obs = np.random.default_rng(1).normal(size=(3, ROWS, 12)).astype(np.float32)
    obs[1, :, 7:] = 0  # that agent sees less
    latents = local_nets(split)(obs)
    received = np.round(latents)
    _, memory = split.acting().outputs(received, None)
    assert memory is not None
    outputs, after = split.acting().outputs(received, memory)
    assert after is not None
    np.savez(
        tmp_path / "expected.npz",
        obs=obs,
        latents=latents,
        received=received,
        memory=memory,
        outputs=outputs,
        memory_after=after,
    )
    load(make_venv(tmp_path / "venv", ["onnxruntime"]), "onnx", tmp_path)


def test_policies_that_see_images_are_refused(tmp_path: Path) -> None:
    images = SPEC._replace(obs_sizes=(48,) * 3, obs_images=((4, 4, 3),) * 3)
    with pytest.raises(UserError, match="--onnx: expected observations that are no images"):
        written(tmp_path, PolicyConfig(width=16, latent=8, conv_kernel=2), images)


@pytest.mark.slow
def test_a_checkpoint_is_exported(trained: Path, tmp_path: Path) -> None:
    words = ["export", str(trained), "--onnx", str(tmp_path / "onnx"), "--trust"]
    assert main(words) == 0
    about = json.loads((tmp_path / "onnx" / "networks.json").read_text())
    assert about["checkpoint"] == str(trained / "models" / "last.pt")
    assert len(about["local"]) == 3
    assert len(about["table_digests"]) == (3 if about["quantised"] else 0)
    for file in (*about["local"], about["server"]):
        session(tmp_path / "onnx" / file)
