"""The local nets in onnxruntime, for a board whose accelerator it knows: the twin of `LocalNets`.

It has the same constructor and call. The weights are inputs of the network, so a session is made
once for the sizes of a net: making one takes milliseconds, with TensorRT up to minutes, and a run
publishes weights at every update. As with torch, sums are rounded otherwise than
numpy's, and a latent next to a tie may become the neighbouring symbol.

n agents of one executor, E environments, O observation, Z latent.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sde_harl.errors import UserError
from sde_harl.policy.inference.arrays import FloatArray
from sde_harl.policy.inference.conv import ConvArrays
from sde_harl.policy.inference.local_nets import normalise_own, split
from sde_harl.policy.onnx_graph import Graph
from sde_harl.policy.shapes import LocalShape, local_parameter_shapes

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""By `executor.device`: what onnxruntime calls it."""


class Net(NamedTuple):
    """A net's operations, whatever its weights are."""

    session: onnxruntime.InferenceSession
    weights: tuple[str, ...]
    """The names of its parameters, in wire order."""


class OnnxLocalNets:
    """Local nets of an executor's agents, stacked, by one of onnxruntime's providers."""

    def __init__(
        self,
        shape: LocalShape,
        weights: FloatArray,
        *,
        on_device: bool = False,
        device: str = "cpu",
    ) -> None:
        """`weights` and `on_device` as in `LocalNets`; `device`: cpu, cuda or tensorrt.

        Raises ValueError as `LocalNets` does, and UserError where onnxruntime can't use the device.
        """
        arrays = split(local_parameter_shapes(shape), weights)
        self._net = _net(shape, on_device, device)
        self._shape = shape
        self._sizes = np.array(shape.obs_sizes, np.int32)
        self._conv: ConvArrays | None = None
        if shape.conv:
            self._conv = ConvArrays(shape=shape.conv, weight=arrays[0], bias=arrays[1][:, None])
        # Copies, on the device: the vector that came over the link is not kept.
        self._given = {
            name: _value(array.reshape(_stacked_size(array.shape)).copy(), device)
            for name, array in zip(self._net.weights, arrays)
        }

    def __call__(self, obs: NDArray[Any]) -> FloatArray:
        """Returns latents (n, E, Z) of observations (n, E, O), as `LocalNets` does."""
        x: NDArray[Any] = obs
        if self._shape.feature_norm:
            x = normalise_own(obs, self._sizes)
        if self._conv:
            x = self._conv.windows(x)
        given = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x, np.float32))
        [latents] = self._net.session.run_with_ort_values(["latents"], {**self._given, "x": given})
        result: FloatArray = latents.numpy()
        return result


def _stacked_size(size: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the size of a weight (n, in, out); of a vector (n, out), with an axis for rows."""
    if len(size) == 3:
        return size
    return (size[0], 1, size[1])


def _value(array: FloatArray, device: str) -> onnxruntime.OrtValue:
    if device == "cpu":
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0)


@lru_cache(maxsize=8)
def _net(shape: LocalShape, on_device: bool, device: str) -> Net:
    """Makes the session of nets of these sizes. Raises UserError where there is no such device."""
    provider = PROVIDERS[device]
    there = onnxruntime.get_available_providers()
    if provider not in there:
        raise UserError(
            f"executor.device: {device}: onnxruntime has no {provider} here, it has"
            f" {', '.join(there)}"
        )
    sizes = {
        f"weight_{number}": _stacked_size(each)
        for number, each in enumerate(local_parameter_shapes(shape))
    }
    graph = Graph()
    graph.name(_latents(graph, shape, sizes, on_device=on_device), "latents")
    size_in = shape.obs
    if shape.conv:
        size_in = shape.conv.size_window()
    agents = len(shape.obs_sizes)
    model = graph.model(
        "local",
        inputs={"x": (agents, "rows", size_in), **sizes},
        outputs={"latents": (agents, "latent_rows", "latent")},
    )
    options = onnxruntime.SessionOptions()
    # Nets are small: a second thread would cost more than it computes, and would spin meanwhile.
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=[provider]
        )
    except Exception as error:  # onnxruntime has classes of its own for what a driver lacks
        raise UserError(f"executor.device: {device}: {str(error).splitlines()[0]}") from error
    return Net(session=session, weights=tuple(sizes))


def _latents(
    graph: Graph, shape: LocalShape, sizes: dict[str, tuple[int, ...]], *, on_device: bool
) -> str:
    """Adds the operations of `LocalNets`; `sizes` are those of its parameters by name, in order."""
    names = list(sizes)
    layers = list(zip(names[::2], names[1::2]))
    x = "x"
    if not shape.local_blocks:
        gain, shift = layers[0]
        return graph.op("Add", graph.op("Mul", x, gain), shift)
    if shape.conv:
        x = graph.op("Relu", graph.affine(x, *layers.pop(0)))
        # All windows of an image are one row of what follows.
        x = graph.reshape(x, (len(shape.obs_sizes), -1, shape.conv.size_out()))
    hidden = layers if on_device else layers[:-1]
    for weight, bias in hidden:
        normalised = sizes[weight][-1] if shape.layer_norm else 0
        x = graph.block(x, weight, bias, normalised=normalised)
    if on_device:
        return x
    return graph.affine(x, *layers[-1])
