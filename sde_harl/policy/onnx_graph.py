"""Collects the operations of a network and makes an ONNX model of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sde_harl.policy.inference.arrays import FloatArray
from sde_harl.policy.inference.local_nets import NORM_EPS

OPSET = 17
"""The first with LayerNormalization."""
IR_VERSION = 8
"""That of OPSET's time, for the runtimes of older boards."""


class Graph:
    """A network of float32; a value in it is known by its name."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, array: FloatArray) -> str:
        name = f"constant_{len(self._constants)}"
        values = np.ascontiguousarray(array, np.float32)
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operation of ONNX that has one output, and returns its name."""
        name = f"value_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def columns(self, x: str, count: int) -> list[str]:
        """Cuts the last axis into so many equal parts."""
        names = [f"value_{len(self._nodes)}_{part}" for part in range(count)]
        self._nodes.append(helper.make_node("Split", [x], names, axis=-1))
        return names

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """Gives x other axes; -1 stands for what is left."""
        name = f"shape_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.array(shape, np.int64), name))
        return self.op("Reshape", x, name)

    def affine(self, x: str, weight: str, bias: str) -> str:
        """Returns x times weight plus bias, both by their names."""
        return self.op("Add", self.op("MatMul", x, weight), bias)

    def normalise(self, x: str, size: int) -> str:
        """Normalises over the last axis, which has `size` numbers."""
        gain = self.constant(np.ones(size, np.float32))
        return self.op("LayerNormalization", x, gain, axis=-1, epsilon=NORM_EPS)

    def block(self, x: str, weight: str, bias: str, *, normalised: int) -> str:
        """Returns `affine`, ReLU and, unless `normalised` is 0, layer norm over so many numbers."""
        x = self.op("Relu", self.affine(x, weight, bias))
        if normalised:
            x = self.normalise(x, normalised)
        return x

    def name(self, value: str, output: str) -> None:
        """Gives a value the name of an output."""
        self._nodes.append(helper.make_node("Identity", [value], [output]))

    def model(
        self,
        name: str,
        *,
        inputs: Mapping[str, Sequence[int | str]],
        outputs: Mapping[str, Sequence[int | str]],
    ) -> onnx.ModelProto:
        """Returns the checked model.

        Inputs and outputs have dimensions by their name; a text stands for any number.
        """
        graph = helper.make_graph(
            self._nodes, name, _values(inputs), _values(outputs), initializer=self._constants
        )
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="sde_harl"
        )
        onnx.checker.check_model(model)
        return model


def _values(sizes: Mapping[str, Sequence[int | str]]) -> list[Any]:
    return [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(each))
        for name, each in sizes.items()
    ]
