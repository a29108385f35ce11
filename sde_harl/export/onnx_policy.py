"""Writes a policy as ONNX: local-<agent>.onnx for each device, and server.onnx for what follows.

    local-0.onnx   observation (rows, O_0)                   -> latent (rows, Z)
    server.onnx    latents (N, rows, Z)[, memory (N, rows, H)] -> outputs (N, rows, A)[, memory]

Between the two stands the quantiser: a device sends whole numbers away from the medians of its
codec, and networks.json names the codec and its tables. Policies that run on their devices have the
same two files; there `latent` is what the heads take, and nothing is quantised. The arithmetic is
that of policy/inference/.

N agents, O observation, Z latent, H memory, A outputs of a head.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from sde_harl.errors import UserError
from sde_harl.policy.inference.arrays import FloatArray
from sde_harl.policy.inference.local_nets import NORM_EPS
from sde_harl.policy.onnx_graph import Graph
from sde_harl.policy.shapes import LocalShape, ServerShape, local_parameter_shapes

ROWS = "rows"


class Policy(NamedTuple):
    """The parameters of all agents, in wire order (policy/shapes.py)."""

    shape: LocalShape
    local: Sequence[Sequence[FloatArray]]
    """By agent; what follows the local net is left out."""
    server: ServerShape
    above: Sequence[FloatArray]


def write_onnx(policy: Policy, folder: Path, about: dict[str, Any]) -> None:
    """Writes the networks and networks.json, which has `about` in it, too.

    Raises OSError, and UserError for policies that see images.
    """
    if policy.shape.conv or policy.server.conv:
        raise UserError("--onnx: expected observations that are no images, got a convolution")
    agents = range(len(policy.shape.obs_sizes))
    for agent in agents:
        onnx.save(_local(policy, agent), str(folder / f"local-{agent}.onnx"))
    onnx.save(_server(policy), str(folder / "server.onnx"))
    server = policy.server
    told = {
        **about,
        "local": [f"local-{agent}.onnx" for agent in agents],
        "server": "server.onnx",
        "observation_sizes": policy.shape.obs_sizes,
        "observation_bytes": policy.shape.pixels,
        "latent_sizes": policy.shape.latent_sizes(),
        "latent": policy.shape.latent_max(),
        "memory": server.behind.memory,
        "branches": server.behind.branches,
        "continuous": server.behind.continuous,
        "outputs": server.behind.heads,
        "quantised": server.blocks > 0,
        "feature_norm": policy.shape.feature_norm,
        "layer_norm": policy.shape.layer_norm,
        "norm_eps": NORM_EPS,
    }
    text = json.dumps(told, indent=1, ensure_ascii=False)
    (folder / "networks.json").write_text(f"{text}\n", encoding="utf-8")


def _local(policy: Policy, agent: int) -> onnx.ModelProto:
    """Returns an agent's local net, without the padding of its observation."""
    shape = policy.shape
    size = shape.obs_sizes[agent]
    graph = Graph()
    x = "observation"
    if shape.feature_norm:
        x = graph.normalise(x, size)
    arrays = policy.local[agent][: len(local_parameter_shapes(shape))]
    layers = list(zip(arrays[::2], arrays[1::2], strict=True))
    if not shape.local_blocks:
        gain, shift = (each.reshape(-1)[:size] for each in layers[0])
        x = graph.op("Add", graph.op("Mul", x, graph.constant(gain)), graph.constant(shift))
    else:
        # The rows of the first block that belong to padding are always multiplied by 0.
        layers[0] = (layers[0][0][:size], layers[0][1])
        x = _blocks(graph, x, layers, policy=policy)
    graph.name(x, "latent")
    return graph.model(
        f"local_{agent}",
        inputs={"observation": (ROWS, size)},
        outputs={"latent": (ROWS, shape.latent_sizes()[agent])},
    )


def _blocks(
    graph: Graph, x: str, layers: list[tuple[FloatArray, FloatArray]], *, policy: Policy
) -> str:
    is_split = policy.server.blocks > 0
    hidden = layers[:-1] if is_split else layers
    for weight, bias in hidden:
        normalised = weight.shape[-1] if policy.shape.layer_norm else 0
        x = graph.block(x, *map(graph.constant, (weight, bias)), normalised=normalised)
    # The last block of a split policy ends in the latent: the quantiser is its non-linearity.
    if is_split:
        x = graph.affine(x, *map(graph.constant, layers[-1]))
    return x


def _server(policy: Policy) -> onnx.ModelProto:
    """Returns trunk, recurrent layer and heads of all agents, stacked."""
    server = policy.server
    graph = Graph()
    arrays = map(graph.constant, policy.above)
    normalised = server.width if server.layer_norm else 0
    x = "latents"
    for _ in range(server.blocks):
        x = graph.block(x, next(arrays), next(arrays), normalised=normalised)
    size_in = server.size_in if server.blocks else policy.shape.latent
    inputs: dict[str, Sequence[int | str]] = {"latents": (server.agents, ROWS, size_in)}
    outputs: dict[str, Sequence[int | str]] = {
        "outputs": (server.agents, ROWS, server.behind.outputs())
    }
    memory = server.behind.memory
    if memory:
        x = _gru(graph, x, arrays)
        inputs["memory"] = (server.agents, ROWS, memory)
        outputs["memory_after"] = inputs["memory"]
        graph.name(x, "memory_after")
        if server.layer_norm:
            x = graph.normalise(x, memory)
    graph.name(graph.affine(x, next(arrays), next(arrays)), "outputs")
    return graph.model("server", inputs=inputs, outputs=outputs)


def _gru(graph: Graph, x: str, arrays: Iterator[str]) -> str:
    """Returns the memory after x, as `GruArrays` does."""
    inputs = graph.columns(graph.affine(x, next(arrays), next(arrays)), 3)
    past = graph.columns(graph.affine("memory", next(arrays), next(arrays)), 3)
    reset = graph.op("Sigmoid", graph.op("Add", inputs[0], past[0]))
    update = graph.op("Sigmoid", graph.op("Add", inputs[1], past[1]))
    new = graph.op("Tanh", graph.op("Add", inputs[2], graph.op("Mul", reset, past[2])))
    change = graph.op("Mul", update, graph.op("Sub", "memory", new))
    return graph.op("Add", new, change)
